"""Asks several prompts in one batch, as a sweep over the prompts alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from llmlab.errors import RequestError
from llmlab.protocol.arguments import order_name
from llmlab.protocol.request import Request
from llmlab.results.result import Result
from llmlab.sweeps.grid import SEEDS, Cell, Grid, prompt_seed
from llmlab.sweeps.labels import prompt_labels
from llmlab.sweeps.sweep import Sweep, SweepAsker


def ask_each(asker: SweepAsker, requests: Sequence[Request], *, seed: int | None, order: str) -> list[Result]:
    """Runs several requests in one batch; returns their results, in the same order.

    The prompts have different noise: each one's seed is derived from `seed`, and the first one's is `seed` itself. The
    answers are also a sweep over the prompts, in the asker's `last_sweep`; after an interrupt, it has the finished
    ones.

    Args:
        asker: has the model.
        requests: the requests, each with a seed of its own or none.
        seed: replaces the seeds of the requests; None keeps them, and draws those that are missing.
        order: the order of the sampler's stages.

    Raises:
        RequestError: a request asks for a stream, or is one that the model does not support.
    """
    order = order_name(order)
    base = secrets.randbelow(SEEDS) if seed is None else seed
    cells, names = [], prompt_labels(requests, None, several=True)
    for number, request in enumerate(requests):
        if request.stream:
            raise RequestError("stream = True: lab.stream gives an answer as it is made", param="stream")
        own = request.seed if seed is None and request.seed is not None else prompt_seed(base, number)
        cells.append(Cell({"prompt": names[number]}, request.replace(seed=own), order))
    grid = Grid({"prompt": tuple(names)}, tuple(cells), base, independent=False, model=asker.backend.name)
    return list(Sweep._run(asker, grid, {}, metrics={}, path=None).results)
