"""Quantized checkpoints: each format against its definition written out in NumPy, and one error for any other."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmlab.backends.local.backend import LocalBackend
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.sources.fp8 import Fp8Source
from llmlab.checkpoints.sources.mxfp4 import Mxfp4Source
from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.checkpoints.sources.quantized import check_quantization
from llmlab.checkpoints.sources.safetensors import SafetensorsSource
from llmlab.errors import CheckpointError
from llmlab.testing import tiny_checkpoint

E4M3 = ml_dtypes.float8_e4m3fn


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def stored(tmp_path):
    """Makes a source of tensors, which is closed after the test."""
    opened = []

    def make(**tensors):
        save_file(tensors, tmp_path / "held.safetensors")
        opened.append(SafetensorsSource([tmp_path / "held.safetensors"]))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


def every_byte(rng, shape, kind=E4M3):
    """Random float8 values, of all bytes but those of NaN."""
    finite = np.arange(256, dtype=np.uint8)
    finite = finite[np.isfinite(finite.view(kind).astype(np.float32))]
    return rng.choice(finite, shape).view(kind)


def by_blocks(values, scales, block):
    """The definition: each scale spread over its block, of which those at the edges are cut."""
    spread = np.kron(scales.astype(np.float32), np.ones(block, np.float32))
    return values.astype(np.float32) * spread[..., : values.shape[-2], : values.shape[-1]]


@pytest.mark.parametrize("shape", [(256, 384), (300, 200), (1, 129), (130, 1)])
@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e8m0fnu])
def test_blocks_with_ragged_edges(stored, rng, shape, kind):
    values = every_byte(rng, shape)
    scales = (2.0 ** rng.integers(-9, 9, tuple(-(-size // 128) for size in shape))).astype(kind)
    source = Fp8Source(stored(**{"a.weight": values, "a.weight_scale_inv": scales}), block=(128, 128))
    expected = by_blocks(values, scales, (128, 128))
    assert set(source.names()) == {"a.weight"} and source.shape("a.weight") == shape
    np.testing.assert_array_equal(source.read("a.weight"), expected)
    for start in range(0, shape[0], 41):  # rows that begin and end within a block
        some = slice(start, min(start + 100, shape[0]))
        np.testing.assert_array_equal(source.read("a.weight", some), expected[some])
    assert source.read("a.weight", slice(3, 3)).shape == (0, shape[1])


@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("scale", [(), (1,), (1, 1), (70, 1), (70,)], ids=str)
def test_one_scale_per_tensor_or_per_channel(stored, rng, suffix, scale):
    values = every_byte(rng, (70, 30), ml_dtypes.float8_e5m2)
    scales = rng.random(scale).astype(np.float32)
    source = Fp8Source(stored(**{"w": values, "w" + suffix: np.asarray(scales)}), block=None)
    expected = values.astype(np.float32) * (scales.reshape(-1, 1) if scales.size > 1 else scales.reshape(()))
    np.testing.assert_array_equal(source.read("w"), expected)
    np.testing.assert_array_equal(source.read("w", slice(11, 12)), expected[11:12])


@pytest.mark.parametrize("grid", [(3, 3, 2), (3, 40, 1), (3, 1, 1), (3,), ()], ids=str)
def test_experts_in_one_tensor(stored, rng, grid):
    values = every_byte(rng, (3, 40, 24))
    scales = rng.random(grid).astype(np.float32)
    source = Fp8Source(stored(w=values, w_scale_inv=np.asarray(scales)), block=(16, 16))
    if grid == (3, 3, 2):
        expected = np.stack([by_blocks(*one, (16, 16)) for one in zip(values, scales, strict=True)])
    else:
        expected = values.astype(np.float32) * scales.reshape(*scales.shape, *[1] * (3 - scales.ndim))
    np.testing.assert_array_equal(source.read("w"), expected)
    np.testing.assert_array_equal(source.read("w", slice(1, 3)), expected[1:3])


def test_a_scale_that_is_an_exponent(stored, rng):
    values, scales = every_byte(rng, (4, 4)), np.array([[127, 130], [120, 127]], np.uint8)
    source = Fp8Source(stored(w=values, w_scale_inv=scales), block=(2, 2))
    powers = np.array([[1, 8], [2.0**-7, 1]])
    np.testing.assert_array_equal(source.read("w"), by_blocks(values, powers, (2, 2)))


def test_what_has_no_scale_is_passed_on(stored, rng):
    norm = rng.random(5).astype(ml_dtypes.bfloat16)
    held = {"w": every_byte(rng, (2, 2)), "w_scale": np.float32([2]), "norm": norm}
    activations = {"q.input_scale": np.float32([1]), "attn.k_scale": np.float32([1]), "attn.v_scale": np.float32([1])}
    source = Fp8Source(stored(**held, **activations), block=None)
    assert set(source.names()) == {"w", "norm"} and source.stored_as("norm") == "BF16"
    np.testing.assert_array_equal(source.read("norm"), norm)
    np.testing.assert_array_equal(source.read("norm", slice(1, 3)), norm[1:3])


def test_scales_that_do_not_fit_are_one_error(stored, rng):
    wrong = {"b.weight": every_byte(rng, (5, 5)), "b.weight_scale_inv": np.ones((3, 2), np.float32)}
    held = stored(**{"a.weight": every_byte(rng, (5, 5))}, **wrong)
    with pytest.raises(CheckpointError) as caught:
        Fp8Source(held, block=(4, 4))
    message = str(caught.value)
    assert "a.weight[5, 5] has no a.weight_scale_inv beside it" in message
    assert "b.weight_scale_inv[3, 2] does not belong to b.weight[5, 5] in blocks of 4 x 4" in message


def mxfp4(rng, experts, out, groups):
    blocks = rng.integers(0, 256, (experts, out, groups, 16)).astype(np.uint8)
    return blocks, rng.integers(100, 150, (experts, out, groups)).astype(np.uint8)


def fp4_values(blocks, scales):
    """The definition, by ml_dtypes' four-bit float: [E, in, out]."""
    low, high = (blocks & 15).view(ml_dtypes.float4_e2m1fn), (blocks >> 4).view(ml_dtypes.float4_e2m1fn)
    values = np.stack([low.astype(np.float32), high.astype(np.float32)], -1).reshape(*scales.shape, 32)
    values = values * scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)[..., None]
    return values.reshape(*blocks.shape[:2], -1).swapaxes(1, 2)


def test_mxfp4_by_its_definition(stored, rng):
    blocks, scales = mxfp4(rng, 3, 70, 2)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    bias = rng.random((3, 70)).astype(np.float32)
    held = stored(**{f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": bias})
    source = Mxfp4Source(held)
    assert set(source.names()) == {name, f"{name}_bias"}
    assert (source.shape(name), source.stored_as(name)) == ((3, 64, 70), "MXFP4")
    np.testing.assert_array_equal(source.read(name), fp4_values(blocks, scales))
    np.testing.assert_array_equal(source.read(name, slice(1, 2)), fp4_values(blocks, scales)[1:2])
    np.testing.assert_array_equal(source.read(f"{name}_bias", slice(0, 2)), bias[:2])


def test_the_numbers_of_mxfp4(stored):
    """By hand: the sixteen values, the first of a byte in its lower half, times 2 ** (scale - 127)."""
    pairs = np.arange(0, 16, 2, dtype=np.uint8)
    blocks = np.tile(pairs | (pairs + 1) << 4, 2)[None, None, None]
    source = Mxfp4Source(stored(w_blocks=blocks, w_scales=np.full((1, 1, 1), 129, np.uint8)))
    positive = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    expected = 4 * np.array([*positive, *(-x for x in positive)] * 2, np.float32)
    np.testing.assert_array_equal(source.read("w")[0, :, 0], expected)


@pytest.mark.parametrize("what", ["no scales", "other scales", "other blocks", "other format"])
def test_mxfp4_that_does_not_fit(stored, rng, what):
    blocks, scales = mxfp4(rng, 2, 4, 1)
    held = {"w_blocks": blocks, "w_scales": scales}
    held |= {"other scales": {"w_scales": scales[:1]}, "other blocks": {"w_blocks": blocks[..., :8]}}.get(what, {})
    if what == "other format":
        held["w_blocks"] = blocks.view(np.int8)
    if what == "no scales":
        del held["w_scales"]
    with pytest.raises(CheckpointError, match="w_blocks.*w_scales"):
        Mxfp4Source(stored(**held))


def logits(folder):
    _, model = load_model(folder, dtype=jnp.float32)
    ids = np.arange(12, dtype=np.int32)[None, :]
    hidden, _ = model(jnp.asarray(ids), jnp.asarray(ids))
    return np.asarray(model.logits(hidden))


def quantize(folder, config, block):
    """Stores the linear layers of a checkpoint as float8; returns the tensors that stand for the same weights."""
    tensors = load_file(folder / "model.safetensors")
    plain, packed = {}, {}
    for name, value in tensors.items():
        if not name.endswith("_proj.weight"):
            plain[name] = packed[name] = value
            continue
        rows, columns = block if block else value.shape
        grid = np.zeros((-(-value.shape[0] // rows), -(-value.shape[1] // columns)), np.float32)
        for i, j in np.ndindex(*grid.shape):
            grid[i, j] = np.abs(value[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]).max() / 448
        values = (value / by_blocks(np.ones(value.shape), grid, (rows, columns))).astype(E4M3)
        packed[name] = values
        packed[f"{name}_scale_inv" if block else f"{name}_scale"] = grid
        plain[name] = by_blocks(values, grid, (rows, columns))
    save_file(packed, folder / "model.safetensors")
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "quantization_config": config}))
    return plain


BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [20, 24]}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8, "strategy": "tensor"}}},
}


