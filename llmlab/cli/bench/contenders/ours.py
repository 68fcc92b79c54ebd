"""llmlab's engine as a contender: `python -m llmlab.cli.bench.contenders.ours FOLDER DTYPE`."""

from __future__ import annotations

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from llmlab.checkpoints.load import load_model
from llmlab.cli.bench.contenders.asked import FIELDS, Asked, answer
from llmlab.cli.bench.subject import float_dtype, rows_of, run_rows
from llmlab.engine.engine import Engine


def _main(folder: str, dtype: str) -> None:
    floats = jnp.dtype(float_dtype(dtype))
    engine = Engine(*load_model(Path(folder), dtype=floats, int8=dtype == "int8"))

    def generate(asked: Asked) -> int:
        prompt = np.random.default_rng(0).integers(0, asked.vocab_size, asked.prompt).astype(np.int32)
        return run_rows(engine, rows_of(prompt, count=asked.rows, tokens=asked.tokens, fields=dict(FIELDS)))

    answer(generate)
    engine.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
