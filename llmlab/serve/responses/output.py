"""The output of a Response while it grows: the items that a stream's deltas make, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llmlab.errors import EngineError
from llmlab.protocol.completion import Delta, Header
from llmlab.serve.responses import growing
from llmlab.serve.responses.growing import CALL, MESSAGE, REASONING, SUMMARY, Growing, Kind
from llmlab.serve.responses.items_json import Json, logprobs_of, name_of


class Output:
    """The items of the output, of which the last one is open while it grows.

    Args:
        header: the stream's header.
        summary: whether the reasoning is returned as a summary.

    Attributes:
        items: those that are finished.
    """

    def __init__(self, header: Header, *, summary: bool) -> None:
        self.items: list[Json] = []
        self._header = header
        self._name = name_of(header)
        self._summary = summary
        self._open: Growing | None = None
        self._call = -1  # the number of the last call
        self._waiting: list[Json] = []  # logprobs of tokens whose text has not come yet

    def add(self, delta: Delta) -> Iterator[Json]:
        """Yields the events of new text."""
        if delta.reasoning:
            if self._kind not in (REASONING, SUMMARY):
                number = self._number("reasoning")
                yield from self._begin(growing.reasoning(self._name, number, summary=self._summary))
            yield from self._grow(delta.reasoning)
        self._waiting += logprobs_of(delta.tokens, self._header)
        if delta.text:
            yield from self._say(delta.text)
        for call in delta.calls:
            if call.id is not None:
                self._call = call.index
                made = growing.call(self._name, call.index, id=call.id, function=call.name or "")
                yield from self._begin(made)
            elif self._kind is not CALL or call.index != self._call:
                raise EngineError(f"the arguments of call {call.index} went on after the call had ended")
            if call.arguments:
                yield from self._grow(call.arguments)

    def end(self, *, cut: bool) -> Iterator[Json]:
        """Yields the events that finish the output; `cut` says that the limit of its length ended it."""
        kind = self._kind
        # An answer without text has an empty message, unless it ended before there could be one.
        if kind is None or (kind not in (MESSAGE, CALL) and not cut) or (kind is MESSAGE and self._waiting):
            yield from self._say("")
        yield from self._finish("incomplete" if cut else "completed")

    def _say(self, text: str) -> Iterator[Json]:
        if self._kind is not MESSAGE:
            yield from self._begin(growing.message(self._name, self._number("message")))
        if text or self._waiting:
            yield from self._grow(text, self._waiting)
            self._waiting = []

    @property
    def _kind(self) -> Kind | None:
        return None if self._open is None else self._open.kind

    def _number(self, type: str) -> int:
        """How many items of a type there are already."""
        return sum(item["type"] == type for item in self.items)

    def _begin(self, item: Growing) -> Iterator[Json]:
        yield from self._finish("completed")
        self._open = item
        yield from self._placed(item.begin())

    def _grow(self, text: str, logprobs: Sequence[Json] = ()) -> Iterator[Json]:
        assert self._open is not None
        yield from self._placed([self._open.grow(text, logprobs)])

    def _finish(self, status: str) -> Iterator[Json]:
        if self._open is not None:
            yield from self._placed(self._open.finish(status))
            self.items.append(self._open.item(status))
            self._open = None

    def _placed(self, events: Iterable[Json]) -> Iterator[Json]:
        for event in events:
            yield {**event, "output_index": len(self.items)}
