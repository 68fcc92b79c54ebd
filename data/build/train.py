"""Trains the embedded model with the project's own decoder and optax, on CPU, GPU or TPU; resumes where it stopped.

    python -m data.build.train --work data/build/out --out data/demo --minutes 65

The length of a run is given in steps (then a seed fixes every bit on one machine) or in minutes of wall clock (then the
learning rate follows the clock, which is what one wants on a shared machine). ``--resume`` goes on from the last
checkpoint under ``--work``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from optax.contrib import MuonDimensionNumbers, muon

from data.build.packing import DOMAINS, Batch, Encoder, shard
from data.build.scoring import Teacher, packed_logits, token_logprobs
from data.build.tokenizer import CONTEXT, VOCABULARY
from data.build.validate import Validation
from llmlab.checkpoints.save import save_checkpoint
from llmlab.models.families import build_model, read_config
from llmlab.models.transformer import Transformer

Params = dict[str, jax.Array]

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCABULARY, "hidden_size": 192,
    "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 48, "hidden_act": "silu", "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": None, "use_cache": True, "initializer_range": 0.02,
    "dtype": "float32",
}  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """Warm-up, a plateau, then a straight line to zero; ``progress`` runs from 0 to 1 over the run."""

    peak: float
    warmup: int = 40
    plateau: float = 0.3

    def at(self, step: int, progress: float) -> float:
        """The learning rate of a step."""
        falling = min(1.0, max(0.0, (1 - progress) / (1 - self.plateau)))
        return self.peak * min(1.0, (step + 1) / self.warmup) * falling


def optimizer(adam_ratio: float) -> optax.GradientTransformation:
    """Muon (Jordan 2024) for the matrices inside the layers, AdamW for the embedding and the norms, gradients clipped.

    The learning rate is an argument of every step (``inject_hyperparams``), because it may follow the clock.
    """

    def inner(learning_rate: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            muon(
                learning_rate, weight_decay=0.01, adam_b2=0.99, adam_learning_rate=adam_ratio * learning_rate,
                muon_weight_dimension_numbers=_matrices,
            ),
        )  # fmt: skip

    return optax.inject_hyperparams(inner)(learning_rate=0.0)


def _matrices(params: Params) -> dict[str, MuonDimensionNumbers | None]:
    return {
        name: MuonDimensionNumbers((0,), (1,)) if getattr(value, "ndim", 0) == 2 and "embedding" not in name else None
        for name, value in params.items()
    }


class Trainer:
    """A decoder's parameters as a flat dict, with the two compiled functions over them."""

    def __init__(self, config: dict[str, Any], *, seed: int, adam_ratio: float = 0.2) -> None:
        self.config = config
        model = build_model(read_config(config), rngs=nnx.Rngs(seed))
        self._graph, state = nnx.split(model)
        paths, self._tree = jax.tree_util.tree_flatten_with_path(state)
        self._names = [jax.tree_util.keystr(path) for path, _ in paths]
        self.params: Params = {name: leaf for name, (_, leaf) in zip(self._names, paths, strict=True)}
        self.transformation = optimizer(adam_ratio)
        self.state = self.transformation.init(self.params)
        self._step = jax.jit(self._update, donate_argnums=(0, 1))
        self._logprobs = jax.jit(lambda params, *rows: token_logprobs(self.model(params), *rows))

    def model(self, params: Params | None = None) -> Transformer:
        """The module with these parameters."""
        held = self.params if params is None else params
        return nnx.merge(self._graph, self._tree.unflatten([held[name] for name in self._names]))

    def _update(self, params: Params, state: Any, batch: Batch, rate: jax.Array) -> tuple[Params, Any, jax.Array]:
        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            logits = packed_logits(self.model(params), batch.tokens, batch.positions, batch.segments)
            logprobs = -optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
            weights, domains = batch.weights, batch.domains
            answered = (weights >= 1).astype(jnp.float32)
            sums = [jnp.zeros(len(DOMAINS)).at[domains].add(values) for values in (-logprobs * answered, answered)]
            return -(logprobs * weights).sum() / weights.sum(), jnp.stack(sums)

        (value, sums), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        state.hyperparams["learning_rate"] = rate
        updates, state = self.transformation.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, jnp.concatenate([jnp.full((2, 1), value), sums], 1)

    def step(self, batch: Batch, rate: float) -> jax.Array:
        """One step; returns [2, 1 + domains]: the loss, then each domain's summed loss and count of answer tokens."""
        self.params, self.state, figures = self._step(self.params, self.state, batch, jnp.float32(rate))
        return figures

    def teacher(self, encoder: Encoder) -> Teacher:
        """Teacher forcing with the parameters as they are whenever it is asked."""
        return Teacher(encoder, lambda *rows: self._logprobs(self.params, *rows))

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Writes everything that a resumed run needs to one file, which is replaced atomically."""
        leaves = {f"p{i}": leaf for i, leaf in enumerate(jax.tree.leaves((self.params, self.state)))}
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        draft = path.with_name("draft.npz")
        np.savez(draft, about=np.array(json.dumps(about)), **arrays)
        draft.replace(path)

    def restore(self, path: Path) -> dict[str, Any]:
        """The inverse of :meth:`save`."""
        with np.load(path) as file:
            tree = jax.tree.structure((self.params, self.state))
            leaves = [jnp.asarray(file[f"p{i}"]) for i in range(tree.num_leaves)]
            self.params, self.state = jax.tree.unflatten(tree, leaves)
            return dict(json.loads(str(file["about"])))


def _shard(folder: Path, seed: int, number: int, tokens: int) -> list[Batch]:
    return shard(Encoder.load(folder), seed=seed, number=number, tokens_per_batch=tokens)


def batches(folder: Path, *, seed: int, tokens: int, number: int, place: int) -> Iterator[tuple[Batch, int, int]]:
    """Batches from a place in the stream on, with the place after each; another process makes them ahead."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ahead: list[Future[list[Batch]]] = [pool.submit(_shard, folder, seed, number + k, tokens) for k in range(2)]
        while True:
            rows = ahead.pop(0).result()
            ahead.append(pool.submit(_shard, folder, seed, number + 2, tokens))
            for index in range(place, len(rows)):
                last = index + 1 == len(rows)
                yield rows[index], number + last, 0 if last else index + 1
            number, place = number + 1, 0


