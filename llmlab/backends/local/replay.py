"""Tokens that are there already: their figures, the laws that they were drawn from, and how it goes on behind them.

Given tokens count as generated: penalties count them, the noise of the next token is that of its place behind them, and
they are written by the same writer as drawn ones, into the same segments.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int32, UInt32

from llmlab.backends.local.stream import LocalStream
from llmlab.backends.local.writer import Writer
from llmlab.engine.scheduler import Piece, Row
from llmlab.errors import ContextLengthError, RequestError
from llmlab.grammar.matcher import Grammar, fill_masks
from llmlab.protocol.backend import Candidates, GivenTokens
from llmlab.protocol.completion import Completion, Delta, Timing
from llmlab.protocol.request import Request
from llmlab.sampling.history import history_of
from llmlab.sampling.logprobs import ALTERNATIVES, Figures, law
from llmlab.sampling.params import History, SamplerInputs, stack
from llmlab.sampling.pipeline import ORDERS, process
from llmlab.text.stops import StopMatcher

if TYPE_CHECKING:
    from llmlab.backends.local.backend import LocalBackend

__all__ = ["continue_from", "grammar_masks", "next_candidates", "score"]

#: Allowed tokens that an error lists.
_LISTED = 8


def score(
    backend: LocalBackend, request: Request, given: Sequence[GivenTokens], *, seed: int, order: str = "llmlab"
) -> Completion:
    """The figures of given tokens after a request's prompt, as if they had been drawn: a completion of them alone.

    Args:
        backend: whose model is asked.
        request: the prompt, and the sampling fields that the processed law is of.
        given: the tokens of each choice.
        seed: what the completion says its seed is; nothing is drawn.
        order: of the sampler's stages.

    Raises:
        RequestError: a token that the request's grammar forbids; ContextLengthError: they do not fit.
    """
    began = time.perf_counter()
    start = _Start.of(backend, request, seed=seed, order=order)
    writers = [
        start.begin(one, finish=one.finish_reason or ("stop" if start.ended(one) else "length"))[0] for one in given
    ]
    header = backend.header(request, start.prompt, seed=seed, order=order)
    total = time.perf_counter() - began
    return Completion(
        **vars(header),
        choices=tuple(writer.choice() for writer in writers),
        timing=Timing(first_token=total, total=total),
    )


def continue_from(
    backend: LocalBackend, request: Request, given: Sequence[GivenTokens], *, seed: int, order: str = "llmlab"
) -> LocalStream:
    """Start a request whose choices begin with given tokens; `max_tokens` counts them.

    Args:
        backend: whose model goes on.
        request: as it would be asked without them.
        given: a choice each.
        seed: of the noise; a token's noise is that of its place, whatever stands before it.
        order: of the sampler's stages.

    Raises:
        RequestError, ContextLengthError: as `score` does.
    """
    start = _Start.of(backend, request, seed=seed, order=order)
    budget = backend.budget(request, len(start.prompt))
    rows, writers, begun = [], [], []
    for one in given:
        left = budget - len(one.ids)
        finish = "stop" if start.ended(one) else "length" if left < 1 else None
        writer, deltas = start.begin(one, finish=finish)
        writers.append(writer)
        begun += deltas
        if writer.finish is None:
            rows.append(start.row(one, budget=left))
    header = backend.header(request, start.prompt, seed=seed, order=order)
    return LocalStream(backend.engine, rows, writers, header=header, begun=begun)


def next_candidates(
    backend: LocalBackend, request: Request, made: Sequence[Int32[np.ndarray, "_"]], *, order: str = "llmlab"
) -> list[Candidates | None]:
    """What may come behind each of some beginnings: the engine's alternatives, from one batch of one step.

    Under a grammar they are the best of what it allows, each from a pass of its own, for the engine's alternatives are
    the best of all tokens. None where nothing can come: the context is full, or the request's grammar forbids the
    beginning or is at its end.

    Args:
        backend: whose model is asked.
        request: the prompt, and the sampling fields that the processed law is of.
        made: tokens that were generated after the prompt, a beginning each.
        order: of the sampler's stages.
    """
    start = _Start.of(backend, request, seed=0, order=order)
    places = [at for at, ids in enumerate(made) if len(start.prompt) + len(ids) < backend.engine.max_context]
    found: list[Candidates | None] = [None] * len(made)
    if start.grammar is not None:
        for place in places:
            found[place] = _allowed_ways(start, start.grammar, made[place])
        return found
    rows = [replace(start.row(GivenTokens(0, made[place]), budget=1), ignore_ends=True) for place in places]
    for block in backend.engine.submit(rows, order=order):
        for piece in block:
            f = piece.figures
            found[places[piece.row]] = Candidates(f.top_ids[0], f.top_logprobs[0], f.top_sampling_logprobs[0])
    return found


def _allowed_ways(start: _Start, grammar: Grammar, ids: np.ndarray) -> Candidates | None:
    backend = start.backend
    try:
        mask = _masks(backend, start.request, grammar, ids)[-1:]
    except RequestError:
        return None
    row, V = start.row(GivenTokens(0, ids)), backend.engine.config.vocab_size
    inputs = stack([row.params], vocab_size=V, ends=backend.end_ids)
    inputs = inputs._replace(mask=mask, masked=np.array([True]))
    history = history_of(start.prompt, ids, vocab_size=V)
    raw, drawn = _laws(backend.engine.next_logits(row.given)[None, :], inputs, history, order=start.order)
    allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[:V].astype(bool)
    allowed[list(backend.end_ids)] &= len(ids) >= start.request.min_tokens
    raw, drawn = np.asarray(raw), np.asarray(drawn)
    best = np.argsort(np.where(allowed, -raw, np.inf), kind="stable")[: min(ALTERNATIVES, int(allowed.sum()))]
    return Candidates(best.astype(np.int32), raw[best], drawn[best]) if len(best) else None


@partial(jax.jit, static_argnames="order")
def _laws(logits: Array, inputs: SamplerInputs, history: History, *, order: str) -> tuple[Array, Array]:
    return law(logits)[0][0], law(process(logits, inputs, history, order=ORDERS[order]))[0][0]


def grammar_masks(
    backend: LocalBackend, request: Request, *, prompt: Int32[np.ndarray, " L"], made: Int32[np.ndarray, " T"]
) -> UInt32[np.ndarray, "T+1 W"] | None:
    """What the request's grammar allows in the place of each token and after them; None where answers are free.

    Packed: bit i % 32 of word i // 32 is token i. Behind an end token nothing is allowed.

    Raises:
        RequestError: the grammar forbids one of the tokens; the message says what it allows in its place.
    """
    grammar = backend.grammar(request, prompt)
    return None if grammar is None else _masks(backend, request, grammar, made)


class _Start(NamedTuple):
    """What all choices of a request share."""

    backend: LocalBackend
    request: Request
    prompt: np.ndarray
    grammar: Grammar | None
    seed: int
    order: str

    @classmethod
    def of(cls, backend: LocalBackend, request: Request, *, seed: int, order: str) -> _Start:
        backend.check_order(order)
        prompt = backend.render(request)
        return cls(backend, request, prompt, backend.grammar(request, prompt), seed, order)

    def row(self, one: GivenTokens, *, budget: int = 0) -> Row:
        """The engine's row that goes on behind the given tokens."""
        params = self.backend.sampling_params(self.request, seed=self.seed, choice=one.choice)
        ignore = self.request.ignore_eos
        return Row(self.prompt, params, budget=budget, ignore_ends=ignore, grammar=self.grammar, made=one.ids)

    def ended(self, one: GivenTokens) -> bool:
        """Whether the last of the tokens ends the choice."""
        ends = () if self.request.ignore_eos else self.backend.end_ids
        return bool(one.drawn and len(one.ids) and int(one.ids[-1]) in ends)

    def begin(self, one: GivenTokens, *, finish: str | None) -> tuple[Writer, list[Delta]]:
        """A writer that has the tokens behind it, with the figures that they have under this request."""
        count, most = len(one.ids), self.backend.engine.max_context
        if len(self.prompt) + count > most:
            raise ContextLengthError(
                f"the prompt's {len(self.prompt)} tokens and the {count} given ones exceed the context of {most}",
                param=self.request.subject,
            )
        allowed = None if self.grammar is None else _masks(self.backend, self.request, self.grammar, one.ids)[:count]
        stops = StopMatcher(self.request.stops, include=self.request.include_stop)
        writer = self.backend.writer(self.request, self.prompt, index=one.choice, seed=self.seed, stops=stops)
        writer.given = count
        if not count:
            return writer, []
        row = self.row(one._replace(ids=one.ids[:0]))
        found = self.backend.engine.score(row, one.ids, masks=allowed, order=self.order)
        kept = max(0, count - one.drawn)
        stops.armed = False
        deltas = [writer.feed(_piece(one, found, 0, kept, finish=None))] if kept else []
        stops.armed = True
        if writer.finish is None and (kept < count or finish):
            # The writer finds out by itself that the last token completes a call.
            deltas.append(
                writer.feed(_piece(one, found, kept, count, finish="stop" if finish == "tool_calls" else finish))
            )
        return writer, deltas


