"""The device that the model runs on: its name, its free memory, and a warning if a better one is not used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

#: Linux control groups, version 2 and 1: the mark of the line in /proc/self/cgroup, the mount point, and the names of
#: the limit, of the usage, and of the part of the usage that is only cached files.
_GROUPS = (
    ("0::", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (":memory:", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def device_facts() -> dict[str, Any]:
    """Returns facts about JAX's device: `platform`, `kind`, `memory_bytes` (free), `warning` (or None).

    `count` is the number of devices of this process.
    """
    import jax

    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.local_device_count(),
        "memory_bytes": free_memory(),
        "warning": fallback_warning(first.platform),
    }


def fallback_warning(platform: str) -> str | None:
    """Returns a warning if the machine has a GPU or TPU but JAX runs on the CPU; otherwise None."""
    if platform != "cpu" or os.environ.get("JAX_PLATFORMS", "").strip() == "cpu":
        return None
    if any(Path(path).exists() for path in ("/dev/nvidia0", "/proc/driver/nvidia/version")):
        return "this machine has an NVIDIA GPU, but JAX runs on the CPU: pip install -U 'jax[cuda13]', then restart"
    if any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0")) or "COLAB_TPU_ADDR" in os.environ:
        return "this machine seems to have a TPU, but JAX runs on the CPU: pip install -U 'jax[tpu]', then restart"
    return None


def free_memory(devices: int = 1) -> int | None:
    """Returns the free bytes of each of `devices` devices like the first of this process; None if that is not known.

    On a CPU the devices share the free bytes of the host, or of its container if that has fewer.
    """
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    known = [count for count in (_host_free_memory(), _container_free_memory()) if count is not None]
    least = min(known, default=None)
    return None if least is None else least // devices


def own_devices(mesh: Any) -> int:
    """The number of a mesh's devices that this process has; 1 where there is no mesh."""
    import jax

    return 1 if mesh is None else sum(each.process_index == jax.process_index() for each in mesh.devices.flat)


def _host_free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    return kilobytes * 1024


def _container_free_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes left below the container's limit; a process that takes more is killed.

    /proc/meminfo does not know that limit: it describes the whole machine.
    """
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
