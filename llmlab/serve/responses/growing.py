"""An item of the output while it grows: its announcement, its text and its end, as events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmlab.protocol.completion import ToolCall
from llmlab.serve.responses.items_json import Json, call_item, message_item, reasoning_item


@dataclass(frozen=True)
class Kind:
    """What the events of an item are called.

    Attributes:
        text: the events of its text.
        parts: the item's list of parts, of which there is one; empty where the text is not in a part.
        part: the events of its part.
        index: the field that numbers the parts.
        whole: the field of the last event of the text that has all of it.
        logprobs: whether the events of the text have logprobs.
    """

    text: str
    parts: str = ""
    part: str = ""
    index: str = ""
    whole: str = "text"
    logprobs: bool = False


MESSAGE = Kind("output_text", parts="content", part="content_part", index="content_index", logprobs=True)
REASONING = Kind("reasoning_text", parts="content", part="content_part", index="content_index")
SUMMARY = Kind("reasoning_summary_text", parts="summary", part="reasoning_summary_part", index="summary_index")
CALL = Kind("function_call_arguments", whole="arguments")


@dataclass(eq=False)
class Growing:
    """An item that is open; the events are without the item's place in the output.

    Args:
        kind: what its events are called.
        make: returns the item that has a text and logprobs.
    """

    kind: Kind
    make: Callable[[str, Sequence[Json]], Json]
    text: str = ""
    logprobs: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._id = self.make("", [])["id"]

    def begin(self) -> Iterator[Json]:
        """Yields the events before the first text."""
        item = self.make("", []) | {"status": "in_progress"}
        if not self.kind.parts:
            yield {"type": "response.output_item.added", "item": item}
            return
        [part] = item[self.kind.parts]
        yield {"type": "response.output_item.added", "item": item | {self.kind.parts: []}}
        yield self._event(f"{self.kind.part}.added", part=part)

    def grow(self, text: str, logprobs: Sequence[Json] = ()) -> Json:
        """Returns the event of new text and of its tokens' logprobs."""
        self.text += text
        self.logprobs += logprobs
        told = {"logprobs": list(logprobs)} if self.kind.logprobs else {}
        return self._event(f"{self.kind.text}.delta", delta=text, **told)

    def finish(self, status: str) -> Iterator[Json]:
        """Yields the events after the last text; the last one holds the item."""
        item = self.item(status)
        told = {"logprobs": self.logprobs} if self.kind.logprobs else {}
        yield self._event(f"{self.kind.text}.done", **{self.kind.whole: self.text}, **told)
        if self.kind.parts:
            yield self._event(f"{self.kind.part}.done", part=item[self.kind.parts][0])
        yield {"type": "response.output_item.done", "item": item}

    def item(self, status: str) -> Json:
        """Returns the item as it is now."""
        return self.make(self.text, self.logprobs) | {"status": status}

    def _event(self, name: str, **fields: Any) -> Json:
        index = {self.kind.index: 0} if self.kind.index else {}
        return {"type": f"response.{name}", "item_id": self._id, **index, **fields}


def message(name: str, number: int) -> Growing:
    """Returns a new message; for the arguments, see `items_json.message_item`."""
    return Growing(MESSAGE, lambda text, logprobs: message_item(text, name=name, number=number, logprobs=logprobs))


def reasoning(name: str, number: int, *, summary: bool) -> Growing:
    """Returns new reasoning; for the arguments, see `items_json.reasoning_item`."""
    return Growing(
        SUMMARY if summary else REASONING,
        lambda text, _: reasoning_item(text, name=name, number=number, summary=summary),
    )


def call(name: str, number: int, *, id: str, function: str) -> Growing:
    """Returns a new function call with its id and its function's name; see `items_json.call_item`."""
    return Growing(
        CALL,
        lambda text, _: call_item(ToolCall(id=id, name=function, arguments=text), name=name, number=number),
    )
