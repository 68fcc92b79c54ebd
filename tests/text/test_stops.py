from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmlab.text.stops import StopMatcher


def oracle(text, stops, include):
    """The answer from the whole text at once: (what is returned, whether a stop was reached)."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: end if include else min(starts)], True
    return text, False


def run(pieces, stops, include):
    matcher = StopMatcher(stops, include=include)
    out = []
    for piece in pieces:
        fed = matcher.feed(piece)
        out.append(fed.text)
        if fed.done:
            break
    else:
        out.append(matcher.flush())
    assert matcher.emitted == sum(map(len, out))
    return "".join(out), matcher.matched is not None


letters = st.text("aab", max_size=14)
some_stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


@given(text=letters, stops=some_stops, include=st.booleans(), data=st.data())
@example(text="xabc", stops=["bc", "abc"], include=False, data=None)
@example(text="aabaab", stops=["aabaa", "ab"], include=False, data=None)
def test_every_way_of_cutting_gives_the_whole_texts_answer(text, stops, include, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6))) if data else range(len(text))
    borders = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in zip(borders, borders[1:], strict=False)]
    assert run(pieces, stops, include) == oracle(text, stops, include)


@given(text=letters, stops=some_stops)
def test_nothing_is_held_back_where_the_stop_is_returned(text, stops):
    matcher = StopMatcher(stops)
    for end in range(1, len(text) + 1):
        fed = matcher.feed(text[end - 1])
        assert fed.text == text[end - 1]
        if fed.done:
            return
    assert matcher.flush() == ""


@given(text=letters, stops=some_stops)
def test_what_is_held_back_could_yet_become_a_stop(text, stops):
    matcher = StopMatcher(stops, include=False)
    out = ""
    for end in range(1, len(text) + 1):
        fed = matcher.feed(text[end - 1])
        out += fed.text
        if fed.done:
            return
        held = text[len(out) : end]
        assert out + held == text[:end]
        assert not held or any(s != held and s.startswith(held) for s in stops)
        # ... and no more than that was let out: no stop can begin in what is gone and be completed later.
        assert not any(s.startswith(text[cut:end]) for s in stops for cut in range(len(out)) if text[cut:end] != s)


def test_a_stop_across_many_pieces():
    assert run(["once", " up", "on", " a", " time"], ["upon a"], True) == ("once upon a", True)
    assert run(["once", " up", "on", " a", " time"], ["upon a"], False) == ("once ", True)


def test_the_stop_that_ends_first_wins_though_another_began_before():
    assert run(["abcd"], ["abcd", "bc"], True) == ("abc", True)
    assert run(["abcd"], ["abcd", "bc"], False) == ("a", True)


def test_a_stop_that_is_the_start_of_another_wins():
    assert run(["x", "END OF"], ["END OF", "END"], True) == ("xEND", True)


def test_after_the_stop_nothing_comes_out():
    matcher = StopMatcher(["."])
    assert matcher.feed("a.b") == ("a.", True)
    assert (matcher.end, matcher.emitted) == (2, 2)
    assert matcher.feed("more") == ("", True)
    assert matcher.flush() == ""
    assert matcher.matched == "."


def test_an_empty_stop_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])


@given(
    st.text("ab", max_size=12), st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3)
)
def test_what_was_let_pass_unarmed_does_not_count(before, after, stops):
    """Only a stop whose end comes later does, wherever it begins."""
    matcher = StopMatcher(stops)
    matcher.armed = False
    text = "".join(matcher.feed(char).text for char in before)
    assert text == before and matcher.matched is None
    matcher.armed = True
    text += matcher.feed(after).text
    whole = before + after
    ends = [
        at + len(stop)
        for stop in stops
        for at in range(len(whole))
        if whole.startswith(stop, at) and at + len(stop) > len(before)
    ]
    assert text == whole[: min(ends, default=None)]
    assert (matcher.matched is None) is (not ends)
