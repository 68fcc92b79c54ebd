"""Best-first search for whole answers against every answer of small tables, listed one by one."""

import itertools
import math

import numpy as np
import pytest

from llmlab.search.best_first import BestFirst
from llmlab.search.divergence import distance
from llmlab.search.explored import Explored
from tests.search.tables import Answers, Table

ALL = {"max_passes": 10**6, "max_nodes": 10**6}
SETTINGS = [{}, {"temperature": 0.5}, {"temperature": 1.7}, {"top_p": 0.8}, {"temperature": 1.3, "top_p": 0.6}]


def even(path):
    """A grammar over three tokens and an end: no token twice in a row, and an end after an even number of them."""
    allowed = np.ones(4, bool)
    if path:
        allowed[path[-1]] = False
    allowed[3] = len(path) % 2 == 0 and len(path) > 0
    return allowed


def found_in(search, which=0):
    """Answer -> log-probability, of those that have a probability."""
    paths = [search.ids(at) for at in range(len(search.ended))]
    assert len(set(paths)) == len(paths), "an answer was found twice"
    return {path: float(own[which]) for path, own in zip(paths, search.logprobs, strict=True) if own[which] > -np.inf}


def assert_same(found, exact):
    assert set(found) == set(exact)
    for path, logprob in exact.items():
        assert found[path] == pytest.approx(logprob, abs=1e-12), path


def write(ids, finish_reason):
    return " ".join(map(str, ids)), finish_reason


@pytest.mark.parametrize("rows", [2, 3, 5, 32])
@pytest.mark.parametrize("number", range(3))
def test_every_answer_is_found_with_its_probability(number, rows):
    space = Answers(Table(number, V=4, ends=1 + number % 2, forbidden=0.2 * number), SETTINGS)
    search = BestFirst(space, mass=1.0, rows=rows)
    search.run(**ALL)
    for which, setting in enumerate(SETTINGS):
        exact = space.every(setting)
        # What is rarer than the rounding of a sum may be left out.
        assert_same(found_in(search, which), {p: v for p, v in exact.items() if p in found_in(search, which)})
        assert sum(math.exp(v) for p, v in exact.items() if p not in found_in(search, which)) < 1e-11
    np.testing.assert_allclose(search.found, 1.0, atol=1e-11)
    np.testing.assert_allclose(search.left, 0.0, atol=1e-11)
    assert space.most <= rows and search.passes == space.passes == len(search.trace)
    # With few rows, beginnings are read again; with many, none is.
    assert (search.reread > 0) == (rows < 32)


@pytest.mark.parametrize("complete", [None, lambda path: path[-2:] == (0, 1)], ids=["ends", "texts"])
def test_bounds_hold_at_every_pass(complete):
    """Of events that are drawn at random, whatever the search has found by then."""
    rng = np.random.default_rng(5)
    space = Answers(Table(11, V=4, spread=1.0), SETTINGS, max_tokens=5, complete=complete)
    exact = [{path: math.exp(v) for path, v in space.every(setting).items()} for setting in SETTINGS]
    every = sorted(set().union(*exact))
    events = [set(itertools.compress(every, rng.random(len(every)) < share)) for share in (0.1, 0.5, 0.9)]
    for limit in (1, 2, 3, 5, 8, 13, 21, 34, 200):
        search = BestFirst(space, mass=0.999, rows=8)
        why = search.run(max_passes=limit, max_nodes=10**6)
        assert search.passes == limit or why == "mass"
        for which, own_exact in enumerate(exact):
            found = {path: math.exp(v) for path, v in found_in(search, which).items()}
            assert search.found[which] == pytest.approx(sum(found.values()), abs=1e-12)
            assert search.found[which] + search.left[which] == pytest.approx(1, abs=1e-12)
            for event in events:
                low = sum(p for path, p in found.items() if path in event)
                truth = sum(p for path, p in own_exact.items() if path in event)
                assert low - 1e-12 <= truth <= low + search.left[which] + 1e-12
    assert why == "mass" and (search.left < 0.001).all()