@pytest.mark.parametrize(("config", "block"), [(BLOCKS, (20, 24)), (COMPRESSED, None)], ids=["fp8", "compressed"])
def test_a_model_in_float8_is_that_of_its_dequantized_weights(tmp_path, config, block):
    folder, other = tiny_checkpoint(tmp_path / "fp8"), tiny_checkpoint(tmp_path / "plain")
    save_file(quantize(folder, config, block), other / "model.safetensors")
    np.testing.assert_array_equal(logits(folder), logits(other))
    backend = LocalBackend.load(folder, slots=1)
    assert any("stored in FP8" in note for note in backend.describe()["notes"])
    backend.close()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        *[({"quant_method": name}, repr(name)) for name in ("gptq", "awq", "bitsandbytes", "torchao", "hqq", 7)],
        ({"load_in_4bit": True}, "names no quant_method"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
        ({**COMPRESSED, "format": "pack-quantized"}, "pack-quantized"),
        ({**COMPRESSED, "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 8}}}}, "float-quantized"),
        ({**COMPRESSED, "config_groups": {"group_0": None}}, "float-quantized"),
        ({**COMPRESSED, "config_groups": [1]}, "float-quantized"),
        *[
            ({**BLOCKS, "weight_block_size": size}, "block size")
            for size in ([0, 1], [128], "128", [True, 2], {"a": 1})
        ],
        ("fp8", "must be an object"),
    ],
)
def test_a_quantization_that_is_not_read_is_one_error(tmp_path, config, words):
    folder = tiny_checkpoint(tmp_path / "tiny", quantization_config=config)
    with pytest.raises(CheckpointError) as caught:
        LocalBackend.load(folder)
    assert words in str(caught.value) and "quantization_config" in str(caught.value)
    assert caught.value.param == "quantization_config"
    if not isinstance(config, str):
        assert "mxfp4" in str(caught.value) and "save_pretrained" in str(caught.value)  # what is read, and the way out
    with pytest.raises(CheckpointError, match="quantization_config"):
        check_quantization({"text_config": {"quantization_config": config}})


def test_scales_without_a_configuration_of_theirs_are_one_error(tmp_path):
    folder = tiny_checkpoint(tmp_path / "fp8")
    quantize(folder, None, (20, 24))
    with pytest.raises(CheckpointError, match=r"_scale_inv is the scale.*config.json has no quantization_config"):
        LocalBackend.load(folder)


def test_no_quantization():
    for config in ({}, {"quantization_config": None}, {"quantization_config": {}}):
        check_quantization(config)


def test_sources_are_sources(stored, rng):
    held = stored(w=np.float32([[1]]))
    assert all(isinstance(one, TensorSource) for one in (held, Fp8Source(held, block=None), Mxfp4Source(held)))
