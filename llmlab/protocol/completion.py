"""What every backend answers with, and the one protocol that the lab asks.

A backend turns a request into a `Completion`: plain immutable values, numpy arrays and bytes, with no tie to the
engine, the tokenizer or the endpoint that they came from. A figure that a backend cannot know is NaN (or -1 where the
figure is a count), never a made-up number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float32, Int32

if TYPE_CHECKING:
    from llmlab.protocol.request import Request

#: A token's true bytes, or None for a special token without text.
TokenBytes: TypeAlias = bytes | None

#: The kinds of text that a generated token can belong to.
SEGMENTS = ("reasoning", "content", "tool_call", "end")


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """The T generated tokens of one choice, in order, the end token included. Natural logs, entropies in nats.

    `bytes` are a token's true bytes, also for a piece of a character; None for a special token without text. `lead`
    and `overhang` count the bytes at a token's start and end that lie outside the text of its segment (a stop or the
    length may cut a token in two). A row t holds the A best alternatives by raw logprob, then id.
    """

    ids: Int32[np.ndarray, " T"]
    bytes: tuple[TokenBytes, ...]
    segment: tuple[str, ...]
    lead: Int32[np.ndarray, " T"]
    overhang: Int32[np.ndarray, " T"]
    logprob: Float32[np.ndarray, " T"]
    sampling_logprob: Float32[np.ndarray, " T"]
    rank: Int32[np.ndarray, " T"]
    entropy: Float32[np.ndarray, " T"]
    sampling_entropy: Float32[np.ndarray, " T"]
    margin: Float32[np.ndarray, " T"]
    kept: Int32[np.ndarray, " T"]
    top_ids: Int32[np.ndarray, "T A"]
    top_bytes: tuple[tuple[TokenBytes, ...], ...]
    top_logprob: Float32[np.ndarray, "T A"]
    top_sampling_logprob: Float32[np.ndarray, "T A"]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        # Sixteen arrays are no answer to whoever looks at a choice; the frames show them.
        T, A = self.top_ids.shape
        return f"<{T:,} token{'' if T == 1 else 's'}, {A} alternatives each>"


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool, as the API's `message.tool_calls` holds it."""

    id: str
    name: str
    arguments: str  #: as the model wrote them: JSON text where it wrote JSON, unfinished where the length cut it


@dataclass(frozen=True)
class CallDelta:
    """New text of one tool call; its first delta brings the id and the name."""

    index: int  #: among the calls of its choice
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Choice:
    """One of the n answers to a request."""

    index: int
    text: str  #: the content, as the API's `message.content` holds it
    tokens: Tokens
    finish_reason: str  #: stop, length, tool_calls; "interrupted" where a run was stopped by hand
    reasoning: str | None = None  #: what stood between the reasoning's tags, also where `text` holds it too
    tool_calls: tuple[ToolCall, ...] = ()
    given: int = 0  #: how many of its first tokens were there already and not drawn: a branch's, all of a scored text's

    @property
    def is_listed(self) -> bool:
        """Whether its tokens are there: an endpoint may say a text without them."""
        return bool(len(self.tokens)) or not (self.text or self.reasoning or self.tool_calls)


@dataclass(frozen=True, eq=False)
class Timing:
    """Wall-clock seconds: until the first token was on the host, and in all."""

    first_token: float
    total: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Header:
    """What is known of an answer before its first token, and is the same in every chunk of a stream."""

    id: str
    created: int  #: seconds since 1970
    model: str
    request: Request
    seed: int  #: the request's, or the one drawn for it
    prompt_ids: Int32[np.ndarray, " L"]
    system_fingerprint: str
    #: Token id -> name, for the tokens without bytes, such as `<|im_end|>`.
    control_tokens: Mapping[int, str] = field(default_factory=dict)
    order: str = "llmlab"  #: of the sampler's stages


@dataclass(frozen=True, eq=False, kw_only=True)
class Completion(Header):
    """A finished request: everything that a result, a frame or a response is made of."""

    choices: tuple[Choice, ...]
    timing: Timing
    reported_usage: Mapping[str, int] | None = None  #: an endpoint's own count; None: the tokens are there to count
    notes: tuple[str, ...] = ()  #: what an endpoint was seen to do otherwise than asked

    @property
    def completion_tokens(self) -> int:
        """Generated tokens over all choices, end tokens included."""
        counted = sum(len(choice.tokens) for choice in self.choices)
        return counted if self.reported_usage is None else self.reported_usage.get("completion_tokens", counted)


@dataclass(frozen=True)
class Delta:
    """What a stream yields: new text of one choice, or its finish reason; the tokens that became final with it."""

    index: int
    text: str  #: new content
    tokens: Tokens
    finish_reason: str | None
    reasoning: str = ""  #: new reasoning, where the request separates it from the content
    calls: tuple[CallDelta, ...] = ()
    reported_usage: Mapping[str, int] | None = None  #: an endpoint's own count, for the whole request


#: Alternatives shown where the request does not say how many.
ALTERNATIVES = 5
