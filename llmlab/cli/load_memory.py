"""Measures how much memory a process takes while it loads a model, in a process of its own.

`python -m llmlab.cli.load_memory MODEL [DTYPE]` prints one line of JSON. A peak is a process's highest since it began,
so nothing else may have run in it. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["LoadMemory", "load_memory"]


class LoadMemory(NamedTuple):
    """Bytes of the host's memory, except where a device is named."""

    weights: int  #: of the parameters, wherever they are
    base: int  #: resident before the model was loaded, with all modules imported and the device started
    peak: int  #: the highest that was resident until the last parameter was in its place
    device_peak: int | None  #: the highest in use on the first device; None if it does not say, as a CPU
    seconds: float  #: until the last parameter was in its place

    @property
    def ratio(self) -> float:
        """The peak above the base, as a multiple of the weights."""
        return (self.peak - self.base) / self.weights


def load_memory(model: str, *, dtype: str | None = None) -> LoadMemory | None:
    """Loads a model in another process and returns what that took; None if it cannot be loaded, or measured here.

    Args:
        model: as in `llmlab.load`.
        dtype: as in `llmlab.load`.
    """
    command = [sys.executable, "-m", __name__, model, *([] if dtype is None else [dtype])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return LoadMemory(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return None


def _status(field: str) -> int:
    """A number of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _measure(model: str, dtype: str | None = None) -> LoadMemory:
    import jax
    import jax.numpy as jnp

    import llmlab.checkpoints.load  # noqa: F401 - imported before the base is measured
    from llmlab.backends.local.backend import LocalBackend

    jnp.zeros(1).block_until_ready()
    base, began = _status("VmRSS"), time.perf_counter()
    peak, seconds = base, 0.0

    def tell(done: int, total: int) -> None:
        nonlocal peak, seconds
        peak, seconds = _status("VmHWM"), time.perf_counter() - began

    backend = LocalBackend.load(model, dtype=dtype, progress=tell)
    found: dict[str, Any] = jax.devices()[0].memory_stats() or {}
    weights = backend.engine.programs.weight_bytes
    backend.close()
    return LoadMemory(weights, base, peak, found.get("peak_bytes_in_use"), seconds)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(*sys.argv[1:])._asdict()) + "\n")
