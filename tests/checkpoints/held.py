"""A source of tensors in memory, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Held:
    """Tensors by name; `rows` notes how many rows of which were read."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors = tensors
        self.rows: list[tuple[str, int]] = []

    def names(self):
        return self.tensors.keys()

    def shape(self, name):
        return self.tensors[name].shape

    def stored_as(self, name):
        return "F32"

    def read(self, name, rows=None):
        some = self.tensors[name][rows or slice(None)].copy()
        self.rows.append((name, len(some)))
        return some

    def close(self):
        pass
