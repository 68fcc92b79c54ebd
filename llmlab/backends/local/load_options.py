"""Checks the arguments of `load` before anything large is read: counts, dtype, attention, memory for pinned slots."""

from __future__ import annotations

from typing import Any

from llmlab.backends.local.dtypes import check_dtype
from llmlab.engine.scheduler import cache_lengths
from llmlab.errors import RequestError, short
from llmlab.models.config import ModelConfig
from llmlab.models.families import cache_bytes

__all__ = ["ATTENTIONS", "CACHE_SHARE", "by_kernel", "check_context", "check_options", "plan_context"]

#: The share of the free memory that the caches may take.
CACHE_SHARE = 0.5

#: How attention may be computed. "auto" is what was measured to be best on the device. So far that is "plain"
#: everywhere, because no GPU or TPU was measured.
ATTENTIONS = ("auto", "plain", "kernel")
#: The least compute capability of the GPUs that Triton compiles for.
_TRITON_SINCE = 8

#: The most tokens that are guessed at a time.
MOST_GUESSES = 16


def check_options(
    *,
    dtype: str | None,
    max_context: int | None,
    slots: int | None,
    attention: str = "auto",
    draft: int | None = None,
    mesh: Any = None,
) -> None:
    """Raises RequestError for values that make no sense for any model."""
    check_dtype(dtype)
    if attention not in ATTENTIONS:
        raise RequestError(f"attention must be auto, plain or kernel, got {short(attention)}", param="attention")
    if draft is not None:
        if isinstance(draft, bool) or not isinstance(draft, int) or not 0 <= draft <= MOST_GUESSES:
            raise RequestError(f"draft must be an integer from 0 to {MOST_GUESSES}, got {short(draft)}", param="draft")
        if draft and mesh is not None:
            raise RequestError("draft= guesses tokens on one device only: leave out mesh=", param="draft")
    for name, value in (("max_context", max_context), ("slots", slots)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RequestError(f"{name} must be a positive integer, got {value!r}", param=name)


def by_kernel(attention: str, config: ModelConfig, *, device: Any, dtype: str, mesh: Any = None) -> bool:
    """Returns whether a kernel computes attention (`models.kv.kernel`), and not the plain product.

    Args:
        attention: one of `ATTENTIONS`.
        config: the model.
        device: the device, or the first of several alike.
        dtype: of the activations and the cache.
        mesh: the devices, if there are several.

    Raises:
        RequestError: a kernel is asked for, and there is none for this device, dtype or model.
    """
    if attention != "kernel":
        return False
    problem = None
    if device.platform not in ("gpu", "tpu") or "rocm" in device.client.platform_version.lower():
        problem = f"is for CUDA GPUs and TPUs, and the device is {device.device_kind!r} ({device.platform})"
    elif device.platform == "gpu" and float(device.compute_capability) < _TRITON_SINCE:
        problem = f"needs a GPU of compute capability {_TRITON_SINCE}.0, and this one has {device.compute_capability}"
    elif device.platform == "tpu" and dtype == "float16":
        problem = "has no float16 on a TPU; dtype='bfloat16' would do"
    elif config.latent is not None:
        problem = "does not read the cache of latent attention, which this model has"
    elif mesh is not None:
        problem = "is for one device, and mesh= asks for several"
    if problem:
        raise RequestError(f"attention='kernel' {problem}; attention='plain' works everywhere", param="attention")
    return True


def check_context(config: ModelConfig, max_context: int | None, *, draft: int | None = None) -> None:
    """Raises RequestError if the context is longer than the model's own, or guesses cannot be read in it."""
    if draft and config.context_switch is not None:
        raise RequestError(
            f"draft= is not for a {config.family} model that rotates texts of more than {config.context_switch} tokens "
            "in another way; leave it out",
            param="draft",
        )
    if max_context is not None and max_context > config.longest_context:
        raise RequestError(
            f"max_context must be at most {config.longest_context}, the model's own, got {max_context}",
            param="max_context",
        )


def plan_context(
    config: ModelConfig, *, slots: int | None, max_context: int | None, dtype: Any, free: int | None, mesh: Any = None
) -> tuple[int, tuple[str, ...]]:
    """Returns the positions that a row may take, and notes about that choice.

    With pinned slots all rows' caches are allocated at the first request, so they must fit together; otherwise a single
    row must. By default the context is the model's own, or the longest cache that takes at most `CACHE_SHARE` of the
    free memory. A context that the caller asks for may take all of it, less the cache into which a prompt is read.

    Args:
        config: the model.
        slots: the pinned batch width, or None.
        max_context: the context that the caller wants, or None.
        dtype: of the cache.
        free: the bytes that are free on each device after the weights; None if that is not known.
        mesh: the devices, if there are several.

    Raises:
        RequestError: the memory does not suffice; the message says what would fit.
    """
    wanted = max_context or config.context
    if free is None:
        return wanted, ()
    # What a prompt is read into lies beside the rows; by default in the share that is left free.
    rows = (slots or 1) + (1 if max_context else 0)
    sizes = {n: cache_bytes(config, batch=rows, length=n, dtype=dtype, mesh=mesh) for n in cache_lengths(wanted)}
    longest = max(sizes)
    room = free if max_context else free * CACHE_SHARE
    fitting = max((length for length, size in sizes.items() if size <= room), default=0)
    if fitting == longest:
        return wanted, ()
    held = f"slots={slots} rows" if slots else "one row"
    held += " and a prompt being read" if max_context else ""
    taken = f"{held} of {longest} positions take {sizes[longest] / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    if fitting and not max_context:
        more = "give fewer slots or max_context= for more" if slots and slots > 1 else "max_context= asks for more"
        return fitting, (f"context {fitting} of the model's {wanted}: {taken}; {more}",)
    fewer = "give fewer slots or " if slots and slots > 1 else ""
    way = f"{fewer or 'give '}max_context={fitting}, which fits" if fitting else f"{fewer}free some memory"
    raise RequestError(f"{taken}; {way}", param="slots" if slots else "max_context")
