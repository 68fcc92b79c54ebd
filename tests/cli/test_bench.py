"""The benchmark runs what it says; how fast is not for a test to say."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from llmlab.backends.local.dtypes import device_dtype
from llmlab.checkpoints.files import read_json
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.opened import open_checkpoint
from llmlab.cli.app import app
from llmlab.cli.bench import ceilings, parts, peers, report
from llmlab.cli.bench.attention import compare
from llmlab.cli.bench.contenders.gguf_file import write_gguf
from llmlab.cli.bench.decode import Work, ideal
from llmlab.cli.bench.figures import Figure, ceilings_of, from_line, in_turn, to_line
from llmlab.cli.bench.subject import SHAPES, Options, float_dtype, subject
from llmlab.cli.bench.table import table
from llmlab.cli.load_memory import load_memory
from llmlab.errors import CheckpointError
from llmlab.models.families import parameter_count, read_config
from llmlab.testing import tiny_checkpoint

SMALL = Options(model="shape:tiny", rows=(1, 2), contexts=(16,), prompt=8, tokens=6, repeats=1)


def test_the_command_prints_each_figure_and_its_json():
    asked = ["bench", "--model", "shape:tiny", "--rows", "1,2", "--contexts", "16,100000", "--tokens", "6"]
    asked += ["--repeats", "1", "--parts", "ceilings,prefill"]
    result = CliRunner().invoke(app, [*asked, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert {"date", "device", "versions", "options", "figures"} <= set(told)
    figures = [Figure(**one) for one in told["figures"]]
    assert [one.setting for one in figures[:4]] == [ceilings.COPY, ceilings.VECTOR, ceilings.MATRIX, ceilings.LAUNCH]
    read, too_long = figures[4:]
    assert read.value > 0 and read.share > 0
    assert too_long.value is None and "context" in too_long.note
    for one in figures:
        assert one.setting in report.line(one)


@pytest.mark.parametrize(
    "name",
    [
        "decode",
        "scoring",
        "attention",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("growth", "many", "turns", "mixed", "structured", "sweep")
        ),
    ],
)
def test_a_part_measures_something_or_says_why_not(name):
    figures = list(parts.PARTS[name](SMALL))
    assert figures
    assert all(one.note if one.value is None else np.isfinite(one.value) and one.value >= 0 for one in figures)


def test_attention_is_compared_by_time_and_by_what_it_gives():
    """Here the kernel runs in interpret mode, which the part itself does not do."""
    config = read_config(SHAPES["tiny"])
    took, apart, read = compare(config, "float32", rows=2, context=20, room=32, repeats=1)
    assert set(took) == {"plain", "kernel"} and min(took.values()) > 0
    assert apart < 1e-5 and read == 2 * 2 * 20 * 2 * 16 * 4


def test_what_is_asked_for_wrongly_is_one_line():
    for asked, word in (
        (["--rows", "1,x"], "1,x"),
        (["--contexts", "0"], "'0'"),
        (["--parts", "speed"], "'speed'"),
        (["--model", "shape:huge"], "'huge'"),
        (["--dtype", "float8"], "'float8'"),
        (["--attention", "flash"], "'flash'"),
        (["--dtype", "int8", "--model", "shape:tiny"], "int8"),
    ):
        result = CliRunner().invoke(app, ["bench", *asked])
        assert result.exit_code == 2 and word in result.output and len(result.output.splitlines()) == 1


def test_a_part_that_fails_says_why_and_the_others_go_on(tmp_path):
    figures = list(parts.run(SMALL._replace(model=str(tmp_path)), parts=("prefill", "scoring")))
    assert [(one.work, one.value) for one in figures] == [("prefill", None), ("scoring", None)]
    assert all(str(tmp_path) in one.note for one in figures)


def test_the_ceiling_of_a_step_is_the_slower_of_reading_and_computing():
    rates = {ceilings.VECTOR: 10.0, ceilings.MATRIX: 100.0}
    assert ideal(Work(read=50, operations=1000), rates, rows=1) == (5.0, ceilings.VECTOR)
    assert ideal(Work(read=50, operations=1000), rates, rows=8) == (10.0, ceilings.MATRIX)
    assert ideal(Work(read=200, operations=1000), rates, rows=8) == (20.0, ceilings.VECTOR)
    figures = [Figure("ceiling", ceilings.VECTOR, 2.0, "GB/s"), Figure("ceiling", ceilings.LAUNCH, 3.0, "us")]
    assert ceilings_of(figures) == {ceilings.VECTOR: 2e9}


def test_runs_are_taken_in_turn_and_the_first_of_each_is_not_counted():
    seen: list[str] = []
    took = in_turn({name: lambda name=name: seen.append(name) for name in "ab"}, repeats=2)
    assert "".join(seen) == "ab" + "abab" and set(took) == {"a", "b"}


def test_figures_travel_between_processes():
    figure = Figure("decode", "rows 1", 1.5, "tokens/s", 0.5, "copy", "as ever")
    assert from_line(to_line(figure)) == figure
    assert from_line("WARNING: something else") is None and from_line('{"a": 1}') is None


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_a_configuration(name):
    assert parameter_count(read_config(SHAPES[name])) > 1000


@pytest.mark.parametrize("dtype", [None, "auto", "int8"])
def test_rates_are_measured_in_the_floats_that_the_device_computes_in(dtype):
    assert float_dtype(dtype) == device_dtype(jax.devices()[0])


def test_a_shape_computes_numbers():
    with subject(SMALL) as found:
        logits = found.engine.next_logits(np.arange(5, dtype=np.int32))
    assert np.isfinite(logits).all() and logits.std() > 0


def test_loading_takes_little_more_than_the_weights(tmp_path):
    """In a process of its own: no whole tensor, joined copy or converted copy lies beside the parameters."""
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8}
    folder = tiny_checkpoint(tmp_path / "model", family="llama", head_dim=64, vocab_size=40000, **shape)
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        found = load_memory(str(folder), dtype=dtype)
        assert found.weights == size * parameter_count(read_config(read_json(folder, "config.json")))
        assert 0.95 < found.ratio <= 1.15
    assert load_memory(str(tmp_path / "nowhere")) is None


def test_a_peer_that_is_not_installed_or_does_not_start_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    figures = list(parts.WITH_PEERS["peers"](SMALL._replace(rows=(1,))))
    assert [(one.setting, one.note) for one in figures[:-1]] == [
        ("transformers", "torch is not installed"),
        ("llama.cpp", "xllamacpp, gguf is not installed"),
    ]
    assert figures[-1].setting == "rows 1, prompt 8, llmlab" and figures[-1].value > 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setitem(peers._OTHERS, "transformers", ("nowhere", ()))
    monkeypatch.setitem(peers._OTHERS, "llama.cpp", ("nowhere", ()))
    figures = list(parts.WITH_PEERS["peers"](SMALL._replace(rows=(1,))))
    assert ["nowhere" in one.note for one in figures] == [True, True, False]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_file_for_llama_cpp_holds_the_same_model(tmp_path, family, dtype):
    folder = tiny_checkpoint(tmp_path / "model", family=family)
    held = open_checkpoint(write_gguf(folder, tmp_path / "model.gguf", dtype=dtype))
    ours, theirs = (load_model(one, dtype=jnp.dtype(dtype)) for one in (open_checkpoint(folder), held))
    assert ours[0] == theirs[0]
    left, right = (nnx.to_flat_state(nnx.state(model)) for _, model in (ours, theirs))
    assert len(left) == len(right) > 10
    for (name, one), (_, other) in zip(left, right, strict=True):
        np.testing.assert_array_equal(np.asarray(one[...]), np.asarray(other[...]), err_msg=str(name))


def test_weights_of_8_bits_for_llama_cpp_are_the_nearest_of_their_blocks(tmp_path):
    folder = tiny_checkpoint(tmp_path / "model", hidden_size=64, intermediate_size=96)
    held = open_checkpoint(write_gguf(folder, tmp_path / "model.gguf", dtype="int8"))
    _, model = load_model(folder, dtype=jnp.float32)
    _, other = load_model(held, dtype=jnp.float32)
    own, theirs = (np.asarray(one.layers[0].feed_forward.down.kernel[...]) for one in (model, other))
    blocks, rounded = (x.T.reshape(-1, 32) for x in (own, theirs))
    most = np.abs(blocks).max(axis=1, keepdims=True)
    # A scale is a float16.
    error = np.abs(blocks - rounded)
    assert error.max() > 0 and (error <= most * (1 / 254 + 2**-11)).all()


def test_what_llama_cpp_is_not_given_is_one_error(tmp_path):
    folder = tiny_checkpoint(tmp_path / "model", family="gemma2")
    with pytest.raises(CheckpointError, match="llama, qwen2, qwen3"):
        write_gguf(folder, tmp_path / "model.gguf", dtype="float32")


def test_the_table_of_goals():
    figures = [
        Figure("mixed", "beside / alone", 2.5, "x"),
        Figure("sweep", "1,000 uneven answers: speed / of full even batches", 0.85, "x"),
        Figure("sweep", "prompts read for all of them", 1, "prompts"),
        Figure("decode", "rows 1, context 64, plain", 40.0, "tokens/s", share=0.93, ceiling="matrix-vector"),
    ]
    runs = [
        {**report.facts(), "options": {"model": model}, "figures": [one._asdict() for one in figures]}
        for model in ("demo", "shape:qwen2-0.5b")
    ]
    narrow = [Figure("peers", "rows 1, prompt 64: llmlab / transformers", 3.5, "x")._asdict()]
    small = {**report.facts(), "options": {"model": "SmolLM2-135M.gguf", "dtype": "int8"}, "figures": narrow}
    lines = table([*runs, small]).splitlines()
    [of_int8] = [line for line in lines if "smollm2" in line and "3.50" in line]
    assert of_int8.startswith("| int8, 1 row,") and of_int8.endswith("| smollm2-135m | -, - | 3.50, not measured |")
    assert "| longest gap of a stream beside 7 prompts of 960 tokens over that alone | demo | <= 3 | 2.50 |" in lines
    [sweep] = [line for line in lines if line.startswith("| 1,000 uneven answers")]
    assert sweep.endswith("| demo | >= 0.9, <= 1, <= 0 | **0.85**, 1, not measured |")
    assert any(line.endswith("| qwen2-0.5b | >= 0.9 | 0.93 |") for line in lines)
    assert jax.devices()[0].device_kind in lines[-1] and jax.__version__ in lines[-1]
