from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.distributions.draws import coupled_difference
from llmlab.distributions.probabilities import softmax


def by_the_formula(p: np.ndarray, q: np.ndarray) -> float:
    both = [i for i in range(len(p)) if p[i] > 0 and q[i] > 0]
    return 1 - sum(1 / sum(max(p[j] / p[i], q[j] / q[i]) for j in range(len(p))) for i in both)


@given(st.integers(1, 30), st.integers(0, 2**31), st.floats(0, 0.9))
def test_two_running_sums_are_the_formulas_double_sum(size: int, seed: int, cut: float) -> None:
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(size)), rng.dirichlet(np.full(size, 0.2))
    p, q = (np.where(rng.random(size) < cut, 0, next_token) for next_token in (p, q))
    p[0] += 0.1
    q[-1] += 0.1
    p, q = p / p.sum(), q / q.sum()
    found = coupled_difference(p, q)
    assert found == pytest.approx(by_the_formula(p, q), abs=1e-9)
    variation = 0.5 * np.abs(p - q).sum()
    assert variation - 1e-9 <= found <= 2 * variation / (1 + variation) + 1e-9
    assert coupled_difference(p, p) == pytest.approx(0, abs=1e-12)


def test_distributions_over_other_tokens_never_agree_and_two_sizes_are_refused() -> None:
    assert coupled_difference(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    with pytest.raises(ValueError, match="over 1 and 2 tokens"):
        coupled_difference(np.ones(1), np.ones(2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"temperature": 0.5}),
        ({"temperature": 1.3}, {"temperature": 0.7, "top_k": 12}),
        ({"top_p": 0.6}, {"min_p": 0.02}),
        ({"temperature": 0.0}, {"logit_bias": {30: 4.0}}),
    ],
)
def test_first_tokens_differ_as_often_as_the_coupling_says(demo, one: dict, other: dict) -> None:
    """Over 4,000 seeds, within four binomial standard errors; and the engine itself draws these tokens."""
    prompt, count = "Tell me a story about a fox.", 4000
    next_token = demo.next_token(prompt)
    drawn = [next_token.sample(range(count), **fields) for fields in (one, other)]
    distributions = []
    for fields in (one, other):
        frame = next_token.frame(top=None, **fields).sort_values("token_id")
        distributions.append(np.exp(frame["sampling_logprob"].to_numpy(dtype=float)))
    expected = coupled_difference(*distributions)
    rate = float((drawn[0] != drawn[1]).mean())
    error = np.sqrt(expected * (1 - expected) / count)
    print(f"{one} and {other}: {rate:.4f}, expected {expected:.4f}, standard error {error:.4f}")
    assert abs(rate - expected) <= 4 * error
    assert 0.02 < expected < 0.98
    for seed in (0, 17):
        first = demo.chat(prompt, seed=seed, max_tokens=1, **one)
        assert first.choices[0].tokens.ids[0] == drawn[0][seed]


def test_samples_follow_the_distribution(demo) -> None:
    next_token = demo.next_token("Tell me a story about a fox.", top_k=5)
    seen = np.bincount(next_token.sample(range(2000)), minlength=len(next_token.logits)) / 2000
    ids = next_token.ranking[:5]
    want = softmax(next_token.logits[ids])
    assert seen.sum() == pytest.approx(1) and np.count_nonzero(seen) == 5
    np.testing.assert_array_less(np.abs(seen[ids] - want), 4 * np.sqrt(want * (1 - want) / 2000))
