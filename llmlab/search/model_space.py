"""The answers of a model as a space to search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from llmlab.distributions.processed import Processed
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.request import Request
from llmlab.search.opened import OpenedSpace

__all__ = ["ModelSpace"]


class ModelSpace(OpenedSpace):
    """The answers to a request under its sampler settings; a context, which holds the model's memory.

    Args:
        backend: the model.
        request: the prompt, the sampler's settings and the grammar.
        rows: the most nodes of a step.
        order: the order of the sampler's stages.

    Raises:
        RequestError: the request is wrong for this model, or the prompt does not fit.
        EngineError: there is no memory for so many rows.
    """

    def __init__(self, backend: LogitsBackend, request: Request, *, rows: int, order: str) -> None:
        prompt = backend.render(request)
        most = backend.token_budget(request, len(prompt))
        super().__init__(backend, prompt, rows=rows, max_tokens=most, model=request.model)
        self._request = request
        self.ends = frozenset(backend.ends_of(request))
        self._made: list[list[int]] = [[]]
        self._has_grammar = self._allowed() is not None
        params = backend.sampling_params(request, seed=0)
        self._processed = Processed(
            params, prompt_ids=self.prompt, end_ids=backend.end_ids, most=self.max_tokens, order=order
        )

    def start(self) -> Float64[np.ndarray, " V"]:
        """Returns the log-probabilities of the first token."""
        return self._logprobs(self._held.start()[None])[0]

    def advance(self, parents: Int64[np.ndarray, " K"], tokens: Int64[np.ndarray, " K"]) -> Float64[np.ndarray, "K V"]:
        """Returns the log-probabilities after K nodes, which take the place of those of the step before."""
        raw = self._held.advance(parents, tokens)
        self._made = [
            [*self._made[parent], token] for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)
        ]
        return self._logprobs(raw)

    def _logprobs(self, raw: Float32[np.ndarray, "K V"]) -> Float64[np.ndarray, "K V"]:
        return self._processed.logprobs(raw, self._made, allowed=self._allowed() if self._has_grammar else None)

    def _allowed(self) -> Bool[np.ndarray, "K V"] | None:
        """Which tokens the request's grammar allows after each node."""
        found: Sequence[np.ndarray | None] = [
            self._backend.allowed_tokens(self._request, prompt=self.prompt, made=np.array(made, np.int32))
            for made in self._made
        ]
        return None if found[0] is None else np.stack([one for one in found if one is not None])
