"""Joins the cells and the answers of several sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import listed
from llmlab.protocol.completion import Completion
from llmlab.sweeps.grid import Cell, Grid

__all__ = ["concat"]

#: The parameter that tells the sweeps apart.
_AXIS = "sweep"


def concat(
    parts: Sequence[tuple[Grid, Mapping[int, Completion]]], *, label: Sequence[str] | None
) -> tuple[Grid, dict[int, Completion]]:
    """Returns one grid of all cells, and the answers by the index of their cell in it; see `Sweep.concat`.

    The grid has the seed of the first sweep. Its cells share their noise where those of all sweeps do.

    Raises:
        RequestError: there is no sweep; the parameters differ; a cell is in two sweeps; the labels are not as many
            different texts.
    """
    if not parts:
        raise RequestError("sweeps is an empty list: give at least one sweep", param="sweeps")
    names = _labels(label, len(parts))
    grids = [grid for grid, _ in parts]
    first = grids[0]
    for grid in grids[1:]:
        if list(grid.axes) != list(first.axes):
            raise RequestError(
                f"the sweeps vary different parameters: {', '.join(first.axes) or 'none'}, and "
                f"{', '.join(grid.axes) or 'none'}",
                param="sweeps",
            )
        if grid.independent != first.independent:
            raise RequestError("independent is True in one of the sweeps only: their noise differs", param="sweeps")
    cells: list[Cell] = []
    done: dict[int, Completion] = {}
    for number, (grid, completions) in enumerate(parts):
        done |= {len(cells) + index: completion for index, completion in completions.items()}
        before = {} if names is None else {_AXIS: names[number]}
        cells += [replace(cell, point={**before, **cell.point}) for cell in grid.cells]
    _check_apart([cell.point for cell in cells])
    axes: dict[str, tuple[Any, ...]] = {} if names is None else {_AXIS: tuple(names)}
    axes |= {name: tuple(dict.fromkeys(value for grid in grids for value in grid.axes[name])) for name in first.axes}
    models = dict.fromkeys(grid.model for grid in grids)
    return Grid(axes, tuple(cells), first.seed, first.independent, ", ".join(models)), done


def _check_apart(points: Sequence[Mapping[str, Any]]) -> None:
    """Check that no two cells have the same values."""
    seen: set[tuple[Any, ...]] = set()
    for point in points:
        key = tuple(point.values())
        if key in seen:
            raise RequestError(
                f"two of the sweeps have a cell at {dict(point)}: tell the sweeps apart with label=", param="sweeps"
            )
        seen.add(key)


def _labels(label: Any, count: int) -> list[str] | None:
    if label is None:
        return None
    names = listed("label", label, of="texts")
    if len(names) != count or not all(isinstance(name, str) for name in names) or len(set(names)) != count:
        raise RequestError(
            f"label must be {count} different texts, one for each sweep, got {short(label)}", param="label"
        )
    return names
