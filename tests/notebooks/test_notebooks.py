"""The guide: every notebook runs from top to bottom, and its outputs are those that its code gives."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.outputs import differences
from tests.notebooks.refresh import machine_paths
from tests.notebooks.run import REAL, code_cells, code_hash, notebooks, recorded_hash, run

NOTEBOOKS = notebooks()
STALE = "its outputs are of other code: python -m tests.notebooks.refresh"


def test_the_guide_is_numbered_without_a_gap() -> None:
    numbers = [path.stem.split("_")[0] for path in NOTEBOOKS]
    assert numbers == [f"{number:02}" for number in range(1, len(NOTEBOOKS) + 1)] and len(numbers) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_the_outputs_of_its_code(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert recorded_hash(notebook) == code_hash(notebook), STALE
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run once, from top to bottom"
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size < 1_000_000
    assert machine_paths(notebook) == []


#: The longest, which CI leaves to a run by hand; that their outputs are of their code is seen without running them.
LONG = (
    *("02_requests", "03_temperature", "04_truncation", "05_penalties", "07_counterfactuals", "11_write_a_sampler"),
    "12_audit",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.exhaustive] if path.stem in LONG else [])
        for path in NOTEBOOKS
        if path.stem not in REAL
    ],
    ids=lambda path: path.stem,
)
def test_a_notebook_run_again_puts_out_the_same(path: Path, tmp_path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    start = time.monotonic()
    again = run(committed, folder=tmp_path)
    print(f"{path.name}: {time.monotonic() - start:.1f} s")
    assert differences(committed, again) == [], STALE
