"""What runs a model, as the rest of the package sees it: `Backend`, and `LogitsBackend` for a model in this process.

The engine (`llmlab.backends.local`) is a `LogitsBackend`: its logits can be read, and it continues from given tokens.
An endpoint elsewhere (`llmlab.backends.remote`) is a `Backend`: it takes messages and returns text and logprobs.
Whatever needs logits asks `isinstance(backend, LogitsBackend)` once, and nothing else is ever probed for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32, Integer, UInt32

from llmlab.protocol.completion import Choice, Completion, Delta, Header, TokenBytes
from llmlab.protocol.request import ChatRequest, Request

if TYPE_CHECKING:
    from llmlab.sampling.params import SamplingParams


__all__ = [
    "Backend",
    "BodyBackend",
    "Candidates",
    "Frontier",
    "GivenTokens",
    "LogitsBackend",
    "Reloadable",
    "Scoring",
    "Stream",
]


class GivenTokens(NamedTuple):
    """Tokens that a choice begins with and that are not sampled, such as the prefix of a branch.

    Attributes:
        choice: the index of the choice, which its random noise depends on.
        ids: the token ids [T].
        finish_reason: why the choice ended after them, where that is known.
        drawn: how many of the last tokens stand for sampled ones: a stop sequence completed by them, or an end token
            as the very last, ends the choice. Stop sequences inside the tokens before them are ignored.
    """

    choice: int
    ids: Int32[np.ndarray, " T"]
    finish_reason: str | None = None
    drawn: int = 1


class Scoring(NamedTuple):
    """Tokens to score after a request's prompt, one choice for each; `seed` is only recorded, None draws one."""

    request: Request
    given: Sequence[GivenTokens]
    seed: int | None = None
    order: str = "llmlab"


class Candidates(NamedTuple):
    """The A most likely next tokens, ordered by raw logprob, then id. Natural logs."""

    ids: Int32[np.ndarray, " A"]
    logprob: Float32[np.ndarray, " A"]
    sampling_logprob: Float32[np.ndarray, " A"]


@runtime_checkable
class Stream(Protocol):
    """An answer in progress: iterating yields its deltas as they are made. Any thread may close it."""

    @property
    def header(self) -> Header:
        """What is known before the first token."""

    def __iter__(self) -> Iterator[Delta]: ...

    def on_wait(self, tell: Callable[[str], None]) -> None:
        """Call `tell` about twice a second while no delta comes, with the reason for the wait ("waiting" if none).

        It is called on the thread that reads the stream.
        """

    def on_restart(self, tell: Callable[[], None]) -> None:
        """Let the answer begin anew after some of it was read, where one of several endpoints dies.

        `tell` is called first, on the thread that reads the stream: the deltas that it has read are void. Without this,
        such an answer is an error, unless nothing of it has been read yet.
        """

    def result(self) -> Completion:
        """Run to the end; returns the whole answer, equal to what `complete` returns for the same request and seed.

        After `close` it returns what was made until then, with finish_reason "interrupted".
        """

    def close(self) -> None:
        """Stop the work and free what it holds. May be called at any time, and more than once."""


@runtime_checkable
class Backend(Protocol):
    """Runs one model: the engine in this process, or an endpoint elsewhere.

    A class that names it as its base inherits the defaults: any number of requests at once, every parameter, nothing to
    compile, nothing to free.
    """

    name: str  #: the model's name, as `request.model` spells it
    unsupported: frozenset[str] = frozenset()  #: parameters that a user interface should not offer for it

    @property
    def concurrency(self) -> int | None:
        """How many requests it runs at once, which may change; None where it queues any number itself."""
        return None

    @property
    def models(self) -> tuple[str, ...]:
        """The names that `request.model` can have: the model's own first, then those of adapters beside it."""
        return (self.name,)

    @property
    def system_fingerprint(self) -> str:
        """What results depend on besides the request: versions, device, dtype; "" where only the answers say it."""
        return ""

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a validated request; returns the whole answer."""

    def stream(self, request: Request, *, order: str = "llmlab") -> Stream:
        """Start a validated request; returns its deltas as they are made."""

    def answer(self, request: Request) -> Stream:
        """Start a request as an endpoint does, whose client sees the logprobs that it asks for and no others.

        Where the request does not ask for them, a backend may leave out the statistics of the tokens (NaN), which cost
        time; the tokens are those of `stream`.
        """
        return self.stream(request)

    def describe(self) -> dict[str, Any]:
        """Facts about the model for the banner: name, device, dtype, memory and notes, where they are known."""

    def warmup(
        self,
        *,
        orders: tuple[str, ...] = ("llmlab",),
        progress: Callable[[int, int], None] | None = None,
        wait: bool = True,
    ) -> None:
        """Compile every program that requests with these stage orders need; `progress` is told (done, total).

        Without `wait`, while there is nothing else to do, and without a report of progress.
        """

    def together(self) -> AbstractContextManager[None]:
        """Returns a context in which all requests started count as one client's, such as the requests of a sweep."""
        return nullcontext()

    def close(self) -> None:
        """Stop all work and free what the backend holds."""


