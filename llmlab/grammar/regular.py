"""Sets of strings that regular expressions describe, as automata: complement, intersection, emptiness, spelling.

llguidance has look-aheads and complements neither in JSON schemas nor elsewhere in a regular expression. A `Language`
is a way to write an equivalent expression without them, and to tell whether two expressions exclude each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TypeAlias

from llmlab.grammar.characters import Characters, complement, written
from llmlab.grammar.expression import Both, Either, ExpressionError, Not, One, Sequence, Times, Tree, read

__all__ = ["Language", "ExpressionError", "language", "length", "limited_states", "texts"]

#: The most states of an automaton, and the longest expression that is written for one.
MOST_STATES, LONGEST = 400, 8000
#: The most states of all automata that are built for one schema; they take a fraction of a millisecond each.
MOST_STATES_IN_ALL = 12_000

_left: ContextVar[list[int] | None] = ContextVar("states left", default=None)


@contextmanager
def limited_states() -> Iterator[None]:
    """Limit the states of all automata that are built in this context to MOST_STATES_IN_ALL."""
    token = _left.set([MOST_STATES_IN_ALL])
    try:
        yield
    finally:
        _left.reset(token)


#: The transitions of a state: (the first code point of a range, where the range leads to). The ranges cover everything.
Runs: TypeAlias = tuple[tuple[int, int], ...]


class Language:
    """A set of strings: a complete deterministic automaton that starts in state 0."""

    def __init__(self, runs: list[Runs], accepting: list[bool]) -> None:
        left = _left.get()
        if left is not None:
            left[0] -= len(runs)
            if left[0] < 0:
                raise ExpressionError("the schema's expressions have too many states in all")
        self._runs, self._accepting = _minimal(runs, accepting)

    def __contains__(self, text: str) -> bool:
        state = 0
        for character in text:
            state = next(to for low, to in reversed(self._runs[state]) if low <= ord(character))
        return self._accepting[state]

    @property
    def empty(self) -> bool:
        """Whether the set has no string."""
        return not any(self._accepting)

    def __invert__(self) -> Language:
        return Language(list(self._runs), [not one for one in self._accepting])

    def __and__(self, other: Language) -> Language:
        return self._joined(other, lambda one, two: one and two)

    def __or__(self, other: Language) -> Language:
        return self._joined(other, lambda one, two: one or two)

    def _joined(self, other: Language, accepts: Callable[[bool, bool], bool]) -> Language:
        numbers, runs, accepting = {(0, 0): 0}, [], []
        for one, two in (waiting := [(0, 0)]):
            made = []
            for low, targets in _merged(self._runs[one], other._runs[two]):
                if targets not in numbers:
                    numbers[targets] = len(numbers)
                    waiting.append(targets)
                made.append((low, numbers[targets]))
            if len(numbers) > MOST_STATES:
                raise ExpressionError(f"more than {MOST_STATES} states")
            runs.append(_shortened(made))
            accepting.append(accepts(self._accepting[one], other._accepting[two]))
        return Language(runs, accepting)

    def expression(self) -> str:
        """A regular expression in Rust's syntax with an anchor at both ends, for the strings that can be generated.

        Raises:
            ExpressionError: it would be longer than LONGEST, or the set is empty.
        """
        found = _eliminated(self._runs, self._accepting)
        if found is None or len(found) > LONGEST:
            raise ExpressionError("no string, or no short expression")
        return f"^(?:{found})$"


@lru_cache(maxsize=1024)
def language(pattern: str, *, wide: bool = False) -> Language:
    """The strings in which a pattern matches somewhere.

    Args:
        pattern: a regular expression as JSON Schema has them.
        wide: whether to read what engines disagree on as widely as any of them; otherwise as narrowly as any.

    Raises:
        ExpressionError: an expression that cannot be read, or that has too many states.
    """
    return _automaton(read(pattern, wide=wide))


def length(least: int, most: int | None) -> Language:
    """The strings of `least` to `most` characters; `most` is None if there is no limit.

    Raises:
        ExpressionError: too many states.
    """
    if max(least, most or 0) > MOST_STATES - 2:
        raise ExpressionError("too many characters")
    last = (least if most is None else most + 1) if most is not None or least else 0
    runs: list[Runs] = [((0, min(state + 1, last)),) for state in range(last + 1)]
    accepting = [state >= least and (most is None or state <= most) for state in range(last + 1)]
    return Language(runs, accepting)


def texts(listed: Iterable[str]) -> Language:
    """These strings alone.

    Raises:
        ExpressionError: too many characters in all.
    """
    options = [Sequence(tuple(One(((ord(character), ord(character)),)) for character in text)) for text in listed]
    return _automaton(Either(tuple(options)))


def _automaton(tree: Tree) -> Language:
    """The language of a tree."""
    builder = _Builder()
    start, end = builder.state(), builder.state()
    builder.add(tree, start, end)
    return builder.determined(start, end)


class _Builder:
    """A nondeterministic automaton under construction."""

    def __init__(self) -> None:
        self.edges: list[list[tuple[Characters, int]]] = []
        self.empty: list[list[int]] = []

    def state(self) -> int:
        """A new state."""
        if len(self.edges) > 20 * MOST_STATES:
            raise ExpressionError("too many states")
        self.edges.append([])
        self.empty.append([])
        return len(self.edges) - 1

    def add(self, tree: Tree, start: int, end: int) -> None:
        """Add the ways of a tree from one state to another."""
        if isinstance(tree, One):
            self.edges[start].append((tree.ranges, end))
        elif isinstance(tree, Sequence):
            for item in tree.items[:-1]:
                middle = self.state()
                self.add(item, start, middle)
                start = middle
            self.add(tree.items[-1], start, end) if tree.items else self.empty[start].append(end)
        elif isinstance(tree, Either):
            for option in tree.options:
                self.add(option, start, end)
        elif isinstance(tree, Times):
            self._times(tree, start, end)
        elif isinstance(tree, Both):
            self._embed(_automaton(tree.one) & _automaton(tree.other), start, end)
        elif isinstance(tree, Not):
            self._embed(~_automaton(tree.tree), start, end)
        else:
            raise ExpressionError("an anchor or a look-ahead inside the expression")

    def _times(self, tree: Times, start: int, end: int) -> None:
        for _ in range(tree.least):
            middle = self.state()
            self.add(tree.tree, start, middle)
            start = middle
        if tree.most is None:
            loop = self.state()  # nothing else may lead back into the loop
            self.empty[start].append(loop)
            self.add(tree.tree, loop, loop)
            self.empty[loop].append(end)
            return
        self.empty[start].append(end)
        for _ in range(tree.most - tree.least):
            middle = self.state()
            self.add(tree.tree, start, middle)
            self.empty[middle].append(end)
            start = middle

    def _embed(self, made: Language, start: int, end: int) -> None:
        states = [self.state() for _ in made._runs]
        self.empty[start].append(states[0])
        for state, runs, accepts in zip(states, made._runs, made._accepting, strict=True):
            for ranges, target in _by_target(runs):
                self.edges[state].append((ranges, states[target]))
            if accepts:
                self.empty[state].append(end)

    def determined(self, start: int, end: int) -> Language:
        """The deterministic automaton."""
        lows, kinds, members = _kinds({ranges for edges in self.edges for ranges, _ in edges})
        first = self._closed([start])
        numbers, runs, accepting = {first: 0}, [], []
        for states in (waiting := [first]):
            targets: list[list[int]] = [[] for _ in range(max(kinds) + 1)]
            for state in states:
                for ranges, to in self.edges[state]:
                    for kind in members[ranges]:
                        targets[kind].append(to)
            found = []
            for each in targets:
                closed = self._closed(each)
                if closed not in numbers:
                    numbers[closed] = len(numbers)
                    waiting.append(closed)
                    if len(numbers) > MOST_STATES:
                        raise ExpressionError(f"more than {MOST_STATES} states")
                found.append(numbers[closed])
            runs.append(_shortened([(low, found[kind]) for low, kind in zip(lows, kinds, strict=True)]))
            accepting.append(end in states)
        return Language(runs, accepting)

    def _closed(self, states: list[int]) -> frozenset[int]:
        found = set(states)
        waiting = list(found)
        while waiting:
            for target in self.empty[waiting.pop()]:
                if target not in found:
                    found.add(target)
                    waiting.append(target)
        return frozenset(found)


def _kinds(sets: set[Characters]) -> tuple[list[int], list[int], dict[Characters, list[int]]]:
    """Characters that no set tells apart are of one kind.

    Returns:
        (the first code points of ranges that cover everything, the kind of each range, the kinds in each set).
    """
    lows = sorted({0} | {low for each in sets for low, _ in each} | {high + 1 for each in sets for _, high in each})
    lows = [low for low in lows if low <= 0x10FFFF]
    place = {low: index for index, low in enumerate(lows)}
    inside: list[list[Characters]] = [[] for _ in lows]
    for each in sets:
        for low, high in each:
            for index in range(place[low], place.get(high + 1, len(lows))):
                inside[index].append(each)
    numbers: dict[tuple[Characters, ...], int] = {}
    kinds = [numbers.setdefault(tuple(each), len(numbers)) for each in inside]
    members: dict[Characters, list[int]] = {each: [] for each in sets}
    for key, number in numbers.items():
        for each in key:
            members[each].append(number)
    return lows, kinds, members


def _merged(one: Runs, two: Runs) -> list[tuple[int, tuple[int, int]]]:
    """The runs of a pair of states, each leading to a pair."""
    made, i, j = [], 0, 0
    for low in sorted({low for low, _ in (*one, *two)}):
        i += i + 1 < len(one) and one[i + 1][0] == low
        j += j + 1 < len(two) and two[j + 1][0] == low
        made.append((low, (one[i][1], two[j][1])))
    return made


def _shortened(runs: list[tuple[int, int]]) -> Runs:
    """The runs with neighbours that lead to the same state joined."""
    return tuple(run for i, run in enumerate(runs) if not i or runs[i - 1][1] != run[1])


def _minimal(runs: list[Runs], accepting: list[bool]) -> tuple[list[Runs], list[bool]]:
    """The same automaton with equivalent states joined; state 0 stays the first."""
    block, count = [int(one) for one in accepting], len(set(accepting))
    while True:
        keys: dict[object, int] = {}
        new = []
        for state, own in enumerate(runs):
            key = block[state], _shortened([(low, block[to]) for low, to in own])
            new.append(keys.setdefault(key, len(keys)))
        block = new
        if len(keys) == count:
            break
        count = len(keys)
    order = {number: state for state, number in reversed(list(enumerate(block)))}  # block 0 is that of state 0
    chosen = [order[number] for number in range(count)]
    made = [_shortened([(low, block[to]) for low, to in runs[state]]) for state in chosen]
    return made, [accepting[state] for state in chosen]


def _by_target(runs: Runs) -> list[tuple[Characters, int]]:
    """The transitions of a state as (characters, target)."""
    found: dict[int, list[tuple[int, int]]] = {}
    for i, (low, target) in enumerate(runs):
        high = runs[i + 1][0] - 1 if i + 1 < len(runs) else 0x10FFFF
        found.setdefault(target, []).append((low, high))
    return [(complement(complement(tuple(ranges))), target) for target, ranges in found.items()]


def _eliminated(runs: list[Runs], accepting: list[bool]) -> str | None:
    """The expression of an automaton by eliminating its states one by one; None for the empty set."""
    start, end = -1, -2
    ways: dict[int, dict[int, str]] = {start: {0: ""}, end: {}}
    for state, own in enumerate(runs):
        ways[state] = {to: found for ranges, to in _by_target(own) if (found := written(ranges)) != "[]"}
        if accepting[state]:
            ways[state][end] = ""
    useful = {end}
    while more := {state for state, to in ways.items() if state not in useful and to.keys() & useful}:
        useful |= more
    if start not in useful:
        return None
    ways = {state: {to: by for to, by in own.items() if to in useful} for state, own in ways.items() if state in useful}
    while left := [state for state in ways if state >= 0]:
        into = {state: [one for one in ways if one != state and state in ways[one]] for state in left}
        state = min(left, key=lambda one: (len(into[one]) * len(ways[one]), one))
        leaving = ways.pop(state)
        loop = leaving.pop(state, None)
        for before in into[state]:
            head = ways[before].pop(state)
            for after, tail in leaving.items():
                made = _followed(head, "" if loop is None else f"(?:{loop})*", tail)
                known = ways[before].get(after)
                ways[before][after] = made if known is None else _alternative(known, made)
                if len(ways[before][after]) > 4 * LONGEST:
                    raise ExpressionError("no short expression")
    return ways[start].get(end)


def _alternative(one: str, other: str) -> str:
    if not one or not other:
        return f"(?:{one or other})?"
    return f"(?:{one}|{other})"


def _followed(*parts: str) -> str:
    return "".join(parts)
