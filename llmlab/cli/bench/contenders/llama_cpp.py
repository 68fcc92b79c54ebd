"""llama.cpp as a contender, by its wheel xllamacpp: `python -m llmlab.cli.bench.contenders.llama_cpp FOLDER DTYPE`.

It is asked over HTTP on this machine, since its server is what batches several rows. Its cache has the dtype of the
weights, or is float32 beside weights of 8 bits, and as many threads work as there are cores.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp

from llmlab.cli.bench.contenders.asked import FIELDS, Asked, answer
from llmlab.cli.bench.contenders.gguf_file import write_gguf

#: Cores that this process may use.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Server:
    """A server for so many rows at once; another number is another server."""

    def __init__(self, model: Path, dtype: str) -> None:
        self._model, self._dtype = model, dtype
        self._running: Any = None
        self._for: tuple[int, int] | None = None

    def generate(self, asked: Asked) -> int:
        if self._for != (asked.rows, asked.prompt + asked.tokens):
            self._for = (asked.rows, asked.prompt + asked.tokens)
            self._running = None  # ends the one before
            self._running = xllamacpp.Server(self._told(asked))
        prompt = np.random.default_rng(0).integers(0, asked.vocab_size, asked.prompt).tolist()
        body = {
            "prompt": [prompt] * asked.rows,
            "n_predict": asked.tokens,
            "ignore_eos": True,
            "cache_prompt": False,
            "samplers": ["top_k", "top_p", "temperature"],
            **FIELDS,
        }
        request = urllib.request.Request(
            self._running.listening_address + "/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            answers = json.load(reply)
        return sum(one["tokens_predicted"] for one in (answers if isinstance(answers, list) else [answers]))

    def _told(self, asked: Asked) -> Any:
        told = xllamacpp.CommonParams()
        told.model.path = str(self._model)
        told.n_parallel = asked.rows
        # Some more than a row needs: the server rounds a slot's share of the context down.
        told.n_ctx = asked.rows * (asked.prompt + asked.tokens + 32)
        told.cpuparams.n_threads = told.cpuparams_batch.n_threads = _CORES
        kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "F32"}[self._dtype]
        told.cache_type_k = told.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kind}")
        return told


def _main(folder: str, dtype: str) -> None:
    with tempfile.TemporaryDirectory() as room:
        answer(_Server(write_gguf(Path(folder), Path(room) / "model.gguf", dtype=dtype), dtype).generate)


if __name__ == "__main__":
    _main(*sys.argv[1:])