def main() -> None:
    """Train, log, validate, save."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="the model's folder, with its tokenizer")
    parser.add_argument("--work", type=Path, default=Path("data/build/out"), help="checkpoints and logs, not committed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="wall clock of the whole run, earlier parts of it included")
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--stop-after", type=float, help="stop after so many minutes, to be resumed")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step")
    parser.add_argument("--rate", type=float, default=0.02, help="peak learning rate of the matrices")
    parser.add_argument("--adam-ratio", type=float, default=0.2, help="the embedding's learning rate relative to it")
    parser.add_argument("--validate-every", type=float, default=8.0, help="minutes")
    parser.add_argument("--resume", action="store_true")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """The training loop."""
    if (arguments.minutes is None) == (arguments.steps is None):
        raise SystemExit("give either --minutes or --steps")
    arguments.work.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(CONFIG, seed=arguments.seed, adam_ratio=arguments.adam_ratio)
    schedule, checkpoint = Schedule(arguments.rate), arguments.work / "checkpoint.npz"
    about = {"step": 0, "seconds": 0.0, "tokens": 0, "shard": 0, "place": 0}
    if arguments.resume and checkpoint.exists():
        about = trainer.restore(checkpoint)
    validation, teacher = Validation(), trainer.teacher(Encoder.load(arguments.out))
    count = sum(int(np.prod(value.shape)) for value in trainer.params.values())
    print(f"{count:,} parameters on {jax.devices()[0]}, from step {about['step']}", flush=True)
    begun = seen = checked = time.monotonic()
    start_seconds, figures, since = about["seconds"], [], about["tokens"]
    stream = batches(
        arguments.out, seed=arguments.seed, tokens=arguments.tokens, number=about["shard"], place=about["place"]
    )
    for batch, number, place in stream:
        about["seconds"] = start_seconds + time.monotonic() - begun
        progress = about["step"] / arguments.steps if arguments.steps else about["seconds"] / (60 * arguments.minutes)
        spent = arguments.stop_after and time.monotonic() - begun > 60 * arguments.stop_after
        if progress >= 1 or spent:
            break
        figures.append(jax.block_until_ready(trainer.step(batch, schedule.at(about["step"], progress))))
        about |= {"step": about["step"] + 1, "tokens": about["tokens"] + int((batch.segments > 0).sum()),
                  "shard": number, "place": place}  # fmt: skip
        if len(figures) == 25:
            sums, now = np.sum([np.asarray(figure) for figure in figures], axis=0), time.monotonic()
            domains = " ".join(f"{d[:12]} {a / b:.3f}" for d, a, b in zip(DOMAINS, *sums[:, 1:], strict=True) if b)
            speed = (about["tokens"] - since) / (now - seen)
            print(
                f"{about['step']} {progress:.3f} {speed:.0f} tok/s loss {sums[0, 0] / 25:.4f} | {domains}", flush=True
            )
            figures, seen, since = [], now, about["tokens"]
        if time.monotonic() - checked > 60 * arguments.validate_every:
            trainer.save(checkpoint, about)
            export(trainer, arguments.out)
            print(json.dumps({"step": about["step"], **validation.run(teacher)}), flush=True)
            checked = time.monotonic()
    stream.close()
    trainer.save(checkpoint, about)
    export(trainer, arguments.out)
    print(json.dumps(about | validation.run(teacher)), flush=True)


def export(trainer: Trainer, folder: Path) -> None:
    """Write the model as a Hugging Face checkpoint beside its tokenizer."""
    save_checkpoint(folder, model=trainer.model(), config=trainer.config)
    text = json.dumps(generation_config(folder), indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def generation_config(folder: Path) -> dict[str, Any]:
    """generation_config.json: where an answer ends, and plain sampling."""
    tokenizer = Encoder.load(folder).tokenizer
    return {"do_sample": True, "temperature": 1.0, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip


if __name__ == "__main__":
    main()
