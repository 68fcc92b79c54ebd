"""Products with int8 weights by compiled loops, from inside jitted programs, against NumPy in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import llmlab
from llmlab.checkpoints.load import load_model
from llmlab.models import int8
from llmlab.models.cpu import products
from llmlab.models.cpu.products import int8_product, usable
from llmlab.models.int8 import Int8, product, product_with_rows, rounded
from llmlab.testing import tiny_checkpoint

pytestmark = pytest.mark.skipif(not usable(), reason="numba is not installed, or JAX runs on something else")


def weights(outputs: int, inputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, size=(outputs, inputs)).astype(np.int8)
    return values, rng.uniform(0.001, 2, outputs).astype(np.float32)


def in_float64(x: np.ndarray, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ (values.astype(np.float64) * scale.astype(np.float64)[:, None]).T


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 48), (203, 896), (1, 3000), (2049, 576)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 8, 21, 64])
def test_products_are_those_of_float64(rows: int, shape: tuple[int, int]) -> None:
    """Rows in ones, twos and fours; outputs and inputs that none of the loops divides; several pieces and one."""
    values, scale = weights(*shape)
    x = np.random.default_rng(1).normal(size=(rows, shape[1])).astype(np.float32)
    found = np.asarray(jax.jit(int8_product)(x, values, scale))
    bound = np.abs(x).astype(np.float64) @ (np.abs(values).astype(np.float64) * scale[:, None]).T
    assert found.dtype == np.float32
    assert (np.abs(found - in_float64(x, values, scale)) <= 1e-6 * bound).all()


def test_large_matrices_are_divided_among_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the pieces are bit by bit what one piece is, whatever the number of cores."""
    values, scale = weights(2049, 576)
    x = np.random.default_rng(1).normal(size=(4, 576)).astype(np.float32)
    found = {}
    for cores in (1, 2, 3, 16):
        monkeypatch.setattr(products.os, "cpu_count", lambda cores=cores: cores)
        program = jax.jit(lambda *a: int8_product(*a)).lower(x, values, scale).as_text()
        calls = program.count("stablehlo.custom_call")
        assert calls == {1: 1, 2: 15, 3: 26, 16: 65}[cores], calls
        found[cores] = np.asarray(jax.jit(lambda *a: int8_product(*a))(x, values, scale))
        np.testing.assert_array_equal(found[cores], found[1])


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_the_bits_of_a_row_are_its_own(rows: int) -> None:
    """Wherever it is in the batch, and whatever the others are: not numbers, for one."""
    values, scale = weights(320, 200)
    run = jax.jit(int8_product)
    row = np.random.default_rng(2).normal(size=200).astype(np.float32)
    alone = None
    for place in range(rows):
        for others in (0.0, 1e30, np.nan, np.inf):
            x = np.full((rows, 200), others, np.float32)
            x[place] = row
            found = np.asarray(run(x, values, scale))[place]
            alone = found if alone is None else alone
            np.testing.assert_array_equal(found, alone)


def test_what_is_not_finite_stays_so() -> None:
    values, scale = weights(40, 64)
    values[:, 3] = np.where(values[:, 3] == 0, 1, values[:, 3])
    x = np.zeros((2, 64), np.float32)
    x[0, 3], x[1, 3] = np.nan, np.inf
    found = np.asarray(jax.jit(int8_product)(x, values, scale))
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], np.inf * np.sign(values[:, 3].astype(np.float32)))
    scale[7] = np.nan
    found = np.asarray(jax.jit(int8_product)(np.ones_like(x), values, scale))
    assert np.isnan(found[:, 7]).all() and np.isfinite(np.delete(found, 7, axis=1)).all()


