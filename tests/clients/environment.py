"""Runs client programs in their own Python environment against a server in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
#: Names the Python of an environment in which `requirements.txt` is installed.
VARIABLE = "LLMLAB_CLIENTS_PYTHON"
#: Seconds that a program may take; most of it is importing libraries, on a machine that may be busy.
PATIENCE = 300


class Programs:
    """The programs, all of which are told of one server.

    Args:
        python: the Python of their environment.
        api: the server's address, ending in /v1.
        home: an empty folder for what they keep.
    """

    def __init__(self, python: Path, *, api: str, home: Path) -> None:
        self.api = api
        self.home = home
        self._python = python
        self._reports: dict[str, dict[str, Any]] = {}

    def report(self, name: str) -> dict[str, Any]:
        """Returns case -> outcome of a program of `programs/`, which runs once."""
        if name not in self._reports:
            written = self.run(str(self._python), str(FOLDER / "programs" / f"{name}.py"), self.api)
            self._reports[name] = json.loads(written.splitlines()[-1])
        return self._reports[name]

    def command(self, name: str, *arguments: str, **environment: str) -> str:
        """Runs an installed command; returns what it prints."""
        return self.run(str(self._python.with_name(name)), *arguments, **environment)

    def run(self, *command: str, **environment: str) -> str:
        """Runs a command in an environment without this process's own variables; returns what it prints.

        No variable says where the server is: a program that asked another one would fail for want of a key.
        """
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "OPENAI_API_KEY": "none",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would download prices as it is imported
            "LLMETER_DISABLE_ALL_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        done = subprocess.run(command, env=given, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def python_of_the_programs() -> Path:
    """Returns the Python that `VARIABLE` names."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.fail(
            f"{VARIABLE} names no Python: python3.11 -m venv ENV, install tests/clients/requirements.txt there as it "
            f"says, and set {VARIABLE}=ENV/bin/python",
            pytrace=False,
        )
    return Path(named)
