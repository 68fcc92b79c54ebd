"""Decoding speed beside transformers' `generate`, both sides in turn in one run: `python tests/reference/speed.py`.

Sampling is on (temperature 0.8, top_k 50, top_p 0.95). What is timed is a whole request after a first one has compiled
everything: prompt, decoding, and on our side the figures of every token. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmlab.checkpoints.load import load_model
from llmlab.embedded import demo_folder
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.sampling.params import SamplingParams

#: Qwen2-0.5B's shape; the weights are random.
QWEN2 = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}


def ours(folder: Path, prompt: np.ndarray, *, batch: int, tokens: int) -> Callable[[], int]:
    """A run of our engine; returns how many tokens it made."""
    engine = Engine(*load_model(folder, dtype=jnp.float32), max_context=512)

    def run() -> int:
        params = [SamplingParams(temperature=0.8, top_k=50, top_p=0.95, seed=7, choice=i) for i in range(batch)]
        rows = [Row(prompt, p, budget=tokens, ignore_ends=True) for p in params]
        return sum(len(piece.tokens) for block in engine.submit(rows) for piece in block)

    return run


def theirs(folder: Path, prompt: np.ndarray, *, batch: int, tokens: int) -> Callable[[], int]:
    """A run of transformers' generate."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(np.repeat(prompt[None, :], batch, axis=0), dtype=torch.long)
    settings: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95}

    def run() -> int:
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                pad_token_id=0,
                **settings,
            )
        return int((out.shape[1] - ids.shape[1]) * batch)

    return run


def compare(name: str, folder: Path, *, vocab_size: int, batch: int, tokens: int, rounds: int) -> float:
    """Run both in turn; print tokens a second and their ratio."""
    prompt = np.random.default_rng(0).integers(0, vocab_size, 32).astype(np.int32)
    sides = {"llmlab": ours, "transformers": theirs}
    runs = {side: make(folder, prompt, batch=batch, tokens=tokens) for side, make in sides.items()}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for side, run in runs.items():
            began = time.perf_counter()
            made = run()
            rates[side].append(made / (time.perf_counter() - began))
    a, b = (statistics.median(rates[side]) for side in sides)
    print(
        f"{name:34} batch {batch:3}  llmlab {a:8.1f} tokens/s  transformers {b:8.1f} tokens/s  ratio {a / b:.2f}",
        flush=True,
    )
    return a / b


def main() -> None:
    """Print the three ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument(
        "--skip-large", action="store_true", help="leave the 0.5 B model out (2 GB on disk, twice in memory)"
    )
    arguments = parser.parse_args()
    demo = demo_folder()
    vocab_size = AutoConfig.from_pretrained(demo).vocab_size
    for batch in arguments.batches:
        compare("the embedded model", demo, vocab_size=vocab_size, batch=batch, tokens=128, rounds=arguments.rounds)
    if arguments.skip_large:
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **QWEN2)).save_pretrained(folder)
        name = "Qwen2-0.5B's shape, random weights"
        compare(name, Path(folder), vocab_size=151936, batch=1, tokens=24, rounds=max(arguments.rounds // 2, 1))


if __name__ == "__main__":
    main()