@runtime_checkable
class Frontier(Protocol):
    """Continuations of one prompt, advanced together: rows that go on from any row of the step before.

    A context that frees its memory at the end. One thread uses it at a time.
    """

    def start(self) -> Float32[np.ndarray, " V"]:
        """Raw logits of the first token after the prompt; there is one row then. It comes before every step."""

    def advance(
        self, parents: Sequence[int] | Integer[np.ndarray, " K"], tokens: Sequence[int] | Integer[np.ndarray, " K"]
    ) -> Float32[np.ndarray, "K V"]:
        """Raw logits after K rows, which take the place of those of the step before; K may differ at every step.

        Args:
            parents: the row that each goes on from, counted among those of the step before.
            tokens: the token id that each gets; -1 keeps a row as it is.

        Raises:
            ValueError: too many rows, no such parent or token, or no room for another token of a row.
        """

    def close(self) -> None:
        """Free its memory. May be called at any time, and more than once."""

    def __enter__(self) -> Frontier: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class BodyBackend(Backend, Protocol):
    """An endpoint elsewhere, which can be sent a request's JSON as it is, and whose answer can be seen as it comes."""

    def post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send the body of a chat completion; returns the JSON object that answers it. Nothing is added or repaired.

        Raises:
            RequestError: the endpoint refuses the body; EngineError: it fails, or answers no JSON object.
        """


@runtime_checkable
class Reloadable(Protocol):
    """A backend whose checkpoint can be loaded once more."""

    def reloaded(self, *, dtype: str) -> LogitsBackend:
        """Load the same checkpoint in another dtype; raises RequestError where that cannot be."""


@runtime_checkable
class LogitsBackend(Backend, Protocol):
    """A backend whose logits can be read, and that continues from given tokens. V is the size of the vocabulary.

    In every method `prompt` holds the token ids [L] that `render` returns, and `made` (or `tokens`) those generated
    after it [T].
    """

    token_bytes: tuple[TokenBytes, ...]  #: of every token the tokenizer knows, None for control tokens
    token_names: Mapping[int, str]  #: of the tokens without bytes, such as `<|im_end|>`
    end_ids: tuple[int, ...]  #: the tokens that end a choice
    tokenizer: Any  #: reads texts; its `hf` is the tokenizer of the transformers package

    def save_model(self, folder: Path, *, dtype: str | None = None) -> Path:
        """Write the model as a checkpoint folder that transformers loads; returns the folder.

        Raises:
            RequestError: the dtype is none of those a checkpoint is stored in; the folder is the model's own.
        """

    @property
    def dtypes(self) -> tuple[str, str]:
        """The dtype of the weights, and the coarsest one that the model is meant to be computed in; "" if not known.

        The second is that of the checkpoint, or of the activations where theirs is coarser.
        """
        return "", ""

    # --- from a request to tokens ---

    def render(self, request: Request) -> Int32[np.ndarray, " L"]:
        """The prompt's token ids."""

    def negative_prompt(self, request: Request, prompt: Int32[np.ndarray, " L"]) -> Int32[np.ndarray, " N"]:
        """The token ids of the request's negative prompt; without one, the last token of `prompt`, the request's own.

        Raises:
            RequestError: the chat template refuses it; ContextLengthError: it does not fit.
        """

    def rendered(self, request: ChatRequest, *, add_generation_prompt: bool = True) -> str:
        """The prompt's text, special tokens spelled out; without the header of the assistant's turn if so asked."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The token ids of a text that continues another one: no begin-of-sequence token, unless `special`."""

    def sampling_params(self, request: Request, *, seed: int, choice: int = 0) -> SamplingParams:
        """The request's sampling fields, as the sampler takes them."""

    def token_budget(self, request: Request, prompt: int) -> int:
        """How many tokens an answer may have after a prompt of `prompt` tokens.

        Raises:
            ContextLengthError: the prompt, or `max_tokens` after it, does not fit.
        """

    def ends_of(self, request: Request) -> tuple[int, ...]:
        """The tokens that end an answer to the request."""

    # --- logits ---

    # `model` is the name that the request has, None for the model's own.

    def next_logits(self, prompt: Int32[np.ndarray, " L"], *, model: str | None = None) -> Float32[np.ndarray, " V"]:
        """Raw logits of the token after the prompt, from one prefill."""

    def step_logits(
        self,
        prompt: Int32[np.ndarray, " L"],
        tokens: Int32[np.ndarray, " T"],
        *,
        given: int = 0,
        rows: int = 1,
        model: str | None = None,
        negative: Int32[np.ndarray, " N"] | None = None,
    ) -> Float32[np.ndarray, "... V"]:
        """Raw logits [V] after `tokens`, computed by the decoding steps that made them.

        They equal to the bit what the sampler saw, where `next_logits` may differ in the last bits.

        Args:
            prompt: the prompt's token ids.
            tokens: the tokens generated after it.
            given: how many of the first ones were supplied, not sampled.
            rows: the batch size in which they were sampled.
            model: the name that the request has.
            negative: the token ids of the negative prompt, where they were made with one; [2, V] is returned then, the
                logits after it last.
        """

    def logits(
        self, prompt: Int32[np.ndarray, " L"], tokens: Int32[np.ndarray, " T"], *, model: str | None = None
    ) -> Iterator[Float32[np.ndarray, "C V"]]:
        """Raw logits that predict each of the `tokens`, in pieces of C rows that add up to T."""

    @property
    def widest_search(self) -> int:
        """The most rows that `search` can have."""
        return 1

    def search(
        self, prompt: Int32[np.ndarray, " L"], *, rows: int, max_tokens: int, model: str | None = None
    ) -> Frontier:
        """Read a prompt once, and open up to `rows` rows of up to `max_tokens` tokens each that go on from it.

        Raises:
            EngineError: there is no memory for so many.
        """

    # --- the request's grammar ---

    def allowed_tokens(
        self, request: Request, *, prompt: Int32[np.ndarray, " L"], made: Int32[np.ndarray, " T"]
    ) -> Bool[np.ndarray, " V"] | None:
        """Which tokens the request's grammar allows after `made`; None where the request has no grammar."""

    def grammar_masks(
        self, request: Request, *, prompt: Int32[np.ndarray, " L"], made: Int32[np.ndarray, " T"]
    ) -> UInt32[np.ndarray, "T+1 W"] | None:
        """Which tokens the request's grammar allows in place of each of `made`, and after the last.

        Packed bits: bit i % 32 of word i // 32 is token i. None where the request has no grammar.

        Raises:
            RequestError: the grammar forbids one of the tokens.
        """

    # --- given tokens ---

    def score(
        self, request: Request, given: Sequence[GivenTokens], *, seed: int | None, order: str = "llmlab"
    ) -> Completion:
        """The logprobs of given tokens after a request's prompt, as a completion that has one choice for each of them.

        Nothing is sampled; `seed` is only recorded in the completion.

        Raises:
            RequestError: the request's grammar forbids a token; ContextLengthError: the tokens do not fit.
        """

    def written(
        self,
        request: Request,
        ids: Int32[np.ndarray, " T"],
        *,
        prompt: Int32[np.ndarray, " L"],
        finish_reason: str | None,
    ) -> Choice:
        """The answer that given tokens make, without a pass of the model: its tokens have no statistics (NaN).

        Args:
            request: the request.
            ids: the answer's token ids.
            prompt: the prompt's token ids.
            finish_reason: "stop" or "length" where it ends after them, unless its text ends it otherwise. None where
                its text alone may end it; if that does not, the answer's finish reason is "interrupted".
        """

    def score_all(self, asked: Sequence[Scoring]) -> list[Completion]:
        """What `score` gives for several requests, in their order, from as few passes of the model as possible.

        Raises:
            RequestError: a request's grammar forbids a token; ContextLengthError: the tokens of one do not fit.
        """

    def continue_from(
        self, request: Request, given: Sequence[GivenTokens], *, seed: int, order: str = "llmlab"
    ) -> Stream:
        """Start a request whose choices begin with given tokens, which count towards `max_tokens`.

        Raises:
            RequestError: the request's grammar forbids a token; ContextLengthError: the tokens do not fit.
        """

    def next_candidates(
        self, request: Request, made: Sequence[Int32[np.ndarray, "_"]], *, order: str = "llmlab"
    ) -> Sequence[Candidates | None]:
        """The most likely next tokens after each of several beginnings of an answer, from one batch.

        None where nothing can follow: the context is full, or the grammar forbids the beginning or is complete.
        """
