"""The answers of a model as a space for `BestFirst`: its logits, read under the settings of several samplers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from llmlab.distributions.processed import Processed
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.request import ChatRequest, Request
from llmlab.search.opened import OpenedSpace

__all__ = ["AnswerSpace", "Distributions", "written"]


class Distributions:
    """Distributions of the next token under the settings of several requests for one prompt.

    Args:
        backend: the model.
        requests: they differ in their sampler settings alone.
        prompt: the prompt's token ids.
        max_tokens: the most tokens of an answer.
        order: the order of the sampler's stages.
        free: after these, the same settings without the grammar: probabilities of the tokens that it allows, which then
            add up to less than 1.
    """

    def __init__(
        self,
        backend: LogitsBackend,
        requests: Sequence[Request],
        *,
        prompt: np.ndarray,
        max_tokens: int,
        order: str,
        free: bool = False,
    ) -> None:
        self._settings = [
            Processed(
                backend.sampling_params(request, seed=0), prompt_ids=prompt, end_ids=backend.end_ids, most=max_tokens,
                order=order,
            )
            for request in requests
        ]  # fmt: skip
        self.count = len(self._settings) * (1 + free)

    def logprobs(
        self,
        which: int,
        raw: Float32[np.ndarray, "K V"],
        made: Sequence[Sequence[int]],
        allowed: Bool[np.ndarray, "K V"] | None,
    ) -> Float64[np.ndarray, "K V"]:
        """Log-probabilities of what follows K beginnings; -inf where it cannot be drawn, or is not allowed."""
        S = len(self._settings)
        if which < S:
            return self._settings[which].logprobs(raw, made, allowed=allowed)
        found = self._settings[which - S].logprobs(raw, made)
        return found if allowed is None else np.where(allowed, found, -np.inf)


class AnswerSpace(OpenedSpace):
    """The answers to requests that differ in their sampler settings alone; a context, which holds the model's memory.

    Args:
        backend: the model.
        requests: the requests.
        rows: the most rows of a pass.
        order: the order of the sampler's stages.

    Attributes:
        has_grammar: whether the requests allow some answers only. Then there are two distributions for each request:
            its own, and, after all of those, the same without the grammar (see `Distributions`).

    Raises:
        RequestError: a request is wrong for this model, or the prompt does not fit.
        EngineError: there is no memory for so many rows.
    """

    def __init__(self, backend: LogitsBackend, requests: Sequence[Request], *, rows: int, order: str) -> None:
        request = requests[0]
        prompt = backend.render(request)
        most = backend.token_budget(request, len(prompt))
        super().__init__(backend, prompt, rows=rows, max_tokens=most, model=request.model)
        self._request = request
        self.ends = frozenset(backend.ends_of(request))
        self.has_grammar = self.allowed(()) is not None
        self._distributions = Distributions(
            backend, requests, prompt=self.prompt, max_tokens=self.max_tokens, order=order, free=self.has_grammar
        )
        tools = isinstance(request, ChatRequest) and bool(request.tools) and request.tool_choice != "none"
        self._reads_text = tools or bool(request.stops)

    @property
    def distributions(self) -> int:
        """How many distributions there are."""
        return self._distributions.count

    def start(self) -> Float32[np.ndarray, " V"]:
        """Returns the raw logits of the first token."""
        return self._held.start()

    def advance(self, parents: Int64[np.ndarray, " K"], tokens: Int64[np.ndarray, " K"]) -> Float32[np.ndarray, "K V"]:
        """Returns the raw logits after K rows, which take the place of those before."""
        return self._held.advance(parents, tokens)

    def allowed(self, made: Sequence[int]) -> Bool[np.ndarray, " V"] | None:
        """Returns which tokens the requests' grammar allows after a beginning; None where they have none."""
        return self._backend.allowed_tokens(self._request, prompt=self.prompt, made=np.array(made, np.int32))

    def logprobs(
        self,
        which: int,
        raw: Float32[np.ndarray, "K V"],
        made: Sequence[Sequence[int]],
        allowed: Bool[np.ndarray, "K V"] | None,
    ) -> Float64[np.ndarray, "K V"]:
        """Returns the log-probabilities of what follows K beginnings under one distribution."""
        return self._distributions.logprobs(which, raw, made, allowed)

    def is_complete(self, made: Sequence[int]) -> bool:
        """Whether a stop sequence or a tool call ends an answer after these tokens."""
        if not self._reads_text:
            return False
        return self.written(made, finish_reason=None)[1] != "interrupted"

    def written(self, made: Sequence[int], *, finish_reason: str | None) -> tuple[str, str]:
        """Returns the text and the finish reason of an answer; see `written`."""
        return written(self._backend, self._request, made, prompt=self.prompt, finish_reason=finish_reason)


def written(
    backend: LogitsBackend, request: Request, made: Sequence[int], *, prompt: np.ndarray, finish_reason: str | None
) -> tuple[str, str]:
    """Returns the text and the finish reason of an answer. A tool call is written as its name and arguments.

    Args:
        backend: the model.
        request: the request.
        made: the answer's tokens.
        prompt: the prompt's token ids.
        finish_reason: why it ends after them, unless its text says otherwise. None where it may go on; then the finish
            reason is "interrupted" unless its text ends it, and there are no tool calls in the text.
    """
    choice = backend.written(request, np.array(made, np.int32), prompt=prompt, finish_reason=finish_reason)
    goes_on = choice.finish_reason == "interrupted"
    calls = "" if goes_on else "".join(f"{call.name}({call.arguments})" for call in choice.tool_calls)
    return choice.text + calls, choice.finish_reason
