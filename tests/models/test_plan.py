"""What a decoder takes of each device, from its shape alone: against published sizes and against what is allocated."""

from __future__ import annotations

import jax
import pytest
from flax import nnx

from llmlab.errors import RequestError
from llmlab.models.families import build_model, empty_cache, families, parameter_count, read_config
from llmlab.models.plan import (
    DEVICES,
    abstract_mesh,
    best_mesh,
    decode_speed,
    footprint,
    least_devices,
    meshes,
    parse_devices,
)
from llmlab.testing import tiny_config

#: The published config.json of Llama 3.1 70B, as far as it says what a decoder is.
LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


@pytest.mark.parametrize("family", list(families()))
def test_a_plan_on_one_device_is_what_is_allocated(family):
    config = read_config(tiny_config(family))
    for dtype in ("float32", "bfloat16"):
        model = build_model(config, rngs=nnx.Rngs(0), dtype=dtype)
        held = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model)))
        cache = sum(x.nbytes for x in jax.tree.leaves(empty_cache(config, batch=1, length=128, dtype=dtype)))
        found = footprint(config, abstract_mesh(), dtype=dtype)
        assert found.weights == held and 0 <= found.token * 128 - cache < 128


def test_the_70b_model_takes_what_is_published():
    """141 GB in bfloat16, and 2 x 80 layers x 8 key heads x 128 x 2 bytes a token."""
    config = read_config(LLAMA_70B)
    assert round(parameter_count(config) / 1e9, 2) == 70.55
    found = footprint(config, abstract_mesh(), dtype="bfloat16")
    assert found.weights == 2 * parameter_count(config)
    assert found.token == 2 * 80 * 8 * 128 * 2 + 4  # and a number that says whether the position is filled
    table = 128256 * 8192 * 2
    assert found.active == found.weights - table  # of the embedding a token reads one row
    # The tables are not stored in FP8; everything else of note is.
    expected = (found.weights - 2 * table) / 2 * (1 + 4 / 128**2) + 2 * table
    assert footprint(config, abstract_mesh(), dtype="fp8").weights == pytest.approx(expected, rel=1e-3)
    assert decode_speed(config, abstract_mesh(), bandwidth=3.35e12, dtype="bfloat16", context=0) == pytest.approx(
        3.35e12 / found.active
    )


def test_devices_share_the_weights_and_the_cache():
    config = read_config(LLAMA_70B)
    one = footprint(config, abstract_mesh())
    for model, copies in ((2, 1), (8, 1), (16, 2), (64, 8)):
        found = footprint(config, abstract_mesh(model=model))
        # Each device has a whole key head and its value, of which there are eight.
        assert found.token == pytest.approx(one.token * copies / model, abs=4)
        doubled = 2 * 2 * 80 * 8192 * 8 * 128 * (copies - 1)  # keys' and values' weights, once more for each copy
        norms = 2 * 161 * 8192 * (model - 1)  # on every device
        assert found.weights * model == pytest.approx(one.weights + doubled + norms, rel=1e-6)
    assert footprint(config, abstract_mesh(data=4)).weights == one.weights


def test_as_few_devices_as_it_fits_on_and_rows_over_the_rest():
    config = read_config(LLAMA_70B)
    assert dict(best_mesh(config, 8, memory=80e9, dtype="bfloat16", positions=8192).shape) == {
        "data": 4,
        "expert": 1,
        "model": 2,
    }
    assert best_mesh(config, 1, memory=80e9, dtype="bfloat16", positions=8192) is None
    assert least_devices(config, memory=80e9, dtype="bfloat16", positions=8192).size == 2
    assert least_devices(config, memory=1e6, dtype="bfloat16", positions=8192) is None
    assert {mesh.size for mesh in meshes(config, 8)} == {8} and len(meshes(config, 8)) == 4
    assert best_mesh(config, 8, memory=None, dtype="bfloat16", positions=1).shape["data"] == 8


@pytest.mark.parametrize(
    ("text", "name", "count", "memory"),
    [
        ("8xH100-80GB", "H100-80GB", 8, 80e9),
        ("h100", "H100-80GB", 0, 80e9),
        ("v5e-8", "v5e", 8, 16e9),
        ("2 x T4", "T4", 2, 16e9),
        ("A100-40GB", "A100-40GB", 0, 40e9),
        ("4x48GB", "48 GB", 4, 48e9),
    ],
)
def test_devices_are_read_as_people_write_them(text, name, count, memory):
    found = parse_devices(text)
    assert (found.name, found.count, found.memory) == (name, count, memory)
    assert found.bandwidth == (DEVICES[name][1] if name in DEVICES else None)


@pytest.mark.parametrize("text", ["", "x8", "8x", "8xfoo", "H100-81", "-3xT4", "48", "8xH100-80GBx2"])
def test_devices_that_nobody_knows_are_refused_with_the_list(text):
    with pytest.raises(RequestError, match="8xH100-80GB, v5e-8 or 4x48GB.*known are T4, "):
        parse_devices(text)


def test_a_plan_makes_no_arrays():
    before = len(jax.live_arrays())
    footprint(read_config({**LLAMA_70B, "num_hidden_layers": 3}), abstract_mesh(model=8))
    assert len(jax.live_arrays()) == before
