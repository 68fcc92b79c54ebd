"""The trie by itself: what it finds, what it forgets first, and what it never forgets."""

from __future__ import annotations

import random

from llmlab.engine.prefix_store import PrefixStore


def put(store, text, *, size=1):
    """Adds the pieces of a text, one letter each, that are not there; returns how many were."""
    path = store.find(text)
    node = path[-1] if path else None
    for letter in text[len(path) :]:
        node = store.add(node, letter, letter, size=size)
        if node is None:
            break
    return len(path)


def found(store, text):
    return "".join(node.value for node in store.find(text))


def test_the_longest_beginning_is_found():
    store = PrefixStore(100)
    assert [put(store, text) for text in ("abcd", "abxy", "abcz", "b", "abcd")] == [0, 2, 3, 0, 4]
    assert len(store) == store.size == 8
    assert [found(store, text) for text in ("abcde", "abq", "xa", "bcd", "")] == ["abcd", "ab", "", "b", ""]


def test_the_least_recently_used_leaf_goes_first():
    store = PrefixStore(6)
    put(store, "abc")
    put(store, "xyz")
    put(store, "abc")
    put(store, "q")  # in place of z
    assert (found(store, "abc"), found(store, "xyz"), found(store, "q")) == ("abc", "xy", "q")
    put(store, "rstu")  # in place of c, b, a and y, which were asked for before q
    assert store.size == 6 and found(store, "rstu") == "rstu"
    assert (found(store, "abc"), found(store, "xyz"), found(store, "q")) == ("", "x", "q")


def test_what_is_in_use_stays_with_all_before_it():
    store = PrefixStore(4)
    put(store, "ab")
    held = store.find("ab")[-1]
    store.hold(held)
    put(store, "xyz")
    assert found(store, "xyz") == "xy" and found(store, "ab") == "ab"
    store.limit(0)
    assert (found(store, "xyz"), found(store, "ab")) == ("", "ab")
    store.release(held)
    store.limit(0)
    assert (len(store), store.size, found(store, "ab")) == (0, 0, "")


def test_a_piece_that_is_larger_than_the_store_is_not_kept_and_costs_nothing():
    store = PrefixStore(3)
    put(store, "ab")
    assert store.add(None, "x", "x", size=4) is None
    assert found(store, "ab") in ("ab", "")


def test_the_same_piece_twice_is_kept_once():
    """Two that read one prompt at the same time both add it."""
    store = PrefixStore(10)
    first = store.add(None, "a", "first", size=2)
    assert store.add(None, "a", "second", size=2) is first
    assert (store.size, first.value) == (2, "first")


def test_whatever_happens_it_is_a_tree_within_its_limit():
    random.seed(0)
    store = PrefixStore(30)
    held = []
    for turn in range(3000):
        put(store, "".join(random.choices("abc", k=random.randint(0, 7))), size=random.randint(1, 3))
        if random.random() < 0.1 and (path := store.find("".join(random.choices("abc", k=5)))):
            store.hold(path[-1])
            held.append(path[-1])
        if held and random.random() < 0.12:
            store.release(held.pop(0))
        if turn % 500 == 499:
            store.limit(random.randint(10, 30))
        in_use = sum(len(path_of(node)) for node in held)
        assert store.size <= store._limit or in_use
        assert store.size == sum(node.size for node in store._nodes)
        for node in store._nodes:
            siblings = store._roots if node.parent is None else node.parent.children
            assert siblings[node.key] is node and (node.parent is None or node.parent in store._nodes)


def path_of(node):
    return [node, *path_of(node.parent)] if node else []
