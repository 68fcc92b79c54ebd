"""Answers that begin with given tokens: their logprobs, the grammar's masks along them, and how an answer continues.

Given tokens count as generated: penalties count them, the random noise of the next token is that of its position after
them, and the same writer turns them into text and segments.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int32, UInt32

from llmlab.backends.local.choice_writer import ChoiceWriter
from llmlab.backends.local.loaded import LoadedModel, draw_seed
from llmlab.backends.local.stream import LocalStream
from llmlab.engine.scheduler import Piece, Row
from llmlab.engine.score_plan import Text
from llmlab.errors import ContextLengthError, RequestError
from llmlab.grammar.matcher import Grammar, fill_masks
from llmlab.protocol.backend import Candidates, GivenTokens, Scoring
from llmlab.protocol.completion import Completion, Delta, Timing
from llmlab.protocol.request import Request
from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.history import history_of
from llmlab.sampling.logprobs import ALTERNATIVES, TokenStatistics, logprobs_and_entropy
from llmlab.sampling.orders import compares_prompts, order_key, order_of, placed
from llmlab.sampling.params import History, SamplerInputs, stack
from llmlab.sampling.pipeline import process
from llmlab.sampling.states import stateful
from llmlab.sampling.trail import Negative, Trail
from llmlab.text.stops import StopMatcher

__all__ = ["continue_from", "grammar_masks", "next_candidates", "score_all"]

#: How many of the allowed tokens an error lists.
_LISTED = 8


def score_all(model: LoadedModel, asked: Sequence[Scoring]) -> list[Completion]:
    """Returns completions whose choices are given tokens, with the logprobs they have after a request's prompt.

    There is one for each request, in their order. All texts are scored together, in as few passes of the model as
    possible.

    Args:
        model: the model.
        asked: the prompts, the sampling fields of the processed distributions, and the tokens of each choice.

    Raises:
        RequestError: a request's grammar forbids a token; ContextLengthError: the tokens of one do not fit.
    """
    began = time.perf_counter()
    starts = [
        _Start.of(model, one.request, seed=draw_seed() if one.seed is None else one.seed, order=one.order)
        for one in asked
    ]
    found = _statistics([(start, one) for start, each in zip(starts, asked, strict=True) for one in each.given])
    headers, written = [], []
    for start, each in zip(starts, asked, strict=True):
        writers = []
        for one in each.given:
            finish = one.finish_reason or ("stop" if start.is_ended(one) else "length")
            writers.append(start.write(one, next(found), finish=finish)[0])
        written.append(tuple(writer.choice() for writer in writers))
        headers.append(model.header(each.request, start.prompt, seed=start.seed, order=start.order))
    total = time.perf_counter() - began
    return [
        Completion(**vars(header), choices=choices, timing=Timing(first_token=total, total=total))
        for header, choices in zip(headers, written, strict=True)
    ]


def continue_from(
    model: LoadedModel, request: Request, given: Sequence[GivenTokens], *, seed: int, order: str = "llmlab"
) -> LocalStream:
    """Start a request whose choices begin with given tokens, which count towards `max_tokens`.

    Args:
        model: the model.
        request: the request, as it would be without the given tokens.
        given: the tokens of each choice.
        seed: of the noise; a token's noise depends on its position, not on the tokens before it.
        order: the order of the sampler's stages.

    Raises:
        RequestError: the request's grammar forbids a token; ContextLengthError: the tokens do not fit.
    """
    start = _Start.of(model, request, seed=seed, order=order)
    budget = model.token_budget(request, start.longest)
    rows, writers, begun = [], [], []
    found = _statistics([(start, one) for one in given])
    for one in given:
        left = budget - len(one.ids)
        finish = "stop" if start.is_ended(one) else "length" if left < 1 else None
        writer, deltas = start.write(one, next(found), finish=finish)
        writers.append(writer)
        begun += deltas
        if writer.finish is None:
            rows.append(start.row(one, budget=left))
    header = model.header(request, start.prompt, seed=seed, order=order)
    return LocalStream(model.engine, rows, writers, header=header, begun=begun)


def next_candidates(
    model: LoadedModel, request: Request, made: Sequence[Int32[np.ndarray, "_"]], *, order: str = "llmlab"
) -> list[Candidates | None]:
    """Returns the most likely next tokens after each of several beginnings of an answer.

    They are the top tokens that the engine reports, from one decoding step of one batch. With a grammar they are the
    most likely of the tokens it allows; then each beginning takes a forward pass of its own, because the engine reports
    the top of all tokens. None where nothing can follow: the context is full, or the grammar forbids the beginning or
    is complete.

    Args:
        model: the model.
        request: the prompt, and the sampling fields of the processed distribution.
        made: the beginnings: tokens generated after the prompt.
        order: the order of the sampler's stages.
    """
    start = _Start.of(model, request, seed=0, order=order)
    fitting = [at for at, ids in enumerate(made) if start.longest + len(ids) < model.engine.max_context]
    found: list[Candidates | None] = [None] * len(made)
    if start.grammar is not None:
        for at in fitting:
            found[at] = _allowed_candidates(start, start.grammar, made[at])
        return found
    rows = [replace(start.row(GivenTokens(0, made[at]), budget=1), ignore_ends=True) for at in fitting]
    for block in model.engine.submit(rows, order=order):
        for piece in block:
            f = piece.figures
            found[fitting[piece.row]] = Candidates(f.top_ids[0], f.top_logprobs[0], f.top_sampling_logprobs[0])
    return found


def _allowed_candidates(start: _Start, grammar: Grammar, ids: np.ndarray) -> Candidates | None:
    model = start.model
    try:
        mask = _masks(model, start.request, grammar, ids)[-1:]
    except RequestError:
        return None
    row, V = start.row(GivenTokens(0, ids)), model.engine.config.vocab_size
    order = placed(start.order, [row.params])
    inputs = stack([row.params], vocab_size=V, ends=model.end_ids, order=order_of(order))
    inputs = inputs._replace(mask=mask, masked=np.array([True]))
    if compares_prompts(order, row.params):
        after = np.concatenate([start.negative, ids]).astype(np.int32)
        inputs = inputs._replace(negative=model.engine.next_logits(after, adapter=row.adapter)[None, :])
    history = history_of(start.prompt, ids, vocab_size=V, order=order_of(order), states=row.states)
    raw, processed = _logprobs(
        model.engine.next_logits(row.given, adapter=row.adapter)[None, :], inputs, history, order=order
    )
    allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[:V].astype(bool)
    allowed[list(model.end_ids)] &= len(ids) >= start.request.min_tokens
    raw, processed = np.asarray(raw), np.asarray(processed)
    best = np.argsort(np.where(allowed, -raw, np.inf), kind="stable")[: min(ALTERNATIVES, int(allowed.sum()))]
    return Candidates(best.astype(np.int32), raw[best], processed[best]) if len(best) else None


@PerOrder
def _logprobs(logits: Array, inputs: SamplerInputs, history: History, *, order: str) -> tuple[Array, Array]:
    """The logprobs [V] of the raw and of the processed distribution, from logits [1, V]."""
    final = process(logits, inputs, history, order=order_of(order))
    return logprobs_and_entropy(logits)[0][0], logprobs_and_entropy(final)[0][0]


def grammar_masks(
    model: LoadedModel, request: Request, *, prompt: Int32[np.ndarray, " L"], made: Int32[np.ndarray, " T"]
) -> UInt32[np.ndarray, "T+1 W"] | None:
    """Returns which tokens the request's grammar allows in place of each of `made`, and after the last one.

    Packed bits: bit i % 32 of word i // 32 is token i. After an end token nothing is allowed. None where the request
    has no grammar.

    Raises:
        RequestError: the grammar forbids one of the tokens; the message lists what it allows instead.
    """
    grammar = model.grammar(request, prompt)
    return None if grammar is None else _masks(model, request, grammar, made)


class _Start(NamedTuple):
    """What all choices of a request have in common."""

    model: LoadedModel
    request: Request
    prompt: np.ndarray
    negative: np.ndarray
    grammar: Grammar | None
    seed: int
    order: str

    @classmethod
    def of(cls, model: LoadedModel, request: Request, *, seed: int, order: str) -> _Start:
        model.check_order(order, model.sampling_params(request, seed=seed))
        prompt = model.render(request)
        negative = model.negative_prompt(request, prompt)
        return cls(model, request, prompt, negative, model.grammar(request, prompt), seed, order)

    @property
    def longest(self) -> int:
        """The tokens of the longer one of its prompt and its negative prompt."""
        return max(len(self.prompt), len(self.negative))

    def row(self, one: GivenTokens, *, budget: int = 0) -> Row:
        """The engine's row that continues after the given tokens."""
        params = self.model.sampling_params(self.request, seed=self.seed, choice=one.choice)
        ignore = self.request.ignore_eos
        adapter = self.model.adapter(self.request.model)
        row = Row(
            self.prompt,
            params,
            budget=budget,
            ignore_ends=ignore,
            grammar=self.grammar,
            made=one.ids,
            adapter=adapter,
            negative=self.negative,
        )
        return replace(row, states=self._states(row)) if len(one.ids) else row

    def _states(self, row: Row) -> Mapping[str, np.ndarray] | None:
        """The states that the sampler's stages have after a row's given tokens; None where none has one."""
        order = placed(order_key(self.order), [row.params])
        stages, engine, grammar = order_of(order), self.model.engine, row.grammar
        if not stateful(stages):
            return None
        inputs = stack([row.params], vocab_size=engine.config.vocab_size, ends=self.model.end_ids, order=stages)
        begun = replace(row, made=row.made[:0])
        negative = Negative(partial(engine.logits, begun.companion, row.made))
        trail = Trail(partial(engine.logits, begun, row.made), prompt=row.prompt, made=row.made, negative=negative)
        masks = None if grammar is None else lambda: _masks(self.model, self.request, grammar, row.made)
        return trail.states(inputs, order=order, rows=[row.params], masks=[masks])

    def is_ended(self, one: GivenTokens) -> bool:
        """Whether the last of the tokens ends the choice."""
        return bool(one.drawn and len(one.ids) and int(one.ids[-1]) in self.model.ends_of(self.request))

    def text(self, one: GivenTokens) -> Text:
        """What the engine is to score: the given tokens, and the grammar's masks along them."""
        count, most = len(one.ids), self.model.engine.max_context
        if self.longest + count > most:
            raise ContextLengthError(
                f"the prompt's {self.longest} tokens and the {count} given ones exceed the context of {most}",
                param=self.request.subject,
            )
        allowed = None if self.grammar is None else _masks(self.model, self.request, self.grammar, one.ids)[:count]
        return Text(self.row(one._replace(ids=one.ids[:0])), one.ids, allowed)

    def write(
        self, one: GivenTokens, found: TokenStatistics | None, *, finish: str | None
    ) -> tuple[ChoiceWriter, list[Delta]]:
        """Feeds the given tokens to a new writer; returns the writer and its deltas.

        `found` are the tokens' statistics, and `finish` is the finish reason after them, None if the choice goes on.
        """
        count = len(one.ids)
        stops = StopMatcher(self.request.stops, include=self.request.include_stop)
        writer = self.model.writer(self.request, self.prompt, index=one.choice, seed=self.seed, stops=stops)
        writer.given = count
        if found is None:
            return writer, []
        # Stop sequences are ignored in the tokens before the last `drawn` ones.
        first = max(0, count - one.drawn)
        stops.armed = False
        deltas = [writer.feed(_piece(one, found, 0, first, finish=None))] if first else []
        stops.armed = True
        if writer.finish is None and (first < count or finish):
            # For the engine a choice that ends with a tool call stops; the writer finds the call itself.
            reason = "stop" if finish == "tool_calls" else finish
            deltas.append(writer.feed(_piece(one, found, first, count, finish=reason)))
        return writer, deltas


