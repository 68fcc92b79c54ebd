"""Tokens that a choice begins with although nobody drew them, and what a backend must be able to do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt32

from llmlab.protocol.completion import Completion, Delta, Header, TokenBytes
from llmlab.protocol.request import Request

if TYPE_CHECKING:
    from llmlab.sampling.params import SamplingParams


__all__ = ["Backend", "Given", "LogitsBackend", "Next", "ReplayBackend", "Stream"]


class Given(NamedTuple):
    """The tokens [T] that a choice begins with.

    `finish` is why they end where they do, where that is known (a finish reason of the protocol's). `drawn` says how
    many of the last ones stand for tokens that were drawn: a stop that is completed there, or an end token as the very
    last, ends the choice; what a stop would have cut off before is kept.
    """

    choice: int
    ids: Int32[np.ndarray, " T"]
    finish: str | None = None
    drawn: int = 1


class Next(NamedTuple):
    """What may come behind some tokens: the A best by raw logprob, then id. Natural logs."""

    ids: Int32[np.ndarray, " A"]
    logprob: Float32[np.ndarray, " A"]
    sampling_logprob: Float32[np.ndarray, " A"]


@runtime_checkable
class ReplayBackend(Protocol):
    """A backend that takes tokens that are there: it scores them, and goes on behind them."""

    token_bytes: tuple[TokenBytes, ...]
    ends: tuple[int, ...]

    def render(self, request: Request) -> Int32[np.ndarray, " L"]:
        """The prompt's token ids."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that continues something."""

    def score(self, request: Request, given: Sequence[Given], *, seed: int | None, order: str = "llmlab") -> Completion:
        """The figures of given tokens after a request's prompt, as if they had been drawn; with a seed all the same."""

    def go_on(self, request: Request, given: Sequence[Given], *, seed: int, order: str = "llmlab") -> Stream:
        """Start a request whose choices begin with given tokens; `max_tokens` counts them."""

    def ways_on(
        self, request: Request, made: Sequence[Int32[np.ndarray, "_"]], *, order: str = "llmlab"
    ) -> Sequence[Next | None]:
        """What may come behind each of some beginnings, all in one batch; None where nothing can."""

    def logits(
        self, prompt: Int32[np.ndarray, " L"], tokens: Int32[np.ndarray, " T"]
    ) -> Iterator[Float32[np.ndarray, "C V"]]:
        """The raw logits that tokens after a prompt were drawn from: pieces that add up to T rows."""

    def allowed(
        self, request: Request, *, prompt: Int32[np.ndarray, " L"], made: Int32[np.ndarray, " T"]
    ) -> Bool[np.ndarray, " V"] | None:
        """The tokens that the request's grammar has room for after `made`; None where answers are free."""

    def masks(
        self, request: Request, *, prompt: Int32[np.ndarray, " L"], made: Int32[np.ndarray, " T"]
    ) -> UInt32[np.ndarray, "T+1 W"] | None:
        """What the grammar allows in the place of each token and after them, packed; None where answers are free."""


@runtime_checkable
class Stream(Protocol):
    """Deltas as they come; `result()` runs to the end and returns the whole, `close()` frees the work."""

    @property
    def header(self) -> Header:
        """What is known before the first token."""

    def __iter__(self) -> Iterator[Delta]: ...
    def on_wait(self, tell: Callable[[str], None]) -> None:
        """Have `tell` called now and then, on the reader's thread, with what is being waited for."""

    def result(self) -> Completion:
        """Run to the end; the whole, equal to what `complete` gives."""

    def close(self) -> None:
        """Stop the work and free what it holds; harmless at any time."""


@runtime_checkable
class Backend(Protocol):
    """Who answers: the engine in this process, or an endpoint elsewhere."""

    name: str  #: the model's name, as requests spell it

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a validated request to its end."""

    def stream(self, request: Request, *, order: str = "llmlab") -> Stream:
        """Start a validated request; its deltas come as they are made."""

    def describe(self) -> dict[str, Any]:
        """Device, dtype, model, memory: what the banner shows."""


@runtime_checkable
class LogitsBackend(Protocol):
    """A backend that can say what it thinks of every token of its vocabulary."""

    token_bytes: tuple[bytes | None, ...]
    ends: tuple[int, ...]

    def render(self, request: Request) -> Int32[np.ndarray, " L"]:
        """The prompt's token ids."""

    def next_logits(self, prompt: Int32[np.ndarray, " L"]) -> Float32[np.ndarray, " V"]:
        """The raw logits of the token that follows."""

    def sampling_params(self, request: Request, *, seed: int, choice: int = 0) -> SamplingParams:
        """The request's sampling fields."""

    def allowed(
        self, request: Request, *, prompt: Int32[np.ndarray, " L"], made: Int32[np.ndarray, " T"]
    ) -> Bool[np.ndarray, " V"] | None:
        """The tokens that the request's grammar has room for after `made`; None where answers are free."""
