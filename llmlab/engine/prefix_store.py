"""The prefixes of texts that were read before: a trie of pieces with a budget in bytes. Host only, and no device.

A text is read in pieces whose borders depend on the position alone (`prefill.pieces`), so that two texts which begin
alike are cut alike as far as they agree. A node of the trie is one such piece: its token ids, and the cache entries
that the model computed for them after the pieces on the way to it. A piece matches if all of its ids do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class Node(Generic[T]):
    """A piece that was read after those on the way to it."""

    key: Hashable
    value: T
    size: int  #: bytes
    parent: Node[T] | None
    children: dict[Hashable, Node[T]] = field(default_factory=dict)
    uses: int = 0  #: how many readings go on from this node


class PrefixStore(Generic[T]):
    """Keeps what was computed for pieces of texts; forgets the least recently used first.

    Only leaves are forgotten, so that each piece's predecessors are always there, and no node that is in use.

    Args:
        limit: bytes that all values together may take.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._roots: dict[Hashable, Node[T]] = {}
        # Least recently used first. A node comes before those on the way to it, so that the first one is a leaf.
        self._nodes: OrderedDict[Node[T], None] = OrderedDict()
        self.size = 0  #: the bytes of all values

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node[T]]:
        """All nodes, the least recently used first."""
        return iter(self._nodes)

    def find(self, keys: Iterable[Hashable]) -> list[Node[T]]:
        """Returns the nodes of the longest beginning of a text that is here, given its pieces' keys in order."""
        path: list[Node[T]] = []
        children = self._roots
        for key in keys:
            node = children.get(key)
            if node is None:
                break
            path.append(node)
            children = node.children
        self._touch(path[-1] if path else None)
        return path

    def add(self, parent: Node[T] | None, key: Hashable, value: T, *, size: int) -> Node[T] | None:
        """Keeps a piece after `parent` (None: a text's first); returns its node, or None where there is no room."""
        siblings = self._roots if parent is None else parent.children
        node = siblings.get(key)
        if node is None:
            self.hold(parent)  # not to be forgotten for its own child
            self._shrink(self._limit - size)
            self.release(parent)
            if self.size + size > self._limit:
                return None
            node = siblings[key] = Node(key, value, size, parent)
            self.size += size
        self._touch(node)
        return node

    def hold(self, node: Node[T] | None) -> None:
        """Keeps a node, and with it those on the way to it, until it is released."""
        if node is not None:
            node.uses += 1

    def release(self, node: Node[T] | None) -> None:
        """Takes back a `hold`."""
        if node is not None:
            node.uses -= 1

    def limit(self, size: int) -> None:
        """Sets the bytes that all values together may take, and forgets what exceeds them."""
        self._limit = size
        self._shrink(size)

    def clear(self) -> None:
        """Forgets everything."""
        self._roots.clear()
        self._nodes.clear()
        self.size = 0

    def _touch(self, node: Node[T] | None) -> None:
        while node is not None:
            self._nodes[node] = None
            self._nodes.move_to_end(node)
            node = node.parent

    def _shrink(self, size: int) -> None:
        while self.size > size:
            leaf = next((node for node in self._nodes if not node.children and not node.uses), None)
            if leaf is None:
                return
            del self._nodes[leaf]
            siblings = self._roots if leaf.parent is None else leaf.parent.children
            del siblings[leaf.key]
            self.size -= leaf.size
