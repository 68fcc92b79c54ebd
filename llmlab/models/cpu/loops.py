"""Loops over int8 weights, compiled by numba for the CPU at hand and kept on disk by it.

A weight is read once for up to four rows of activations, is converted to float32 in a register, and sums are float32.
All rows of a batch take the same loop, so that the bits of a row do not depend on where in the batch it is, nor on the
other rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

__all__ = ["compiled", "products"]

#: What LLVM may do to the sums: reorder them and fuse a product with an addition. Values that are not finite stay so.
_MATH = {"reassoc", "contract", "nsz"}
#: The outputs whose weights stay in a core's cache while all rows pass over them.
_OUTPUTS = 16


def compiled(function: Callable[..., Any]) -> Any:
    """Returns the function as numba compiles it at its first call, without what checks its annotations."""
    return njit(fastmath=_MATH, cache=True, nogil=True)(inspect.unwrap(function))


@compiled
def _one_output(x, w, scale, out):  # type: ignore[no-untyped-def]
    """x [B, I], w [I] int8, out [B]: for the outputs that are left over after groups of four."""
    for b in range(x.shape[0]):
        row = x[b]
        total = np.float32(0)
        for i in range(w.shape[0]):
            total += row[i] * np.float32(w[i])
        out[b] = total * scale


@compiled
def _one_row(x, w, scale, out):  # type: ignore[no-untyped-def]
    """x [1, I], w [4, I], scale [4], out [1, 4]."""
    zero = np.float32(0)
    a0, a1, a2, a3 = zero, zero, zero, zero
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    row = x[0]
    for i in range(row.shape[0]):
        u = row[i]
        a0 += u * np.float32(w0[i])
        a1 += u * np.float32(w1[i])
        a2 += u * np.float32(w2[i])
        a3 += u * np.float32(w3[i])
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = a0 * scale[0], a1 * scale[1], a2 * scale[2], a3 * scale[3]


@compiled
def _two_rows(x, w, scale, out):  # type: ignore[no-untyped-def]
    """x [2, I], w [4, I], scale [4], out [2, 4]."""
    zero = np.float32(0)
    a0, a1, a2, a3, b0, b1, b2, b3 = zero, zero, zero, zero, zero, zero, zero, zero
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    first, second = x[0], x[1]
    for i in range(first.shape[0]):
        u, v = first[i], second[i]
        f0, f1, f2, f3 = np.float32(w0[i]), np.float32(w1[i]), np.float32(w2[i]), np.float32(w3[i])
        a0 += u * f0
        a1 += u * f1
        a2 += u * f2
        a3 += u * f3
        b0 += v * f0
        b1 += v * f1
        b2 += v * f2
        b3 += v * f3
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = a0 * scale[0], a1 * scale[1], a2 * scale[2], a3 * scale[3]
    out[1, 0], out[1, 1], out[1, 2], out[1, 3] = b0 * scale[0], b1 * scale[1], b2 * scale[2], b3 * scale[3]


@compiled
def _four_rows(x, w, scale, out):  # type: ignore[no-untyped-def]
    """x [4, I], w [4, I], scale [4], out [4, 4]: sixteen sums, as many as there are registers for with their inputs."""
    zero = np.float32(0)
    a0, a1, a2, a3, b0, b1, b2, b3 = zero, zero, zero, zero, zero, zero, zero, zero
    c0, c1, c2, c3, d0, d1, d2, d3 = zero, zero, zero, zero, zero, zero, zero, zero
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    first, second, third, fourth = x[0], x[1], x[2], x[3]
    for i in range(first.shape[0]):
        s, t, u, v = first[i], second[i], third[i], fourth[i]
        f0, f1, f2, f3 = np.float32(w0[i]), np.float32(w1[i]), np.float32(w2[i]), np.float32(w3[i])
        a0 += s * f0
        a1 += s * f1
        a2 += s * f2
        a3 += s * f3
        b0 += t * f0
        b1 += t * f1
        b2 += t * f2
        b3 += t * f3
        c0 += u * f0
        c1 += u * f1
        c2 += u * f2
        c3 += u * f3
        d0 += v * f0
        d1 += v * f1
        d2 += v * f2
        d3 += v * f3
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = a0 * scale[0], a1 * scale[1], a2 * scale[2], a3 * scale[3]
    out[1, 0], out[1, 1], out[1, 2], out[1, 3] = b0 * scale[0], b1 * scale[1], b2 * scale[2], b3 * scale[3]
    out[2, 0], out[2, 1], out[2, 2], out[2, 3] = c0 * scale[0], c1 * scale[1], c2 * scale[2], c3 * scale[3]
    out[3, 0], out[3, 1], out[3, 2], out[3, 3] = d0 * scale[0], d1 * scale[1], d2 * scale[2], d3 * scale[3]


@compiled
def products(x, w, scale, out):  # type: ignore[no-untyped-def]
    """Writes x @ (w * scale[:, None]).T.

    Args:
        x: float32 [B, I].
        w: int8 [O, I].
        scale: float32 [O].
        out: float32 [B, O], overwritten.
    """
    rows, outputs = x.shape[0], w.shape[0]
    whole = outputs - outputs % 4
    for start in range(0, whole, _OUTPUTS):
        stop = min(start + _OUTPUTS, whole)
        if rows % 4 == 0:
            for b in range(0, rows, 4):
                for o in range(start, stop, 4):
                    _four_rows(x[b : b + 4], w[o : o + 4], scale[o : o + 4], out[b : b + 4, o : o + 4])
        elif rows % 2 == 0:
            for b in range(0, rows, 2):
                for o in range(start, stop, 4):
                    _two_rows(x[b : b + 2], w[o : o + 4], scale[o : o + 4], out[b : b + 2, o : o + 4])
        else:
            for b in range(rows):
                for o in range(start, stop, 4):
                    _one_row(x[b : b + 1], w[o : o + 4], scale[o : o + 4], out[b : b + 1, o : o + 4])
    for o in range(whole, outputs):
        _one_output(x, w[o], scale[o], out[:, o])