def _statistics(asked: Sequence[tuple[_Start, GivenTokens]]) -> Iterator[TokenStatistics | None]:
    """Scores what is given after the prompts of one model's requests; yields None where that is no token."""
    texts = [start.text(one) for start, one in asked]
    found: dict[int, TokenStatistics] = {}
    for order in {start.order for start, _ in asked}:
        which = [at for at, (start, one) in enumerate(asked) if start.order == order and len(one.ids)]
        if which:
            scored = asked[0][0].model.engine.score_all([texts[at] for at in which], order=order)
            found.update(zip(which, scored, strict=True))
    return (found.get(at) for at in range(len(asked)))


def _piece(one: GivenTokens, found: TokenStatistics, first: int, last: int, *, finish: str | None) -> Piece:
    part: TokenStatistics = jax.tree.map(lambda x: x[first:last], found)
    return Piece(0, one.ids[first:last], part, finish)


def _masks(model: LoadedModel, request: Request, grammar: Grammar, ids: np.ndarray) -> np.ndarray:
    matcher = grammar.matcher()
    found = np.zeros((len(ids) + 1, model.vocabulary.words), np.uint32)
    for at in range(len(ids) + 1):
        if at and int(ids[at - 1]) in model.end_ids:
            break
        fill_masks([matcher], found[at : at + 1])
        if at < len(ids):
            token = int(ids[at])
            if not found[at, token // 32] >> np.uint32(token % 32) & 1:
                raise _forbidden(model, request, found[at], token=token, position=at)
            matcher.advance(token)
    return found


def _forbidden(model: LoadedModel, request: Request, mask: np.ndarray, *, token: int, position: int) -> RequestError:
    kind = next(iter(request.constraints), "tool_choice")
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    ids = np.nonzero(bits)[0].tolist()
    names = ", ".join(repr(model.tokenizer.name(i)) for i in ids[:_LISTED]) or "nothing"
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return RequestError(
        f"token {model.tokenizer.name(token)!r} is forbidden at position {position} by the request's {kind}, which "
        f"allows {names}{more} there",
        param="token",
    )
