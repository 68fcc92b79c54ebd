"""From a request to what a search finds: checks of its arguments, the search itself, and what it found as values."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llmlab.display.progress import progress_bar
from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import number, whole
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.request import Request
from llmlab.search.arithmetic import codes_of, decode
from llmlab.search.beams import beam_search
from llmlab.search.model_space import ModelSpace
from llmlab.search.space import Path
from llmlab.search.without_replacement import inclusion_probability, sample_without_replacement

__all__ = ["Found", "Searched", "checked", "search_beams", "search_codes", "search_sample"]

#: The most sequences, which is the most answers of a request.
_MOST = 128
#: Fields that ask for what a search does not do, and what to do instead.
_NOT_HERE = {
    "stop": "a search ends its sequences with tokens; give stop_token_ids, or cut the texts that are found",
    "stream": "a search has no answer before its end; leave it out",
    "stream_options": "a search has no answer before its end; leave it out",
    "xtc_probability": "it removes tokens at random, so that a sequence would have no one probability; leave it out",
}
#: The length penalties that are taken: beyond them a power of a length leaves the range of numbers.
_POWERS = 32.0


@dataclass(frozen=True)
class Found:
    """A sequence that a search found.

    Attributes:
        ids: its token ids, with the end token.
        logprobs: the log-probability of each token in the distribution that was searched.
        finish_reason: "stop" after an end token, "length" at the most tokens.
        numbers: what the method says of it, by column.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    numbers: Mapping[str, float]

    @classmethod
    def of(cls, path: Path, finish_reason: str, **numbers: float) -> Found:
        """What was found at the end of a path."""
        return cls(path.tokens, path.logprobs, finish_reason, numbers)


@dataclass(frozen=True)
class Searched:
    """What a search found, best or first drawn first, and what was asked.

    Attributes:
        method: "beam search", "sampling without replacement" or "arithmetic sampling".
        settings: the arguments of the method.
        request: the request, its `n` included.
        order: the order of the sampler's stages.
        seed: of the noise; None where nothing is drawn.
        found: the sequences.
        threshold: of sampling without replacement, the perturbed log-probability that every sequence of the sample
            exceeds; -inf where no sequence is left.
    """

    method: str
    settings: Mapping[str, Any]
    request: Request
    order: str
    seed: int | None
    found: tuple[Found, ...]
    threshold: float | None = None


def search_beams(
    backend: Backend,
    request: Request,
    *,
    beams: Any,
    groups: Any,
    diversity_penalty: Any,
    length_penalty: Any,
    early_stopping: Any,
    n: Any,
    order: str,
) -> Searched:
    """Finds likely answers to a request; see `Lab.beam_search`."""
    model = checked(backend, request)
    beams = _rows(model, "beams", beams)
    groups = whole("groups", groups, least=1)
    if beams % groups:
        raise RequestError(
            f"groups = {groups} does not divide beams = {beams}: every group has the same number of beams",
            param="groups",
        )
    diversity_penalty = number("diversity_penalty", diversity_penalty, 0.0, 1e6)
    if groups == 1 and diversity_penalty:
        raise RequestError(
            f"diversity_penalty = {diversity_penalty} compares groups of beams, and there is one: give groups=2 or "
            "more, or leave it out",
            param="diversity_penalty",
        )
    if groups > 1 and not diversity_penalty:
        raise RequestError(
            f"groups = {groups} would all find the same without diversity_penalty: give a positive one, or groups=1",
            param="groups",
        )
    length_penalty = number("length_penalty", length_penalty, -_POWERS, _POWERS)
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise RequestError(
            f'early_stopping must be True, False or "never", got {short(early_stopping)}', param="early_stopping"
        )
    n = _count(request, n, default=beams)
    if n > beams:
        raise RequestError(f"n = {n} is more than beams = {beams}: a beam finds one sequence at most", param="n")
    if request.seed is not None:
        raise RequestError(f"seed = {request.seed} would have no effect: beam search draws nothing", param="seed")
    with _space(model, request, rows=beams, order=order) as (space, tell):
        options = {"diversity_penalty": diversity_penalty, "length_penalty": length_penalty}
        found = beam_search(
            space, beams=beams, groups=groups, **options, early_stopping=early_stopping, max_tokens=space.max_tokens,
            tell=tell,
        )  # fmt: skip
    settings = {"beams": beams, "groups": groups, **options, "early_stopping": early_stopping}
    each = [Found.of(beam.path, beam.finish_reason, score=beam.score, group=beam.group) for beam in found[:n]]
    return _searched("beam search", settings, request, each, order=order)


