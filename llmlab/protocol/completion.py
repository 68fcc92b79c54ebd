"""What every backend answers with: a `Completion`, or its `Delta`s while it is made.

They are plain immutable values, numpy arrays and bytes, independent of the engine, the tokenizer or the endpoint that
they came from. A value that a backend cannot know is NaN, a count or an id -1; nothing is made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Int32

if TYPE_CHECKING:
    from llmlab.protocol.request import Request

#: A token's bytes, or None for a control token, which has no text.
TokenBytes: TypeAlias = bytes | None

#: A note about answers of endpoints; `Completion.lacks_end` says which choices it is about.
NO_END_TOKEN = "logprobs: the end token is not listed, so perplexity and mean_logprob are without it"

#: The segments of an answer; each generated token belongs to one of them.
SEGMENTS = ("reasoning", "content", "tool_call", "end")


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """The T generated tokens of one choice, in order, with the end token. Natural logs, entropies in nats.

    `bytes` are exact, also where a token is only a part of a character. `lead` and `overhang` count the bytes at a
    token's start and end that lie outside the text of its segment, because a stop sequence or the next segment begins
    inside the token. `top_*` hold, for each token, the A most likely alternatives by raw logprob, then id.
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
        # Short, because sixteen arrays are unreadable in a notebook; the frames show them.
        T, A = self.top_ids.shape
        return f"<{T:,} token{'' if T == 1 else 's'}, {A} alternatives each>"


def listed(tokens: Tokens, t: int, *, most: int, named: Sequence[int] = ()) -> list[int]:
    """The columns of `top_*` that are listed for a token: the first `most`, then those of tokens asked for by id."""
    ids = tokens.top_ids[t].tolist()
    columns = list(range(min(most, len(ids))))
    found = set(ids[:most])
    for token in dict.fromkeys(named):
        if token not in found and token in ids:
            columns.append(ids.index(token))
    return columns


class Drawable(NamedTuple):
    """A token that could be drawn at a position: its id, its bytes, its logprob (raw), and that in what was sampled."""

    token_id: int
    data: TokenBytes
    logprob: float
    sampling_logprob: float


def drawable(tokens: Tokens, t: int) -> list[Drawable] | None:
    """The tokens that could be drawn in place of a token, most likely first (raw, then id); None if some are unknown.

    They are known where all of them, except the token itself, are among its alternatives.
    """
    own = Drawable(int(tokens.ids[t]), tokens.bytes[t], float(tokens.logprob[t]), float(tokens.sampling_logprob[t]))
    columns = zip(
        tokens.top_ids[t].tolist(), tokens.top_bytes[t], tokens.top_logprob[t].tolist(),
        tokens.top_sampling_logprob[t].tolist(), strict=True,
    )  # fmt: skip
    every = (own, *map(Drawable._make, columns))
    found = {each.token_id: each for each in every if math.isfinite(each.sampling_logprob)}
    if len(found) != tokens.kept[t]:
        return None
    return sorted(found.values(), key=lambda each: (-each.logprob, each.token_id))


@dataclass(frozen=True)
class ToolCall:
    """A tool call, as in the API's `message.tool_calls`."""

    id: str
    name: str
    arguments: str  #: the text that the model wrote: usually JSON, incomplete if the length limit cut it


@dataclass(frozen=True)
class CallDelta:
    """New text of one tool call; the first delta of a call has its id and name."""

    index: int  #: the number of the call within its choice
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Choice:
    """One of the n answers to a request."""

    index: int
    text: str  #: the content, as in the API's `message.content`
    tokens: Tokens
    finish_reason: str  #: stop, length, tool_calls; "interrupted" if the run was stopped by hand
    reasoning: str | None = None  #: the text between the reasoning's tags, even if `text` contains it too
    tool_calls: tuple[ToolCall, ...] = ()
    given: int = 0  #: how many of the first tokens were supplied, not sampled: a branch's prefix, all of a scored text
    #: Where tokens are guessed (`load(draft=)`), for each token: -1 for a right guess, else how many guesses the model
    #: read in the pass that the token is the first one of. None where nothing is guessed.
    guessed: Int32[np.ndarray, " T"] | None = None

    @property
    def is_listed(self) -> bool:
        """Whether the tokens are known: some endpoints return text without them."""
        return bool(len(self.tokens)) or not (self.text or self.reasoning or self.tool_calls)


@dataclass(frozen=True, eq=False)
class Timing:
    """Wall-clock seconds from the start to the first token on the host, and to the end."""

    first_token: float
    total: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Header:
    """What is known of an answer before its first token; it is the same in every chunk of a stream."""

    id: str
    created: int  #: seconds since 1970
    model: str
    request: Request
    seed: int  #: the request's seed, or the one drawn for it
    prompt_ids: Int32[np.ndarray, " L"]
    system_fingerprint: str
    #: Token id -> name, for the tokens without bytes, such as `<|im_end|>`.
    control_tokens: Mapping[int, str] = field(default_factory=dict)
    order: str = "llmlab"  #: the name of the order of the sampler's stages
    #: The prompt's tokens from the second one on, if the request has `prompt_logprobs`.
    prompt_tokens: Tokens | None = None
    notes: tuple[str, ...] = ()  #: where the prompt or the answer is not what was asked for, one line each


@dataclass(frozen=True, eq=False, kw_only=True)
class Completion(Header):
    """The whole answer to a request: everything that a result, a frame or a response is made from."""

    choices: tuple[Choice, ...]
    timing: Timing
    reported_usage: Mapping[str, int] | None = None  #: an endpoint's own count; None: count the tokens

    @property
    def completion_tokens(self) -> int:
        """The number of generated tokens of all choices, with end tokens."""
        counted = sum(len(choice.tokens) for choice in self.choices)
        return counted if self.reported_usage is None else self.reported_usage.get("completion_tokens", counted)

    def lacks_end(self, choice: Choice) -> bool:
        """Whether a choice ended with an end token that is not among its tokens, because its endpoint lists none."""
        return NO_END_TOKEN in self.notes and ended_by_token(choice.finish_reason, choice.text, self.request)


@dataclass(frozen=True)
class Delta:
    """What a stream yields: new text of one choice or its finish reason, and the tokens that became final with it."""

    index: int
    text: str  #: new content
    tokens: Tokens
    finish_reason: str | None
    reasoning: str = ""  #: new reasoning, if the request separates it from the content
    calls: tuple[CallDelta, ...] = ()
    reported_usage: Mapping[str, int] | None = None  #: an endpoint's own count, for the whole request


def ended_by_token(finish_reason: str | None, text: str, request: Request) -> bool:
    """Whether an answer ended with an end token, not with one of the request's stops, at its length, or by hand."""
    return finish_reason in ("stop", "tool_calls") and not text.endswith(tuple(request.stops))


#: How many alternatives are shown if the request does not say.
ALTERNATIVES = 5
