"""Checks the arguments of `load` before anything large is read: counts, the dtype, memory for pinned slots."""

from __future__ import annotations

from typing import Any

from llmlab.engine.scheduler import cache_lengths
from llmlab.errors import RequestError
from llmlab.models.config import ModelConfig
from llmlab.models.families import cache_bytes

__all__ = ["check_context", "check_options", "check_slots", "choose_dtype"]

DTYPES = ("float32", "bfloat16", "float16")


def choose_dtype(config: dict[str, Any], dtype: str | None) -> tuple[str, tuple[str, ...]]:
    """Returns the dtype to load the weights in, and notes about that choice.

    Args:
        config: the content of config.json.
        dtype: the dtype that the caller wants; None for the default.
    """
    import jax

    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    stored = stored if stored in DTYPES else "float32"
    if jax.default_backend() != "cpu":
        return dtype or stored, ()
    if dtype in (None, "float32"):
        note = () if stored == "float32" else (f"stored as {stored}, loaded as float32: on a CPU that is faster",)
        return "float32", note
    return str(dtype), (f"{dtype} matrix products are more than ten times slower than float32 on a CPU",)


def check_options(*, dtype: str | None, max_context: int | None, slots: int | None) -> None:
    """Raises RequestError for values that make no sense for any model."""
    if dtype not in (None, *DTYPES):
        raise RequestError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}", param="dtype")
    for name, value in (("max_context", max_context), ("slots", slots)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RequestError(f"{name} must be a positive integer, got {value!r}", param=name)


def check_context(config: ModelConfig, max_context: int | None) -> None:
    """Raises RequestError if the context is longer than the model's own."""
    if max_context is not None and max_context > config.max_position:
        raise RequestError(
            f"max_context must be at most {config.max_position}, the model's own, got {max_context}",
            param="max_context",
        )


def check_slots(config: ModelConfig, *, slots: int, max_context: int, dtype: Any, free: int) -> None:
    """Check that a pinned batch fits into memory: it allocates everything at the first request, which is too late.

    Raises:
        RequestError: the batch needs more than `free` bytes.
    """
    length = cache_lengths(max_context)[-1]
    size = cache_bytes(config, batch=slots, length=length, dtype=dtype)
    if size > free:
        raise RequestError(
            f"slots={slots} rows of {length} positions take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
            "give fewer slots or a smaller max_context",
            param="slots",
        )
