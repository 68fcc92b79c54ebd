"""Attention by a kernel of our own, in Pallas: of a cache, it reads what is seen and nothing else.

The plain product reads the whole bucket of every row, filled or not, and writes its logits to memory. The kernel
(Dao et al. 2022, arXiv:2205.14135; with the positions of a row divided among programs, as in Flash-Decoding) goes over
blocks of positions between the first that a tile of queries sees and the last: those beyond what is filled, or before a
window, are neither loaded nor computed. Every kind of read is one case of it, because each query only says from which
position to which it sees: decoding, a prompt's piece, and a prefix that many rows share.

What ships with jax (0.10) does not take our cases:

- `jax.nn.dot_product_attention` by cuDNN: no float32, softcap or sinks. It takes keys as [B, S, K, H], for which the
  cache would be copied at every step; its causal mask counts from the first position, not from a row's own.
- `pallas.ops.gpu.decode_attention`: no softcap or sinks; sizes of heads are powers of two; keys are [B, S, K, H]. It
  divides the bucket among programs, and not what is filled.
- `pallas.ops.gpu.paged_attention` and `pallas.ops.tpu.paged_attention`: keys in pages [K, pages, size, H]; no windows
  and no sinks.
- `pallas.ops.tpu.ragged_paged_attention`: keys and values interleaved in pages; no sinks.

The cache's own layout, keys [W, K, H, S], suits a kernel: blocks of keys are read along S, and are the right-hand side
of their product as they stand.

There are two kernels around one arithmetic (`kernel_block`), because the devices reach memory in other ways. On a GPU
(`kernel_gpu`, through Triton) a program loops over its blocks, and many programs share a row. On a TPU (`kernel_tpu`,
through Mosaic) programs run one after the other, and the pipeline that feeds them is told which block comes next. A
single kernel would lose the one or the other. On a CPU the plain product is the faster and the oracle of both; there
the kernel runs in Pallas' interpret mode, for tests.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from llmlab.models.kv.attend import Scores, Sight, Sums
from llmlab.models.kv.kernel_gpu import gpu_sums
from llmlab.models.kv.kernel_tpu import tpu_sums


def kernel_sums(
    q: Float[Array, "B L N H"],
    keys: Float[Array, "B K H S"],
    values: Float[Array, "B K S V"],
    sight: Sight,
    scores: Scores,
) -> Sums:
    """The sums of `attend.part_sums`. A query that sees nothing has zeros and the lowest maximum.

    Raises:
        ValueError: S does not divide by 16.
    """
    batch, length, heads, size = q.shape
    kv_heads = keys.shape[1]
    groups = heads // kv_heads
    q = (q * scores.scale).astype(q.dtype)
    q = jnp.transpose(q.reshape(batch, length, kv_heads, groups, size), (0, 2, 3, 1, 4))
    first = jnp.zeros_like(sight.at) if scores.window is None else jnp.maximum(sight.at - scores.window + 1, 0)
    return _sums(
        q.reshape(batch, kv_heads, groups * length, size),
        keys,
        values,
        jnp.tile(first, (1, groups)),
        jnp.tile(jnp.minimum(sight.end, values.shape[2]), (1, groups)),
        softcap=scores.softcap,
    )


@partial(jax.jit, static_argnames="softcap")  # so that it is traced once, and not for every layer
def _sums(
    q: Float[Array, "B K Q H"],
    keys: Float[Array, "B K H S"],
    values: Float[Array, "B K S V"],
    first: Int32[Array, "B Q"],
    end: Int32[Array, "B Q"],
    *,
    softcap: float | None,
) -> Sums:
    """The sums by the kernel of the platform that the program is compiled for."""
    sums: Sums = jax.lax.platform_dependent(
        q,
        keys,
        values,
        first,
        end,
        cuda=partial(gpu_sums, softcap=softcap),
        tpu=partial(tpu_sums, softcap=softcap),
        default=partial(gpu_sums, softcap=softcap, interpret=True),
    )
    # Where nothing is seen; the lowest maximum leaves it out of what it is joined with.
    return sums._replace(total=jnp.where(sums.total == 0, 1.0, sums.total))
