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


def tempered(logits, temperature=1.0, top_p=1.0):
    """Log-probabilities by temperature and nucleus, in float64; of equal tokens the first one is kept first."""
    logprobs = logits / temperature - np.logaddexp.reduce(logits / temperature)
    order = np.argsort(-logprobs, kind="stable")
    before = np.cumsum(np.exp(logprobs[order])) - np.exp(logprobs[order])
    kept = np.zeros(len(logits), bool)
    kept[order[before < top_p]] = True
    logprobs = np.where(kept, logprobs, -np.inf)
    return logprobs - np.logaddexp.reduce(logprobs)


class Answers:
    """The answers of a `Table` under several settings, as `BestFirst` looks through them.

    Args:
        table: the raw logits.
        settings: keyword arguments of `tempered`, one distribution each.
        max_tokens: the most tokens.
        grammar: path -> which tokens may follow; each setting then has a distribution with it, and one without.
        complete: path -> whether its text ends it.
    """

    def __init__(self, table, settings=({},), *, max_tokens=4, grammar=None, complete=None):
        self.table, self.settings, self.max_tokens = table, list(settings), max_tokens
        self.grammar, self.complete, self.ends = grammar, complete, table.ends
        self.distributions = len(self.settings) * (2 if grammar else 1)
        self.passes, self.most, self.broken_at = 0, 0, None

    def start(self):
        self.passes += 1
        self._paths = [()]
        return self.table.of(()).astype(np.float32)

    def advance(self, parents, tokens):
        if self.passes == self.broken_at:
            raise KeyboardInterrupt
        self.passes += 1
        self.most = max(self.most, len(parents))
        assert max(parents) < len(self._paths)
        self._paths = [
            (*self._paths[p], int(t)) if t >= 0 else self._paths[p] for p, t in zip(parents, tokens, strict=True)
        ]
        return np.stack([self.table.of(path) for path in self._paths]).astype(np.float32)

    def allowed(self, made):
        return self.grammar(tuple(made)) if self.grammar else None

    def logprobs(self, which, raw, made, allowed):
        setting, free = self.settings[which % len(self.settings)], which >= len(self.settings)
        return np.stack(
            [self.of(setting, tuple(path), free=free, raw=row) for path, row in zip(made, raw, strict=True)]
        )

    def of(self, setting, path, *, free=False, raw=None):
        """The log-probabilities of what follows a path."""
        raw = self.table.of(path).astype(np.float32) if raw is None else raw
        logits, allowed = raw.astype(np.float64), self.allowed(path)
        if allowed is None:
            return tempered(logits, **setting)
        if free:
            return np.where(allowed, tempered(logits, **setting), -np.inf)
        if not allowed.any():
            return np.full(len(logits), -np.inf)
        return tempered(np.where(allowed, logits, -np.inf), **setting)

    def is_complete(self, made):
        return bool(self.complete and self.complete(tuple(made)))

    def every(self, setting, *, free=False):
        """Every whole answer with a probability -> its log-probability, by listing all of them."""
        found, open_ = {}, {(): 0.0}
        while open_:
            path, reach = open_.popitem()
            if self.grammar and not self.allowed(path).any():
                found[path] = reach
                continue
            for token, logprob in enumerate(self.of(setting, path, free=free)):
                if logprob == -np.inf:
                    continue
                child = (*path, token)
                whole = token in self.ends or len(child) == self.max_tokens or self.is_complete(child)
                (found if whole else open_)[child] = reach + logprob
        return found
