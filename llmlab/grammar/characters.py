r"""Sets of characters as sorted, disjoint ranges of code points, and the sets that escapes such as `\w` stand for.

Regular-expression engines disagree on `\w`, `\d`, `\s` and `.`. Each has two sets here: a *narrow* one, on whose
members all engines agree, and a *wide* one, outside of which no engine finds a match.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

#: Ranges of code points, both ends included.
Characters: TypeAlias = tuple[tuple[int, int], ...]

_LAST = 0x10FFFF
_BEYOND_ASCII = (0x80, _LAST)


def union(sets: Iterable[Characters]) -> Characters:
    """The characters that are in at least one of the sets."""
    made: list[tuple[int, int]] = []
    for low, high in sorted(one for ranges in sets for one in ranges):
        if made and low <= made[-1][1] + 1:
            made[-1] = made[-1][0], max(made[-1][1], high)
        else:
            made.append((low, high))
    return tuple(made)


def complement(ranges: Characters) -> Characters:
    """The characters that are not in a set. Halves of surrogate pairs are no characters."""
    made, at = [], 0
    for low, high in union([ranges, ((0xD800, 0xDFFF),)]):
        if at < low:
            made.append((at, low - 1))
        at = high + 1
    return (*made, *([(at, _LAST)] if at <= _LAST else []))


def intersection(some: Characters, others: Characters) -> Characters:
    """The characters that are in both sets."""
    return complement(union([complement(some), complement(others)]))


def characters(text: str) -> Characters:
    """The set of these characters."""
    return union([((ord(character), ord(character)),) for character in text])


ANY: Characters = complement(())
_WORD = union([((48, 57), (65, 90), (97, 122)), characters("_")])
_SPACE = union([((9, 13),), characters(" ")])

#: For each escape, and for the dot: its narrow and its wide set.
CLASSES: dict[str, tuple[Characters, Characters]] = {
    "w": (_WORD, union([_WORD, (_BEYOND_ASCII,)])),
    "d": (((48, 57),), ((48, 57), _BEYOND_ASCII)),
    "s": (_SPACE, union([_SPACE, ((28, 31),), (_BEYOND_ASCII,)])),
    ".": (complement(characters("\n\r\u2028\u2029")), complement(characters("\n"))),
}
CLASSES |= {name.upper(): (complement(CLASSES[name][1]), complement(CLASSES[name][0])) for name in "wds"}

#: The characters that can be generated in a string: of the control characters, only those with a short escape.
WRITABLE: Characters = complement(((0, 7), (11, 11), (14, 31)))


def written(ranges: Characters) -> str:
    """A character class in Rust's syntax; it holds only characters that can be generated."""
    found = intersection(ranges, WRITABLE)
    return "[" + "".join(_code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in found) + "]"


def _code(point: int) -> str:
    return chr(point) if chr(point).isascii() and chr(point).isalnum() else f"\\x{{{point:x}}}"
