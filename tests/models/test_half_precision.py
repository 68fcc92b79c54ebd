"""bfloat16 and float16: no family mixes dtypes by accident, and sums are float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.models.families import build_model, families, read_config
from llmlab.models.int8 import product
from llmlab.testing import tiny_config


@pytest.mark.parametrize("family", sorted(families()))
def test_every_family_computes_in_bfloat16(family: str) -> None:
    """Traced under strict promotion, where a sum of two dtypes is an error."""
    config = read_config(tiny_config(family))
    ids = jax.ShapeDtypeStruct((2, 5), jnp.int32)

    def run(tokens, positions):
        model = build_model(config, rngs=nnx.Rngs(0), dtype="bfloat16")
        hidden, _ = model(tokens, positions)
        return hidden, model.logits(hidden)

    hidden, logits = jax.eval_shape(run, ids, ids)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_products_are_rounded_once(dtype: str) -> None:
    """Not after every number that is added."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(0.5, 1, size=(1, 1, 2048)), dtype)
    kernel = jnp.asarray(rng.uniform(0.5, 1, size=(2048, 8)), dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    found = product(x, kernel)
    assert found.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=float(jnp.finfo(dtype).eps) / 2 * 1.01)
