"""Runs code where one CPU stands for several devices. JAX fixes their number as it starts, so in another process."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def on_devices(count: int, code: str, *arguments: object, timeout: float = 600) -> str:
    """What the code prints; it gets the arguments as texts, in `sys.argv[1:]`. Its error is the test's."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        timeout=timeout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout
