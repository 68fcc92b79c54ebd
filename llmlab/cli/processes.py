"""`llmlab serve` on several hosts: the same command on each of them, of which process 0 listens."""

from __future__ import annotations

import signal
import threading

import typer

from llmlab.backends.local.backend import LocalBackend
from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend

#: As `--coordinator`: JAX finds out who there is (Slurm, Open MPI, Kubernetes, a TPU pod).
AUTO = "auto"


def check(mesh: str | None, coordinator: str | None, *, processes: int | None, process: int | None) -> None:
    """Checks the options before anything is started.

    Args:
        mesh: the only one that can be named is `AUTO`.
        coordinator: where process 0 listens for the others, as "host:port"; or `AUTO`.
        processes: how many there are.
        process: which one this is.

    Raises:
        RequestError: one of them makes no sense, or is missing.
    """
    if mesh not in (None, AUTO):
        raise RequestError(f"--mesh must be {AUTO}, got {mesh!r}", param="mesh")
    if coordinator is None:
        if processes is not None or process is not None:
            raise RequestError("--processes and --process go with --coordinator", param="coordinator")
    elif coordinator != AUTO:
        if not coordinator.rpartition(":")[2].isdigit():
            raise RequestError(f"--coordinator must be HOST:PORT or {AUTO}, got {coordinator!r}", param="coordinator")
        if processes is None or process is None or not 0 <= process < processes:
            raise RequestError(
                f"--coordinator {coordinator} needs --processes, how many there are, and --process, which one this is "
                f"(0 is the one that listens); got {processes} and {process}",
                param="process",
            )


def join(coordinator: str, *, processes: int | None, process: int | None) -> None:
    """Joins the other processes, which may wait for them; the arguments are those that `check` has passed.

    Raises:
        RequestError: JAX cannot tell who there is, or process 0 cannot be reached.
    """
    import jax

    if process is not None:
        typer.echo(f"llmlab: process {process} of {processes} waits for the others at {coordinator}", err=True)
    try:
        jax.distributed.initialize(None if coordinator == AUTO else coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        raise RequestError(f"--coordinator {coordinator}: {error}", param="coordinator") from error


def stop_where_one_is_lost(backend: Backend) -> None:
    """Lets SIGTERM end the main thread once another process is gone, without which nothing can be answered."""
    share = backend.share if isinstance(backend, LocalBackend) else None
    if share is not None:
        main = threading.main_thread().ident
        assert main is not None
        share.on_lost(lambda _: signal.pthread_kill(main, signal.SIGTERM))


def check_that_all_are_there(backend: Backend) -> None:
    """Raises the EngineError that tells which process was lost, if one was."""
    share = backend.share if isinstance(backend, LocalBackend) else None
    if share is not None and share.lost is not None:
        raise share.lost
