"""A request at one decoding step: its sampling fields, changed by a caller and turned into rows for the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt32

from llmlab.distributions.step import SamplerRow
from llmlab.errors import RequestError
from llmlab.protocol.arguments import listed, whole
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.request import CONSTRAINTS, Request
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.trail import Negative, Trail
from llmlab.text.token_names import TokenNames

#: Fields that the prompt or the logits depend on: with another value, it is another step.
_OTHER_STEP = frozenset(
    {"messages", "prompt", "model", "tools", "tool_choice", "enable_thinking", "reasoning_effort"}
    | {"chat_template_kwargs", "continue_final_message", "negative_prompt"}
)

#: The largest choice and position that noise is sampled for.
_INT32 = 2**31 - 1


class StepRequest:
    """The request that a step belongs to; turns sampling fields into the settings of sampler rows.

    Args:
        request: its sampling fields are the defaults.
        backend: reads the request's fields, and knows its grammar.
        prompt_ids: the prompt's token ids [L].
        made: the token ids generated after it [T].
        seed: of the noise; None where nothing is sampled.
        choice: the index of the choice, which the noise depends on.
    """

    def __init__(
        self,
        request: Request,
        *,
        backend: LogitsBackend,
        prompt_ids: Int32[np.ndarray, " L"],
        made: Int32[np.ndarray, " T"],
        seed: int | None,
        choice: int,
    ) -> None:
        self.request = request
        self._backend = backend
        self._prompt_ids, self._made = prompt_ids, made
        self._seed, self._choice = seed, choice
        self._mask: tuple[str, Bool[np.ndarray, " V"] | None] | None = None
        self._before: tuple[str, UInt32[np.ndarray, "T W"]] | None = None

    def changed(self, fields: Mapping[str, Any]) -> Request:
        """The request with some of its sampling fields changed.

        Raises:
            RequestError: a field is unknown or out of range, or one that the logits depend on.
        """
        for name in fields:
            if name in _OTHER_STEP:
                raise RequestError(f"{name} makes another prompt: ask lab.next_token for its distribution", param=name)
        return self.request.replace(**fields) if fields else self.request

    def replaced(self, request: Request) -> StepRequest:
        """The same step with other defaults."""
        return StepRequest(
            request, backend=self._backend, prompt_ids=self._prompt_ids, made=self._made, seed=self._seed,
            choice=self._choice,
        )  # fmt: skip

    def params(self, request: Request) -> SamplingParams:
        """The sampling parameters of a request, as the engine takes them."""
        return self._backend.sampling_params(request, seed=self._seed or 0, choice=self._choice)

    def mask(self, request: Request) -> Bool[np.ndarray, " V"] | None:
        """The tokens that the request's grammar allows here; None where it has none.

        Raises:
            RequestError: the grammar cannot be compiled, or it forbids the tokens before this step.
        """
        key = _grammar_key(request)
        if self._mask is None or self._mask[0] != key:
            allowed = self._backend.allowed_tokens(request, prompt=self._prompt_ids, made=self._made)
            self._mask = (key, allowed)
        return self._mask[1]

    def row(self, fields: Mapping[str, Any]) -> SamplerRow:
        """The settings of a sampler row with some of the fields changed.

        Raises:
            RequestError: as in `changed` and `mask`.
        """
        request = self.changed(fields)
        mask = self.mask(request)
        return SamplerRow(self.params(request), mask, None if mask is None else partial(self._masks_before, request))

    def _masks_before(self, request: Request) -> UInt32[np.ndarray, "T W"]:
        """What the request's grammar allowed at each of the tokens before this step."""
        key = _grammar_key(request)
        if self._before is None or self._before[0] != key:
            found = self._backend.grammar_masks(request, prompt=self._prompt_ids, made=self._made)
            assert found is not None
            self._before = key, found[: len(self._made)]
        return self._before[1]

    def noise_place(self, choice: Any, position: Any) -> tuple[int, int]:
        """The choice and the position that the noise depends on; by default this step's."""
        return (
            self._choice if choice is None else whole("choice", choice, least=0, most=_INT32),
            len(self._made) if position is None else whole("position", position, least=0, most=_INT32),
        )


def _grammar_key(request: Request) -> str:
    """The same for requests that have the same grammar."""
    return repr([getattr(request, name) for name in CONSTRAINTS])


def trail_of(
    backend: LogitsBackend,
    request: Request,
    *,
    prompt_ids: Int32[np.ndarray, " L"],
    made: Int32[np.ndarray, " T"],
    after: Float32[np.ndarray, " V"] | None = None,
) -> Trail:
    """The tokens of an answer with their logits, which the model is asked for when a stage needs them.

    `after` are the logits after the negative prompt and all of the tokens, where they are known.
    """
    model, other = request.model, partial(backend.negative_prompt, request, prompt_ids)
    negative = Negative(
        lambda: backend.logits(other(), made, model=model),
        lambda: backend.step_logits(other(), made, given=len(made), model=model) if after is None else after,
    )
    return Trail(lambda: backend.logits(prompt_ids, made, model=model), prompt=prompt_ids, made=made, negative=negative)


def token_ids(tokens: Any, names: TokenNames) -> list[int]:
    """The ids of the tokens that a caller names, each by id, exact text or bytes; a single token counts as one.

    Raises:
        RequestError: there is no such token.
    """
    if isinstance(tokens, str | bytes | int | np.integer):
        tokens = [tokens]
    return [names.id_of(token) for token in listed("tokens", tokens, of="tokens")]
