"""The engine with the sampler that takes rows one after the other, as it does over a large vocabulary on a CPU."""

from collections import Counter

import jax
import numpy as np
import pytest

from llmlab.engine import decode
from llmlab.engine.engine import Engine
from llmlab.sampling import pipeline
from llmlab.sampling.stages import ORDER
from tests.engine.rows import END, row, run
from tests.engine.test_recompilation import compiled
from tests.engine.test_seeds import same, several

KINDS = [
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"top_k": 7, "top_p": 0.8, "temperature": 0.7},
    {"top_p": 0.6, "min_p": 0.02},
    {"logit_bias": {5: 2.0}, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
]


def mixed(**fields):
    return [row(f"row {i}", seed=i, budget=6 + 5 * i, **{**kind, **fields}) for i, kind in enumerate(KINDS)]


@pytest.fixture(scope="module")
def by_rows(decoder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "ROW_BY_ROW", 0)
        engine = Engine(*decoder, ends=(END,), slots=8)
        run(engine, row(budget=2))  # which compiles the one program of all chunks
    yield engine
    engine.close()


def test_tokens_and_statistics_are_those_of_the_sampler_of_whole_batches(by_rows, pinned):
    """The logits are equal to the bit, and so are the noise and the tokens."""
    for rows in (several(), mixed()):
        tokens, figures, finish = run(by_rows, *rows)
        expected, theirs, ends = run(pinned, *rows)
        assert (tokens, finish) == (expected, ends)
        for ours, others in zip(figures, theirs, strict=True):
            for x, y in zip(ours, others, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-5)


def test_alone_and_beside_others_to_the_bit(by_rows):
    rows = [*several()[:3], *mixed()]
    tokens, figures, _ = run(by_rows, *rows)
    for i, one in enumerate(rows):
        same(run(by_rows, one), (tokens[i : i + 1], figures[i : i + 1]))


@pytest.mark.parametrize("name", ["by_rows", "pinned"])
def test_rows_that_ask_for_no_statistics_get_the_same_tokens(name, request):
    engine = request.getfixturevalue(name)
    tokens, figures, finish = run(engine, *mixed())
    silent, blanks, ends = run(engine, *mixed(statistics=False))
    assert (silent, ends) == (tokens, finish)
    for made, blank in zip(silent, blanks, strict=True):
        assert all(np.isnan(blank[at]).all() for at in (0, 1, 3, 4, 5)), "numbers that nobody asked for are unknown"
        assert blank[7].shape == (len(made), 0)
    asks = [i % 2 == 0 for i in range(len(KINDS))]
    some = [row if ask else other for row, other, ask in zip(mixed(), mixed(statistics=False), asks, strict=True)]
    beside, ours, _ = run(engine, *some)
    assert beside == tokens
    kept = [i for i, ask in enumerate(asks) if ask]
    same(([tokens[i] for i in kept], [figures[i] for i in kept]), ([beside[i] for i in kept], [ours[i] for i in kept]))


def test_a_row_that_has_ended_runs_no_more(decoder, monkeypatch):
    """Counted on the device: within a chunk, each row samples as often as it has tokens, and empty slots never do."""
    ran = []

    def counted(logits, inputs, history):
        jax.debug.callback(lambda value: ran.append(float(value[0])), inputs.presence_penalty)
        return logits

    stage = next(one for one in ORDER if one.name == "presence")._replace(apply=counted)
    monkeypatch.setattr(decode, "order_of", {"llmlab": (stage,)}.__getitem__)
    monkeypatch.setattr(pipeline, "ROW_BY_ROW", 0)
    engine = Engine(*decoder, ends=(END,), slots=8)
    budgets = {0.25: 2, 0.5: 9, 0.75: 5}
    run(engine, *(row(presence_penalty=p, budget=count, ignore_ends=True) for p, count in budgets.items()))
    jax.effects_barrier()
    engine.close()
    assert Counter(ran) == budgets


def test_one_program_serves_every_number_of_rows_and_every_mixture(by_rows):
    run(by_rows, *mixed())
    before = len(compiled())
    for statistics in (True, False):
        for count in (1, 2, 5):
            run(by_rows, *mixed(statistics=statistics)[:count])
    run(by_rows, row(logprob_token_ids=(1, 2), budget=3), row(statistics=False, budget=9))
    assert compiled()[before:] == []
