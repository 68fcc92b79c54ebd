"""The stages that read the sequence of tokens, against oracles that search it with lists and dicts."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from llmlab.sampling.history import grown, history_of, joined
from llmlab.sampling.params import History, SamplingParams, stack
from llmlab.sampling.pipeline import process
from llmlab.sampling.repetition import DRY, NO_REPEAT_NGRAM

V, CASES, ROOM = 12, 500, 64
BREAKERS = (0, 5)


def sequences() -> list[tuple[list[int], list[int]]]:
    """Prompts and what was generated after them: random, periodic, constant and very short ones."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(CASES):
        prompt, made = int(rng.integers(1, 30)), int(rng.integers(0, 30))
        text = rng.integers(0, rng.choice([2, 4, V]), prompt + made)
        if i % 3 == 0:
            text = np.resize(text[: int(rng.integers(1, 7))], prompt + made)
        found.append((text[:prompt].tolist(), text[prompt:].tolist()))
    return found


def histories(texts: list[tuple[list[int], list[int]]], order: Any) -> History:
    each = [history_of(np.array(a, int), np.array(b, int), vocab_size=V, order=order, room=ROOM) for a, b in texts]
    return jax.tree.map(lambda *x: np.concatenate(x), *each)


def run(stage: Any, extras: list[dict[str, Any]], *, by_rows: bool = False) -> tuple[np.ndarray, np.ndarray]:
    logits = np.random.default_rng(1).normal(size=(len(extras), V)).astype(np.float32)
    params = [SamplingParams(extra=extra) for extra in extras]
    history = histories(sequences()[: len(extras)], (stage,))
    inputs = stack(params, vocab_size=V, order=(stage,))
    compiled = jax.jit(lambda *x: process(*x, order=(stage,), by_rows=by_rows))
    return logits, np.asarray(compiled(logits, inputs, history))


def banned(text: list[int], n: int) -> set[int]:
    """The tokens that complete an n-gram of the text."""
    grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    end = tuple(text[len(text) - n + 1 :])
    return {gram[-1] for gram in grams if gram[:-1] == end} if len(text) >= n - 1 else set()


def dry_lengths(text: list[int], breakers: set[int], last: int) -> dict[int, int]:
    """The longest repetition that each token would extend."""
    text = text if last < 0 else text[len(text) - min(last, len(text)) :]
    found: dict[int, int] = {}
    for at in range(1, len(text)):
        token, match = text[at], 0
        while match < at and text[at - match - 1] == text[-match - 1] and text[-match - 1] not in breakers:
            match += 1
        if token not in breakers and match:
            found[token] = max(match, found.get(token, 0))
    return found


def sizes() -> list[int]:
    return (np.random.default_rng(2).integers(0, 6, CASES)).tolist()


def test_no_ngram_occurs_twice() -> None:
    asked = sizes()
    logits, left = run(NO_REPEAT_NGRAM, [{"no_repeat_ngram_size": n} if n else {} for n in asked])
    acted = 0
    for (prompt, made), n, before, after in zip(sequences(), asked, logits, left, strict=True):
        gone = banned(prompt + made, n) if n else set()
        gone = set() if len(gone) == V else gone
        assert set(np.flatnonzero(np.isneginf(after)).tolist()) == gone
        assert np.array_equal(after[np.isfinite(after)], before[np.isfinite(after)])
        acted += bool(gone)
    assert acted > 100


def test_dry_penalises_what_would_extend_a_repetition() -> None:
    rng = np.random.default_rng(3)
    extras = [
        {
            "dry_multiplier": float(rng.choice([0.0, 0.8, 2.0])),
            "dry_base": float(rng.choice([1.0, 1.75])),
            "dry_allowed_length": int(rng.integers(1, 5)),
            "dry_penalty_last_n": int(rng.choice([-1, -1, 0, 4, 15])),
            "dry_sequence_breakers": BREAKERS if rng.uniform() < 0.5 else (),
        }
        for _ in range(CASES)
    ]
    logits, left = run(DRY, extras)
    acted = 0
    for (prompt, made), o, before, after in zip(sequences(), extras, logits, left, strict=True):
        wanted = before.astype(np.float64)
        for token, match in dry_lengths(
            prompt + made, set(o["dry_sequence_breakers"]), o["dry_penalty_last_n"]
        ).items():
            if match >= o["dry_allowed_length"] and o["dry_multiplier"]:
                wanted[token] -= o["dry_multiplier"] * o["dry_base"] ** (match - o["dry_allowed_length"])
        np.testing.assert_allclose(after, wanted, rtol=1e-5, atol=1e-5)
        if not o["dry_multiplier"]:
            assert after.tobytes() == before.tobytes()
        acted += not np.array_equal(before, after)
    assert acted > 100


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize(
    ("stage", "extra"), [(NO_REPEAT_NGRAM, {"no_repeat_ngram_size": 2}), (DRY, {"dry_multiplier": 0.7})]
)
def test_rows_in_a_mixed_batch_equal_rows_alone_and_neutral_ones_keep_every_bit(
    stage: Any, extra: dict[str, Any], by_rows: bool
) -> None:
    count = 12
    logits, mixed = run(stage, [extra if row % 2 else {} for row in range(count)], by_rows=by_rows)
    assert mixed[::2].tobytes() == logits[::2].tobytes()
    _, whole = run(stage, [extra] * count, by_rows=by_rows)
    assert whole[1::2].tobytes() == mixed[1::2].tobytes()


def test_the_history_grows_as_tokens_join_it() -> None:
    rng = np.random.default_rng(4)
    prompt, made = rng.integers(0, V, 7), rng.integers(0, V, 9)
    order = (DRY,)
    whole = [history_of(prompt, made[:t], vocab_size=V, order=order, room=ROOM) for t in range(len(made) + 1)]
    asked = np.array([1] * len(made) + [0] * 3, np.int32)
    before = grown(whole[0], np.pad(made, (0, 3)).astype(np.int32), asked)
    history = jax.tree.map(jax.numpy.asarray, whole[0])
    for t, token in enumerate(made):
        for one, at in ((before, t), (history, 0)):
            end = int(np.asarray(one.length)[at])
            assert end == len(prompt) + t == whole[t].length[0]
            assert np.asarray(one.ids)[at, :end].tolist() == whole[t].ids[0, :end].tolist()
            assert np.array_equal(np.asarray(one.counts)[at], whole[t].counts[0])
            assert int(np.asarray(one.position)[at]) == t
        history = joined(history, np.array([token], np.int32), np.array([True]))
        history = joined(history, np.array([3], np.int32), np.array([False]))


@pytest.mark.reference
def test_transformers_bans_the_same_tokens() -> None:
    import torch
    from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

    asked = [max(n, 1) for n in sizes()]
    logits, left = run(NO_REPEAT_NGRAM, [{"no_repeat_ngram_size": n} for n in asked])
    for (prompt, made), n, before, after in zip(sequences(), asked, logits, left, strict=True):
        theirs = NoRepeatNGramLogitsProcessor(n)(torch.tensor([prompt + made]), torch.tensor(before[None]))[0].numpy()
        assert np.isneginf(theirs).all() or np.array_equal(theirs, after)
