"""From a new process to the first token, with nothing compiled before and with everything."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmlab.backends.local.kept_programs import CACHE_VARIABLE
from llmlab.cli.bench.figures import Figure
from llmlab.cli.bench.subject import Options
from llmlab.cli.load_memory import load_memory
from llmlab.errors import LLMLabError

__all__ = ["loading", "start"]

_FIRST = """
import json, sys, time
began = time.perf_counter()
import llmlab
imported = time.perf_counter()
lab = llmlab.load(sys.argv[1], dtype=sys.argv[2] or None, quiet=True)
loaded = time.perf_counter()
for chunk in lab.stream("Hello", max_tokens=2, seed=1):
    if chunk.choices and chunk.choices[0].delta.content:
        break
first = time.perf_counter()
print(json.dumps([imported - began, loaded - imported, first - loaded, first - began]))
"""


def start(options: Options) -> Iterator[Figure]:
    """`import llmlab`, loading and the first token of a chat, each in a process of its own."""
    if options.model.startswith("shape:"):
        yield Figure("start", "first token", None, "s", note="a shape has no chat template")
        return
    with tempfile.TemporaryDirectory() as folder:
        cold = _first(options, Path(folder) / "0")
        warm = [_first(options, Path(folder) / "0") for _ in range(options.repeats)]
    imported, loaded, _, whole = (statistics.median(column) for column in zip(*warm, strict=True))
    yield Figure("start", "import llmlab", 1e3 * imported, "ms")
    yield Figure("start", "load", loaded, "s")
    yield Figure("start", "process to first token, nothing compiled before", cold[3], "s")
    yield Figure("start", "process to first token, programs kept on disk", whole, "s")


def _first(options: Options, folder: Path) -> list[float]:
    """Seconds of the import, of loading, of the first token, and of all; programs are kept in `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", _FIRST, options.model, options.dtype or ""],
        env={**kept, CACHE_VARIABLE: str(folder)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LLMLabError((done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1])
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def loading(options: Options) -> Iterator[Figure]:
    """The memory that loading takes, in a process of its own."""
    taken = None if options.model.startswith("shape:") else load_memory(options.model, dtype=options.dtype)
    if taken is None:
        yield Figure("memory", "peak of loading / weights", None, "x", note="cannot be measured here")
        return
    yield Figure("memory", "weights", taken.weights / 1e9, "GB")
    yield Figure("memory", "peak of loading / weights", taken.ratio, "x")
    if taken.device_peak is not None:
        yield Figure("memory", "peak on the device", taken.device_peak / 1e9, "GB")
