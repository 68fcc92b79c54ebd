"""Finds which parameter change made two runs of a request diverge, by re-evaluating the first differing step.

The noise of a step is a function of (seed, choice, position), and its distribution one of the prompt, the tokens so far
and the parameters. So the token that any combination of two requests would draw there can be computed. The cause of a
difference is the smallest set of changes that draws the other token by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from llmlab.counterfactuals.answered import Answered
from llmlab.distributions.draws import perturb
from llmlab.errors import RequestError
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.fields import FIELDS
from llmlab.protocol.request import Request
from llmlab.sampling.orders import compares_prompts
from llmlab.sampling.trail import Negative, Trail

#: Fields that decide how an answer is returned or when it ends; no next-token distribution depends on them.
_STEP = {"seed", "model"}  # the noise, and the weights
OUTSIDE = frozenset(name for name, field in FIELDS.items() if field.effect in ("answer", "nothing")) - _STEP
#: Up to this many changes, every combination is tried; of more, each alone, the pairs, and all except one.
_ALL_SUBSETS = 6


class Drawn(NamedTuple):
    """What a combination draws at a step, and how the two runs' own tokens do there."""

    token: int
    prob: float  #: sampling probability of the token of the run before
    prob_after: float  #: sampling probability of the token of the run after
    #: The perturbed logit (logit plus noise) of the run after's token minus that of the run before's; -inf where the
    #: sampler removed the former.
    lead: float


class Trial(NamedTuple):
    """One combination: the request before with these changes. `drawn` is None where that is not a valid request."""

    changed: tuple[str, ...]
    drawn: Drawn | None


class Reason(NamedTuple):
    """Why a step's token changed.

    Attributes:
        causes: the smallest sets of changes, each of which draws the token of the run after by itself.
        trials: every combination that was evaluated.
        reproduced: whether the evaluation draws the tokens that both runs drew. Where it does not (two tokens lie
            closer together than the rounding), `causes` is empty.
    """

    causes: tuple[tuple[str, ...], ...]
    trials: tuple[Trial, ...]
    reproduced: bool


class Setting(NamedTuple):
    """Everything that a run depends on, except the weights that are loaded."""

    request: Request
    seed: int
    order: str

    @classmethod
    def of(cls, done: Answered) -> Setting:
        """The setting of an answer."""
        return cls(done.request, done.seed, done.order)

    def mixed(self, other: Setting, names: Sequence[str]) -> Setting:
        """Returns this setting with some parameters taken from the other.

        Raises:
            RequestError: the combination is not a valid request.
        """
        fields = {name: getattr(other.request, name) for name in names if name not in ("seed", "order")}
        # A limit on the length does not change a step, and must not make a combination invalid.
        free = {"max_tokens": None, "max_completion_tokens": None, "top_logprobs": None, "n": None}
        return Setting(
            self.request.replace(**free, **fields),
            other.seed if "seed" in names else self.seed,
            other.order if "order" in names else self.order,
        )


def changes(before: Setting, after: Setting) -> dict[str, tuple[Any, Any]]:
    """The parameters in which two runs differ: name -> (value before, value after). `order` is one of them."""
    found: dict[str, tuple[Any, Any]] = {}
    if type(before.request) is not type(after.request):
        return {"prompt": (before.request.subject, after.request.subject)}
    for name in before.request.names():
        pair = getattr(before.request, name), getattr(after.request, name)
        # A choice does not depend on how many others there are.
        if name not in ("n", "seed", "stream", "stream_options") and pair[0] != pair[1]:
            found[name] = pair
    if before.seed != after.seed:
        found["seed"] = before.seed, after.seed
    if before.order != after.order:
        found["order"] = before.order, after.order
    return found


class Step:
    """The first differing step of one choice of two runs.

    Args:
        backend: the model.
        before: the setting of the one run.
        after: the setting of the other.
        made: the tokens [T] before the step, which both runs share.
        choice: the index of the choice.
        tokens: the token that each run drew at the step.
        given: how many of the first tokens in `made` were supplied, not sampled.
        rows: the batch size in which they were sampled.
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
        self._logits: dict[tuple[str | None, bytes, bytes], np.ndarray] = {}
        self._trails: dict[tuple[str | None, bytes, bytes], Trail] = {}
        self._seen: dict[tuple[str, ...], Drawn | None] = {}

    def reason(self, names: Sequence[str]) -> Reason:
        """Finds which of the named changes made the second run draw another token."""
        names = tuple(name for name in names if name not in OUTSIDE)
        reproduced = self._reproduced(names)
        if not reproduced:
            # One prefill may differ in the last bits from the decoding steps that the runs made.
            self._by_steps, self._logits, self._seen = True, {}, {}
            reproduced = self._reproduced(names)
        causes = self._causes(names) if reproduced else ()
        order = {name: at for at, name in enumerate(names)}
        trials = sorted(self._seen.items(), key=lambda item: (len(item[0]), [order[name] for name in item[0]]))
        return Reason(tuple(causes), tuple(Trial(changed, drawn) for changed, drawn in trials), reproduced)

    def drawn(self, changed: tuple[str, ...]) -> Drawn | None:
        """What the request before draws with these changes; None where that is not a valid request."""
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
        """Leaves out one change after the other, as long as the rest still draws the other token."""
        for name in names:
            fewer = tuple(other for other in names if other != name)
            if self._flips(fewer):
                names = fewer
        return names

    def _draw(self, setting: Setting) -> Drawn:
        prompt = self._backend.render(setting.request)
        params = self._backend.sampling_params(setting.request, seed=setting.seed, choice=self._choice)
        negative = None
        if compares_prompts(setting.order, params):
            negative = self._backend.negative_prompt(setting.request, prompt)
        key = setting.request.model, prompt.tobytes(), b"" if negative is None else negative.tobytes()
        if key not in self._logits:
            self._logits[key], self._trails[key] = self._read(setting.request.model, prompt, negative)
        mask = self._backend.grammar_masks(setting.request, prompt=prompt, made=self._made)
        final, perturbed = perturb(
            self._logits[key],
            params,
            prompt=prompt,
            made=self._made,
            ends=self._backend.end_ids,
            mask=None if mask is None else mask[-1],
            order=setting.order,
            trail=self._trails[key],
            masks=None if mask is None else lambda: mask[:-1],
        )
        if not np.isfinite(final).any():
            raise RequestError("the grammar leaves no token here", param="response_format")
        probs = np.exp(final.astype(np.float64) - final.max())
        probs /= probs.sum()
        before, after = self._tokens
        with np.errstate(invalid="ignore"):
            lead = float(perturbed[after]) - float(perturbed[before])
        return Drawn(int(np.argmax(perturbed)), float(probs[before]), float(probs[after]), lead)

    def _read(self, model: str | None, prompt: np.ndarray, negative: np.ndarray | None) -> tuple[np.ndarray, Trail]:
        """The logits of the step, and the way to it; with the logits after the negative prompt where there is one."""
        prompts = [prompt] if negative is None else [prompt, negative]
        if self._by_steps:
            own, *other = np.reshape(
                self._backend.step_logits(
                    prompt, self._made, given=self._given, rows=self._rows, model=model, negative=negative
                ),
                (len(prompts), -1),
            )
        else:
            texts = [np.concatenate([one, self._made]).astype(np.int32) for one in prompts]
            own, *other = [self._backend.next_logits(text, model=model) for text in texts]
        read, *rest = [partial(self._backend.logits, one, self._made, model=model) for one in prompts]
        beside = Negative(rest[0], lambda: other[0]) if rest else None
        return own, Trail(read, prompt=prompt, made=self._made, negative=beside)
