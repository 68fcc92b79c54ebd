"""Reads regular expressions of JSON schemas into trees.

Anchors and look-aheads are resolved while reading, so that a tree stands for a set of whole strings: those in which the
expression matches somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from llmlab.grammar.characters import ANY, CLASSES, Characters, characters, complement, union

#: The largest number of repetitions that are written out.
MOST_REPETITIONS = 300


class ExpressionError(ValueError):
    """A regular expression that cannot be read, or that has too many states."""


@dataclass(frozen=True)
class One:
    """One character of a set."""

    ranges: Characters


@dataclass(frozen=True)
class Sequence:
    """Trees one after the other; the empty text if there are none."""

    items: tuple[Tree, ...]


@dataclass(frozen=True)
class Either:
    """At least one of the trees; nothing if there are none."""

    options: tuple[Tree, ...]


@dataclass(frozen=True)
class Both:
    """The strings of both trees."""

    one: Tree
    other: Tree


@dataclass(frozen=True)
class Not:
    """The strings that a tree does not have."""

    tree: Tree


@dataclass(frozen=True)
class Times:
    """A tree `least` to `most` times; `most` is None if there is no limit."""

    tree: Tree
    least: int
    most: int | None


@dataclass(frozen=True)
class Anchor:
    """The start ("^") or the end ("$") of the string; only until it is resolved.

    For some engines, the end is also the place before a last line break; `wide` says whether it counts here.
    """

    sign: str
    wide: bool = False


@dataclass(frozen=True)
class Ahead:
    """A look-ahead; only until it is resolved."""

    tree: Tree
    negative: bool


Tree: TypeAlias = One | Sequence | Either | Both | Not | Times | Anchor | Ahead

EVERYTHING = Times(One(ANY), 0, None)
EMPTY = Sequence(())


def read(pattern: str, *, wide: bool) -> Tree:
    """The strings in which a pattern matches somewhere.

    Args:
        pattern: a regular expression as JSON Schema has them.
        wide: whether to read what engines disagree on as widely as any of them; otherwise as narrowly as any.

    Raises:
        ExpressionError: a back reference, a word boundary, a look-behind, or an anchor or look-ahead that is neither
            at the start nor at the end.
    """
    reader = _Reader(pattern)
    tree = reader.alternation(wide)
    if reader.at < len(pattern):
        raise ExpressionError(f"unexpected {pattern[reader.at]!r}")
    return _resolved(_from_start(tree))


def _from_start(tree: Tree) -> Tree:
    """A tree that begins at the start of the string: anchored there, or after any text."""
    if isinstance(tree, Either):
        return Either(tuple(map(_from_start, tree.options)))
    items = tree.items if isinstance(tree, Sequence) else (tree,)
    if items and isinstance(items[0], Either | Sequence):
        return Sequence((_from_start(items[0]), *items[1:]))
    first = next((i for i, item in enumerate(items) if not isinstance(item, Anchor | Ahead)), len(items))
    if Anchor("^") in items[:first]:
        ahead = [_unanchored(item) if isinstance(item, Ahead) else item for item in items[:first]]
        return Sequence(tuple(item for item in (*ahead, *items[first:]) if item != Anchor("^")))
    return Sequence((EVERYTHING, *items))


def _unanchored(ahead: Ahead) -> Ahead:
    """A look-ahead at the start of the string without "^" at its own start, where that says nothing."""

    def without(tree: Tree) -> Tree:
        if isinstance(tree, Either):
            return Either(tuple(map(without, tree.options)))
        if isinstance(tree, Sequence) and tree.items:
            head = without(tree.items[0])
            return Sequence(((EMPTY if head == Anchor("^") else head), *tree.items[1:]))
        return EMPTY if tree == Anchor("^") else tree

    return replace(ahead, tree=without(ahead.tree))


def _resolved(tree: Tree) -> Tree:
    """A tree that ends at the end of the string: anchored there, or followed by any text."""
    if isinstance(tree, Either):
        return Either(tuple(map(_resolved, tree.options)))
    items = tree.items if isinstance(tree, Sequence) else (tree,)
    for i, item in enumerate(items):
        if isinstance(item, Ahead):
            rest, inner = _resolved(Sequence(items[i + 1 :])), _resolved(item.tree)
            both = Both(rest, Not(inner) if item.negative else inner)
            return Sequence((*map(_plain, items[:i]), both))
    if items and isinstance(items[-1], Either | Sequence):
        return Sequence((*map(_plain, items[:-1]), _resolved(items[-1])))
    if items and _is_end(items[-1]):
        kept = list(items)
        while kept and _is_end(kept[-1]):
            kept.pop()
        wide = any(isinstance(item, Anchor) and item.wide for item in items[len(kept) :])
        return Sequence((*map(_plain, kept), *([Times(One(characters("\n")), 0, 1)] if wide else [])))
    return Sequence((*map(_plain, items), EVERYTHING))


def _is_end(tree: Tree) -> bool:
    return isinstance(tree, Anchor) and tree.sign == "$"


def _plain(tree: Tree) -> Tree:
    """The tree, if it has no anchor and no look-ahead.

    Raises:
        ExpressionError: it has.
    """
    if isinstance(tree, Anchor | Ahead):
        raise ExpressionError("an anchor or a look-ahead inside the expression")
    if isinstance(tree, Sequence):
        return Sequence(tuple(map(_plain, tree.items)))
    if isinstance(tree, Either):
        return Either(tuple(map(_plain, tree.options)))
    return replace(tree, tree=_plain(tree.tree)) if isinstance(tree, Times) else tree


_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_LENGTHS = {"x": 2, "u": 4}


class _Reader:
    """A recursive-descent reader; `at` is the place in the pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self._depth = 0

    def alternation(self, wide: bool) -> Tree:
        """Sequences with "|" between them, up to ")" or the end."""
        options = [self._sequence(wide)]
        while self._take("|"):
            options.append(self._sequence(wide))
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _sequence(self, wide: bool) -> Tree:
        items = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            items.append(self._quantified(self._atom(wide)))
        return Sequence(tuple(items))

    def _quantified(self, tree: Tree) -> Tree:
        bounds = self._bounds()
        if bounds is None:
            return tree
        self._take("?")  # a lazy quantifier matches the same strings
        if isinstance(tree, Anchor | Ahead) or self._bounds() is not None or self._take("+"):
            raise ExpressionError("a quantifier after an anchor, a look-ahead or a quantifier")
        least, most = bounds
        if max(least, most or 0) > MOST_REPETITIONS or (most is not None and most < least):
            raise ExpressionError("too many repetitions")
        return Times(tree, least, most)

    def _bounds(self) -> tuple[int, int | None] | None:
        """The repetitions that a quantifier asks for; None if there is none here."""
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        if self._peek() != "{":
            return None
        inner, closed, _ = self.pattern[self.at + 1 :].partition("}")
        least, comma, most = inner.partition(",")
        if not closed or not least.isdecimal() or not (most.isdecimal() or not most) or not inner.isascii():
            raise ExpressionError("a brace that is no quantifier")
        self.at += len(inner) + 2
        return int(least), (int(most) if most else None) if comma else int(least)

    def _atom(self, wide: bool) -> Tree:
        sign = self.pattern[self.at]
        self.at += 1
        if sign == "(":
            return self._group(wide)
        if sign == "[":
            return One(self._class(wide))
        if sign in "^$":
            return Anchor(sign, wide and sign == "$")
        if sign == ".":
            return One(CLASSES["."][wide])
        if sign == "\\":
            return One(self._escape(wide))
        if sign in "*+?{":
            raise ExpressionError("a quantifier with nothing before it")
        return One(characters(sign))

    def _group(self, wide: bool) -> Tree:
        self._depth += 1
        if self._depth > 100:
            raise ExpressionError("groups nested too deeply")
        negative: bool | None = None
        if self._take("?"):
            if self._take("=") or self._take("!"):
                negative = self.pattern[self.at - 1] == "!"
            elif self._take("<") and self._peek() not in ("=", "!") and ">" in self.pattern[self.at :]:
                self.at = self.pattern.index(">", self.at) + 1
            elif self.pattern[self.at - 1] == "<" or not self._take(":"):
                raise ExpressionError("a kind of group that is not supported")
        # What a negative look-ahead excludes must be read the other way.
        tree = self.alternation(wide ^ (negative is True))
        if not self._take(")"):
            raise ExpressionError("a group without an end")
        self._depth -= 1
        return tree if negative is None else Ahead(tree, negative)

    def _class(self, wide: bool) -> Characters:
        negated = self._take("^")
        found: list[Characters] = []
        if self._peek() == "]":
            raise ExpressionError("an empty character class, or one that begins with ]")
        while not self._take("]"):
            ranges = self._class_member(wide ^ negated)
            if self._peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self._class_member(wide ^ negated)
                if not (_single(ranges) and _single(last)) or last[0][0] < ranges[0][0]:
                    raise ExpressionError("a range that is none")
                ranges = ((ranges[0][0], last[0][0]),)
            found.append(ranges)
        return complement(union(found)) if negated else union(found)

    def _class_member(self, wide: bool) -> Characters:
        if self.at >= len(self.pattern):
            raise ExpressionError("a character class without an end")
        sign = self.pattern[self.at]
        self.at += 1
        if sign == "\\":
            if self._take("b"):
                return characters("\b")
            return self._escape(wide)
        return characters(sign)

    def _escape(self, wide: bool) -> Characters:
        sign = self._peek()
        self.at += 1
        if sign in CLASSES and sign != ".":
            return CLASSES[sign][wide]
        if sign == "0" and self._peek().isdigit():
            raise ExpressionError("an octal escape")
        if sign in _ESCAPES:
            return characters(_ESCAPES[sign])
        if sign in _LENGTHS:
            length = _LENGTHS[sign]
            digits = self.pattern[self.at : self.at + length]
            if self._take("{"):
                raise ExpressionError("an escape with braces")
            self.at += length
            try:
                point = int(digits, 16)
            except ValueError:
                raise ExpressionError("an escape without its digits") from None
            if len(digits) < length or 0xD800 <= point < 0xE000:
                raise ExpressionError("an escape that is no character")
            return ((point, point),)
        if not sign or sign.isalnum() or not sign.isascii():
            raise ExpressionError(f"the escape \\{sign}")
        return characters(sign)

    def _peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _take(self, sign: str) -> bool:
        if self._peek() != sign:
            return False
        self.at += 1
        return True


def _single(ranges: Characters) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
