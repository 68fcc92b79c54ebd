"""What the device itself can do: the rates that every other figure is a share of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from llmlab.cli.bench.figures import Figure, seconds

__all__ = ["COPY", "LAUNCH", "MATRIX", "VECTOR", "ceilings"]

#: Names of the ceilings.
COPY, VECTOR, MATRIX, LAUNCH = "copy", "matrix-vector", "matrix-matrix", "launch"

#: Bytes that the copied array, and the matrices of the matrix-vector product, take together: more than any cache holds.
BYTES = 2**29
#: How many times the array is copied in one program.
_COPIES = 16
#: Rows, inner size and columns of the matrix-matrix product, and how many times it is done.
_ROWS, _INNER, _COLUMNS = 512, 2048, 8192


def ceilings(*, dtype: str, size: int = BYTES) -> Iterator[Figure]:
    """Measures memory and arithmetic by what a decoder does with them.

    Args:
        dtype: of the numbers.
        size: bytes of what is read.
    """
    kind = jnp.dtype(dtype)
    count = size // kind.itemsize

    # Several times within one program, over two arrays in turn: on a CPU, memory that was never used is slow to write.
    whole = jnp.ones(count // 1024 * 1024, kind)
    add = jax.jit(lambda x: lax.fori_loop(0, _COPIES, lambda i, x: x + i.astype(x.dtype), x))
    took = seconds(lambda: add(whole).block_until_ready())
    yield Figure("ceiling", COPY, 2 * _COPIES * whole.nbytes / took / 1e9, "GB/s", note="read and written")
    del whole

    # Layers of a decoder: each matrix is read once, and its result is the next one's vector.
    width, high = (896, 4864) if size >= 2**24 else (64, 256)
    pairs = max(1, count // (2 * width * high))
    up = [jnp.full((width, high), 1e-3, kind) for _ in range(pairs)]
    down = [jnp.full((high, width), 1e-3, kind) for _ in range(pairs)]

    @jax.jit
    def chain(x: jax.Array, up: list[jax.Array], down: list[jax.Array]) -> jax.Array:
        for a, b in zip(up, down, strict=True):
            x = (x @ a) @ b
        return x

    read = pairs * (up[0].nbytes + down[0].nbytes)
    vector = jnp.ones((1, width), kind)
    took = seconds(lambda: chain(vector, up, down).block_until_ready(), repeats=5)
    yield Figure("ceiling", VECTOR, read / took / 1e9, "GB/s")
    del up, down

    shrink = 1 if size >= 2**24 else 16
    rows, inner, columns = _ROWS // shrink, _INNER // shrink, _COLUMNS // shrink
    a, b = jnp.ones((rows, inner), kind), jnp.ones((inner, columns), kind)
    multiply = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    took = seconds(lambda: multiply(a, b).block_until_ready())
    yield Figure("ceiling", MATRIX, 2 * rows * inner * columns / took / 1e9, "GFLOP/s")

    one = jnp.zeros(1)
    tiny = jax.jit(lambda x: x + 1)

    def launches() -> None:
        x = one
        for _ in range(1000):
            x = tiny(x)
        x.block_until_ready()

    yield Figure("ceiling", LAUNCH, seconds(launches) * 1e3, "us", note="one compiled program that does nothing")
