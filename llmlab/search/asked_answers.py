"""From a request to the distribution of its answers: the settings of a grid, checks, and the search itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from llmlab.display.progress import progress_bar
from llmlab.errors import RequestError, short
from llmlab.frames.schema import plain
from llmlab.protocol.arguments import flag, number, whole
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.request import Request
from llmlab.sampling.fields import Field
from llmlab.sampling.library import LIBRARY_FIELDS
from llmlab.sampling.registry import user_fields
from llmlab.sampling.stages import FIELDS
from llmlab.search.answer_space import AnswerSpace, Distributions, written
from llmlab.search.asked import checked
from llmlab.search.begins import begins
from llmlab.search.best_first import BestFirst
from llmlab.search.divergence import Bounds
from llmlab.search.explored import Explored, Weighed

__all__ = ["Found", "Settings", "search_answers", "settings_of", "varied_fields"]

#: The most settings of a grid.
_MOST_SETTINGS = 512
#: The rows of a pass, where the model has as many.
_ROWS = 32
#: The bytes of logits that are kept for later settings, and the most beginnings, where the caller does not say.
_BYTES, _MOST_NODES = 2**29, 4096
#: The passes that a search may take, where the caller does not say.
_PASSES = 256
#: Fields of the answer's end, which these searches take though others do not.
_TAKEN = ("stop",)


@dataclass(frozen=True)
class Settings:
    """Requests that differ in their sampler settings alone.

    Attributes:
        axes: name of a varied field -> its values; none for a single setting.
        requests: one for each combination of them, the last field varying fastest.
    """

    axes: Mapping[str, tuple[Any, ...]]
    requests: tuple[Request, ...]

    @property
    def points(self) -> list[dict[str, Any]]:
        """The values of the varied fields in each request, as the request has them."""
        return [{name: plain(getattr(one, name)) for name in self.axes} for one in self.requests]


@dataclass(frozen=True, eq=False)
class Found:
    """What a search for answers found, and what was asked.

    Attributes:
        settings: the requests.
        order: the order of the sampler's stages.
        mass: the probability that the answers found were to have.
        explored: what was explored.
        weighed: what the distribution of each request says of the answers; with a grammar, after those, what each says
            without it.
        has_grammar: whether the requests allow some answers only.
        max_tokens: the most tokens of an answer.
    """

    settings: Settings
    order: str
    mass: float
    explored: Explored
    weighed: tuple[Weighed, ...]
    has_grammar: bool
    max_tokens: int

    def at(self, backend: LogitsBackend, settings: Settings) -> Found:
        """The same under other settings; the model is not run."""
        made = self._distributions(backend, settings)
        weighed = tuple(self.explored.weigh(partial(made.logprobs, which)) for which in range(made.count))
        return replace(self, settings=settings, weighed=weighed)

    def begins(self, backend: LogitsBackend, texts: Sequence[str]) -> list[Bounds]:
        """Bounds of the probability that an answer begins with one of some texts, under each setting."""
        request, made = self.settings.requests[0], self._distributions(backend, self.settings)
        prompt = backend.render(request)

        @cache
        def write(made: tuple[int, ...]) -> str:
            return written(backend, request, made, prompt=prompt, finish_reason=None)[0]

        held = 0 if request.include_stop else max(map(len, request.stops), default=0)
        return [
            begins(self.explored, weighed, texts, distribution=partial(made.logprobs, which), write=write, held=held)
            for which, weighed in enumerate(self.weighed[: len(self.settings.requests)])
        ]

    def _distributions(self, backend: LogitsBackend, settings: Settings) -> Distributions:
        return Distributions(
            backend, settings.requests, prompt=backend.render(settings.requests[0]), max_tokens=self.max_tokens,
            order=self.order, free=self.has_grammar,
        )  # fmt: skip


def settings_of(request: Request, fields: Mapping[str, Any]) -> Settings:
    """The settings that a request with some of its sampler's fields changed has; a list of values varies a field.

    Raises:
        RequestError: a field is no field of the sampler, is out of range, or has no values.
    """
    known = _known()
    for name in fields:
        if name not in known:
            raise RequestError(
                f"{name} is no setting of the sampler, such as temperature and top_p: search again for it", param=name
            )
    varied = {
        name: tuple(values.tolist() if hasattr(values, "tolist") else values)
        for name, values in fields.items()
        if is_varied(values)
    }
    for name, values in varied.items():
        if not values:
            raise RequestError(f"{name} is an empty list: give at least one value", param=name)
    fixed = {name: value for name, value in fields.items() if name not in varied}
    base = request.replace(**fixed) if fixed else request
    made = []
    for values in itertools.product(*varied.values()):
        made.append(base.replace(**dict(zip(varied, values, strict=True))) if varied else base)
    if len(made) > _MOST_SETTINGS:
        raise RequestError(f"{len(made)} settings are more than {_MOST_SETTINGS}: vary fewer fields, or fewer values")
    axes = {name: tuple(dict.fromkeys(plain(getattr(one, name)) for one in made)) for name in varied}
    for name, values in varied.items():
        if len(axes[name]) < len(values):
            raise RequestError(f"{name} has a value twice among {short(list(values))}; give each once", param=name)
    return Settings(axes, tuple(made))


def _known() -> dict[str, Field]:
    return {**FIELDS, **LIBRARY_FIELDS, **user_fields()}


def is_varied(value: Any) -> bool:
    """Whether a value is a list of values."""
    return isinstance(value, list | tuple | range) or getattr(value, "ndim", 0) > 0


def varied_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a request's fields that have a list of values where the request has one number."""
    known = _known()
    return {
        name: value
        for name, value in fields.items()
        if name in known and known[name].kind in ("number", "integer") and is_varied(value)
    }


