"""`llmlab serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.serve.bodies import http

_SERVE = "import sys; from llmlab.cli.app import app; app()"


class Process:
    """The command, on a free port; where it listens is known once it has said so.

    Args:
        options: of `llmlab serve`.
        log: the file that its log goes to; a pipe that nobody reads would fill up and hold it back.
        environment: besides this process's own.
    """

    def __init__(self, *options: str, log: Path, **environment: str) -> None:
        self._log = log
        with log.open("w") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, "serve", "--port", "0", "--no-warmup", *options],
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        said = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said.append(line)
            if line.startswith("  log"):
                break
        self.banner = "".join(said)
        assert "API" in self.banner, f"it did not start: {self.banner}{log.read_text()}"
        self.api = next(line.split()[1] for line in said if line.strip().startswith("API"))
        # Whoever has read where it is can connect at once.
        assert http.get(self.api.removesuffix("/v1") + "/health", verify=False, timeout=30).status_code == 200

    def tell_to_end(self) -> None:
        """SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def end(self, *, seconds: float = 60) -> tuple[int, str]:
        """Once it has ended: the exit code, and what it printed after its banner."""
        out, _ = self._process.communicate(timeout=seconds)
        return self._process.returncode, out

    def kill(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    @property
    def log(self) -> str:
        """Everything so far."""
        return self._log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log's lines of JSON."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
