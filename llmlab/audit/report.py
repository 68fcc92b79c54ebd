"""The report of an audit: a table, a page of a notebook, JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmlab.audit.page import cost, p_value, page, report
from llmlab.audit.subject import Finding
from llmlab.display.html import Markup
from llmlab.frames.schema import build
from llmlab.protocol.arguments import file_path
from llmlab.text.numbers import count

if TYPE_CHECKING:
    import pandas as pd

AUDIT_COLUMNS: dict[str, str] = {"name": "text", "ok": "switch", "p_value": "number", "what": "text"}


@dataclass(frozen=True, eq=False)
class Audit:
    """What an endpoint was found to do.

    Attributes:
        model: the model's name.
        findings: of every test; what was found comes first.
        requests: how many requests were sent.
        tokens: how many tokens were generated for them.
        false_alarms: the probability that an honest endpoint has any finding.
    """

    model: str
    findings: tuple[Finding, ...]
    requests: int
    tokens: int
    false_alarms: float

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    @property
    def found(self) -> Sequence[Finding]:
        """The findings that are not as they should be, in the order in which one may be the cause of the next."""
        return tuple(one for one in self.findings if one.ok is False)

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        rate = f"false alarms in at most {self.false_alarms:.0%} of honest endpoints"
        spent = f"{count(self.requests, 'request')}, {count(self.tokens, 'token')}"
        return f"{self._outcome} ({rate}; {spent})."

    @property
    def _outcome(self) -> str:
        tested = sum(one.ok is not None for one in self.findings)
        if self.ok:
            return f"{self.model}: nothing found in {count(tested, 'test')}"
        names = ", ".join(one.name for one in self.found)
        return f"{self.model}: {len(self.found)} of {count(tested, 'test')} found something: {names}"

    def frame(self) -> pd.DataFrame:
        """One row per test; what was found comes first, what was not tested last.

        Columns: name (of the test), ok (None where it was not tested), p_value (the probability of what was seen if the
        endpoint does what it should; 0 for what an honest endpoint never does; NaN where it was not tested), what (what
        the endpoint does, and what it should do).
        """
        return build({name: [getattr(one, name) for one in self.findings] for name in AUDIT_COLUMNS}, AUDIT_COLUMNS)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values: `findings`, each with name, ok, p_value and what, and what it cost."""
        rows = [
            {
                "name": one.name,
                "ok": one.ok,
                "p_value": None if math.isnan(one.p_value) else one.p_value,
                "what": one.what,
            }
            for one in self.findings
        ]
        return {"findings": rows, "model": self.model, "requests": self.requests, "tokens": self.tokens}

    def to_json(self, *, indent: int | None = None) -> str:
        """The report as JSON text; see `to_dict`."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def __repr__(self) -> str:
        marks = {True: "ok", False: "FOUND", None: "-"}
        width = max((len(one.name) for one in self.findings), default=0)
        rows = [
            f"  {marks[one.ok]:5}  {one.name:{width}}  {p_value(one.p_value):>8}  {one.what}" for one in self.findings
        ]
        return "\n".join([f"Audit: {self.verdict}", *rows])

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns the report as an HTML page.

        Args:
            path: a file to write the page to as well.

        Raises:
            RequestError: the path is no path.
        """
        target = None if path is None else file_path(path)
        html = page(f"Audit of {self.model}", self._fragment())
        if target is not None:
            target.write_text(html, encoding="utf-8")
        return html

    def _repr_html_(self) -> str:
        return str(self._fragment())

    def _fragment(self) -> Markup:
        outcome = self._outcome + "."
        return report(outcome, cost(self.requests, self.tokens, self.false_alarms), self.findings)