def search_answers(
    backend: Backend,
    settings: Settings,
    *,
    mass: Any,
    max_passes: Any,
    max_rows: Any,
    rows: Any,
    conditional: Any,
    order: str,
    keep: Callable[[Found], None],
) -> None:
    """Finds the answers to requests; see `Lab.answers`.

    Args:
        keep: is given what was found, also after an interrupt or an error, which is then raised.
    """
    request = settings.requests[0]
    model = checked(backend, request, without=_TAKEN)
    for one in settings.requests:
        checked(backend, one, without=_TAKEN)
    if request.n != 1:
        raise RequestError(f"n = {request.n} would have no effect: all answers are searched; leave it out", param="n")
    if request.seed is not None:
        raise RequestError(f"seed = {request.seed} would have no effect: nothing is drawn; leave it out", param="seed")
    mass = number("mass", mass, 0.0, 1.0)
    max_passes = whole("max_passes", _PASSES if max_passes is None else max_passes, least=1)
    most = None if max_rows is None else whole("max_rows", max_rows, least=1)
    count = _rows(model, rows)
    with AnswerSpace(model, settings.requests, rows=count, order=order) as space:
        if flag("conditional", conditional) and not space.has_grammar:
            raise RequestError(
                "conditional = True compares a grammar with the model's own distribution, and the request has none: "
                "give response_format or structured_outputs, or leave it out",
                param="conditional",
            )
        S = len(settings.requests)
        driving = [True] * S + [bool(conditional)] * (space.distributions - S)
        with progress_bar(total=100, unit="%", description="mass") as bar:
            search = BestFirst(
                space, mass=mass, rows=count, driving=driving,
                tell=lambda share: bar.update(int(100 * share) - bar.n),
            )  # fmt: skip
            why = "interrupted"
            try:
                why = search.run(max_passes=max_passes, max_nodes=most or _most_nodes(model))
            finally:
                if search.nodes:
                    explored = Explored.of(search, space.written, why=why, ends=space.ends)
                    after = search.left_after
                    weighed = tuple(
                        Weighed(
                            np.array([one[which] for one in search.logprobs]),
                            float(search.left[which]),
                            after[:, which],
                        )
                        for which in range(space.distributions)
                    )
                    keep(Found(settings, order, mass, explored, weighed, space.has_grammar, space.max_tokens))


def _rows(model: LogitsBackend, value: Any) -> int:
    """The rows of a pass."""
    most = model.widest_search
    if most < 2:
        raise RequestError("a search for answers needs 2 rows, and this model has one: load it with slots=2 or more")
    count = min(_ROWS, most) if value is None else whole("rows", value, least=2)
    if count > most:
        raise RequestError(
            f"rows = {count} is more than this model computes side by side: ask for at most {most}, or load it with "
            "other slots",
            param="rows",
        )
    return count


def _most_nodes(model: LogitsBackend) -> int:
    """The most beginnings whose logits fit into the memory that a search takes."""
    return max(64, min(_MOST_NODES, _BYTES // (4 * len(model.token_bytes))))