def test_the_trace_says_what_was_known_after_each_pass():
    space = Answers(Table(4, V=4, spread=1.0), SETTINGS[:2], max_tokens=5)
    search = BestFirst(space, mass=0.99, rows=4)
    search.run(**ALL)
    for passes, (found, left) in enumerate(search.trace, start=1):
        known = [np.exp(own) for own, one in zip(search.logprobs, search.ended, strict=True) if one.passes <= passes]
        np.testing.assert_allclose(found, np.sum(known, axis=0) if known else 0.0, atol=1e-12)
        np.testing.assert_allclose(found + left, 1.0, atol=1e-12)
    lefts = np.array([left for _, left in search.trace])
    assert (np.diff(lefts, axis=0) <= 1e-12).all()


def test_more_children_than_are_listed_at_first():
    table = Table(2, V=700, spread=0.3)
    space = Answers(table, [{}, {"temperature": 0.3}], max_tokens=1)
    search = BestFirst(space, mass=1.0, rows=2)
    search.run(**ALL)
    assert search.passes == 1 and len(search.ended) == 700
    for which, setting in enumerate(space.settings):
        assert_same(found_in(search, which), space.every(setting))


def test_settings_share_a_search_and_cost_no_pass():
    """What easier settings need has been expanded for the hardest one, apart from a pass or two by chance."""
    grid = [{"temperature": t, "top_p": p} for t in np.linspace(0.3, 1.2, 10) for p in (0.5, 0.8, 0.9, 0.95, 1.0)]
    hardest = {"temperature": 1.2, "top_p": 1.0}
    for number in range(3):
        passes = []
        for settings in (grid, [hardest]):
            space = Answers(Table(number, V=8, spread=2.5), settings, max_tokens=5)
            search = BestFirst(space, mass=0.9, rows=16)
            assert search.run(**ALL) == "mass"
            passes.append(space.passes)
        assert 3 < passes[0] <= 1.02 * passes[1] + 1, passes


def test_other_settings_are_weighed_without_a_pass():
    space = Answers(Table(3, V=4, spread=1.0), [{}], max_tokens=5)
    search = BestFirst(space, mass=0.9, rows=6)
    search.run(**ALL)
    explored = Explored.of(search, write, why="mass", ends=space.ends)
    passes = space.passes
    for setting in SETTINGS:
        other = Answers(space.table, [setting], max_tokens=5)
        weighed = explored.weigh(lambda raw, made, allowed, other=other: other.logprobs(0, raw, made, allowed))
        exact = other.every(setting)
        for at, logprob in enumerate(weighed.logprob):
            assert logprob == pytest.approx(exact.get(explored.ids(at), -np.inf), abs=1e-12)
        assert weighed.left == pytest.approx(1 - np.exp(weighed.logprob).sum(), abs=1e-12)
    own = explored.weigh(lambda raw, made, allowed: space.logprobs(0, raw, made, allowed))
    np.testing.assert_allclose(own.logprob, [one[0] for one in search.logprobs], atol=1e-12)
    assert own.left == pytest.approx(search.left[0], abs=1e-12) and space.passes == passes


def test_an_interrupt_leaves_what_was_found_and_the_search_goes_on():
    def space():
        return Answers(Table(9, V=4, spread=1.0), SETTINGS[:3], max_tokens=6)

    whole = BestFirst(space(), mass=0.99, rows=4)
    whole.run(**ALL)
    broken = space()
    broken.broken_at = 5
    search = BestFirst(broken, mass=0.99, rows=4)
    with pytest.raises(KeyboardInterrupt):
        search.run(**ALL)
    assert search.passes == 5 == len(search.trace)
    np.testing.assert_allclose(search.found + search.left, 1.0, atol=1e-12)
    np.testing.assert_allclose(search.found, np.exp(search.logprobs).sum(axis=0), atol=1e-12)
    broken.broken_at = None
    assert search.run(**ALL) == "mass"
    exact = space().every({})
    assert all(value == pytest.approx(exact[path]) for path, value in found_in(search).items())
    assert search.found.min() > 0.99


