from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


class ThisInterpreter(AsyncKernelManager):
    """The interpreter that runs the tests as the kernel, whatever kernels are installed on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="tests", language="python")


def kinds(cell: Any) -> list[str]:
    """What a cell put out: a stream by its name, else the richest form it has."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            continue  # a progress bar, which comes on slow machines alone
        rich = [kind for kind in ("image/png", "text/html", "text/plain") if kind in data]
        kind = rich[0] if rich else str(output.get("name"))
        if kind != "stderr" and found[-1:] != [kind]:
            found.append(kind)
    return found


def test_there_is_a_quickstart() -> None:
    assert "01_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run once, from top to bottom"
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size < 1_000_000
    for place in ("/home/", "/root/", "/tmp/"):
        assert place not in path.read_text("utf-8"), "a path of the machine that ran it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A checkout that is not installed is found all the same, from whatever folder the kernel starts in.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    # The kernel is a user's, not a test's: plots are shown, and JAX is as lenient as it is by default.
    for name in ("MPLBACKEND", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION"):
        monkeypatch.delenv(name, raising=False)
    committed = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    for cell in run.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(run, kernel_manager_class=ThisInterpreter, timeout=300, resources=where).execute()
    for old, new in zip(committed.cells, run.cells, strict=True):
        if old.cell_type == "code":
            assert kinds(new) == kinds(old), old.source
