"""Run notebooks anew and write them back with their outputs and the hash of their code.

python -m tests.notebooks.refresh                # those whose code was changed since their outputs were made
python -m tests.notebooks.refresh 03 quickstart  # those whose names have this in them
python -m tests.notebooks.refresh --all
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

from tests.notebooks.outputs import differences, outputs, passing
from tests.notebooks.run import RECORD, ROOT, code_cells, code_hash, notebooks, recorded_hash, run

#: Places of a machine, which nobody else has.
_PLACES = re.compile(r"/(?:home|root|tmp|Users|private|var/folders)/[^\s\"'<>]*")


def machine_paths(notebook: Any) -> list[str]:
    """The places of somebody's machine that its outputs name."""
    return sorted({found for cell in code_cells(notebook) for found in _PLACES.findall(nbformat.writes(_alone(cell)))})


def refreshed(notebook: Any, *, folder: Path) -> Any:
    """The notebook run anew, as it is kept: without progress bars, widgets and timings, and with the hash of its code.

    Raises:
        ValueError: it warned, or its outputs name a place of this machine.
    """
    fresh = run(notebook, folder=folder)
    for cell in code_cells(fresh):
        warnings = [one.text for one in outputs(cell) if one.kind == "warning"]
        if warnings:
            raise ValueError(f"a cell warns: {warnings[0]}\n{cell.source}")
        cell.outputs = [one for one in cell.outputs if not _passing(one)]
        cell.metadata.pop("execution", None)
    if machine_paths(fresh):
        raise ValueError(f"the outputs name places of this machine: {', '.join(machine_paths(fresh))}")
    fresh.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            RECORD: {"code_sha256": code_hash(fresh)},
        }
    )
    nbformat.validate(fresh)
    return fresh


def refresh(path: Path) -> str:
    """Run a notebook anew and write it; what changed, in words."""
    old = nbformat.read(path, as_version=4)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        new = refreshed(old, folder=Path(folder))
    nbformat.write(new, path)
    changes = differences(old, new)
    head = f"{path.name}: {time.monotonic() - start:.0f} s, {len(changes) or 'no'} differences"
    return "\n  ".join([head, *changes])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks.refresh", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the names of notebooks")
    parser.add_argument("--all", action="store_true", help="every notebook")
    asked = parser.parse_args()
    for path in notebooks():
        if asked.names:
            wanted = any(name in path.name for name in asked.names)
        else:
            notebook = nbformat.read(path, as_version=4)
            wanted = asked.all or recorded_hash(notebook) != code_hash(notebook)
        if wanted:
            print(f"{path.relative_to(ROOT)} ...", flush=True)
            print(refresh(path), flush=True)


def _alone(cell: Any) -> Any:
    return nbformat.v4.new_notebook(cells=[cell])


def _passing(output: Any) -> bool:
    return output.get("name") == "stderr" or passing(output.get("data", {}))


if __name__ == "__main__":
    main()