def test_threads_and_loops_of_programs() -> None:
    """Programs of several threads at once, and a call from inside a loop and a branch of one program."""
    values, scale = weights(4096, 128)
    x = np.random.default_rng(3).normal(size=(8, 2, 128)).astype(np.float32)
    run = jax.jit(int8_product)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: np.asarray(run(one, values, scale)), x))
    for one, out in zip(x, found, strict=True):
        np.testing.assert_array_equal(out, np.asarray(run(one, values, scale)))

    held = jnp.asarray(values), jnp.asarray(scale)

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
        one = jnp.asarray(x)[i]
        return total + jax.lax.cond(i % 2 == 0, lambda: int8_product(one, *held), lambda: jnp.zeros((2, 4096)))

    total = jax.jit(lambda: jax.lax.fori_loop(0, 8, step, jnp.zeros((2, 4096))))()
    expected = sum(found[i] for i in range(0, 8, 2))
    np.testing.assert_allclose(np.asarray(total), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tokens", [1, 5, 300])
def test_a_parameter_that_is_turned_is_the_same_parameter(
    monkeypatch: pytest.MonkeyPatch, dtype: str, tokens: int
) -> None:
    """Its shape, its values, its products: also beyond the tokens for which there are loops."""
    rng = np.random.default_rng(1)
    numbers, scale = rounded(rng.normal(size=(64, 40)).astype(np.float32), summed=-2)
    plain = Int8(jnp.asarray(numbers), jnp.asarray(scale), jnp.dtype(dtype))
    turned = Int8(jnp.asarray(numbers.T.copy()), jnp.asarray(scale), jnp.dtype(dtype), turned=True)
    assert turned.shape == plain.shape and turned.ndim == 2 and turned.nbytes == plain.nbytes
    np.testing.assert_array_equal(np.asarray(jnp.asarray(turned)), np.asarray(jnp.asarray(plain)))
    x = jnp.asarray(rng.normal(size=(1, tokens, 64)), dtype)
    expected = np.asarray(x, np.float64) @ (numbers.astype(np.float64) * scale)
    for loops in (True, False):
        monkeypatch.setattr(int8, "usable", lambda loops=loops: loops)
        found = product(x, turned, preferred_element_type=jnp.float32)
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=1e-4)
        assert product(x, turned).dtype == x.dtype
        numbers_of_rows, scales = rounded(rng.normal(size=(40, 64)).astype(np.float32), summed=-1)
        table = Int8(jnp.asarray(numbers_of_rows), jnp.asarray(scales), jnp.dtype(dtype))
        logits = np.asarray(x, np.float64) @ (numbers_of_rows.astype(np.float64) * scales).T
        np.testing.assert_allclose(np.asarray(product_with_rows(x, table), np.float64), logits, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_a_loaded_model_is_turned_where_the_loops_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """The same weights and, but for the order of sums, the same logits; an expert's weights are turned like others."""
    folder = tiny_checkpoint(tmp_path / "model", family=family)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 250, size=(2, 9)), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32), (2, 9))
    found = {}
    for turned in (True, False):
        for module in ("llmlab.checkpoints.load.usable", "llmlab.models.int8.usable"):
            monkeypatch.setattr(module, lambda turned=turned: turned)
        _, model = load_model(folder, dtype=jnp.float32, int8=True)
        leaves = jax.tree.leaves(nnx.state(model), is_leaf=lambda x: isinstance(x, Int8))
        held = [x for x in leaves if isinstance(x, Int8)]
        assert {x.turned for x in held} == ({True, False} if turned else {False})
        hidden, _ = model(tokens, positions)
        found[turned] = [np.asarray(model.logits(hidden)), *[np.asarray(jnp.asarray(x)) for x in held]]
    (logits, *values), (others, *same) = found[True], found[False]
    np.testing.assert_allclose(logits, others, atol=2e-5)
    for one, other in zip(values, same, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_engine_with_pinned_slots_gives_a_row_the_same_bits_alone_and_beside_others(tmp_path: Path) -> None:
    lab = llmlab.load(tiny_checkpoint(tmp_path / "m"), dtype="int8", slots=4, max_context=128, quiet=True)
    alone = lab.complete("Once", max_tokens=12, seed=5, ignore_eos=True, logprobs=True, top_logprobs=3)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(lab.complete, f"{i} words", max_tokens=20, seed=i, ignore_eos=True) for i in range(3)]
        beside = lab.complete("Once", max_tokens=12, seed=5, ignore_eos=True, logprobs=True, top_logprobs=3)
        assert all(len(other.result()[0].tokens) == 20 for other in others)
    same = [one.top_logprobs_frame().drop(columns="request", errors="ignore").to_csv() for one in (alone, beside)]
    assert len(alone[0].tokens) == 12 and same[0] == same[1]
    lab.close()
