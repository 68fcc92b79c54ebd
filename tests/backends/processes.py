"""Several processes that run one script with `jax.distributed`, each with one CPU device."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from llmlab.protocol.request import ChatRequest
from tests.conftest import ROOT

_SCRIPT = """
import json, sys
import jax
import numpy as np
from jax.sharding import Mesh

port, count, process, folder, shape, every = json.loads(sys.argv[1])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", count, process)

import llmlab
from llmlab.errors import LLMLabError
from tests.backends.processes import answers

mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "model"))
lab = llmlab.load(folder, slots=4, max_context=128, mesh=mesh, quiet=True)
assert jax.process_index() == 0, "the others follow"
weights = lab.backend.engine.programs._weights
held = sum(x.addressable_shards[0].data.nbytes for x in weights) / sum(x.nbytes for x in weights)
print(json.dumps({**answers(lab, every=every), "held": held}), flush=True)
while command := sys.stdin.readline().strip():
    try:
        if command == "again":
            lab.close()
            lab = llmlab.load(folder, slots=4, max_context=128, mesh=mesh, quiet=True)
        print(json.dumps(answers(lab, every=False)), flush=True)
    except LLMLabError as error:
        print(json.dumps({"error": error.message, "code": error.code}), flush=True)
"""


def answers(lab: Any, *, every: bool) -> dict[str, Any]:
    """What a lab answers: tokens of three choices; with `every`, also of a grammar, logits and scores."""

    def tokens(result: Any) -> list[list[int]]:
        return [choice.tokens.ids.tolist() for choice in result.choices]

    result = lab.chat("Hello", seed=3, max_tokens=12, temperature=0.8, n=3)
    found: dict[str, Any] = {"chat": tokens(result), "texts": result.texts}
    if every:
        backend, request = lab.backend, ChatRequest.build("Hello")
        prompt = backend.render(request)
        made = np.array(found["chat"][0], np.int32)
        found["json"] = tokens(lab.chat("A list", seed=1, max_tokens=6, response_format={"type": "json_object"}))
        found["next"] = backend.next_logits(prompt).tolist()
        found["step"] = backend.step_logits(prompt, made[:2]).tolist()
        found["score"] = lab.score("Hello", "you").choices[0].tokens.logprob.tolist()
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(**more: str) -> dict[str, str]:
    """For a process with one CPU device."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **more}


class Processes:
    """The processes, until `kill`; process 0 prints a line of JSON at first, and one for each command.

    Args:
        folder: the checkpoint.
        shape: of the mesh, (data, model); as many processes as that has devices.
        logs: the folder for what they write to stderr.
        every: what `answers` is given at first.
    """

    def __init__(self, folder: Path, *, shape: tuple[int, int], logs: Path, every: bool) -> None:
        count, port = shape[0] * shape[1], free_port()
        self.logs = [logs / f"{process}.log" for process in range(count)]
        self.all = []
        for process, log in enumerate(self.logs):
            told = json.dumps([port, count, process, str(folder), shape, every])
            with log.open("w") as err:
                self.all.append(
                    subprocess.Popen(
                        [sys.executable, "-c", _SCRIPT, told],
                        env=environment(),
                        cwd=ROOT,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=err,
                        text=True,
                    )
                )

    def said(self) -> dict[str, Any]:
        """The next line of process 0."""
        line = self.all[0].stdout.readline()
        while line.startswith("[Gloo]"):
            line = self.all[0].stdout.readline()
        assert line, "\n".join(log.read_text() for log in self.logs)
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, command: str) -> dict[str, Any]:
        """Gives process 0 a command; returns what it answers."""
        self.all[0].stdin.write(f"{command}\n")
        self.all[0].stdin.flush()
        return self.said()

    def end(self) -> list[int]:
        """Lets process 0 end; returns the exit codes of all."""
        if self.all[0].poll() is None:
            self.all[0].stdin.close()
        return [process.wait(timeout=60) for process in self.all]

    def kill(self) -> None:
        """Leaves nothing behind, whatever has happened."""
        for process in self.all:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
