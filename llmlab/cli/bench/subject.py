"""The model that a part of the benchmark runs: a loaded one, or a shape with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from llmlab.backends.local.backend import LocalBackend
from llmlab.backends.local.dtypes import choose_dtypes
from llmlab.backends.local.load_options import by_kernel, check_options
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.errors import RequestError
from llmlab.sampling.params import SamplingParams

__all__ = [
    "PLAIN",
    "SAMPLED",
    "SHAPES",
    "Options",
    "Subject",
    "check",
    "counts",
    "float_dtype",
    "prompt_of",
    "rows_of",
    "run_rows",
    "subject",
]

#: Fields that turn on every numeric stage of the sampler, and fields that turn on none.
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1}
PLAIN: dict[str, Any] = {"temperature": 1.0}

_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 16384,
}
#: config.json of the shapes that `shape:NAME` stands for; their weights are random.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        **_LLAMA, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    },
    "smollm2-135m": {
        **_LLAMA, "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "qwen2-0.5b": {
        **_LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "llama-1b": {
        **_LLAMA, "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
    },
    "llama-8b": {
        **_LLAMA, "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    },
}  # fmt: skip


class Options(NamedTuple):
    """What a run of the benchmark is asked for, as every part gets it."""

    model: str = "demo"  #: as in `llmlab.load`, or shape:NAME
    dtype: str | None = None
    attention: str = "auto"  #: as in `llmlab.load`
    rows: tuple[int, ...] = (1, 8, 32, 128)
    contexts: tuple[int, ...] = (128, 1024, 8192)
    prompt: int = 64
    tokens: int = 128
    repeats: int = 3
    ceilings: Mapping[str, float] = MappingProxyType({})  #: measured first, then handed to the other parts


class Subject(NamedTuple):
    """An engine to measure; `backend` is None for a shape, which has no tokenizer."""

    engine: Engine
    backend: LocalBackend | None


def counts(option: str, text: str) -> tuple[int, ...]:
    """Positive integers that are separated by commas.

    Raises:
        RequestError: the text is something else.
    """
    try:
        found = tuple(int(count) for count in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise RequestError(f"{option} must be positive integers separated by commas, got {text!r}", param=option)
    return found


def check(model: str, *, dtype: str | None, attention: str = "auto") -> None:
    """Raises RequestError if there is no such shape, dtype or attention, or if int8 is asked of a shape."""
    check_options(dtype=dtype, max_context=None, slots=None, attention=attention)
    kind, _, name = model.partition(":")
    if kind == "shape" and name not in SHAPES:
        raise RequestError(f"there is no shape {name!r}; there are {', '.join(SHAPES)}", param="model")
    if dtype == "int8" and kind == "shape":
        raise RequestError("int8 is measured of a checkpoint: a shape has random floats", param="dtype")


def float_dtype(dtype: str | None) -> str:
    """The float dtype that this device computes in where `dtype` is asked for."""
    import jax

    return choose_dtypes({}, dtype, device=jax.devices()[0]).activations


@contextmanager
def subject(options: Options, **load: Any) -> Iterator[Subject]:
    """Loads the model, or makes one of the shape; closed at the end. `load` is for `llmlab.load`, such as slots=8.

    Raises:
        RequestError: there is no such shape.
    """
    kind, _, name = options.model.partition(":")
    if kind != "shape":
        backend = LocalBackend.load(options.model, dtype=options.dtype, attention=options.attention, **load)
        found = Subject(backend.engine, backend)
    else:
        found = Subject(_engine_of(name, options, **load), None)
    try:
        yield found
    finally:
        found.engine.close()


def _engine_of(shape: str, options: Options, **load: Any) -> Engine:
    import jax
    import jax.numpy as jnp

    from llmlab.backends.local.kept_programs import keep_programs
    from llmlab.models.families import read_config
    from llmlab.testing import random_model

    keep_programs()
    config, dtype = read_config(SHAPES[shape]), float_dtype(options.dtype)
    kernel = by_kernel(options.attention, config, device=jax.devices()[0], dtype=dtype, mesh=load.get("mesh"))
    model = random_model(config, dtype=jnp.dtype(dtype))
    return Engine(replace(config, attention_kernel=kernel), model, **load)


def prompt_of(engine: Engine, length: int, *, seed: int = 0) -> np.ndarray:
    """Random token ids [length]."""
    return np.random.default_rng(seed).integers(0, engine.config.vocab_size, length).astype(np.int32)


def rows_of(prompt: np.ndarray, *, count: int, tokens: int, fields: dict[str, Any] = PLAIN) -> list[Row]:
    """Rows that go on from one prompt; end tokens end nothing, so that every run makes as many tokens."""
    params = [SamplingParams(seed=1, choice=choice, **fields) for choice in range(count)]
    return [Row(prompt, one, budget=tokens, ignore_ends=True) for one in params]


def run_rows(engine: Engine, rows: list[Row]) -> int:
    """Generates rows to their end; the number of tokens."""
    return sum(len(piece.tokens) for block in engine.submit(rows) for piece in block)
