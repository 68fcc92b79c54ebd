"""Spaces that are small enough to list: a table of random log-probabilities over a few tokens."""

import itertools
import math

import numpy as np


class Table:
    """A space whose nodes have random log-probabilities, fixed by a number and the node's path.

    The last `ends` tokens end a sequence.
    """

    def __init__(self, number, *, V=3, ends=1, spread=1.5, forbidden=0.0):
        self.number, self.V, self.spread, self.forbidden = number, V, spread, forbidden
        self.ends = frozenset(range(V - ends, V))
        self.most = 0  #: the most nodes of a step
        self._known = {}

    def of(self, path):
        if path not in self._known:
            rng = np.random.default_rng([self.number, len(path), *path])
            logits = rng.normal(0, self.spread, self.V)
            gone = rng.random(self.V) < self.forbidden
            logits[gone & (np.arange(self.V) != rng.integers(self.V))] = -np.inf
            self._known[path] = logits - np.logaddexp.reduce(logits)
        return self._known[path]

    def start(self):
        self._paths = [()]
        return self.of(())

    def advance(self, parents, tokens):
        self._paths = [(*self._paths[p], int(t)) for p, t in zip(parents, tokens, strict=True)]
        self.most = max(self.most, len(self._paths))
        return np.stack([self.of(path) for path in self._paths])

    def sequences(self, max_tokens):
        """Every whole sequence with a probability -> its log-probability."""
        found = {}
        for length in range(1, max_tokens + 1):
            for path in itertools.product(range(self.V), repeat=length):
                whole = path[-1] in self.ends or length == max_tokens
                if whole and not self.ends.intersection(path[:-1]):
                    found[path] = sum(float(self.of(path[:at])[path[at]]) for at in range(length))
        assert math.isclose(sum(map(math.exp, found.values())), 1.0)
        return {path: logprob for path, logprob in found.items() if logprob > -math.inf}
