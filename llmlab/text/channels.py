"""Reads a turn that consists of several messages with headers: gpt-oss' harmony format.

    <|channel|>analysis<|message|>Reasoning.<|end|><|start|>assistant<|channel|>final<|message|>Answer.<|return|>

A header names a channel, which says whether its message is reasoning or content. A header with a recipient makes its
message the arguments of a call, whatever its channel: gpt-oss writes calls on either of two. A header that says neither
is text, and so is a text that only resembles one.

Source: https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

from llmlab.text.byte_stream import ByteStream, EndOfInput, Parser
from llmlab.text.json_calls import NamedCallParser

__all__ = ["Channels", "MessageReader", "TurnState", "body_in_prompt"]

#: The most bytes of a header.
_LONGEST = 400


@dataclass(frozen=True)
class Channels:
    """How the messages of a turn are written.

    Attributes:
        start: the text that begins every message of the model; a prompt ends with that of the first one.
        channel: the text before a channel's name.
        recipient: the text before the name of who is called.
        namespace: the text before a function's name in it.
        constrain: the text that may stand before the format of a message.
        message: the text that ends a header.
        end: the text that ends a message which others follow.
        last: the texts that end the last message of a turn, the one after a call among them.
        reasoning: the channels of reasoning.
        content: the channels of content, that of the answer first.
    """

    start: str = "<|start|>assistant"
    channel: str = "<|channel|>"
    recipient: str = "to="
    namespace: str = "functions."
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    end: str = "<|end|>"
    last: tuple[str, ...] = ("<|return|>", "<|call|>")
    reasoning: tuple[str, ...] = ("analysis",)
    content: tuple[str, ...] = ("final", "commentary")

    def texts(self) -> Iterator[str]:
        """Every text of this format that is not the name of a channel."""
        for field in fields(self):
            if field.name not in ("reasoning", "content"):
                value = getattr(self, field.name)
                yield from value if isinstance(value, tuple) else (value,)

    def header(self, name: str) -> str:
        """The header of a message on the channel of this name, without the text that begins a message."""
        return f"{self.channel}{name}{self.message}"


class TurnState:
    """What a reader of a generation shows while it reads.

    Attributes:
        reasoning: whether the generation is inside the reasoning.
        done: whether no more is to be read.
    """

    def __init__(self) -> None:
        self.reasoning = False
        self.done = False


class _Header(NamedTuple):
    """A header that was read.

    Attributes:
        kind: what its message is: "reasoning", "content" or "tool_call".
        end: where it ends.
        name: the function that it calls.
        known: whether it is no text. One that calls an unknown function is a text, and so is its message.
    """

    kind: str
    end: int
    name: str = ""
    known: bool = True


class MessageReader:
    """Reads the messages of one generation.

    Args:
        channels: how they are written.
        prompt: the bytes of the prompt, or of its end.
        stream: the stream to read from; spans are emitted to it.
        state: what is shown of the reading.
        calls: the parser of the arguments of calls; None if no text is a call.
        tools: the names of the functions that may be called.
        parallel: whether there may be more than one call.
    """

    def __init__(
        self,
        channels: Channels,
        *,
        prompt: bytes,
        stream: ByteStream,
        state: TurnState,
        calls: NamedCallParser | None,
        tools: Collection[str],
        parallel: bool,
    ) -> None:
        self._channels = channels
        self._stream = stream
        self._state = state
        self._calls = calls
        self._tools = frozenset(tools) if calls else frozenset()
        self._parallel = parallel
        self._start = channels.start.encode()
        self._message = channels.message.encode()
        self._ends = tuple(text.encode() for text in (channels.end, *channels.last))
        self._last = tuple(text.encode() for text in channels.last)
        self._body, self._given = _read_prompt(channels, prompt)
        state.reasoning = self._body == "reasoning"

    def read(self) -> Parser:
        """Read the whole generation."""
        body = self._body or (yield from self._first())
        while not self._state.done:
            self._state.reasoning = body == "reasoning"
            if body == "tool_call":
                if not (yield from self._call()):
                    return
                body = "content"
            else:
                body = yield from self._text(body)

    def _call(self) -> Generator[None, None, bool]:
        """Read the arguments of the call whose header has been read; whether anything may follow them."""
        assert self._calls is not None
        yield from self._calls.parse_arguments(self._name)
        spans = self._stream.spans
        closed = bool(spans) and spans[-1].complete and spans[-1].data.endswith(self._last)
        self._state.done = not self._parallel or closed
        return not self._state.done

    def _first(self) -> Generator[None, None, str]:
        """Read the header with which the generation begins, or the rest of the one that the prompt holds."""
        stream = self._stream
        parts = self._channels
        openers = tuple(map(str.encode, (parts.start, parts.channel, parts.recipient, parts.constrain, parts.message)))
        begun = False
        try:
            while not begun:
                rest = (self._given + stream.data).lstrip()
                begun = rest.startswith(openers)
                if not begun and not any(each.startswith(rest) for each in openers):
                    break
                if not begun:
                    yield from stream.wait()
            header = (yield from self._header(0)) if begun else None
        except EndOfInput:
            stream.position = len(stream.data)
            stream.emit("content", tag=begun)
            raise
        if header is None:
            stream.position, self._given = 0, b""
            return "content"
        return self._begin(header)

    def _header(self, at: int) -> Generator[None, None, _Header | None]:
        """The header that begins at a place in the stream's data; None if it is not one. Nothing is emitted."""
        stream, given = self._stream, self._given
        while (stop := (given + stream.data).find(self._message, at)) < 0:
            if len(given + stream.data) - at > _LONGEST:
                return None
            yield from stream.wait()
        found = _pattern(self._channels).fullmatch(given + stream.data, at, stop + len(self._message))
        if not found:
            return None
        end = found.end() - len(given)
        name = (found["before"] or found["after"] or b"").decode("utf-8", "replace")
        if name:
            name = name.removeprefix(self._channels.namespace)
            return _Header("tool_call", end, name) if name in self._tools else _Header("content", end, known=False)
        kind = _kind(self._channels, found["channel"])
        return _Header(kind or "content", end, known=bool(kind))

    def _begin(self, header: _Header, *, after: str = "content") -> str:
        """Emit a header, which begins the stream's data, and return what its message is.

        Args:
            header: the header.
            after: what the message before it is. The header of content that follows reasoning separates the two, and
                so belongs to the reasoning, as every separator does.
        """
        self._given = b""
        self._name = header.name
        self._stream.position = header.end
        if header.kind != "tool_call":
            self._stream.emit(after if header.kind == "content" and header.known else header.kind, tag=header.known)
        elif self._calls:
            self._calls.reset()
        return header.kind

    def _text(self, segment: str) -> Generator[None, None, str]:
        """Emit a message's text, what ends it and the header of the next one; what that message is."""
        stream = self._stream
        while True:
            while not (found := stream.find((*self._ends, self._start))):
                stream.emit(segment)
                yield from stream.wait()
            stream.emit(segment)
            header = yield from self._border(found, segment)
            if header is not None:
                return self._begin(header, after=segment)
            stream.position = len(found)
            stream.emit(segment)

    def _border(self, found: bytes, segment: str) -> Generator[None, None, _Header | None]:
        """Read what ends a message, and return the next one's header; None if the message goes on.

        Args:
            found: the text that comes next: it ends a message, or begins one.
            segment: what the message is.
        """
        stream = self._stream
        size = len(found) if found in self._ends else 0
        stream.position = size
        try:
            yield from stream.skip_space()
            at = stream.position
            if not (yield from stream.accept(self._start)):
                stream.position = 0
                return None
            header = yield from self._header(at)
        except EndOfInput:
            # The generation ends here: with the end of a message, or in the header of another one.
            stream.position = len(stream.data)
            stream.emit(segment, tag=True)
            raise
        if header is None:
            stream.position = 0
            return None
        stream.position = at
        stream.emit(segment, tag=True)
        return header._replace(end=header.end - at)