def _piece(one: GivenTokens, found: Figures, first: int, last: int, *, finish: str | None) -> Piece:
    part: Figures = jax.tree.map(lambda x: x[first:last], found)
    return Piece(0, one.ids[first:last], part, finish)


def _masks(backend: LocalBackend, request: Request, grammar: Grammar, ids: np.ndarray) -> np.ndarray:
    matcher = grammar.matcher()
    found = np.zeros((len(ids) + 1, backend.vocabulary.words), np.uint32)
    for at in range(len(ids) + 1):
        if at and int(ids[at - 1]) in backend.end_ids:
            break
        fill_masks([matcher], found[at : at + 1])
        if at < len(ids):
            token = int(ids[at])
            if not found[at, token // 32] >> np.uint32(token % 32) & 1:
                raise _forbidden(backend, request, found[at], token=token, position=at)
            matcher.advance(token)
    return found


def _forbidden(backend: LocalBackend, request: Request, mask: np.ndarray, *, token: int, position: int) -> RequestError:
    kind = "tool_choice" if request.response_format is None else "response_format"
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    ids = np.nonzero(bits)[0].tolist()
    names = ", ".join(repr(backend.tokenizer.name(i)) for i in ids[:_LISTED]) or "nothing"
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return RequestError(
        f"token {backend.tokenizer.name(token)!r} is forbidden at position {position} by the request's {kind}, which "
        f"allows {names}{more} there",
        param="token",
    )
