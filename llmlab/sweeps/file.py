"""Saves a sweep's grid and answers to a parquet file, and loads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llmlab.frames.parquet import Pool, damage_named, load, save
from llmlab.protocol.completion import Completion
from llmlab.sweeps.grid import Cell, Grid


def save_sweep(grid: Grid, completions: Mapping[int, Completion], path: str | os.PathLike[str]) -> Path:
    """Write a grid and the answers to its finished cells; returns the path.

    The whole grid is stored in the file's metadata. The swept parameters and the seed are columns too, for programs
    that read the file without llmlab.

    Args:
        grid: all cells, also those without an answer.
        completions: index of a cell -> its answer, in the order of the cells.
        path: ends in .parquet.
    """
    from llmlab.sweeps.table import sweep_frame  # it imports pandas

    pool = Pool()
    about = {
        "axes": {name: list(values) for name, values in grid.axes.items()},
        "seed": grid.seed,
        "independent": grid.independent,
        "model": grid.model,
        "cells": [
            {"point": dict(cell.point), "order": cell.order, "request": pool.put_request(cell.request)}
            for cell in grid.cells
        ],
        "done": list(completions),
    }
    cells = [(grid.cells[index], completion) for index, completion in completions.items()]
    columns = sweep_frame(grid, cells, metrics={})[[*grid.axes, "seed"]]
    return save(path, list(completions.values()), kind="sweep", about=about, pool=pool, columns=columns)


def load_sweep(path: str | os.PathLike[str]) -> tuple[Grid, dict[int, Completion]]:
    """The grid, and the answers by the index of their cell, from a file that `save_sweep` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        RequestError: the file holds something else.
    """
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
