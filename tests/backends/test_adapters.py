"""Adapters beside their base: each answers as if it had been merged, in one batch and by one set of programs."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import openai
import pytest
from flax import nnx

import llmlab
from llmlab.backends.local.adapters import open_adapters
from llmlab.backends.local.backend import LocalBackend
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.lora.adapter import open_adapter
from llmlab.errors import CheckpointError, ModelNotFoundError, RequestError
from llmlab.models.low_rank import LowRank
from llmlab.protocol.request import PromptRequest
from llmlab.testing import tiny_checkpoint
from tests.checkpoints.lora_folders import write_adapter
from tests.devices import on_devices
from tests.engine.test_recompilation import compiled

LAYER = "model.layers.{}.{}"
ATTENTION = [LAYER.format(i, f"self_attn.{name}_proj") for i in range(2) for name in "qkvo"]
UNITS = [LAYER.format(i, f"mlp.{name}_proj") for i in range(2) for name in ("gate", "up", "down")]
#: Name -> the modules that it changes, and its rank.
ADAPTERS = {
    "some": ([ATTENTION[0], *ATTENTION[2:4], *UNITS[2:]], 4),
    "every": (ATTENTION + UNITS, 2),
    "ends": (["model.embed_tokens", "lm_head"], 3),
}
IDS = np.random.default_rng(0).integers(0, 256, (3, 20)).astype(np.int32)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("beside") / "base")


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(root / name, base, modules, rank=rank, seed=rank, target_modules=modules)
        for name, (modules, rank) in ADAPTERS.items()
    }


@pytest.fixture(scope="module")
def lab(base, folders):
    lab = llmlab.load(base, adapters=folders, slots=4, max_context=128, quiet=True)
    yield lab
    lab.close()


@partial(jax.jit, static_argnums=0)
def _logits(graph, weights, ids, rows):
    model = nnx.merge(graph, weights)
    if rows is not None:
        model.choose(rows)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    return model.logits(model(ids, positions)[0])


def logits(model, rows=None, ids=IDS):
    """[B, L, V] of some tokens; decoders of one shape share a program."""
    rows = None if rows is None else jnp.asarray(rows, jnp.int32)
    return np.asarray(_logits(*nnx.split(model), jnp.asarray(ids, jnp.int32), rows))


def loaded(base, adapter=None, **beside):
    """The decoder of a checkpoint with an adapter merged, or with some beside it."""
    with ExitStack() as stack:
        merged = None if adapter is None else stack.enter_context(closing(open_adapter(adapter)))
        several = {name: stack.enter_context(closing(open_adapter(folder))) for name, folder in beside.items()}
        return load_model(base, dtype=jnp.float32, adapter=merged, beside=several)[1]


#: Families, and the modules of an adapter for each.
FAMILIES = {
    "llama": ATTENTION + UNITS,
    "gemma2": ["model.embed_tokens", *ATTENTION, *UNITS],
    "gpt2": [f"transformer.h.{i}.{name}" for i in range(2) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")],
    "phi3": [LAYER.format(i, name) for i in range(2) for name in ("self_attn.qkv_proj", "mlp.gate_up_proj")],
    "qwen3_moe": ATTENTION,
    "deepseek_v3": [LAYER.format(i, f"self_attn.{name}") for i in range(2) for name in ("q_a_proj", "q_b_proj")],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_the_adapter_that_it_names(tmp_path, family):
    base = tiny_checkpoint(tmp_path / "base", family=family)
    turned = family == "gpt2"
    one = write_adapter(tmp_path / "one", base, FAMILIES[family], turned=turned, seed=1)
    few = {"target_modules": FAMILIES[family][:2], "rank": 2, "use_rslora": True}
    two = write_adapter(tmp_path / "two", base, FAMILIES[family][:2], turned=turned, seed=2, **few)
    beside = loaded(base, one=one, two=two)
    found = logits(beside, rows=[0, 2, 1])
    wanted = [logits(loaded(base, folder)) for folder in (None, two, one)]
    plain, wanted = wanted[0], np.stack([value[row] for row, value in enumerate(wanted)])
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    # Of two rows with one text each, the other's is not this one's.
    assert np.abs(logits(beside, rows=[1, 1, 0]) - wanted).max(axis=(1, 2)).min() > 0.05
    np.testing.assert_allclose(logits(beside, rows=[0, 0, 0]), plain, atol=2e-5)


def test_a_search_has_the_adapter_that_it_names(lab):
    prompt, found = list(range(20, 60)), []
    for name in (None, *ADAPTERS):
        greedy = lab.complete(prompt, model=name, temperature=0, max_tokens=6)
        beam = lab.beam_search(prompt=prompt, model=name, beams=1, early_stopping=True, max_tokens=6)
        np.testing.assert_array_equal(beam[0].tokens.ids, greedy[0].tokens.ids)
        found.append(tuple(greedy[0].tokens.ids.tolist()))
    assert len(set(found)) > 2


def test_one_lab_answers_with_all_of_them_in_one_batch(lab, base, folders):
    prompt = np.arange(20, 60)
    texts = {}
    for name in (None, *folders):
        wanted = logits(loaded(base, folders.get(name)), ids=prompt[None])[0]
        request = PromptRequest.build(prompt.tolist(), model=name, max_tokens=8, temperature=0)
        found = lab.backend.next_logits(lab.backend.render(request), model=name)
        np.testing.assert_allclose(found, wanted[-1], atol=1e-4)
        pieces = list(lab.backend.logits(prompt[:1].astype(np.int32), prompt[1:].astype(np.int32), model=name))
        np.testing.assert_allclose(np.concatenate(pieces), wanted[:-1], atol=1e-4)
        alone = lab.backend.complete(request)
        assert alone.model == (name or lab.backend.name)
        texts[name] = alone.choices[0].tokens.ids.tolist()
    assert len({tuple(ids) for ids in texts.values()}) == len(texts)
    streams = {
        name: lab.backend.stream(PromptRequest.build(prompt.tolist(), model=name, max_tokens=8, temperature=0))
        for name in texts
    }
    together = {name: stream.result().choices[0].tokens.ids.tolist() for name, stream in streams.items()}
    assert together == texts


def test_which_adapter_a_row_has_compiles_nothing(lab):
    asked = {"max_tokens": 3, "seed": 1}
    lab.backend.warmup()
    for name in lab.backend.models:
        before = len(compiled()) if name != "base" else None  # what reads a result compiles with the first one
        result = lab.chat("Hello", model=name, **asked)
        assert lab.score(result).perplexities == pytest.approx(result.perplexities, abs=1e-2)
        result.next_token(1)
        assert before is None or compiled()[before:] == []


def test_a_lab_without_adapters_is_as_it_was(base):
    plain = LocalBackend.load(base, slots=4, max_context=128)
    programs = plain.engine.programs
    assert not programs.adapted and programs.adapter(0) is None and plain.models == ("base",)
    assert programs.empty(width=4, length=128).adapter is None
    assert not any(isinstance(module, LowRank) for _, module in nnx.iter_modules(programs.model))
    plain.close()


def test_a_sweep_and_a_rerun_compare_base_and_adapter(lab):
    sweep = lab.sweep("Hello", model=["base", "every"], temperature=[0, 1], n=1, seed=3, max_tokens=6)
    frame = sweep.frame()
    assert frame["model"].tolist() == ["base", "base", "every", "every"]
    for row in frame.itertuples():
        answer = lab.chat("Hello", model=row.model, temperature=row.temperature, seed=3, max_tokens=6)
        assert answer.text == row.text and answer.data.model == row.model
    result = lab.chat("Hello", temperature=0, seed=3, max_tokens=6)
    other = result.rerun(model="every")
    assert other.text == frame["text"][2]
    assert "model alone" in repr(other.diff())
    with pytest.raises(ModelNotFoundError, match="'nobody' does not exist"):
        lab.sweep("Hello", model=["base", "nobody"])


def test_the_endpoint_lists_them_and_takes_their_names(lab):
    client = lab.client()
    assert [model.id for model in client.models.list()] == ["base", "some", "every", "ends"]
    assert client.models.retrieve("every").parent == "base"
    asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "seed": 5, "temperature": 0}
    for name in ("base", "every"):
        answer = client.chat.completions.create(model=name, **asked)
        assert answer.model == name
        assert answer.choices[0].message.content == lab.chat("Hello", model=name, **dict(list(asked.items())[1:])).text
    with pytest.raises(
        openai.NotFoundError, match="'nobody' does not exist; loaded is 'base', 'some', 'every', 'ends'"
    ):
        client.chat.completions.create(model="nobody", **asked)


def test_the_banner_names_them(lab):
    assert any("model='every'" in note and "rank 2" in note for note in lab.describe()["notes"])


def test_a_merged_adapter_is_saved_with_the_model(base, folders, tmp_path):
    for name in ("every", "ends"):
        merged = LocalBackend.load(base, slots=2, max_context=128, adapter=folders[name])
        assert any("merged" in note and "owner/the-base" in note for note in merged.notes)
        merged.save_model(tmp_path / name)
        again = loaded(tmp_path / name)
        np.testing.assert_array_equal(logits(again), logits(merged.engine.programs.model))
        merged.close()


@pytest.mark.parametrize(
    ("modules", "options", "words"),
    [
        (ATTENTION, {"use_dora": True}, ["otherwise than by B A"]),
        (ATTENTION, {"whole": {"model.norm.weight": np.ones(32, np.float32)}, "modules_to_save": ["norm"]}, ["norm"]),
    ],
)
def test_what_cannot_lie_beside_a_base_is_refused_with_the_way_out(base, tmp_path, modules, options, words):
    folder = write_adapter(tmp_path / "a", base, modules, **options)
    with pytest.raises(CheckpointError, match="Merge it at load, adapter=") as caught:
        LocalBackend.load(base, adapters={"mine": folder})
    assert all(word in str(caught.value) for word in ["mine", *words])
    assert caught.value.param == "adapters"


def test_experts_and_routers_cannot_differ_in_a_batch(tmp_path):
    base = tiny_checkpoint(tmp_path / "base", family="qwen3_moe")
    for module in (LAYER.format(1, "mlp.gate"), LAYER.format(1, "mlp.experts.2.up_proj")):
        folder = write_adapter(tmp_path / "a", base, [module], target_modules="all-linear")
        with pytest.raises(CheckpointError, match="rows cannot differ in.*Merge it at load"):
            LocalBackend.load(base, adapters={"mine": folder})
        loaded(base, folder)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"adapter": "x", "adapters": {"a": "x"}}, "give adapter= to merge one"),
        ({"adapters": ["x"]}, "must map names to folders"),
        ({"adapters": {}}, "must map names to folders"),
        ({"adapters": {"base": "x"}}, "is the model's own name"),
        ({"adapters": {"": "x"}}, "not empty"),
        ({"adapters": {1: "x"}}, "not empty"),
        ({"adapters": {"a": None}}, "must be a folder"),
        ({"adapter": 3}, "must be a folder"),
    ],
)
def test_arguments_that_make_no_sense(given, words):
    with (
        pytest.raises(RequestError, match=words) as caught,
        open_adapters(given.get("adapter"), given.get("adapters"), base="base", token=None),
    ):
        pass
    assert caught.value.param in given


def test_an_adapter_that_is_nowhere(base, tmp_path):
    with pytest.raises(ModelNotFoundError, match="no folder"):
        LocalBackend.load(base, adapter=tmp_path / "nowhere")


def test_an_adapter_alone_says_how_it_is_loaded(folders):
    with pytest.raises(CheckpointError, match=r"adapter for owner/the-base.*llmlab\.load\(MODEL, adapter='"):
        LocalBackend.load(folders["every"])


CODE = """
import json, sys, warnings
import jax
import numpy as np
from llmlab.backends.local.adapters import open_adapters
from llmlab.backends.local.backend import LocalBackend
from llmlab.protocol.request import ChatRequest

warnings.simplefilter("error")
base, folders = sys.argv[1], json.loads(sys.argv[2])

def asked(mesh):
    lab = LocalBackend.load(base, slots=4, max_context=128, mesh=mesh, adapters=folders)
    requests = [ChatRequest.build("Hello", model=name, seed=3, max_tokens=12, temperature=0.8) for name in lab.models]
    streams = [lab.stream(request) for request in requests]
    tokens = [stream.result().choices[0].tokens.ids.tolist() for stream in streams]
    logits = np.stack([lab.next_logits(lab.render(one), model=one.model) for one in requests])
    lab.close()
    return tokens, logits

tokens, logits = asked(None)
for shape in ((1, 1, 4), (2, 1, 2)):
    mesh = jax.make_mesh(shape, ("data", "expert", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    same, other = asked(mesh)
    print(json.dumps([same == tokens, float(np.abs(other - logits).max())]))
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_adapters_over_four_devices(base, folders):
    given = json.dumps({name: str(folder) for name, folder in folders.items()})
    found = [json.loads(line) for line in on_devices(4, CODE, base, given).splitlines()]
    print(found)
    assert len(found) == 2 and all(same and difference < 1e-4 for same, difference in found)
