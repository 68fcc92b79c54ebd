"""Rows to submit, and readers of tickets."""

import numpy as np

from llmlab.engine.scheduler import Row
from llmlab.sampling.params import SamplingParams

END = 258


def row(prompt="Once upon a time", *, budget=40, ignore_ends=False, **params):
    ids = np.frombuffer(prompt.encode(), np.uint8).astype(np.int32)
    return Row(ids, SamplingParams(**{"seed": 11, **params}), budget=budget, ignore_ends=ignore_ends)


def read(ticket, count):
    """Every row's tokens, figures and finish, run to the end."""
    tokens, figures, finish = [[] for _ in range(count)], [[] for _ in range(count)], [None] * count
    for block in ticket:
        for piece in block:
            tokens[piece.row] += piece.tokens.tolist()
            figures[piece.row].append(piece.figures)
            finish[piece.row] = piece.finish
    joined = [
        [np.concatenate([np.asarray(getattr(f, name)) for f in parts]) for name in parts[0]._fields] if parts else []
        for parts in figures
    ]
    return tokens, joined, finish


def run(engine, *rows, **options):
    return read(engine.submit(rows, **options), len(rows))
