"""JupyterLab in headless Chromium: a server of its own, and a page of it whose complaints are kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
#: Where the pictures go: kept, so that somebody looks at them.
PICTURES = Path(os.environ.get("LLMLAB_SCREENSHOTS", ROOT / "build" / "screenshots"))
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
)  # fmt: skip
_TOKEN = "for-this-test-alone"


def chromium_path() -> str:
    """The browser of the machine."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "there is no chromium on this machine: apt-get install chromium"
    return found


class Server:
    """JupyterLab on a port of its own, with nothing of the user's."""

    def __init__(self, room: Path) -> None:
        self.notebooks = room / "notebooks"
        self._settings = room / "settings"
        self._runtime = room / "runtime"
        for folder in (self.notebooks, self._settings, self._runtime):
            folder.mkdir(parents=True)
        places = {name: str(room / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
        # The kernel is a user's, not a test's: JAX is as lenient as it is by default, and plots are shown.
        strict = {"MPLBACKEND", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION"}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in strict},
            **places,
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "PYTHONPATH": path,
        }
        self._log = room / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        options = {
            "ServerApp.port": "0",
            "ServerApp.root_dir": str(self.notebooks),
            "IdentityProvider.token": _TOKEN,
            "LabApp.user_settings_dir": str(self._settings),
            "LabApp.workspaces_dir": str(self._settings),
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *arguments],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 90
        while True:
            for path in self._runtime.glob("jpserver-*.json"):
                try:
                    self._url = json.loads(path.read_text())["url"]
                except ValueError:  # not written to its end
                    continue
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"JupyterLab did not start:\n{self._log.read_text()}")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def address(self, notebook: str) -> str:
        """Where a notebook is opened."""
        # One document over the whole page, and nothing of the last one.
        return f"{self._url}doc/tree/{notebook}?token={_TOKEN}&reset"

    def theme(self, name: str) -> None:
        """Light or Dark, for pages that are opened from now on."""
        self._set("themes", {"theme": f"JupyterLab {name}"})
        self._set("notification", {"fetchNews": "false"})

    def _set(self, name: str, settings: dict[str, Any]) -> None:
        folder = self._settings / "@jupyterlab" / "apputils-extension"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jupyterlab-settings").write_text(json.dumps(settings))

    def write(self, name: str, *sources: str) -> str:
        """A notebook with these cells; its name."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.notebooks / name)
        return name


@contextmanager
def open_notebook(browser: Any, server: Server, name: str, **viewport: int) -> Iterator[tuple[Any, list[str]]]:
    """A page with a notebook in it, its first cell chosen; and what the console complains of."""
    page = browser.new_page(viewport={"width": 1400, "height": 1100} | viewport)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(60_000)
    try:
        page.goto(server.address(name))
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_selector("text=| Idle")  # the kernel is there
        yield page, complaints
    finally:
        page.close()


def run_all(page: Any) -> None:
    """Run every cell."""
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    page.keyboard.press("Escape")
    for _ in range(page.locator(".jp-Notebook .jp-CodeCell").count()):
        page.keyboard.press("Shift+Enter")
