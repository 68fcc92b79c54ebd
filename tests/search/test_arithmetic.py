"""Arithmetic sampling: each sequence an exact sample, all together evenly spread, and digits that never run out."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from llmlab.search.arithmetic import codes_of, decode
from llmlab.search.space import Path
from tests.search.tables import Table
from tests.search.test_without_replacement import fits

SEEDS, N = 2000, 5


@pytest.fixture(scope="module")
def drawn():
    space = Table(5, V=3, spread=1.0)
    every = space.sequences(3)
    found = [decode(space, codes_of(N, seed=seed), max_tokens=3, seed=seed) for seed in range(SEEDS)]
    return every, found


@pytest.mark.parametrize("place", range(N))
def test_every_sequence_by_itself_is_an_exact_sample(drawn, place):
    every, found = drawn
    seen = Counter(one[place].path.tokens for one in found)
    assert set(seen) <= set(every)
    assert fits([seen[path] for path in every], [SEEDS * math.exp(logprob) for logprob in every.values()]) > 1e-3


def test_a_sequence_comes_as_often_as_it_is_probable_up_to_one(drawn):
    every, found = drawn
    for one in found:
        seen = Counter(each.path.tokens for each in one)
        for path, logprob in every.items():
            assert math.floor(N * math.exp(logprob)) <= seen[path] <= math.ceil(N * math.exp(logprob))


def test_a_code_lies_in_the_interval_of_its_sequence(drawn):
    # The intervals of all sequences, in the order of their tokens, cover [0, 1).
    every, found = drawn
    ends = np.cumsum([math.exp(every[path]) for path in sorted(every)])
    low = dict(zip(sorted(every), [0.0, *ends[:-1]], strict=True))
    for each in (each for one in found[:300] for each in one):
        width = math.exp(every[each.path.tokens])
        assert low[each.path.tokens] - 1e-12 <= each.code < low[each.path.tokens] + width + 1e-12
        assert each.path.logprob == pytest.approx(every[each.path.tokens])


def test_codes_have_equal_distances_and_one_uniform_shift():
    shifts = []
    for seed in range(2000):
        codes = codes_of(4, seed=seed)
        assert np.diff(np.sort(codes)) == pytest.approx([0.25] * 3)
        shifts.append(codes[0])
    assert stats.kstest(shifts, "uniform").pvalue > 1e-3


class Coin:
    """Tokens 0 and 1 with fixed probabilities at every step, and no end."""

    ends = frozenset()

    def __init__(self, p):
        self.logprobs = np.log([1 - p, p])

    def start(self):
        return self.logprobs

    def advance(self, parents, tokens):
        return np.tile(self.logprobs, (len(tokens), 1))


def test_digits_do_not_run_out():
    # 53 binary digits would be used up after as many fair tokens; 2,000 are still fair and independent.
    (one,) = decode(Coin(0.5), codes_of(1, seed=3), max_tokens=2000, seed=3)
    tokens = np.array(one.path.tokens)
    assert stats.binomtest(int(tokens.sum()), 2000).pvalue > 1e-3
    pairs = Counter(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))
    assert fits([pairs[a, b] for a in (0, 1) for b in (0, 1)], [500] * 4) > 1e-3


def test_rare_tokens_stay_as_rare_late_in_a_sequence():
    # After 60 tokens of a biased coin every digit of the first code is spent.
    p, late = 0.01, 0
    for seed in range(40):
        for each in decode(Coin(p), codes_of(8, seed=seed), max_tokens=120, seed=seed):
            late += sum(each.path.tokens[60:])
    assert stats.binomtest(late, 40 * 8 * 60, p).pvalue > 1e-3


def test_blocks_of_codes_give_what_all_together_give():
    space, codes = Table(2, V=4), codes_of(9, seed=1)
    whole = decode(space, codes, max_tokens=30, seed=1)
    parts = [one for at in (0, 4, 8) for one in decode(space, codes[at : at + 4], first=at, max_tokens=30, seed=1)]
    assert parts == whole


def test_seeds_differ_and_repeat():
    space = Table(2, V=4, ends=0)
    one, again, other = (decode(space, codes_of(3, seed=s), max_tokens=12, seed=s) for s in (1, 1, -1))
    assert one == again != other


def test_a_token_without_probability_is_never_drawn():
    for number in range(20):
        space = Table(number, V=4, forbidden=0.5)
        every = space.sequences(5)
        for each in decode(space, codes_of(16, seed=number), max_tokens=5, seed=number):
            assert each.path.tokens in every


def test_a_path_grows_without_changing():
    path = Path().then(3, -1.0)
    assert path.then(4, -0.5) == Path((3, 4), (-1.0, -0.5)) and path == Path((3,), (-1.0,))
    assert path.then(4, -0.5).logprob == -1.5
