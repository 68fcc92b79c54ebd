"""What each dtype promises (`llmlab.backends.local.dtypes.PROMISES`), and which one a device is given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import log_softmax

import llmlab
from llmlab.backends.local.dtypes import IDENTITY, NAMES, PROMISES, choose_dtypes, device_dtype
from llmlab.errors import CheckpointError, EngineError, RequestError
from llmlab.testing import tiny_checkpoint

HALVES = ("bfloat16", "float16")

#: Three times what was measured on the embedded model's own text: 8.9e-5, 2.5e-5 and 4.7e-7 nats. Other models and
#: texts diverge by more, which is what `PROMISES` leaves room for (SmolLM2 in int8: 2.1e-3 to 5.4e-3).
DIVERGENCES = {"int8": 2.7e-4, "bfloat16": 7.5e-5, "float16": 1.5e-6}


@pytest.fixture(scope="module", params=[pytest.param("bfloat16", marks=pytest.mark.slow), "float16", "int8"])
def lab(request, tmp_path_factory):
    """A model whose distributions are neither flat nor certain, so that differences show."""
    shape = {"hidden_size": 64, "intermediate_size": 128}
    folder = tiny_checkpoint(tmp_path_factory.mktemp("dtypes") / "tiny", scale=4.0, **shape)
    lab = llmlab.load(folder, dtype=request.param, slots=4, max_context=128, quiet=True)
    yield lab
    lab.close()


def promised(lab: llmlab.Lab):
    return PROMISES[lab.describe()["dtype"]]


def test_score_is_generation(lab: llmlab.Lab) -> None:
    answer = lab.chat("Once upon a time", seed=1, max_tokens=60, temperature=0.9, ignore_eos=True)
    given = lab.score("Once upon a time", answer, temperature=0.9)
    worst = np.abs(answer.logprobs_frame().logprob - given.logprobs_frame().logprob).max()
    print(f"{lab.describe()['dtype']}: score and generation differ by {worst:.1e}")
    assert worst <= promised(lab).logprob


def test_the_stages_follow_from_the_logits_that_were_drawn_from(lab: llmlab.Lab) -> None:
    answer = lab.chat("Hi", seed=3, max_tokens=12, temperature=0.7, top_p=0.9, presence_penalty=0.5, ignore_eos=True)
    frame = answer.logprobs_frame()
    for position in (0, 5, 11):
        step = answer.next_token(position)
        stages = step.stages_frame(tokens=[step.drawn])
        assert abs(stages.logprob.iloc[0] - frame.logprob[position]) <= IDENTITY
        assert abs(stages.logprob.iloc[-1] - frame.sampling_logprob[position]) <= IDENTITY


def test_a_request_gives_the_same_bits_alone_in_a_sweep_and_beside_others(lab: llmlab.Lab) -> None:
    asked = {"seed": 5, "max_tokens": 20, "ignore_eos": True}
    alone = lab.chat("Hi", temperature=0.8, **asked)
    many = lab.chat("Hi", temperature=0.8, n=4, **asked)
    columns = ["token_id", "logprob", "sampling_logprob"]
    expected = alone.logprobs_frame()[columns]
    frame = many.logprobs_frame()
    assert frame[frame.choice == 0][columns].reset_index(drop=True).equals(expected)
    sweep = lab.sweep("Hi", temperature=[0.8, 1.0], n=1, **asked)
    assert sweep.frame().mean_logprob[0] == pytest.approx(expected.logprob.mean(), abs=1e-12)
    assert sweep.frame().text[0] == alone.text


def divergence(lab: llmlab.Lab, reference: llmlab.Lab, tokens: np.ndarray) -> float:
    """The mean of KL(float32 || dtype) in nats, over the distributions at every position of a text."""
    logits = (np.concatenate(list(one.backend.logits(tokens[:1], tokens[1:]))) for one in (reference, lab))
    p, q = (log_softmax(x.astype(np.float64), axis=-1) for x in logits)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize(
    "dtype", ["int8", *(pytest.param(dtype, marks=[pytest.mark.slow, pytest.mark.exhaustive]) for dtype in HALVES)]
)
def test_the_embedded_model_diverges_by_no_more_than_is_said(demo: llmlab.Lab, dtype: str) -> None:
    answer = demo.chat("Tell me a story.", seed=1, max_tokens=490, ignore_eos=True)
    tokens = np.concatenate([demo.backend.render(answer.request), answer.logprobs_frame().token_id])[:501].astype(
        np.int32
    )
    lab = llmlab.load("demo", dtype=dtype, slots=4, max_context=512, quiet=True)
    found = divergence(lab, demo, tokens)
    print(f"{dtype}: mean KL {found:.1e} nats over {len(tokens) - 1} positions")
    assert len(tokens) > 490 and 0 < found <= DIVERGENCES[dtype] < PROMISES[dtype].divergence
    if dtype in HALVES:
        answer = lab.chat("Tell me a story.", seed=2, max_tokens=60, ignore_eos=True)
        given = lab.score("Tell me a story.", answer)
        assert np.abs(answer.logprobs_frame().logprob - given.logprobs_frame().logprob).max() <= PROMISES[dtype].logprob
    lab.close()


# --- which dtype ---------------------------------------------------------------------------------------------------


def device(platform: str, capability: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(platform=platform, **({} if capability is None else {"compute_capability": capability}))


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("cpu", None, "float32"),
        ("tpu", None, "bfloat16"),
        ("gpu", "7.5", "float16"),  # a T4
        ("gpu", "7.0", "float16"),  # a V100
        ("gpu", "8.0", "bfloat16"),
        ("cuda", "10.0", "bfloat16"),
        ("rocm", "gfx942", "bfloat16"),
        ("gpu", None, "bfloat16"),
        ("something new", None, "float32"),
    ],
)
def test_a_device_is_given_a_dtype_that_it_has_units_for(platform: str, capability: str | None, expected: str) -> None:
    there = device(platform, capability)
    assert device_dtype(there) == expected
    for asked in (None, "auto"):
        for stored in ("float32", "bfloat16", "float16"):
            found = choose_dtypes({"dtype": stored}, asked, device=there)
            assert (found.weights, found.activations) == (expected, expected)
            assert bool(found.notes) == (stored != expected)
            assert all(stored in note and expected in note for note in found.notes)
    narrow = choose_dtypes({}, "int8", device=there)
    assert (narrow.weights, narrow.activations) == ("int8", expected) and expected in narrow.notes[0]
    assert choose_dtypes({}, "float16", device=there)[:2] == ("float16", "float16")


def test_a_gpu_without_bfloat16_units_is_named_as_the_reason() -> None:
    [note] = choose_dtypes({"torch_dtype": "bfloat16"}, None, device=device("gpu", "7.5")).notes
    assert "no bfloat16 units" in note and "dtype='bfloat16' keeps it" in note


def test_every_name_has_its_promise() -> None:
    assert set(PROMISES) == set(NAMES) - {"auto"}


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["int4", "fp8", "FLOAT32", ""])
def test_a_dtype_that_is_none(wrong: str) -> None:
    with pytest.raises(RequestError, match="dtype must be one of 'float32', .*'int8', 'auto', got") as caught:
        llmlab.load("demo", dtype=wrong, quiet=True)
    assert caught.value.param == "dtype"


def test_an_endpoint_is_not_given_a_dtype() -> None:
    with pytest.raises(RequestError, match=r"dtype is for a model that llmlab\.load runs") as caught:
        llmlab.connect("http://127.0.0.1:1/v1", dtype="int8", quiet=True)
    assert caught.value.param == "dtype"


def test_activations_beyond_float16_are_an_error_that_names_what_reaches_them(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "large", num_hidden_layers=1)
    weights = load_file(folder / "model.safetensors")
    for name in ("gate_proj", "up_proj"):
        weights[f"model.layers.0.mlp.{name}.weight"] *= 1000
    save_file(weights, folder / "model.safetensors")
    lab = llmlab.load(folder, dtype="float16", max_context=128, quiet=True)
    with pytest.raises(EngineError, match=r"not numbers; float16 ends at 65504.*'bfloat16' or 'float32'"):
        lab.chat("Hello", max_tokens=2)
    lab.close()
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1e6
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has values beyond 65504.*'bfloat16' or 'float32'"):
        llmlab.load(folder, dtype="float16", quiet=True)


def test_a_weight_that_is_not_a_number_is_not_hidden_by_int8(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "sick", num_hidden_layers=1)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][3, 5] = np.nan
    save_file(weights, folder / "model.safetensors")
    lab = llmlab.load(folder, dtype="int8", max_context=128, quiet=True)
    with pytest.raises(EngineError, match="not numbers"):
        lab.chat("Hello", max_tokens=2)
    lab.close()


def test_a_model_in_int8_is_not_saved(tmp_path) -> None:
    lab = llmlab.load("demo", dtype="int8", quiet=True)
    with pytest.raises(RequestError, match="rounded to int8: load with a float dtype to save") as caught:
        lab.save_model(tmp_path / "copy")
    assert caught.value.param == "dtype" and not (tmp_path / "copy").exists()
    assert "int8" in repr(lab) and "activations and cache are float32" in repr(lab)
    lab.close()
