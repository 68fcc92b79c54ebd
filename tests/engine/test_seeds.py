"""What a seed promises: the same tokens alone, beside anything, as choice k of any n, whatever the chunk size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmlab.engine import lanes as lanes_module
from llmlab.engine.engine import Engine
from llmlab.sampling.logprobs import TokenStatistics
from tests.engine.rows import END, read, row, run

PROMPTS = ["a", "The quick brown fox", "x" * 100, "In the beginning was the word. " * 5]


WATCHED = ("watched_logprobs", "watched_sampling_logprobs")


def several(seed=3):
    return [row(PROMPTS[i % 4], seed=seed + i, temperature=0.6 + 0.1 * i, top_p=0.95, budget=50) for i in range(6)]


def same(a, b):
    """Tokens and every figure, to the bit."""
    assert a[0] == b[0]
    for ours, theirs in zip(a[1], b[1], strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)


def test_alone_and_beside_others_to_the_bit(pinned):
    rows = several()
    together = run(pinned, *rows)
    for i, one in enumerate(rows):
        alone = run(pinned, one)
        same(alone, ([together[0][i]], [together[1][i]]))


def test_beside_other_requests_that_come_and_go(pinned):
    rows = several()
    expected = run(pinned, *rows)
    noise = [
        pinned.submit([row(f"other {i}", seed=100 + i, top_k=5, repetition_penalty=1.3, budget=7 + i)])
        for i in range(20)
    ]
    same(run(pinned, *rows), expected)
    for ticket in noise:
        read(ticket, 1)


def test_beside_a_row_that_asks_for_every_stage_and_watches_tokens(pinned):
    """A row that asks for nothing gets the same bits, and no logprobs of tokens that only its neighbour watches."""
    plain = row("The quick", temperature=1.0, budget=30)
    busy = row("x", top_k=7, top_p=0.8, min_p=0.01, logit_bias={5: 2.0}, logprob_token_ids=(7, 3), budget=12)
    tokens, figures, _ = run(pinned, plain, busy)
    same(run(pinned, plain), (tokens[:1], figures[:1]))
    watched, sampling = (np.asarray(figures[1][TokenStatistics._fields.index(name)]) for name in WATCHED)
    assert np.isfinite(watched[:, :2]).all() and (watched[:, :2] < 0).all() and not watched[:, 2:].any()
    assert (sampling[:, :2] < 0).all() and not np.asarray(figures[0][TokenStatistics._fields.index(WATCHED[0])]).any()


@pytest.mark.parametrize("n", [1, 3, 20])
def test_choice_k_does_not_depend_on_n(pinned, n):
    twenty = run(pinned, *(row(choice=k) for k in range(20)))
    some = run(pinned, *(row(choice=k) for k in range(n)))
    same(some, (twenty[0][:n], twenty[1][:n]))
    assert len({tuple(made) for made in twenty[0]}) > 15


@pytest.mark.parametrize("seconds", [0.0, 1e-3, 10.0])
def test_whatever_the_chunk_size(pinned, monkeypatch, seconds):
    expected = run(pinned, *several())
    monkeypatch.setattr(lanes_module, "CHUNK_SECONDS", seconds)
    same(run(pinned, *several()), expected)


def test_after_a_restart(decoder, pinned):
    expected = run(pinned, *several())
    engine = Engine(*decoder, ends=(END,), slots=8)
    same(run(engine, *several()), expected)
    engine.close()


@pytest.mark.slow
def test_in_a_process_that_works_in_double_precision(pinned, tmp_path):
    """A notebook may have set `jax_enable_x64` for its own sake: the sampler stays in float32, to the same tokens."""
    fields = {"temperature": 0.7, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2, "budget": 20}
    code = f"""
import json, sys
from pathlib import Path
import jax.numpy as jnp
from llmlab.checkpoints.load import load_model
from llmlab.engine.engine import Engine
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import END, row, run
engine = Engine(*load_model(tiny_checkpoint(Path(sys.argv[1])), dtype=jnp.float32), ends=(END,), slots=8)
assert jnp.ones(1, float).dtype == jnp.float64
tokens, figures, _ = run(engine, row(**{fields}))
print(json.dumps([tokens, [x.tolist() for x in figures[0][:2]]]))
engine.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    tokens, figures = json.loads(done.stdout)
    expected, ours, _ = run(pinned, row(**fields))
    assert tokens == expected
    np.testing.assert_allclose(figures, ours[0][:2], atol=1e-5)


def test_both_words_of_the_seed_and_its_sign_count(pinned):
    seeds = [5, 2**32 + 5, -5, -(2**63), 2**63 - 1]
    tokens, _, _ = run(pinned, *(row(seed=seed) for seed in seeds))
    assert len({tuple(made) for made in tokens}) == len(seeds)


def test_between_widths_tokens_are_equal_or_the_draw_was_close(pinned, free):
    """Without pinned slots logits may differ by 1e-4, so a token may differ where the draw was within 1e-3."""
    rows = [row(PROMPTS[i % 4], seed=i, budget=60) for i in range(40)]
    fixed, ours, _ = run(pinned, *rows)
    loose, theirs, _ = run(free, *rows)
    differing = 0
    for i in range(len(rows)):
        first = next((t for t, (a, b) in enumerate(zip(fixed[i], loose[i], strict=False)) if a != b), None)
        upto = len(fixed[i]) if first is None else first
        np.testing.assert_allclose(ours[i][0][:upto], theirs[i][0][:upto], atol=1e-4)
        if first is not None:
            differing += 1
            margin = close_draw(free, rows[i], fixed[i][:first], fixed[i][first], loose[i][first])
            print(f"row {i} differs at {first}: the perturbed logits lie {margin:.1e} apart")
            assert margin < 1e-3
    print(f"{differing} of {len(rows)} rows differ between widths")


def close_draw(engine, one, made, a, b):
    """How far apart the perturbed logits of two tokens are after what was made."""
    from llmlab.sampling.draw import noise
    from llmlab.sampling.params import stack

    prompt = np.concatenate([one.prompt, np.array(made, np.int32)]).astype(np.int32)
    logits = engine.next_logits(prompt).astype(np.float64)
    inputs = stack([one.params], vocab_size=len(logits))
    position = np.array([len(made)], np.int32)
    gumbel = np.asarray(noise(np.asarray(inputs.seed), np.asarray(inputs.choice), position, len(logits)))[0]
    return abs((logits[a] + gumbel[a]) - (logits[b] + gumbel[b]))
