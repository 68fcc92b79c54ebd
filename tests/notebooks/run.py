"""A notebook run from top to bottom, in a kernel of the interpreter that asks."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.real.smollm2 import find_smollm2

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"

#: The notebooks that run a real model; tests/real runs them again.
REAL = ("10_your_model", "13_answers", "14_certainty", "15_two_models")

#: Where a notebook's metadata keep the hash of the code that its outputs are of.
RECORD = "llmlab"

#: The kernel is a user's, not a test's: plots are shown, and JAX is as lenient as it is by default.
_NOT_FOR_USERS = ("MPLBACKEND", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION")


class ThisInterpreter(AsyncKernelManager):
    """The interpreter that asks as the kernel, whatever kernels are installed on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="this interpreter", language="python")


def notebooks() -> list[Path]:
    """Every notebook of the guide."""
    return sorted(FOLDER.glob("*.ipynb"))


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_hash(notebook: Any) -> str:
    """SHA-256 of the sources of the code cells, in their order."""
    sources = [cell.source for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def recorded_hash(notebook: Any) -> str | None:
    """The hash of the code that was run when the outputs were made; None where a notebook does not say."""
    return notebook.metadata.get(RECORD, {}).get("code_sha256")


def run(notebook: Any, *, folder: Path, timeout: int = 300) -> Any:
    """A copy of the notebook, run anew; an error in a cell is raised.

    Args:
        notebook: its outputs are not looked at.
        folder: where the kernel starts.
        timeout: seconds for one cell.
    """
    fresh = copy.deepcopy(notebook)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    with _environment():
        NotebookClient(
            fresh,
            kernel_manager_class=ThisInterpreter,
            timeout=timeout,
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    return fresh


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    for name in _NOT_FOR_USERS:
        os.environ.pop(name, None)
    # A checkout that is not installed is found all the same, from whatever folder the kernel starts in.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH")]))
    # The outputs that are kept are those of a CPU.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # And of the real model that this machine has, if it has it: nothing is downloaded.
    if (real := find_smollm2()) is not None:
        os.environ["LLMLAB_MODEL"] = str(real)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
