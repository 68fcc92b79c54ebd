"""How many rows of V logits are evaluated at once: few enough for the memory, in few sizes to compile for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

#: The numbers of rows that programs are compiled for; a block is padded to the next one.
BUCKETS = (1, 8, 64)
#: The most logits that are evaluated at once. About ten arrays of this size exist on the way.
NUMBERS = 2**22


def bucket(count: int) -> int:
    """The number of rows that a block of `count` rows is padded to."""
    return next((size for size in BUCKETS if size >= count), count)


def block_size(V: int) -> int:
    """The largest bucket whose rows of V logits fit into `NUMBERS`; at least 1."""
    return max(size for size in BUCKETS if size == 1 or size * V <= NUMBERS)


def blocks(items: Sequence[Item], *, V: int) -> Iterator[Sequence[Item]]:
    """The items in order, in blocks of at most `block_size(V)`."""
    size = block_size(V)
    for at in range(0, len(items), size):
        yield items[at : at + size]
