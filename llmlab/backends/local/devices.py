"""What the model runs on, in words; and whether something better is in the machine and was passed over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

#: Control groups, version 2 and 1: how /proc/self/cgroup names ours, where it lies, its limit, what is used, and what
#: of that is only cached files.
_GROUPS = (
    ("0::", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (":memory:", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def device() -> dict[str, Any]:
    """The device JAX runs on: `platform`, `kind`, `count`, `memory_bytes` (free), `warning` (None if all is well)."""
    import jax

    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "memory_bytes": free_memory(),
        "warning": passed_over(first.platform),
    }


def passed_over(platform: str) -> str | None:
    """A loud line where a GPU or TPU is present but JAX has fallen back to the CPU."""
    if platform != "cpu" or os.environ.get("JAX_PLATFORMS", "").strip() == "cpu":
        return None
    if any(Path(path).exists() for path in ("/dev/nvidia0", "/proc/driver/nvidia/version")):
        return "this machine has an NVIDIA GPU, but JAX runs on the CPU: pip install -U 'jax[cuda13]', then restart"
    if any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0")) or "COLAB_TPU_ADDR" in os.environ:
        return "this machine seems to have a TPU, but JAX runs on the CPU: pip install -U 'jax[tpu]', then restart"
    return None


def free_memory(devices: int = 1) -> int | None:
    """Bytes that so many devices like the first (or, on a CPU, the host or its container) still have; None where nobody
    says."""
    import jax

    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return devices * (int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0)))
    known = [count for count in (_machines_free_memory(), _containers_free_memory()) if count is not None]
    return min(known, default=None)


def _machines_free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    return kilobytes * 1024


def _containers_free_memory(root: Path = Path("/")) -> int | None:
    """What a container's limit leaves: /proc/meminfo speaks of the whole machine, and who takes more is killed."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    found = []
    for mark, mount, limit, used, reclaimable in _GROUPS:
        path = next((line.partition(mark)[2] for line in lines if mark in line), None)
        for folder in () if path is None else (root / mount / path.strip("/"), root / mount):
            try:
                counts = [int((folder / name).read_text(encoding="ascii")) for name in (limit, used)]
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
                found.append(max(counts[0] - counts[1] + int(stat.get(reclaimable, 0)), 0))
                break
            except (OSError, ValueError):  # no such file, or "max": no limit
                continue
    return min(found, default=None)
