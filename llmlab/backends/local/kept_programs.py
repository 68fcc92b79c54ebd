"""Keeps compiled programs on disk, so that from the second start on the first answer does not wait for a compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "keep_programs", "programs_folder"]

#: The environment variable that names another folder for the compiled programs, or is "off".
CACHE_VARIABLE = "LLMLAB_COMPILE_CACHE"

#: The bytes that the folder may take; the programs that were not used for longest go first.
MOST_BYTES = 2 * 2**30

_OFF = ("off", "0", "no", "false")


def keep_programs() -> Path | None:
    """Lets JAX keep its compiled programs in `programs_folder`, and returns it; None where nothing was changed.

    Nothing is changed where JAX was given a folder of its own (`JAX_COMPILATION_CACHE_DIR`), where `CACHE_VARIABLE` is
    off, or where the folder cannot be written. JAX's cache is one for the process: programs that are not llmlab's are
    kept there too.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] is not None or not settings["jax_enable_compilation_cache"]:
        return None
    folder = programs_folder()
    if folder is None or not _writable(folder):
        return None
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # JAX keeps only what took it a second; most of what a small model waits for are many shorter ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Whether there is a cache is decided at a process's first compilation, which may have been before this.
    compilation_cache.reset_cache()
    return folder


def programs_folder() -> Path | None:
    """The folder that compiled programs are kept in; None where `CACHE_VARIABLE` is off.

    It is a folder of the user's cache, apart for each kind of processor: homes are shared between machines, and XLA's
    programs for a CPU use the instructions of the one that they were compiled on.
    """
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    if named.lower() in _OFF:
        return None
    top = Path(named).expanduser() if named else _user_cache() / "llmlab" / "xla"
    return top / _processor()


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _processor() -> str:
    """The architecture, and a hash of what distinguishes one processor of it from another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = [platform.processor()]
    told = ("model name", "flags", "Features", "CPU part")
    facts = sorted({line for line in lines if line.startswith(told)}) or lines[:1]
    return f"{platform.machine() or 'unknown'}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def _writable(folder: Path) -> bool:
    """Whether files can be written there; the folder is made, and only its owner can read it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".llmlab-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