def test_limits_and_why_it_ends():
    def search(**limits):
        found = BestFirst(Answers(Table(9, V=4, spread=1.0), max_tokens=6), mass=0.99, rows=4)
        return found.run(**(ALL | limits)), found

    assert search()[0] == "mass"
    why, found = search(max_passes=3)
    assert why == "passes" and found.passes == 3 and found.left[0] > 0.01
    why, found = search(max_nodes=7)
    assert why == "rows" and len(found.nodes) == 7
    # Nothing of this distribution is left, though it never has its mass: the rest of it lies outside the tree.
    never = Answers(Table(1, V=4), max_tokens=3, grammar=lambda path: np.zeros(4, bool))
    found = BestFirst(never, mass=0.99, rows=2)
    assert found.run(**ALL) == "mass" and found_in(found) == {(): 0.0}


def test_settings_that_do_not_drive_cost_no_pass():
    made = []
    for driving in ([True, True], [True, False], None):
        space = Answers(Table(9, V=4, spread=1.0), [{}, {"temperature": 1.7}] if driving else [{}], max_tokens=6)
        search = BestFirst(space, mass=0.9, rows=4, driving=driving)
        search.run(**ALL)
        made.append(search.passes)
    assert made[0] > made[1] == made[2]


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.6}, {"top_p": 0.7}])
def test_a_grammar_has_both_distributions(setting):
    space = Answers(Table(6, V=4, spread=1.2), [setting], max_tokens=5, grammar=even)
    search = BestFirst(space, mass=0.97, rows=6)
    assert search.run(**ALL) == "mass"
    q, p = space.every(setting), space.every(setting, free=True)
    assert all(value == pytest.approx(q[path], abs=1e-12) for path, value in found_in(search, 0).items())
    assert all(value == pytest.approx(p[path], abs=1e-12) for path, value in found_in(search, 1).items())
    assert search.found[0] + search.left[0] == pytest.approx(1, abs=1e-12)
    assert search.found[1] <= sum(map(math.exp, p.values())) <= search.found[1] + search.left[1]


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.6}, {"top_p": 0.7}])
def test_the_distance_from_the_true_conditional_lies_within_its_bounds(setting):
    """Against the sums over every answer; answers that are cut off do not fit."""
    space = Answers(Table(6, V=4, spread=1.2), [setting], max_tokens=5, grammar=even)
    q = {path: math.exp(v) for path, v in space.every(setting).items()}
    p = {path: math.exp(v) for path, v in space.every(setting, free=True).items() if path[-1] in space.ends}
    Z = sum(p.values())
    variation = sum(abs(q.get(path, 0) - p.get(path, 0) / Z) for path in {*q, *p}) / 2
    kl = sum(v / Z * math.log(v / Z / q[path]) if path in q else math.inf for path, v in p.items())
    widths = []
    for limit in (1, 2, 3, 5, 8, 13, 21, 34, 200):
        search = BestFirst(space, mass=1.0, rows=4)
        search.run(max_passes=limit, max_nodes=10**6)
        fits = [search.ids(at)[-1] in space.ends for at in range(len(search.ended))]
        both = np.exp(np.array(search.logprobs).reshape(-1, 2))
        found = distance(
            both[:, 0], both[:, 1] * fits, q_left=search.left[0], p_left=search.left[1],
            renormalised="top_p" not in setting,
        )  # fmt: skip
        for bounds, truth in zip(found, (Z, variation, kl), strict=True):
            assert bounds.low - 1e-9 <= truth <= bounds.high + 1e-9
        widths.append(found.total_variation.high - found.total_variation.low)
    assert widths[-1] < 1e-9 < 0.1 < widths[0]
    assert found.total_variation == pytest.approx((variation, variation))
    assert found.kl.low == pytest.approx(kl) if math.isfinite(kl) else found.kl.low == math.inf