def search_sample(backend: Backend, request: Request, *, n: Any, order: str) -> Searched:
    """Draws different answers to a request; see `Lab.sample_without_replacement`."""
    model = checked(backend, request)
    n = _count(request, n, default=4)
    _rows(model, "n", n, more=1)
    seed = secrets.randbelow(2**53) if request.seed is None else request.seed
    with _space(model, request, rows=n + 1, order=order) as (space, tell):
        sample = sample_without_replacement(space, k=n, max_tokens=space.max_tokens, seed=seed, tell=tell)
    each = []
    for drawn in sample.drawn:
        inclusion = inclusion_probability(drawn.path.logprob, threshold=sample.threshold)
        with np.errstate(divide="ignore", over="ignore"):
            weight = float(np.exp(drawn.path.logprob - np.log(inclusion)))
        figures = {"perturbed_logprob": drawn.perturbed, "inclusion_probability": inclusion, "weight": weight}
        each.append(Found.of(drawn.path, drawn.finish_reason, **figures))
    method = "sampling without replacement"
    return _searched(method, {}, request, each, order=order, seed=seed, threshold=sample.threshold)


def search_codes(backend: Backend, request: Request, *, n: Any, order: str) -> Searched:
    """Samples answers to a request from evenly spaced codes; see `Lab.arithmetic_sample`."""
    model = checked(backend, request)
    n = _count(request, n, default=8)
    seed = secrets.randbelow(2**53) if request.seed is None else request.seed
    codes, each = codes_of(n, seed=seed), []
    for first in range(0, n, model.widest_search):
        some = codes[first : first + model.widest_search]
        with _space(model, request, rows=len(some), order=order) as (space, tell):
            decoded = decode(space, some, first=first, max_tokens=space.max_tokens, seed=seed, tell=tell)
        each += [Found.of(one.path, one.finish_reason, code=one.code) for one in decoded]
    return _searched("arithmetic sampling", {}, request, each, order=order, seed=seed)


def checked(backend: Backend, request: Request, *, without: Collection[str] = ()) -> LogitsBackend:
    """The backend as one that gives logits, once the request is one that a search can answer.

    Args:
        backend: the backend.
        request: the request.
        without: fields that this search takes all the same.
    """
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{backend.name} is an endpoint that gives no logits; llmlab.load a model for a search")
    for name, instead in _NOT_HERE.items():
        if name not in without and (value := getattr(request, name)):
            raise RequestError(f"{name} = {short(value)}: {instead}", param=name)
    return backend


def _count(request: Request, n: Any, *, default: int) -> int:
    """How many sequences are wanted: an argument, or else the request's own n."""
    if n is None:
        n = default if request.n == 1 else request.n
    return whole("n", n, least=1, most=_MOST)


def _rows(model: LogitsBackend, name: str, value: Any, *, more: int = 0) -> int:
    """A number of sequences that are searched side by side, with `more` besides them."""
    count, most = whole(name, value, least=1), min(model.widest_search - more, _MOST)
    if count > most:
        raise RequestError(
            f"{name} = {count} is more than this model searches side by side: ask for at most {most}, or load it with "
            "other slots",
            param=name,
        )
    return count


@contextmanager
def _space(
    model: LogitsBackend, request: Request, *, rows: int, order: str
) -> Iterator[tuple[ModelSpace, Callable[[int], None]]]:
    """The answers to a request, and what to call after each step of a search through them."""
    space = ModelSpace(model, request, rows=rows, order=order)
    with progress_bar(total=space.max_tokens, unit="step", description="search") as bar, space:
        yield space, partial(_tell, bar)


def _tell(bar: Any, step: int) -> None:
    bar.update(step - bar.n)


def _searched(
    method: str,
    settings: Mapping[str, Any],
    request: Request,
    found: list[Found],
    *,
    order: str,
    seed: int | None = None,
    threshold: float | None = None,
) -> Searched:
    found = [one for one in found if one.ids]
    if not found:
        raise RequestError("nothing can be said: the request's settings leave no token that could come next")
    kept = request.replace(n=len(found), seed=seed)
    return Searched(method, settings, kept, order, seed, tuple(found), threshold)
