"""The dtypes that a model is loaded in: that of its weights, and that of its activations and its cache.

`PROMISES` states what each dtype keeps of what float32 does; README and `llmlab.load` repeat it, and the tests hold the
engine to it.

int8 is this package's own (`models.int8`). qwix, which quantizes decoders too, does not serve here: with activations in
floats its products convert the whole matrix before they multiply, which XLA's CPU backend writes to memory each time,
and it finds the weights by tracing a model that is already there in floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmlab.errors import RequestError
from llmlab.models.cpu.products import usable

__all__ = [
    "FLOATS",
    "IDENTITY",
    "NAMES",
    "PROMISES",
    "Dtypes",
    "Promise",
    "check_dtype",
    "choose_dtypes",
    "coarser",
    "device_dtype",
]

FLOATS = ("float32", "bfloat16", "float16")
#: What `dtype` may be. None is "auto".
NAMES = (*FLOATS, "int8", "auto")


class Promise(NamedTuple):
    """What holds for a model that is loaded in a dtype.

    In every dtype the sampler computes in float32, so that stages, statistics and sampling_logprob follow from the raw
    logits within `IDENTITY`; and with pinned slots a request gives the same bits alone, in a sweep, or beside others.
    """

    logprob: float  #: the most by which a token's raw logprob differs between two ways to compute it: score, generation
    divergence: float  #: the most, on average over a text, that the distributions diverge from float32's: KL in nats


#: By the name of the dtype. int8's first number is that of float32 activations; with others it is theirs.
PROMISES = {
    "float32": Promise(logprob=1e-4, divergence=0.0),
    "bfloat16": Promise(logprob=1e-1, divergence=2e-3),
    "float16": Promise(logprob=2e-2, divergence=1e-4),
    "int8": Promise(logprob=1e-4, divergence=1e-2),
}

#: The most by which a stage's logprobs, computed again from the raw logits, differ from what generation reported.
IDENTITY = 1e-5

#: The first compute capability of NVIDIA GPUs with bfloat16 units: Ampere's. A T4 has 7.5, a V100 7.0.
_BFLOAT16_SINCE = (8, 0)


class Dtypes(NamedTuple):
    """What a model is loaded in."""

    weights: str  #: one of `FLOATS`, or "int8"
    activations: str  #: one of `FLOATS`: of what is computed, of the cache, and of weights that are never int8
    notes: tuple[str, ...] = ()  #: for the banner


def coarser(config: Mapping[str, Any] | None, activations: str) -> str:
    """The coarser of two float dtypes: the one that a config.json says a checkpoint is stored in, and another."""
    said = config or {}
    stored = str(said.get("dtype") or said.get("torch_dtype") or "float32").removeprefix("torch.")
    return max((stored, activations), key=lambda one: PROMISES.get(one, PROMISES["bfloat16"]).divergence)


def check_dtype(dtype: str | None) -> None:
    """Raises RequestError for a dtype that no model can be loaded in."""
    if dtype is not None and dtype not in NAMES:
        raise RequestError(f"dtype must be one of {', '.join(map(repr, NAMES))}, got {dtype!r}", param="dtype")


def device_dtype(device: Any) -> str:
    """The float dtype in which a device is fast, and that it has units for: `device` is one of `jax.devices()`.

    A TPU and a GPU take bfloat16, except a GPU without bfloat16 units, which takes float16. A CPU, and a device that is
    not known, takes float32: bfloat16 products are more than ten times slower on a CPU.
    """
    if device.platform == "tpu":
        return "bfloat16"
    if device.platform in ("gpu", "cuda", "rocm"):
        return "bfloat16" if _has_bfloat16(device) else "float16"
    return "float32"


def choose_dtypes(config: Mapping[str, Any], dtype: str | None, *, device: Any) -> Dtypes:
    """Returns what to load a model in.

    Args:
        config: the content of config.json.
        dtype: what the caller wants; None and "auto" leave it to the device.
        device: the device, or the first of several alike.
    """
    own = device_dtype(device)
    if dtype == "int8":
        notes: tuple[str, ...] = (f"the weights are int8; activations and cache are {own}, as suits the device",)
        if device.platform == "cpu" and not usable():
            notes += (
                "int8 takes less memory here and more time: its products are faster than float32's on one CPU device "
                "with numba (pip install 'llmlab[cpu]')",
            )
        return Dtypes("int8", own, notes)
    if dtype is not None and dtype != "auto":
        slow = device.platform == "cpu" and dtype != "float32"
        why = f"{dtype} matrix products are more than ten times slower than float32 on a CPU"
        return Dtypes(dtype, dtype, (why,) if slow else ())
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if stored not in FLOATS or stored == own:
        return Dtypes(own, own)
    if own == "float32":
        return Dtypes(own, own, (f"stored as {stored}, loaded as float32: on a CPU that is faster",))
    why = "this GPU has no bfloat16 units" if own == "float16" else "half the memory and faster"
    return Dtypes(own, own, (f"stored as {stored}, loaded as {own}: {why}; dtype='{stored}' keeps it",))


def _has_bfloat16(device: Any) -> bool:
    """Whether a GPU has bfloat16 units. AMD's have, in all that JAX runs on, and give names in place of numbers."""
    capability = str(getattr(device, "compute_capability", ""))
    major, _, minor = capability.partition(".")
    if not major.isdecimal():
        return True
    return (int(major), int(minor) if minor.isdecimal() else 0) >= _BFLOAT16_SINCE
