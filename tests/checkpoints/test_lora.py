"""An adapter that is merged at load gives the weights that the papers' formulas give, or one clear error."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from llmlab.checkpoints import placing
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.lora.adapter import open_adapter
from llmlab.checkpoints.lora.config import LoraConfig
from llmlab.checkpoints.lora.merging import Change, MergedSource
from llmlab.errors import CheckpointError
from llmlab.testing import tiny_checkpoint
from tests.checkpoints.held import Held
from tests.checkpoints.lora_folders import WEIGHTS, merged, write_adapter

LAYER = "model.layers.{}.{}"
ATTENTION = [LAYER.format(i, f"self_attn.{name}_proj") for i in range(2) for name in "qkvo"]
UNITS = [LAYER.format(i, f"mlp.{name}_proj") for i in range(2) for name in ("gate", "up", "down")]
GPT2 = [f"transformer.h.{i}.{name}" for i in range(2) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")]
GPT2 += [f"transformer.h.{i}.mlp.c_proj" for i in range(2)]

#: family, fields of config.json, modules, what `write_adapter` takes.
CASES = {
    "llama": ("llama", {}, ATTENTION + UNITS, {}),
    "untied": ("qwen3", {"tie_word_embeddings": False}, ["lm_head", *ATTENTION], {}),
    "rank-stabilised": ("llama", {}, ATTENTION, {"use_rslora": True}),
    "patterns": (
        "llama",
        {},
        ATTENTION,
        {
            "rank_pattern": {"v_proj": 2, "layers.1.self_attn.k_proj": 4},
            "ranks": {module: 2 for module in ATTENTION if "v_proj" in module} | {ATTENTION[5]: 4},
            "alpha_pattern": {r"model.layers.0.*o_proj": 5, "q_proj": 3},
        },
    ),
    "every linear layer": ("qwen2", {}, ATTENTION + UNITS, {"target_modules": "all-linear"}),
    "a pattern of names": ("llama", {}, ATTENTION[:3], {"target_modules": r"model\.layers\.0\..*_proj"}),
    "one layer": ("llama", {}, ATTENTION[4:], {"layers_to_transform": [1], "layers_pattern": "layers"}),
    "one layer of any list": ("llama", {}, ATTENTION[4:], {"layers_to_transform": 1}),
    "DoRA": ("llama", {}, ATTENTION + UNITS, {"use_dora": True}),
    "[in, out]": ("gpt2", {}, GPT2, {"turned": True, "fan_in_fan_out": True}),
    "[in, out] with DoRA": ("gpt2", {}, GPT2, {"turned": True, "use_dora": True}),
    "a bias of B": ("gpt2", {}, GPT2, {"turned": True, "lora_bias": True, "biases": GPT2[:3]}),
    "fused": ("phi3", {}, [LAYER.format(0, "self_attn.qkv_proj"), LAYER.format(0, "mlp.gate_up_proj")], {
        "target_modules": r".*layers\.0.*(qkv|gate_up)_proj"
    }),
    "fused with DoRA": ("phi3", {}, [LAYER.format(i, "self_attn.qkv_proj") for i in range(2)], {"use_dora": True}),
    "latent attention": ("deepseek_v3", {}, [LAYER.format(i, "self_attn.kv_b_proj") for i in range(2)], {}),
    "an embedding of its own": ("llama", {"tie_word_embeddings": False}, ["model.embed_tokens"], {}),
    "a tied embedding": ("qwen3", {}, ["model.embed_tokens", *ATTENTION], {}),
    "a tied output matrix": ("qwen3", {}, ["lm_head"], {}),
    "both ends of a tied decoder": ("gemma2", {}, ["lm_head", "model.embed_tokens"], {}),
    "one expert": ("qwen3_moe", {}, [LAYER.format(1, "mlp.experts.2.down_proj")], {
        "target_modules": r".*experts\.2\.down_proj"
    }),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Makes checkpoints, each once."""
    made = {}

    def base(family, **changes):
        key = json.dumps([family, changes], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(family) / "base"
            made[key] = tiny_checkpoint(folder, family=family, template=None, **changes)
        return made[key]

    return base


def weights(model):
    return {path: np.asarray(x[...], np.float64) for path, x in nnx.to_flat_state(nnx.state(model))}


def loaded(base, adapter=None, *, dtype=jnp.float32):
    if adapter is None:
        return load_model(base, dtype=dtype)[1]
    opened = open_adapter(adapter)
    try:
        return load_model(base, dtype=dtype, adapter=opened)[1]
    finally:
        opened.close()


def expected(base, adapter, folder, *, tied=False, turned=False):
    """The decoder of a checkpoint into which the adapter was merged in float64."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    tensors = merged(base, adapter, turned=turned)
    if not tied and "lm_head.weight" in tensors:
        config["tie_word_embeddings"] = False
    else:
        tensors.pop("lm_head.weight", None)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    return loaded(folder)


def differs(found, wanted):
    assert found.keys() == wanted.keys()
    return max(float(np.abs(found[path] - wanted[path]).max()) for path in found)


@pytest.mark.parametrize("case", CASES)
def test_the_merged_weights_are_those_of_the_formula(bases, tmp_path, monkeypatch, case):
    monkeypatch.setattr(placing, "_PIECE", 200)  # a few rows at a time
    family, fields, modules, options = CASES[case]
    base = bases(family, **fields)
    adapter = write_adapter(tmp_path / "adapter", base, modules, **options)
    model, before = loaded(base, adapter), loaded(base)
    ends = [name for name in modules if name in ("lm_head", "model.embed_tokens")]
    assert model.config.tie_word_embeddings == (before.config.tie_word_embeddings and not ends)
    tied = model.config.tie_word_embeddings
    wanted = weights(expected(base, adapter, tmp_path / "by hand", tied=tied, turned=options.get("turned", False)))
    assert differs(weights(model), wanted) < 2e-6
    if not ends:
        assert differs(weights(before), wanted) > 1e-2  # and the adapter does something


def test_a_module_that_was_saved_whole_takes_the_place_of_the_base(bases, tmp_path):
    base = bases("qwen3")
    rng = np.random.default_rng(1)
    table = rng.normal(size=(261, 32)).astype(np.float32)
    norm = rng.normal(size=(32,)).astype(np.float32)
    whole = {"model.embed_tokens.weight": table, "model.norm.weight": norm}
    options = {"modules_to_save": ["embed_tokens", "norm"], "whole": whole}
    adapter = write_adapter(tmp_path / "a", base, ATTENTION, **options)
    # Only the embedding is another: the output matrix stays what it was.
    wanted = weights(expected(base, adapter, tmp_path / "by hand"))
    assert differs(weights(loaded(base, adapter)), wanted) < 2e-6
    together = write_adapter(tmp_path / "b", base, ATTENTION, ensure_weight_tying=True, **options)
    found = loaded(base, together)
    assert found.config.tie_word_embeddings and found.head is None
    np.testing.assert_array_equal(found.embedding[...], table)


def test_trained_biases_and_an_embedding_that_is_stored_once_more(bases, tmp_path):
    base = bases("qwen2")
    rng = np.random.default_rng(1)
    bias = {f"{module}.base_layer.bias": rng.normal(size=(32,)).astype(np.float32) for module in ATTENTION[::4]}
    adapter = write_adapter(tmp_path / "a", base, ATTENTION, whole=bias, bias="all")
    by_hand = write_adapter(
        tmp_path / "b", base, ATTENTION, whole={name.replace(".base_layer", ""): x for name, x in bias.items()}
    )
    wanted = weights(expected(base, by_hand, tmp_path / "by hand", tied=True))
    assert differs(weights(loaded(base, adapter)), wanted) < 2e-6
    # A table that LoRA changes lies beside its update, as it was, or with rows for further tokens trained.
    table = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    for scale in (1, 2):
        held = {"model.embed_tokens.base_layer.weight": scale * table}
        adapter = write_adapter(tmp_path / f"c{scale}", base, ["model.embed_tokens"], whole=held)
        model = loaded(base, adapter)
        np.testing.assert_allclose(model.head.kernel[...].T, scale * table, rtol=1e-6)
        added = merged(base, write_adapter(tmp_path / f"d{scale}", base, ["model.embed_tokens"]))
        np.testing.assert_allclose(
            model.embedding[...], added["model.embed_tokens.weight"] + (scale - 1) * table, atol=2e-6
        )


def test_a_router_by_its_other_name(bases, tmp_path):
    base = bases("mixtral")
    stored = load_file(base / "model.safetensors")
    own = [name for name in stored if name.endswith("gate.weight")]
    adapter = write_adapter(tmp_path / "a", base, [name.removesuffix(".weight") for name in own])
    tensors = load_file(adapter / WEIGHTS)
    wanted = weights(expected(base, adapter, tmp_path / "by hand", tied=True))
    renamed = {name.replace("block_sparse_moe", "mlp"): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, adapter / WEIGHTS)
    assert differs(weights(loaded(base, adapter)), wanted) < 2e-6


def test_the_sum_is_rounded_once(bases, tmp_path):
    """Into bfloat16: of the exact sum, not of a rounded base and a rounded update."""
    base = bases("llama")
    adapter = write_adapter(tmp_path / "a", base, ATTENTION)
    exact = weights(loaded(base, adapter))
    for path, value in weights(loaded(base, adapter, dtype=jnp.bfloat16)).items():
        np.testing.assert_array_equal(value, np.asarray(jnp.asarray(exact[path], jnp.bfloat16), np.float64))


def test_an_adapter_lies_on_a_mesh_as_its_base_does(bases, tmp_path):
    base = bases("llama")
    adapter = open_adapter(write_adapter(tmp_path / "a", base, ATTENTION))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "expert", "model"))
    spread = load_model(base, dtype=jnp.float32, adapter=adapter, mesh=mesh)[1]
    whole = load_model(base, dtype=jnp.float32, adapter=adapter)[1]
    assert differs(weights(spread), weights(whole)) == 0
    adapter.close()


@pytest.mark.parametrize("outputs_first", [True, False])
def test_any_rows_of_a_merged_tensor_are_the_same_numbers(outputs_first):
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in {"w": (12, 7), "b": (12,)}.items()}
    left, right = rng.normal(size=(12, 2)).astype(np.float32), rng.normal(size=(2, 7)).astype(np.float32)
    magnitude = rng.uniform(1, 2, 12 if outputs_first else 7).astype(np.float32)
    changes = {
        "w": Change(left=left, right=right, magnitude=magnitude, outputs_first=outputs_first),
        "b": Change(added=values["b"]),
    }
    source = MergedSource(Held(values), Held({}), changes)
    whole = source.read("w")
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1 if outputs_first else 0), magnitude, rtol=1e-5)
    for rows in (slice(0, 5), slice(5, 12)):
        np.testing.assert_allclose(source.read("w", rows), whole[rows], rtol=1e-6)
        np.testing.assert_array_equal(source.read("b", rows), 2 * values["b"][rows])


def test_targets_are_matched_as_peft_does():
    config = LoraConfig(8, 16, targets=("q_proj", "layers.1.mlp.up_proj"), layers=(1,), layers_pattern=("layers",))
    assert config.changes("model.layers.1.self_attn.q_proj") and not config.changes("model.layers.0.self_attn.q_proj")
    assert not config.changes("model.layers.1.self_attn.xq_proj") and config.changes("model.layers.1.mlp.up_proj")
    assert not LoraConfig(8, 16, excluded=("q_proj",)).changes("model.layers.0.self_attn.q_proj")
    assert not LoraConfig(8, 16, saved=("lm_head",)).changes("lm_head")
    assert LoraConfig(8, 16, targets=r".*\.q_proj").changes("a.q_proj")
    # Of an expert, the first number is the layer's.
    experts = LoraConfig(8, 16, targets=("up_proj",), layers=(3,))
    assert experts.changes("model.layers.3.mlp.experts.0.up_proj")
    assert not experts.changes("model.layers.0.mlp.experts.3.up_proj")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(bases, tmp_path):
    """An adapter that a test may break."""
    return write_adapter(tmp_path / "adapter", bases("llama"), ATTENTION)


def refused(base, folder, *words):
    with pytest.raises(CheckpointError) as caught:
        loaded(base, folder)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.count("\n") == 0
    return caught.value


def configured(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


#: A field, its value, and words of the message besides the field's name.
FIELDS = [
    ("peft_type", "IA3", ["LORA", "merge_and_unload"]),
    ("peft_type", None, ["LORA"]),
    ("target_parameters", ["mlp.experts.gate_up_proj"], ["merge_and_unload"]),
    ("trainable_token_indices", [1, 2], ["merge_and_unload"]),
    ("alora_invocation_tokens", [5], ["merge_and_unload"]),
    ("layer_replication", [[0, 2], [1, 2]], ["merge_and_unload"]),
    ("use_qalora", True, ["merge_and_unload"]),
    ("use_bdlora", {"nblocks": 2}, ["merge_and_unload"]),
    ("kasa_config", {"beta": 1}, ["merge_and_unload"]),
    ("arrow_config", {"top_k": 2}, ["merge_and_unload"]),
    ("a_field_of_tomorrow", "on", ["merge_and_unload"]),
    ("init_lora_weights", "pissa_niter_4", ["path_initial_model_for_weight_conversion"]),
    ("init_lora_weights", "olora", ["path_initial_model_for_weight_conversion"]),
    ("bias", "some", ["lora_only"]),
    ("r", 0, ["positive integer"]),
    ("r", "3", ["positive integer"]),
    ("lora_alpha", "16", ["number"]),
    ("rank_pattern", [1], ["object"]),
    ("alpha_pattern", {"(": 1}, ["regular expression"]),
    ("target_modules", "(", ["regular expression"]),
    ("target_modules", [1], ["list of names"]),
    ("modules_to_save", "lm_head", ["list of names"]),
    ("layers_to_transform", ["1"], ["numbers"]),
    ("layers_pattern", 3, ["list of names"]),
    ("use_dora", "yes", ["true or false"]),
]


@pytest.mark.parametrize(("field", "value", "words"), FIELDS)
def test_a_field_that_is_not_honoured_is_refused(bases, folder, field, value, words):
    configured(folder, **{field: value})
    error = refused(bases("llama"), folder, "adapter_config.json", field, *words)
    assert error.param == field


def test_fields_that_change_nothing_are_accepted(bases, folder):
    before = weights(loaded(bases("llama"), folder))
    neutral = {
        "lora_dropout": 0.5,
        "inference_mode": False,
        "init_lora_weights": "gaussian",
        "loftq_config": {},
        "eva_config": {"rho": 2.0},
        "fan_in_fan_out": True,
        "megatron_config": None,
        "use_qalora": False,
        "qalora_group_size": 16,
        "revision": "main",
        "auto_mapping": {"base_model_class": "LlamaForCausalLM"},
    }
    configured(folder, **neutral)
    assert differs(weights(loaded(bases("llama"), folder)), before) == 0


#: What is done to an adapter's tensors or configuration -> words of the message.
BROKEN = {
    "another rank": (lambda t, c: c.update(r=4), ["rank 3 and 3, not 4"]),
    "half of an update": (lambda t, c: t.pop(next(name for name in t if "lora_B" in name)), ["has no lora_B.weight"]),
    "a part of a shard": (
        lambda t, c: t.update({next(name for name in t if "lora_B" in name): np.zeros(0, np.float32)}),
        ["not a matrix"],
    ),
    "a module that is no target": (lambda t, c: c.update(target_modules=["q_proj"]), ["is none of target_modules"]),
    "a kind of tensor": (lambda t, c: t.update({"base_model.model.x.lora_diag": np.ones(2)}), ["lora_diag"]),
    "a magnitude without DoRA": (
        lambda t, c: t.update({"base_model.model." + ATTENTION[0] + ".lora_magnitude_vector": np.ones(32)}),
        ["magnitude", "use_dora"],
    ),
    "DoRA without magnitudes": (lambda t, c: c.update(use_dora=True), ["magnitude", "use_dora"]),
    "integers": (lambda t, c: t.update({"base_model.model.model.norm.weight": np.ones(32, np.int8)}), ["I8"]),
    "nothing": (lambda t, c: t.clear(), ["changes nothing"]),
    "a module that the file lacks": (
        lambda t, c: [t.pop(name) for name in list(t) if "layers.1.self_attn.o_proj" in name],
        ["nothing for model.layers.1.self_attn.o_proj"],
    ),
    "a module that the base lacks": (
        lambda t, c: t.update({name.replace("layers.1", "layers.9"): value for name, value in t.items()}),
        ["the base has no model.layers.9", "owner/the-base", "Load the base"],
    ),
    "a tensor that the base lacks": (
        lambda t, c: t.update({"base_model.model.score.weight": np.ones((2, 32), np.float32)}),
        ["the base has no score.weight"],
    ),
    "a vocabulary of another size": (
        lambda t, c: t.update({"base_model.model.model.embed_tokens.weight": np.ones((300, 32), np.float32)}),
        ["[300, 32]", "[261, 32]"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_tensors_that_do_not_fit_are_one_error(bases, folder, case):
    change, words = BROKEN[case]
    tensors, config = load_file(folder / WEIGHTS), json.loads((folder / "adapter_config.json").read_text())
    change(tensors, config)
    save_file(tensors, folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    refused(bases("llama"), folder, *words)


def test_an_adapter_for_another_base(bases, folder):
    refused(bases("llama", hidden_size=64), folder, "does not fit this model", "[32, 32]", "[32, 64]", "owner/the-base")
    refused(bases("gpt2"), folder, "the base has no model.layers.0", "and 3 more", "Load the base")


def test_an_embedding_with_a_magnitude(bases, tmp_path):
    base = bases("llama")
    name = "model.embed_tokens.lora_magnitude_vector"
    whole = {name: np.ones(32, np.float32)}
    folder = write_adapter(tmp_path / "a", base, ["model.embed_tokens"], use_dora=True, whole=whole)
    refused(base, folder, "model.embed_tokens", "magnitude")


def test_files_that_are_missing_or_no_adapter(bases, folder):
    base = bases("llama")
    refused(base, base, "is a model", "adapter_config.json")
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    refused(base, folder, WEIGHTS, "fetch it again")
    (folder / WEIGHTS).unlink()
    refused(base, folder, WEIGHTS, "fetch the adapter again")
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    refused(base, folder, "adapter_model.bin", "pickle", "safe_serialization=True")
    (folder / "adapter_config.json").write_text("{")
    refused(base, folder, "not valid JSON")
    (folder / "adapter_config.json").unlink()
    refused(base, folder, "is no adapter", "adapter_config.json")
