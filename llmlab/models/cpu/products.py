"""Products with int8 weights from inside a jitted program, in as many pieces as the cores want."""

from __future__ import annotations

import importlib.util
import os
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int8

__all__ = ["int8_product", "usable"]

#: XLA runs what is ready side by side only where more than this many operations are.
_READY = 8
#: The fewest weights of a piece: below, the call itself is a good part of the time.
_PIECE = 1 << 14
#: The outputs of a piece are a multiple of this, so that none of its loops has a rest.
_OUTPUTS = 16
#: The major version of XLA's foreign function interface that the handler is written for.
_MAJOR = "0"


def usable() -> bool:
    """Whether products run by these loops: on one CPU device, with numba there (`pip install 'llmlab[cpu]'`)."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and _installed()


@cache
def _installed() -> bool:
    if importlib.util.find_spec("numba") is None:
        return False
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = re.search(r"#define XLA_FFI_API_MAJOR (\d+)", header.read_text()) if header.exists() else None
    return found is not None and found[1] == _MAJOR


@cache
def _register() -> None:
    from llmlab.models.cpu.calls import register

    register()


def int8_product(
    x: Float32[Array, "B I"], values: Int8[Array, "O I"], scale: Float32[Array, " O"]
) -> Float32[Array, "B O"]:
    """x @ (values * scale[:, None]).T, summed in float32; where `usable()`.

    The bits of a row depend on how many rows there are, and on nothing else of them.
    """
    _register()
    from llmlab.models.cpu.calls import TARGET

    rows, outputs = x.shape[0], values.shape[0]
    size = _size(outputs, x.shape[1])
    starts = range(0, outputs, size)
    pieces = [
        jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct((rows, min(size, outputs - start)), jnp.float32))(
            x, values, scale, jnp.full((1,), start, jnp.int32)
        )
        for start in starts
    ]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=1)


def _size(outputs: int, inputs: int) -> int:
    """The outputs of a piece: as many pieces as keep all cores busy, or one where that would make them too small."""
    wanted = _READY * 2 ** max((os.cpu_count() or 1) - 1, 0).bit_length()
    pieces = min(wanted, outputs * inputs // _PIECE, outputs // _OUTPUTS)
    if pieces <= _READY:
        return outputs
    return -(-outputs // pieces // _OUTPUTS) * _OUTPUTS
