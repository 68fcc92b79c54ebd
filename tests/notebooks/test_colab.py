"""Every notebook opens in Colab: the same cell after each title, which asks pip for what the device there needs."""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from tests.notebooks.run import notebooks

NOTEBOOKS = notebooks()
WHEEL = "/content/llmlab-0.1.0-py3-none-any.whl"


def opening(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells[:3]]


CELL = opening(NOTEBOOKS[0])[2][1]


class Colab:
    """A machine of Colab's: its files, an nvidia-smi that may be there, and a pip that writes down what it is asked."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.files = folder, [WHEEL]
        self._patch = patch
        patch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "llmlab" else pytest.fail(name))
        patch.setattr(glob, "glob", self._glob)
        patch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        patch.setattr(sys, "executable", self.program("python", f'printf "%s\\n" "$@" > {folder}/asked'))
        self.program("nvidia-smi", "echo 'NVIDIA-SMI has failed because there is no driver'; exit 9")

    def program(self, name: str, does: str) -> str:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
        return str(path)

    def loads(self, **versions: str) -> None:
        """What the kernel has imported, beside what pip finds installed now."""
        for name in ("jax", "matplotlib", "numpy", "pandas"):
            self._patch.delitem(sys.modules, name, raising=False)
        for name, version in versions.items():
            module = ModuleType(name)
            module.__dict__["__version__"] = version
            self._patch.setitem(sys.modules, name, module)
        self._patch.setattr(importlib.metadata, "version", lambda name: "3.0.0")

    def run(self, source: str = "") -> list[str] | None:
        """Run the cell; what pip was asked for, None where it was not called."""
        exec(CELL.replace('SOURCE = ""', f'SOURCE = "{source}"'), {})
        asked = self.folder / "asked"
        return asked.read_text().splitlines() if asked.exists() else None

    def _glob(self, pattern: str) -> list[str]:
        return [name for name in self.files if fnmatch(name, pattern)]


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Colab:
    there = Colab(tmp_path, monkeypatch)
    there.loads()
    return there


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_colab_cell_stands_right_after_the_title_and_is_the_same_everywhere(path: Path) -> None:
    title, *rest = opening(path)
    assert title[0] == "markdown" and title[1].startswith("# ")
    assert rest == opening(NOTEBOOKS[0])[1:]
    assert rest[0][0] == "markdown" and rest[1][0] == "code" and "Open in Colab" in rest[0][1]


PIP = ["-m", "pip", "install", "-q"]


@pytest.mark.parametrize(
    ("driver", "devices", "needs"),
    [
        ("echo 580.82.07", [], ["jax[cuda13]"]),
        ("echo 550.54.15", [], ["jax[cuda12]"]),
        (None, ["/dev/accel0", "/dev/accel1"], ["jax[tpu]"]),
        (None, ["/dev/vfio/0", "/dev/vfio/vfio"], ["jax[tpu]"]),
        # The control file alone is no device.
        (None, ["/dev/vfio/vfio"], []),
        (None, [], []),
    ],
    ids=["GPU", "GPU with an older driver", "TPU", "newer TPU", "no TPU", "CPU"],
)
def test_it_installs_for_the_device(colab: Colab, driver: str | None, devices: list[str], needs: list[str]) -> None:
    colab.files += devices
    if driver is not None:
        colab.program("nvidia-smi", driver)
    assert colab.run() == [*PIP, f"llmlab @ file://{WHEEL}", *needs]


def test_a_machine_without_nvidias_program_is_none_with_a_gpu(colab: Colab) -> None:
    (colab.folder / "nvidia-smi").unlink()
    assert colab.run() == [*PIP, f"llmlab @ file://{WHEEL}"]


def test_an_address_goes_before_a_wheel(colab: Colab) -> None:
    address = "git+https://example.org/llmlab.git"
    assert colab.run(address) == [*PIP, f"llmlab @ {address}"]


def test_without_an_address_it_says_what_is_missing(colab: Colab) -> None:
    colab.files.clear()
    with pytest.raises(RuntimeError, match="Set SOURCE to what pip installs llmlab from, or upload its wheel"):
        colab.run()
    assert not (colab.folder / "asked").exists()


def test_what_pip_says_when_it_fails_is_shown(colab: Colab) -> None:
    colab.program("python", "echo 'no matching distribution' >&2; exit 1")
    with pytest.raises(RuntimeError, match="no matching distribution"):
        colab.run()


def test_it_asks_for_a_restart_where_an_older_version_is_loaded(colab: Colab) -> None:
    colab.loads(numpy="3.0.0", pandas="2.2.2")
    with pytest.raises(RuntimeError, match="Restart session"):
        colab.run()
    colab.loads(numpy="3.0.0", pandas="3.0.0")
    assert colab.run() is not None


def test_it_does_nothing_where_llmlab_is_installed_nor_anywhere_else(
    colab: Colab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert colab.run() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "google.colab")
    assert colab.run() is None
