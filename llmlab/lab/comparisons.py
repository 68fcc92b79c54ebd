"""Two models, one lab: a lab's methods that compare its model with another over the same tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmlab.errors import RequestError, short
from llmlab.lab.model import Model
from llmlab.protocol.arguments import OrderLike, listed, one_of, order_name
from llmlab.protocol.backend import LogitsBackend, Reloadable
from llmlab.protocol.request import PromptRequest, Request
from llmlab.protocol.signatures import shows_fields
from llmlab.results.result import Result

if TYPE_CHECKING:
    from llmlab.results.comparison import Comparison
    from llmlab.results.drift import Drift

#: Read where `drift` is given no text.
DRIFT_TEXT = (
    "In the spring the river rises above its banks, and the people of the village move their boats to the upper "
    "meadow. Ten years ago the water came as far as the church; 47 houses were flooded within two days. Since then "
    "they measure it every morning: at 6:30 somebody walks to the bridge, reads the mark, and writes the number into "
    "a book. If it is more than 3.2 metres, the bell is rung. \"Why not use a phone?\" a visitor asked. The answer "
    "was short: everybody hears a bell."
)  # fmt: skip
_DTYPES = ("float32", "bfloat16", "float16", "int8")


class Comparisons(Model):
    """A model that can be compared with another; a `Lab` is one."""

    @shows_fields()
    def compare(
        self,
        other: Model | str,
        messages: str | Sequence[Any] | Request | Result | None = None,
        given: Any = None,
        *,
        order: OrderLike | None = None,
        **fields: Any,
    ) -> Comparison:
        """Compares the next-token distributions of this model and another after the same tokens.

            int8 = llmlab.load("demo", dtype="int8")
            lab.compare(int8, ["Name an animal.", "Tell me a story."], seed=1)     # along this model's own answers
            lab.compare(int8, "Name an animal.", ["A cat.", "A dog."]).frame()     # along given answers
            lab.compare(int8, prompt="Once upon a time there was a fox.")          # along a raw text
            lab.compare("my-adapter", result)                                      # with an adapter of this model

        Args:
            other: another lab, or the name of an adapter that lies beside this model's weights.
            messages: as in `chat`, or a result, or a list of results; None where there is a `prompt`.
            given: as in `score`: texts that are read in place of this model's answers.
            order: the order of the sampler's stages, for what a seed draws; by default llmlab's, or the result's.
            fields: as in `chat`, and `prompt`: without anything given, a raw text that is read itself.

        Raises:
            RequestError: as in `chat` and `score`; the models have other tokens; one of them gives no logits.
        """
        from llmlab.results.comparison import compared

        mine, theirs, name = self._both(other)
        results = self._texts(messages, given, order=order, fields=fields)
        return compared(results, mine, theirs, names=_names(mine, theirs, name), other_model=name)

    @shows_fields()
    def drift(
        self,
        messages: str | Sequence[Any] | Request | Result | None = None,
        given: Any = None,
        *,
        dtypes: Sequence[str] = _DTYPES,
        saved: str | os.PathLike[str] | None = None,
        order: OrderLike | None = None,
        **fields: Any,
    ) -> Drift:
        """Loads this model's checkpoint in other dtypes, one after the other, and compares each with it.

            lab.drift()                            # along a text of this package
            lab.drift("Tell me a story.", seed=1).frame()

        Args:
            messages: as in `compare`; without anything given, a text of about 110 words is read.
            given: as in `compare`.
            dtypes: what to load; this model's own is left out.
            saved: a file that `Drift.save` wrote, of the same model and text on another device, whose rows are added.
            order: as in `compare`.
            fields: as in `compare`.

        Raises:
            RequestError: as in `compare`; an unknown dtype; the model was not loaded from a checkpoint; the saved run
                is one of other tokens.
        """
        from llmlab.results.comparison import compared
        from llmlab.results.drift import Drift, saved_rows

        mine = self._local("gives no logits")
        asked = [one_of("dtypes", dtype, _DTYPES) for dtype in listed("dtypes", dtypes, of="dtypes")]
        if not isinstance(mine, Reloadable):
            raise RequestError(f"{mine.name} cannot be loaded again in another dtype")
        earlier = None if saved is None else saved_rows(saved)
        if messages is None and given is None and fields.get("prompt") is None:
            fields = {**fields, "prompt": DRIFT_TEXT}
        results = self._texts(messages, given, order=order, fields=fields)
        own, found = mine.describe()["dtype"], {}
        for dtype in dict.fromkeys(asked):
            if dtype == own:
                continue
            other = mine.reloaded(dtype=dtype)
            try:
                found[dtype] = compared(results, mine, other, names=(own, dtype))
            finally:
                other.close()
        return Drift(mine, own, results, found, earlier=earlier)

    def _both(self, other: Any) -> tuple[LogitsBackend, LogitsBackend, str | None]:
        """The two models, and the name by which the other is asked."""
        mine = self._local("gives no logits")
        if isinstance(other, str):
            names = mine.models
            if other not in names:
                raise RequestError(
                    f"other: this lab has no model {short(other)}, only {', '.join(names)}; give a lab", param="other"
                )
            return mine, mine, other
        if not isinstance(other, Model):
            raise RequestError(f"other must be a lab or the name of an adapter, got {short(other)}", param="other")
        return mine, other._local("gives no logits"), None

    def _texts(self, messages: Any, given: Any, *, order: OrderLike | None, fields: dict[str, Any]) -> list[Result]:
        """What is compared: results as they are, given texts, a raw text, or answers of this model."""
        results = [messages] if isinstance(messages, Result) else messages
        several = isinstance(results, list | tuple) and bool(results)
        if given is None and several and all(isinstance(one, Result) for one in results):
            if fields or order is not None:
                raise RequestError("a result is compared as it is: rerun it first with what is to be changed")
            return list(results)
        raw = isinstance(messages, PromptRequest) or (messages is None and fields.get("prompt") is not None)
        if given is not None or raw:
            found = self.score(messages, given, order=order, **fields)
        else:
            found = self.chat(messages, order="llmlab" if order is None else order_name(order), **fields)
        return list(found) if isinstance(found, list) else [found]


def _names(mine: LogitsBackend, theirs: LogitsBackend, asked: str | None) -> tuple[str, str]:
    """What the two are called: by their names, and by their dtypes where these are the same."""
    own, other = mine.name, asked or theirs.name
    if own != other:
        return own, other
    dtypes = tuple(str(one.describe().get("dtype", "")) for one in (mine, theirs))
    return f"{own} ({dtypes[0]})", f"{other} ({dtypes[1]})"
