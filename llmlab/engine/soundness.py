"""What ends a row or a search with an error: logits that are not numbers, a grammar or a device that fails, no memory.

Nothing that is drawn, ranked or plotted from logits that are not numbers would mean anything.
"""

from __future__ import annotations

import numpy as np
from jax.typing import DTypeLike

from llmlab.errors import EngineError


def not_numbers(dtype: DTypeLike) -> EngineError:
    """Returns the error for logits that are NaN or infinite; `dtype` is that of the activations."""
    hint = ""
    if dtype == np.float16:
        hint = "; float16 ends at 65504, and something on the way was larger: load with dtype='bfloat16' or 'float32'"
    elif dtype != np.float32:
        hint = f"; if {dtype} is too coarse for this model, dtype='float32' is not"
    return EngineError(f"the model's logits are not numbers{hint}")


def sound(logits: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns raw logits [..., V] as they are; -inf is a token that the model never says.

    Raises:
        EngineError: a logit is NaN or plus infinity.
    """
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise not_numbers(dtype)
    return logits


def grammar_failed(reason: str) -> EngineError:
    """Returns the error of a row whose grammar failed on the way: the request is to blame, so its status is 400."""
    return EngineError(f"the grammar cannot go on: {reason}", status=400, code="grammar_failed")


def no_room(needed: int, *, of: int, beside: int, rows: int, budget: int) -> EngineError:
    """Returns the error of a search for whose rows, of up to `budget` tokens each, there is no memory.

    `needed`, `of` and `beside` are bytes: those of its caches, all that caches may take, and what others have.
    """
    used = f" of which {beside / 2**20:,.0f} MiB are in use" if beside else ""
    return EngineError(
        f"a search with {rows} rows of up to {budget} tokens needs {needed / 2**20:,.0f} MiB, and caches may take "
        f"{of / 2**20:,.0f} MiB{',' if used else ''}{used}: ask for fewer rows (beams, n) or a smaller max_tokens",
        status=503 if needed <= of else 400,
        code="search_too_large",
    )


def as_engine_error(error: BaseException) -> EngineError:
    """Returns the EngineError that readers get for an error on the driver thread."""
    if isinstance(error, EngineError):
        return error
    if "RESOURCE_EXHAUSTED" in str(error):
        wrapped = EngineError(f"the device ran out of memory; load with a smaller max_context or slots ({error})")
    else:
        wrapped = EngineError(f"the engine failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
