"""Weights of one byte: rounding, the three uses of such a parameter, and what a loaded model takes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.checkpoints.load import load_model
from llmlab.models import int8
from llmlab.models.int8 import Int8, product, product_with_rows, rounded
from llmlab.models.plan import abstract_mesh, footprint
from llmlab.testing import tiny_checkpoint

DTYPES = ("float32", "bfloat16", "float16")


def quantized(value: np.ndarray, *, summed: int, dtype: str) -> Int8:
    numbers, scale = rounded(np.array(value, np.float32), summed=summed)
    return Int8(jnp.asarray(numbers), jnp.asarray(scale), jnp.dtype(dtype))


def as_float64(kernel: Int8) -> np.ndarray:
    return np.asarray(kernel.values, np.float64) * np.asarray(kernel.scale, np.float64)


@pytest.mark.parametrize("summed", [-1, -2])
@pytest.mark.parametrize("shape", [(64, 48), (3, 16, 24)])
def test_every_weight_is_the_nearest_of_its_output(shape: tuple[int, ...], summed: int) -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=shape).astype(np.float32) * np.exp(rng.normal(size=shape[-1])).astype(np.float32)
    value[..., 0, :] = 0  # an output, or an input, without weights
    held = quantized(value, summed=summed, dtype="float32")
    most = np.abs(value).max(axis=summed, keepdims=True)
    assert held.values.dtype == jnp.int8 and held.scale.shape == most.shape and held.shape == shape
    assert (np.abs(as_float64(held) - value) <= most / 254 * (1 + 1e-5)).all()
    largest = np.abs(np.asarray(held.values)).max(axis=summed, keepdims=True)
    np.testing.assert_array_equal(largest, np.where(most > 0, 127, 0))
    np.testing.assert_allclose(np.asarray(jnp.asarray(held)), as_float64(held), rtol=1e-6)


@pytest.mark.parametrize("by_blocks", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 5])
def test_products_are_those_of_the_weights_that_it_stands_for(
    monkeypatch: pytest.MonkeyPatch, by_blocks: bool, dtype: str, tokens: int
) -> None:
    """Against float64; with blocks of 8 rows, of which a matrix has several."""
    monkeypatch.setattr(int8, "_by_blocks", lambda x: by_blocks)
    monkeypatch.setattr(int8, "_BLOCK", 8 * 40)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, tokens, 64)), dtype)
    wide = np.asarray(x, np.float64)
    error = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}[dtype]
    kernel = quantized(rng.normal(size=(64, 40)), summed=-2, dtype=dtype)
    found = product(x, kernel)
    assert found.dtype == x.dtype
    expected = wide @ as_float64(kernel)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=error * np.abs(expected).max())
    exact = product(x, kernel, preferred_element_type=jnp.float32)
    np.testing.assert_allclose(np.asarray(exact, np.float64), expected, atol=1e-4)

    table = quantized(rng.normal(size=(40, 64)), summed=-1, dtype=dtype)
    logits = product_with_rows(x, table)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(logits, np.float64), wide @ as_float64(table).T, atol=1e-4)
    ids = np.array([[3, 0], [39, 3]])
    rows = table[...][ids]
    assert rows.dtype == x.dtype and rows.shape == (2, 2, 64)
    np.testing.assert_allclose(np.asarray(rows, np.float64), as_float64(table)[ids], rtol=1e-2)


def test_blocks_divide_a_matrix_or_are_not_used() -> None:
    assert int8._block(896, 9728) == 32 and int8._block(896, 9728) * 9728 <= int8._BLOCK
    assert int8._block(50257, 768) == 29  # 29 x 1733
    assert int8._block(151936, 896) == 128
    assert int8._block(10007, 512) is None, "a prime number"
    assert int8._block(64, 64) is None, "small enough as a whole"


def test_sums_beyond_float16_are_scaled_before_they_are_rounded() -> None:
    kernel = quantized(np.full((512, 4), 0.01), summed=-2, dtype="float16")
    x = jnp.full((1, 1, 512), 8.0, jnp.float16)  # 512 * 8 * 127 is beyond 65504, 512 * 8 * 0.01 is not
    np.testing.assert_allclose(np.asarray(product(x, kernel), np.float32), 40.96, rtol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_takes_a_quarter_and_what_is_planned(tmp_path, tied: bool) -> None:
    folder = tiny_checkpoint(
        tmp_path / "tiny", num_hidden_layers=2, hidden_size=128, intermediate_size=256, tie_word_embeddings=tied
    )
    taken = {}
    for name, narrow in (("float32", False), ("int8", True)):
        config, model = load_model(folder, dtype=jnp.float32, int8=narrow)
        assert model.weights_dtype == name and model.dtype == jnp.float32
        taken[name] = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model)))
    assert taken["int8"] <= 0.30 * taken["float32"], taken
    planned = footprint(config, abstract_mesh(), dtype="int8", cache_dtype="float32").weights
    assert planned == pytest.approx(taken["int8"], rel=0.02)


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt2", "gemma2"])
def test_experts_latent_attention_and_tables_of_positions(tmp_path, family: str) -> None:
    """Every use of such a parameter in a decoder, against the decoder with the weights that it stands for."""
    folder = tiny_checkpoint(tmp_path / "tiny", family=family)
    _, narrow = load_model(folder, dtype=jnp.float32, int8=True)
    graph, state = nnx.split(narrow)
    kept = [value for value in jax.tree.leaves(state, is_leaf=_is_int8) if _is_int8(value)]
    assert len(kept) >= 4
    plain = nnx.merge(graph, jax.tree.map(lambda x: jnp.asarray(x) if _is_int8(x) else x, state, is_leaf=_is_int8))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 96, (1, 12)), jnp.int32)
    positions = jnp.arange(12, dtype=jnp.int32)[None, :]
    found, expected = (model.logits(model(tokens, positions)[0]) for model in (narrow, plain))
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def _is_int8(value: object) -> bool:
    return isinstance(value, Int8)
