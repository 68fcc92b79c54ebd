"""Beam search against every sequence of a small space, and diverse beam search against the paper's algorithm."""

import itertools
import math

import numpy as np
import pytest

from llmlab.search.beams import beam_search
from tests.search.tables import Table


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0])
def test_as_many_beams_as_sequences_find_all_of_them_in_order(number, length_penalty):
    # "never" does not stop while a sequence could still be better; with a beam for each sequence none is lost.
    space = Table(number, V=3)
    every = space.sequences(4)
    scores = {path: logprob / len(path) ** length_penalty for path, logprob in every.items()}
    found = beam_search(
        space, beams=3**4, length_penalty=length_penalty, early_stopping="never", max_tokens=4
    )  # fmt: skip
    assert {beam.path.tokens for beam in found} == set(every)
    assert [beam.score for beam in found] == pytest.approx(sorted(scores.values(), reverse=True))
    for beam in found:
        assert beam.score == pytest.approx(scores[beam.path.tokens])
        assert beam.path.logprob == pytest.approx(every[beam.path.tokens])
        assert beam.finish_reason == ("stop" if beam.path.tokens[-1] in space.ends else "length")
    assert found[0].path.tokens == max(scores, key=scores.get)


def test_one_beam_is_greedy_until_it_ends():
    for number in range(20):
        space = Table(number, V=5)
        path = ()
        while len(path) < 6 and (not path or path[-1] not in space.ends):
            path = (*path, int(np.argmax(space.of(path))))
        # A beam goes on beside an end token that is likelier; with early stopping the first that ends is the result.
        (found,) = beam_search(space, beams=1, early_stopping=True, max_tokens=6)
        assert found.path.tokens == path


def test_more_beams_never_find_less_when_ranked_by_probability():
    worse = 0
    for number in range(30):
        options = {"length_penalty": 0.0, "early_stopping": "never", "max_tokens": 5}
        best = [beam_search(Table(number, V=4), beams=beams, **options)[0].score for beams in (1, 2, 4, 4**5)]
        true = max(Table(number, V=4).sequences(5).values())
        assert best[-1] == pytest.approx(true) and all(score <= true + 1e-12 for score in best)
        worse += best[0] < true - 1e-9
    assert worse > 3  # greedy search does miss it


def test_no_more_nodes_than_beams_and_no_sequence_without_probability():
    for number in range(20):
        space = Table(number, V=4, forbidden=0.5)
        every = space.sequences(4)
        found = beam_search(space, beams=5, early_stopping="never", max_tokens=4)
        assert space.most <= 5
        assert {beam.path.tokens for beam in found} <= set(every)
        assert all(math.isfinite(beam.score) for beam in found)
        assert len({beam.path.tokens for beam in found}) == len(found) <= 5


class Complete(Table):
    """A space in which nothing can follow two tokens: a text that a grammar completes without an end token."""

    def of(self, path):
        return np.full(self.V, -np.inf) if len(path) == 2 else super().of(path)


def test_a_text_that_is_complete_is_a_result():
    found = beam_search(Complete(3, V=3, ends=0), beams=9, early_stopping="never", max_tokens=6)
    assert {beam.path.tokens for beam in found} == set(itertools.product(range(3), repeat=2))
    assert {beam.finish_reason for beam in found} == {"stop"}
    assert all(beam.score == pytest.approx(beam.path.logprob / 2) for beam in found)


def paper(space, *, groups, size, penalty, T):
    """Algorithm 1 of Vijayakumar et al. 2016 for sequences of T tokens without an end, as nested lists.

    At each time the groups choose in turn; group g maximizes log-probabilities that are lowered by `penalty` for every
    beam of the groups before it that has this token now. Lowered log-probabilities are kept for the steps to come.
    """
    beams = [[((), 0.0)] for _ in range(groups)]
    for _ in range(T):
        now = []
        for group in range(groups):
            candidates = []
            for path, total in beams[group]:
                for token, logprob in enumerate(space.of(path)):
                    same = sum(token == other for chosen in now for other in chosen)
                    candidates.append(((*path, token), total + logprob - penalty * same))
            candidates.sort(key=lambda item: -item[1])
            beams[group] = candidates[:size]
            now.append([path[-1] for path, _ in beams[group]])
    return beams


@pytest.mark.parametrize("number", range(20))
def test_diverse_beam_search_is_that_of_the_paper(number):
    rng = np.random.default_rng(number)
    groups, size, penalty = int(rng.integers(2, 5)), int(rng.integers(1, 4)), float(rng.uniform(0.1, 2.0))
    space, T = Table(number, V=6, ends=0), 5
    wanted = paper(space, groups=groups, size=size, penalty=penalty, T=T)
    found = beam_search(
        space, beams=groups * size, groups=groups, diversity_penalty=penalty, length_penalty=0.0, max_tokens=T
    )
    for group in range(groups):
        own = [beam for beam in found if beam.group == group]
        assert [beam.path.tokens for beam in own] == [path for path, _ in wanted[group]]
        assert [beam.score for beam in own] == pytest.approx([total for _, total in wanted[group]])
        for beam in own:  # the log-probability is the sequence's own, without what the penalty took
            assert beam.path.logprob == pytest.approx(
                sum(float(space.of(beam.path.tokens[:at])[beam.path.tokens[at]]) for at in range(T))
            )
    assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)


def test_groups_with_ends_search_on_by_themselves():
    # A group of one beam that ends early leaves the others alone, and the number of nodes falls.
    for number in range(10):
        space = Table(number, V=4, ends=2)
        found = beam_search(space, beams=4, groups=4, diversity_penalty=0.8, early_stopping=True, max_tokens=8)
        assert [beam.group for beam in sorted(found, key=lambda beam: beam.group)] == [0, 1, 2, 3]
        first = beam_search(Table(number, V=4, ends=2), beams=1, early_stopping=True, max_tokens=8)
        assert next(beam for beam in found if beam.group == 0).path == first[0].path


def test_a_penalty_makes_groups_differ():
    distinct = []
    for penalty in (0.0, 5.0):
        found = beam_search(
            Table(7, V=6, ends=0), beams=3, groups=3, diversity_penalty=penalty, length_penalty=0.0, max_tokens=3
        )
        distinct.append(len({beam.path.tokens for beam in found}))
    assert distinct == [1, 3]


def test_steps_are_told():
    told = []
    beam_search(Table(0, V=3, ends=0), beams=2, max_tokens=5, tell=told.append)
    assert told == [1, 2, 3, 4, 5]
