"""Why two runs of one request part at a token: the step at which they do, under every mixture of their parameters.

The noise of a step is a function of (seed, choice, position), and its law one of the prompt, the tokens so far and the
parameters. So the token that a mixture of two requests would draw there can simply be worked out, and what flipped it
is the smallest part of the changes that draws the other token by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from llmlab.distributions.draws import perturb
from llmlab.errors import RequestError
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request

#: Fields that say how an answer is asked for or returned, or when it ends; no law depends on them.
OUTSIDE = frozenset(
    {"n", "max_tokens", "max_completion_tokens", "context_length_exceeded_behavior", "stop", "include_stop"}
    | {"ignore_eos", "separate_reasoning", "logprobs", "top_logprobs", "stream", "stream_options"}
    | {"model", "user", "metadata", "store", "service_tier"}
)
#: So many changes are tried in all their combinations; of more, each alone, in pairs, and one by one taken back.
_ALL_SUBSETS = 6


class Drawn(NamedTuple):
    """What a mixture draws at a step: the token, and how the two tokens that are asked about fare."""

    token: int
    prob: float  #: of the token before, in the law drawn from
    prob_after: float  #: of the token after
    lead: (
        float  #: by how much the token after lies ahead of the one before, in logits with their noise; -inf if removed
    )


class Trial(NamedTuple):
    """A mixture: the request before with these changes. `drawn` is None where it is no request that can be run."""

    changed: tuple[str, ...]
    drawn: Drawn | None


class Reason(NamedTuple):
    """Why a step's token changed.

    `causes` are the smallest sets of changes each of which draws the token after by itself. None of them: the runs
    cannot be told apart at this step, as where two tokens lie closer together than the rounding (`reproduced` is
    False).
    """

    causes: tuple[tuple[str, ...], ...]
    trials: tuple[Trial, ...]
    reproduced: bool


class Setting(NamedTuple):
    """Everything but the model that a run depends on."""

    request: Request
    seed: int
    order: str

    @classmethod
    def of(cls, completion: Completion) -> Setting:
        """A completion's."""
        return cls(completion.request, completion.seed, completion.order)

    def mixed(self, other: Setting, names: Sequence[str]) -> Setting:
        """This one with some parameters taken from the other.

        Raises:
            RequestError: the mixture is no request.
        """
        fields = {name: getattr(other.request, name) for name in names if name not in ("seed", "order")}
        # A limit of the length says nothing about a step, and must not stand in a mixture's way.
        free = {"max_tokens": None, "max_completion_tokens": None, "top_logprobs": None, "n": None}
        return Setting(
            self.request.replace(**free, **fields),
            other.seed if "seed" in names else self.seed,
            other.order if "order" in names else self.order,
        )


def changes(before: Setting, after: Setting) -> dict[str, tuple[Any, Any]]:
    """The parameters in which two runs differ, by name: the values before and after. `order` is one of them."""
    found: dict[str, tuple[Any, Any]] = {}
    if type(before.request) is not type(after.request):
        return {"prompt": (before.request.subject, after.request.subject)}
    for name in before.request.names():
        pair = getattr(before.request, name), getattr(after.request, name)
        # How many choices there are says nothing about any one of them.
        if name not in ("n", "seed", "stream", "stream_options") and pair[0] != pair[1]:
            found[name] = pair
    if before.seed != after.seed:
        found["seed"] = before.seed, after.seed
    if before.order != after.order:
        found["order"] = before.order, after.order
    return found


class Step:
    """The step behind `made`, the tokens [T] that both runs share, of one choice out of `rows`.

    `tokens` is what each drew there; the first `given` of the shared ones were not drawn.
    """

    def __init__(
        self,
        backend: LogitsBackend,
        *,
        before: Setting,
        after: Setting,
        made: Int32[np.ndarray, " T"],
        choice: int,
        tokens: tuple[int, int],
        given: int = 0,
        rows: int = 1,
    ) -> None:
        self._backend = backend
        self._before, self._after = before, after
        self._made, self._choice, self._tokens = made, choice, tokens
        self._given, self._rows, self._by_steps = given, rows, False
        self._logits: dict[bytes, np.ndarray] = {}
        self._seen: dict[tuple[str, ...], Drawn | None] = {}

    def reason(self, names: Sequence[str]) -> Reason:
        """Which of these changes flipped the token."""
        names = tuple(name for name in names if name not in OUTSIDE)
        reproduced = self._reproduced(names)
        if not reproduced:
            # One pass over all the tokens may differ in the last bits from the steps in which they were drawn.
            self._by_steps, self._logits, self._seen = True, {}, {}
            reproduced = self._reproduced(names)
        causes = self._causes(names) if reproduced else ()
        order = {name: at for at, name in enumerate(names)}
        trials = sorted(self._seen.items(), key=lambda item: (len(item[0]), [order[name] for name in item[0]]))
        return Reason(tuple(causes), tuple(Trial(changed, drawn) for changed, drawn in trials), reproduced)

    def drawn(self, changed: tuple[str, ...]) -> Drawn | None:
        """What the request before, with these changes, draws; None where that is no request."""
        if changed not in self._seen:
            try:
                self._seen[changed] = self._draw(self._before.mixed(self._after, changed))
            except RequestError:
                self._seen[changed] = None
        return self._seen[changed]

    def _reproduced(self, names: tuple[str, ...]) -> bool:
        ends = self.drawn(()), self.drawn(names)
        return tuple(drawn.token for drawn in ends if drawn) == self._tokens

    def _flips(self, changed: tuple[str, ...]) -> bool:
        drawn = self.drawn(changed)
        return drawn is not None and drawn.token == self._tokens[1]

    def _causes(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        sizes = range(1, len(names) + 1) if len(names) <= _ALL_SUBSETS else (1, 2)
        for changed in itertools.chain.from_iterable(itertools.combinations(names, size) for size in sizes):
            if not any(set(cause) <= set(changed) for cause in found) and self._flips(changed):
                found.append(changed)
        for left_out in names:
            self.drawn(tuple(name for name in names if name != left_out))
        return found or [self._shrunk(names)]

    def _shrunk(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The changes that are left when one after the other is taken back as long as the token stays flipped."""
        for name in names:
            fewer = tuple(other for other in names if other != name)
            if self._flips(fewer):
                names = fewer
        return names

    def _draw(self, setting: Setting) -> Drawn:
        prompt = self._backend.render(setting.request)
        key = prompt.tobytes()
        if key not in self._logits:
            self._logits[key] = self._behind(prompt)
        mask = self._backend.grammar_masks(setting.request, prompt=prompt, made=self._made)
        params = self._backend.sampling_params(setting.request, seed=setting.seed, choice=self._choice)
        final, perturbed = perturb(
            self._logits[key],
            params,
            prompt=prompt,
            made=self._made,
            ends=self._backend.end_ids,
            mask=None if mask is None else mask[-1],
            order=setting.order,
        )
        if not np.isfinite(final).any():
            raise RequestError("the grammar leaves no token here", param="response_format")
        law = np.exp(final.astype(np.float64) - final.max())
        law /= law.sum()
        before, after = self._tokens
        with np.errstate(invalid="ignore"):
            lead = float(perturbed[after]) - float(perturbed[before])
        return Drawn(int(np.argmax(perturbed)), float(law[before]), float(law[after]), lead)

    def _behind(self, prompt: np.ndarray) -> np.ndarray:
        if self._by_steps:
            return self._backend.step_logits(prompt, self._made, given=self._given, rows=self._rows)
        return self._backend.next_logits(np.concatenate([prompt, self._made]).astype(np.int32))
