"""The table of request fields as Markdown, for the README."""

from __future__ import annotations

import json

from llmlab.protocol.fields import FIELDS
from llmlab.sampling.fields import Field

__all__ = ["markdown_table"]


def markdown_table() -> str:
    """The fields as a table in Markdown, one row per field: name, values and default, meaning."""
    rows = ["| field | values; default | meaning |", "|---|---|---|"]
    subject_first = sorted(FIELDS.items(), key=lambda item: item[0] not in ("messages", "prompt"))
    for name, field in subject_first:
        default = "" if field.default in (None, {}) or field.off else f"; {json.dumps(field.default)}"
        rows.append(f"| `{name}` | {_values(field)}{default} | {field.text} |")
    return "\n".join(rows)


def _values(field: Field) -> str:
    low, high = field.low, field.high
    if field.kind in ("number", "integer", "by_token"):
        assert low is not None
        if high == 2**63 - 1:
            return "a signed 64-bit integer"
        if high is None or high == 2**31 - 1:  # what an int32 holds is no limit to a reader
            return f"at least {low:g}"
        if field.refused:
            assert isinstance(low, int) and isinstance(high, int)
            return " or ".join(str(value) for value in range(low, high + 1) if value not in field.refused)
        within = f"above {low:g}, to {high:g}" if field.above else f"{low:g} to {high:g}"
        within = f"token id: {within}" if field.kind == "by_token" else within
        return within + (f"; off: null, {', '.join(map(str, field.off))}" if field.off else "")
    if field.kind == "choice":
        return ", ".join(f"`{choice}`" for choice in field.choices)
    words = {"flag": "true or false", "text": "a text", "object": "an object"}
    return words.get(field.kind, field.values)
