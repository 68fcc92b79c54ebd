"""The same checkpoint in other programs, in turn with ours in one run: A B A B, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from llmlab.backends.local.kept_programs import CACHE_VARIABLE
from llmlab.cli.bench.contenders.asked import Asked
from llmlab.cli.bench.figures import Figure, last_line
from llmlab.cli.bench.subject import SHAPES, Options, float_dtype
from llmlab.errors import LLMLabError

__all__ = ["peers", "starts"]

#: The contenders besides ours: their modules here, and the packages without which they cannot run.
_OTHERS = {
    "transformers": ("transformers_generate", ("torch",)),
    "llama.cpp": ("llama_cpp", ("xllamacpp", "gguf")),
}


#: Rows, tokens of the prompt and tokens of each answer in the case of many answers to one long prompt.
MANY = (128, 512, 64)


class _Contender:
    """A running contender."""

    def __init__(self, module: str, folder: Path, dtype: str, *, said: TextIO):
        command = [sys.executable, "-m", f"llmlab.cli.bench.contenders.{module}", str(folder), dtype]
        # A file for stderr: a pipe that nobody reads would fill up and hold it back.
        self._said = said
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        try:
            self._line(wanted="ready")
        except LLMLabError:
            self.close()
            raise

    def seconds(self, asked: Asked) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return float(self._line(wanted="took ").removeprefix("took "))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self, *, wanted: str) -> str:
        """The next line that begins as wanted; libraries may print others."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(wanted):
                return line
        raise LLMLabError(f"a contender ended: {last_line(self._said) or 'without a word'}")


def peers(options: Options) -> Iterator[Figure]:
    """Tokens a second of whole requests, sampling on, prompt included: ours, each other one's, and their ratio.

    With int8 llama.cpp has its own 8-bit weights (Q8_0), and transformers, which has none on a CPU, the float dtype.
    """
    dtype = float_dtype(options.dtype)
    weights = "int8" if options.dtype == "int8" else dtype
    with ExitStack() as stack:
        folder = stack.enter_context(_checkpoint(options.model, dtype))
        size = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"]

        def start(module: str) -> _Contender:
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            found = _Contender(module, folder, dtype if module == "transformers_generate" else weights, said=said)
            stack.callback(found.close)
            return found

        running = {"llmlab": start("ours")}
        for name, (module, needed) in _OTHERS.items():
            absent = [package for package in needed if importlib.util.find_spec(package) is None]
            try:
                if not absent:
                    running[name] = start(module)
            except LLMLabError as error:
                yield Figure("peers", name, None, "x", note=error.message)
            if absent:
                yield Figure("peers", name, None, "x", note=f"{', '.join(absent)} is not installed")
        work = [(rows, options.prompt, options.tokens) for rows in options.rows]
        # Many answers to a long prompt, where so many are asked for.
        work += [(rows, *MANY[1:]) for rows in options.rows if rows == MANY[0]]
        for rows, prompt, tokens in work:
            asked = Asked(rows=rows, prompt=prompt, tokens=tokens, vocab_size=size)
            setting = f"rows {rows}, prompt {prompt}"
            for one in running.values():
                one.seconds(asked)
            rounds = [{name: one.seconds(asked) for name, one in running.items()} for _ in range(options.repeats)]
            took = {name: statistics.median(each[name] for each in rounds) for name in running}
            for name in running:
                yield Figure("peers", f"{setting}, {name}", rows * tokens / took[name], "tokens/s")
            for name in [name for name in running if name != "llmlab"]:
                yield Figure("peers", f"{setting}: llmlab / {name}", took[name] / took["llmlab"], "x")


def starts(options: Options) -> Iterator[Figure]:
    """Seconds from a new process to its first token, and their ratio: with what it compiled before, and without."""
    if options.model.startswith("shape:"):
        yield Figure("starts", "llmlab / transformers", None, "x", note="a shape has no chat template")
        return
    if importlib.util.find_spec("torch") is None:
        yield Figure("starts", "llmlab / transformers", None, "x", note="torch is not installed")
        return
    dtype = float_dtype(options.dtype)
    with _checkpoint(options.model, dtype) as folder, tempfile.TemporaryDirectory() as room:

        def first(name: str, kept: Path) -> float:
            command = [sys.executable, "-m", "llmlab.cli.bench.contenders.first_token", name, str(folder), dtype]
            others = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
            began = time.perf_counter()
            done = subprocess.run(command, env={**others, CACHE_VARIABLE: str(kept)}, capture_output=True, text=True)
            if done.returncode:
                raise LLMLabError((done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1])
            return time.perf_counter() - began

        warm = Path(room) / "kept"
        for run in ("llmlab", "transformers"):  # once for what the machine keeps of files
            first(run, warm)
        rounds = [
            (first("llmlab", warm), first("transformers", warm), first("llmlab", Path(room) / str(i)))
            for i in range(options.repeats)
        ]
    ours, theirs, cold = (statistics.median(column) for column in zip(*rounds, strict=True))
    yield Figure("starts", "llmlab, programs kept on disk", ours, "s")
    yield Figure("starts", "llmlab, nothing compiled before", cold, "s")
    yield Figure("starts", "transformers", theirs, "s")
    yield Figure("starts", "llmlab / transformers, programs kept on disk", ours / theirs, "x")
    yield Figure("starts", "llmlab / transformers, nothing compiled before", cold / theirs, "x")


@contextmanager
def _checkpoint(model: str, dtype: str) -> Iterator[Path]:
    """A folder that every contender reads. A shape, and a GGUF file, is written into one that is deleted at the end."""
    import jax.numpy as jnp

    from llmlab.checkpoints.hub import resolve
    from llmlab.checkpoints.load import load_model
    from llmlab.checkpoints.opened import open_checkpoint
    from llmlab.checkpoints.save import save_checkpoint
    from llmlab.models.families import read_config
    from llmlab.testing import random_model

    kind, _, name = model.partition(":")
    found = None if kind == "shape" else resolve(model)[1]
    if found is not None and any(found.glob("*.safetensors")):
        yield found
        return
    with tempfile.TemporaryDirectory() as folder:
        if found is None:
            config = {**SHAPES[name], "torch_dtype": dtype}
            weights = random_model(read_config(config), dtype=dtype)
        else:
            config = {**open_checkpoint(found).config, "torch_dtype": dtype}
            weights = load_model(found, dtype=jnp.dtype(dtype))[1]
        save_checkpoint(Path(folder), model=weights, config=config, dtype=dtype)
        del weights
        yield Path(folder)
