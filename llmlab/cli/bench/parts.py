"""The parts of the benchmark, each run in a process of its own: `python -m llmlab.cli.bench.parts NAME OPTIONS`.

Two engines in one process would disturb each other's threads, a peak of memory is a process's, and a part that fails
takes no other with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from llmlab.cli.bench.figures import Figure, ceilings_of, from_line, last_line, to_line
from llmlab.cli.bench.subject import Options, float_dtype

__all__ = ["PARTS", "WITH_PEERS", "run"]


def _ceilings(options: Options) -> Iterator[Figure]:
    from llmlab.cli.bench.ceilings import BYTES, ceilings

    tiny = options.model == "shape:tiny"
    yield from ceilings(dtype=float_dtype(options.dtype), size=2**20 if tiny else BYTES)


def _part(module: str, name: str) -> Callable[[Options], Iterator[Figure]]:
    """A function of another file, which is imported when it is called."""

    def measure(options: Options) -> Iterator[Figure]:
        from importlib import import_module

        yield from getattr(import_module(f"llmlab.cli.bench.{module}"), name)(options)

    return measure


PARTS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "ceilings": _ceilings,
    "start": _part("start", "start"),
    "memory": _part("start", "loading"),
    "prefill": _part("decode", "prefill"),
    "decode": _part("decode", "decode"),
    "growth": _part("decode", "growth"),
    "attention": _part("attention", "attention"),
    "sampler": _part("sampler", "sampler"),
    "many": _part("work", "many"),
    "turns": _part("work", "turns"),
    "mixed": _part("work", "mixed"),
    "structured": _part("work", "structured"),
    "sweep": _part("work", "sweep"),
    "scoring": _part("work", "scoring"),
    "pinned": _part("work", "pinned"),
}


#: Parts that need other programs, and are only run when they are asked for.
WITH_PEERS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "peers": _part("peers", "peers"),
    "starts": _part("peers", "starts"),
}


def run(options: Options, *, parts: tuple[str, ...] = tuple(PARTS)) -> Iterator[Figure]:
    """Yields the figures of these parts as they are measured; the ceilings first, if shares are wanted of the others.

    A part that fails yields one figure without a value, whose note is the last line of its error.
    """
    found: list[Figure] = []
    for name in parts:
        given = json.dumps(options._replace(ceilings=ceilings_of(found))._asdict())
        command = [sys.executable, "-m", __name__, name, given]
        # A file takes what it has to say on stderr: a pipe that nobody reads would fill up and hold it back.
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as part,
        ):
            assert part.stdout is not None
            for line in part.stdout:
                if (figure := from_line(line)) is not None:
                    found.append(figure)
                    yield figure
            if part.wait():
                yield Figure(name, "failed", None, "", note=last_line(said) or f"exit {part.returncode}")


def _main(name: str, given: str) -> None:
    fields: dict[str, Any] = json.loads(given)
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    options = Options(**tuples)
    for figure in (PARTS | WITH_PEERS)[name](options):
        sys.stdout.write(to_line(figure) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
