"""Sweeps as parquet files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmlab.frames.parquet import Pool, damage_named, load, save
from llmlab.protocol.completion import Completion
from llmlab.sweeps.grid import Cell, Grid

if TYPE_CHECKING:
    from llmlab.sweeps.sweep import Sweep


def save_sweep(sweep: Sweep, path: str | os.PathLike[str]) -> Path:
    """Write a sweep: its grid whole, and the cells that are done; its parameters are columns for other readers."""
    pool, grid = Pool(), sweep.grid
    about = {
        "axes": {name: list(values) for name, values in grid.axes.items()},
        "seed": grid.seed,
        "independent": grid.independent,
        "model": grid.model,
        "cells": [
            {"point": dict(cell.point), "order": cell.order, "request": pool.put_request(cell.request)}
            for cell in grid.cells
        ],
        "done": list(sweep.completions),
    }
    columns = sweep.frame(metrics={})[[*grid.axes, "seed"]]
    return save(path, list(sweep.completions.values()), kind="sweep", about=about, pool=pool, columns=columns)


def load_sweep(path: str | os.PathLike[str]) -> tuple[Grid, dict[int, Completion]]:
    """The grid and the cells that are done, of a file of `save_sweep`."""
    kept = load(path, kind="sweep")
    about = kept.about
    with damage_named(path):
        grid = Grid(
            axes={name: tuple(values) for name, values in about["axes"].items()},
            cells=tuple(
                Cell(point=cell["point"], request=kept.pool.request(cell["request"]), order=cell["order"])
                for cell in about["cells"]
            ),
            seed=about["seed"],
            independent=about["independent"],
            model=about["model"],
        )
        return grid, dict(zip(about["done"], kept.completions, strict=True))
