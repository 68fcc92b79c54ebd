"""Small laws with the answer written beside them, ties above all: in an exact tie the lower id comes first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.sampling.penalties import apply_frequency, apply_logit_bias, apply_mask, apply_presence, apply_repetition
from llmlab.sampling.truncation import apply_min_p, apply_temperature, apply_top_k, apply_top_p, argmax

INF = np.inf

# One program a stage and a width: run operation by operation, each search would be compiled again.
top_k = jax.jit(lambda rows, k: apply_top_k(rows, top_k=k))
top_p = jax.jit(lambda rows, p: apply_top_p(rows, top_p=p))
min_p = jax.jit(lambda rows, p: apply_min_p(rows, min_p=p))
temperature = jax.jit(lambda rows, t: apply_temperature(rows, temperature=t))


def logits(*rows: list[float]) -> jnp.ndarray:
    return jnp.array(rows, jnp.float32)


def log(*rows: list[float]) -> jnp.ndarray:
    """The logits of laws written as probabilities."""
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.array(rows, np.float64)).astype(np.float32))


def kept(left: jnp.ndarray) -> list[list[int]]:
    """The ids that each row has left."""
    return [np.flatnonzero(np.asarray(row) > -INF).tolist() for row in left]


def column(*values: float, dtype: type = jnp.float32) -> jnp.ndarray:
    return jnp.array(values, dtype)


@pytest.mark.parametrize(
    ("row", "k", "ids"),
    [
        ([1.0, 3.0, 2.0, 0.0], 1, [1]),
        ([1.0, 3.0, 2.0, 0.0], 3, [0, 1, 2]),
        ([1.0, 3.0, 2.0, 0.0], 4, [0, 1, 2, 3]),
        ([1.0, 3.0, 2.0, 0.0], 9, [0, 1, 2, 3]),
        ([1.0, 3.0, 2.0, 0.0], 0, [0, 1, 2, 3]),
        ([1.0, 3.0, 2.0, 0.0], -1, [0, 1, 2, 3]),
        ([2.0, 2.0, 2.0, 2.0], 1, [0]),
        ([2.0, 2.0, 2.0, 2.0], 3, [0, 1, 2]),
        ([2.0, 2.0, 2.0, 2.0], 4, [0, 1, 2, 3]),
        ([2.0, 2.0, 2.0, 2.0], 5, [0, 1, 2, 3]),
        ([2.0, 1.0, 1.0, 1.0], 9, [0, 1, 2, 3]),
        ([1.0, 2.0, 3.0, 2.0], 2, [1, 2]),
        ([2.0, 1.0, 3.0, 2.0], 2, [0, 2]),
        ([0.0, -0.0, -0.0, 0.0], 2, [0, 1]),
        ([-0.0, 1.0, 0.0, -INF], 2, [0, 1]),
        ([-INF, 1.0, -INF, -INF], 2, [1]),
        ([-INF, 1.0, -INF, 1.0], 2, [1, 3]),
        ([-INF, -INF, -INF, -INF], 2, []),
        ([-3e38, 3e38, -3e38, 0.0], 2, [1, 3]),
        ([1e-45, 2e-38, 0.0, 1e-38], 1, [1]),
        ([1e8, 1e8 + 8, 1e8, 1e8 - 8], 2, [0, 1]),
    ],
)
def test_top_k_keeps_exactly_k(row: list[float], k: int, ids: list[int]) -> None:
    assert kept(top_k(logits(row), column(k, dtype=jnp.int32))) == [ids]


@pytest.mark.parametrize(
    ("row", "p", "ids"),
    [
        # The mass strictly before a token must be less than p: 0, .5, .75, .875.
        ([0.5, 0.25, 0.125, 0.125], 0.5, [0]),
        ([0.5, 0.25, 0.125, 0.125], 0.51, [0, 1]),
        ([0.5, 0.25, 0.125, 0.125], 0.75, [0, 1]),
        ([0.5, 0.25, 0.125, 0.125], 0.875, [0, 1, 2]),
        ([0.5, 0.25, 0.125, 0.125], 0.9, [0, 1, 2, 3]),
        ([0.125, 0.25, 0.125, 0.5], 0.75, [1, 3]),
        ([0.125, 0.25, 0.125, 0.5], 0.76, [0, 1, 3]),
        # However small p is, the first stays.
        ([0.5, 0.25, 0.125, 0.125], 1e-6, [0]),
        ([0.5, 0.25, 0.125, 0.125], 1e-44, [0]),
        ([0.25, 0.25, 0.25, 0.25], 1e-6, [0]),
        # Ties, and p exactly on a border.
        ([0.25, 0.25, 0.25, 0.25], 0.25, [0]),
        ([0.25, 0.25, 0.25, 0.25], 0.26, [0, 1]),
        ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 1]),
        ([0.25, 0.25, 0.25, 0.25], 0.75, [0, 1, 2]),
        ([0.25, 0.25, 0.25, 0.25], 0.76, [0, 1, 2, 3]),
        ([0.125, 0.5, 0.125, 0.25], 0.8, [0, 1, 3]),
        # Off, and what was removed stays so and has no mass.
        ([0.5, 0.25, 0.125, 0.125], 1.0, [0, 1, 2, 3]),
        ([0.0, 0.5, 0.0, 0.5], 0.5, [1]),
        ([0.0, 0.5, 0.0, 0.5], 0.51, [1, 3]),
        ([0.0, 1.0, 0.0, 0.0], 0.9, [1]),
        ([0.0, 0.5, 0.0, 0.5], 1.0, [1, 3]),
    ],
)
def test_top_p_keeps_what_has_less_than_p_before_it(row: list[float], p: float, ids: list[int]) -> None:
    assert kept(top_p(log(row), column(p))) == [ids]
    # It is a law that is cut, so a constant on all logits changes nothing.
    assert kept(top_p(log(row) + 8.0, column(p))) == [ids]


@pytest.mark.parametrize(("vocab_size", "p"), [(151936, 0.5), (151936, 0.95), (151936, 1e-4), (4096, 0.25)])
def test_top_p_of_a_uniform_law_counts_without_drift(vocab_size: int, p: float) -> None:
    (ids,) = kept(top_p(jnp.zeros((1, vocab_size)), column(p)))
    assert ids == list(range(len(ids)))
    # One float32 after another, 151,936 equal terms would be off by a thousandth; here two in a million.
    assert abs(len(ids) - p * vocab_size) <= 1 + 2e-6 * vocab_size


@pytest.mark.parametrize(
    ("row", "ratio", "ids"),
    [
        ([0.5, 0.25, 0.125, 0.125], 0.5, [0, 1]),
        ([0.5, 0.25, 0.125, 0.125], 0.51, [0]),
        ([0.5, 0.25, 0.125, 0.125], 0.25, [0, 1, 2, 3]),
        ([0.5, 0.25, 0.125, 0.125], 0.0, [0, 1, 2, 3]),
        ([0.25, 0.25, 0.25, 0.25], 1.0, [0, 1, 2, 3]),
        ([0.5, 0.25, 0.125, 0.125], 1.0, [0]),
        ([0.0, 0.5, 0.5, 0.0], 0.01, [1, 2]),
    ],
)
def test_min_p_drops_what_is_far_under_the_top(row: list[float], ratio: float, ids: list[int]) -> None:
    # Probabilities that are powers of two would have logits that round; in units of log 2 they are exact to the bit.
    assert kept(min_p(log(row), column(ratio * (1 - 1e-6)))) == [ids]


@pytest.mark.parametrize(
    ("row", "best"),
    [([1.0, 3.0, 2.0], 1), ([3.0, 1.0, 3.0], 0), ([0.0, 0.0, 0.0], 0), ([-0.0, 0.0, -1.0], 0), ([-INF, -1.0, -1.0], 1)],
)
def test_the_largest_is_the_lowest_id_among_equals(row: list[float], best: int) -> None:
    assert argmax(logits(row)).tolist() == [best]
    for cold in (0.0, 9.9e-6):
        left = temperature(logits(row), column(cold))
        assert kept(left) == [[best]]
        assert left[0, best] == 0.0


def test_temperature_divides_and_one_is_untouched() -> None:
    rows = logits([1.0, 3.0, -1.0], [1.0, 3.0, -1.0], [1.0, 3.0, -INF], [-INF, -INF, -INF])
    left = temperature(rows, column(1.0, 0.5, 2.0, 0.0))
    assert left[0].tolist() == [1.0, 3.0, -1.0]
    assert (left[1] - left[1, 1]).tolist() == [-4.0, 0.0, -8.0]
    assert (left[2] - left[2, 1]).tolist() == [-1.0, 0.0, -INF]
    assert kept(left)[3] == []


def test_a_small_temperature_loses_no_digits() -> None:
    # 20 and 20 + 2**-18 at 1e-5: 0.381 nats apart, where 20 / 1e-5 is known to an eighth of a nat only.
    left = temperature(logits([20.0, 20.0 + 2.0**-18]), column(1.0001e-5))
    np.testing.assert_allclose(left[0, 1] - left[0, 0], 2.0**-18 / np.float32(1.0001e-5), rtol=1e-6)


def test_repetition_divides_the_positive_and_multiplies_the_rest() -> None:
    row = [2.0, -2.0, 0.0, 2.0, -INF]
    seen = jnp.array([[True, True, True, False, True]] * 3)
    left = apply_repetition(logits(row, row, row), penalty=column(2.0, 0.5, 1.0), seen=seen)
    assert left.tolist() == [[1.0, -4.0, 0.0, 2.0, -INF], [4.0, -1.0, 0.0, 2.0, -INF], row]


@pytest.mark.parametrize("penalty", [1e-50, 1e-38])
def test_a_vanishing_repetition_penalty_stays_finite(penalty: float) -> None:
    row = [2.0, 0.0, -2.0, -INF]
    left = apply_repetition(logits(row), penalty=column(penalty), seen=jnp.ones((1, 4), bool))
    assert not np.isnan(left).any() and left[0, 0] > 1e38 and left[0, 3] == -INF
    assert abs(left[0, 1]) == 0.0 and -1e-30 < left[0, 2] <= 0.0


def test_frequency_counts_and_presence_does_not() -> None:
    row, counts = [1.0, 1.0, -1.0, -INF], jnp.array([[0, 1, 3, 2]] * 3, jnp.int32)
    rows, penalty = logits(row, row, row), column(0.5, -2.0, 0.0)
    assert apply_frequency(rows, penalty=penalty, counts=counts).tolist() == [
        [1.0, 0.5, -2.5, -INF],
        [1.0, 3.0, 5.0, -INF],
        row,
    ]
    assert apply_presence(rows, penalty=penalty, counts=counts).tolist() == [
        [1.0, 0.5, -1.5, -INF],
        [1.0, 3.0, 1.0, -INF],
        row,
    ]


def test_a_bias_adds_and_never_bans() -> None:
    bias = logits([-100.0, 100.0, 0.5], [-100.0, 100.0, 0.5])
    rows = logits([1.0, -INF, 2.0], [1.0, -INF, 2.0])
    left = apply_logit_bias(rows, bias=bias, biased=jnp.array([True, False]))
    assert left.tolist() == [[-99.0, -INF, 2.5], [1.0, -INF, 2.0]]


def test_the_mask_reads_bit_i_of_word_i_over_32() -> None:
    V = 70
    allowed = {0, 31, 32, 63, 64, 69}
    words = [sum(1 << (i % 32) for i in allowed if i // 32 == word) for word in range(3)]
    left = apply_mask(
        jnp.zeros((4, V)),
        mask=jnp.array([words] * 4, jnp.uint32),
        masked=jnp.array([True, False, True, False]),
        ends=jnp.zeros((4, V), bool).at[:, jnp.array([5, 32])].set(True),
        may_end=jnp.array([True, True, False, False]),
    )
    everything = set(range(V))
    assert [set(ids) for ids in kept(left)] == [allowed, everything, allowed - {32}, everything - {5, 32}]


def test_without_grammars_the_mask_stage_only_holds_back_the_ends() -> None:
    ends = jnp.array([[False, True, False]] * 2)
    left = apply_mask(
        jnp.zeros((2, 3)), mask=None, masked=jnp.zeros(2, bool), ends=ends, may_end=jnp.array([True, False])
    )
    assert kept(left) == [[0, 1, 2], [0, 2]]


def test_a_logit_that_is_not_a_number_does_not_hang_the_search() -> None:
    rows = jnp.array([[0.0, jnp.nan, 1.0, 2.0], [0.0, 3.0, 1.0, 2.0]])
    assert kept(top_k(rows, column(2, 2, dtype=jnp.int32)))[1] == [1, 3]
    assert kept(top_p(rows, column(0.5, 0.5)))[1] == [1]