@lru_cache(maxsize=16)
def _pattern(channels: Channels) -> re.Pattern[bytes]:
    """A regular expression for a whole header; the recipient may stand before the channel or after it."""
    text = {name: re.escape(getattr(channels, name)) for name in ("start", "channel", "recipient", "constrain")}
    to = text["recipient"] + r"(?P<{}>[^\s<]+)\s*"
    channel = rf"{text['channel']}\s*(?P<channel>\w+)\s*"
    kind = rf"(?:(?:{text['constrain']})?\s*\w+\s*)?"
    parts = (rf"\s*(?:{text['start']}\s*)?", f"(?:{to.format('before')})?", f"(?:{channel})?")
    return re.compile("".join((*parts, f"(?:{to.format('after')})?", kind, re.escape(channels.message))).encode())


def _kind(channels: Channels, channel: bytes | None) -> str | None:
    """What a message on a channel is; None if the channel is not known."""
    name = channels.content[0] if channel is None else channel.decode("utf-8", "replace")
    return "reasoning" if name in channels.reasoning else "content" if name in channels.content else None


def _read_prompt(channels: Channels, prompt: bytes) -> tuple[str | None, bytes]:
    """What the message is that a prompt leaves open, and the beginning of a header that it leaves open."""
    _, begun, turn = prompt.rpartition(channels.start.encode())
    if not begun:
        return None, b""
    header, ended, body = turn.rpartition(channels.message.encode())
    if not ended:
        return None, turn
    ends = [body.rfind(end) + len(end) for end in (channels.end.encode(),) if end in body]
    if ends:
        return None, body[max(ends) :]
    found = _pattern(channels).fullmatch(header + ended)
    return (_kind(channels, found["channel"]) or "content") if found else "content", b""


def body_in_prompt(channels: Channels, prompt: bytes) -> str | None:
    """What the message is that a rendered prompt leaves open: "reasoning" or "content"; None if it leaves none open."""
    return _read_prompt(channels, prompt)[0]
