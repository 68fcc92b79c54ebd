"""A family is one file: it is found, its rules cover its decoder, and nothing else knows its name."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import llmlab
from llmlab.checkpoints.load import load_model
from llmlab.errors import CheckpointError
from llmlab.models import families as families_module
from llmlab.models.config_json import refuse_unsupported
from llmlab.models.families import build_model, families, family_of, parameter_count, read_config
from llmlab.models.layers import RMSNorm
from llmlab.models.parameter import EXPERTS, HEADS, KEY_HEADS, UNITS, VOCABULARY, declared_axes, parameter
from llmlab.models.sharding import parameter_sharding
from llmlab.models.tensors import Rule, Tensor, group
from llmlab.models.transformer import Layer, Transformer
from llmlab.testing import tiny_checkpoint, tiny_config

PACKAGE = Path(llmlab.__file__).parent
VARIANTS = [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}]
CASES = [(name, changes) for name in families() for changes in VARIANTS]


def abstract_parameters(config):
    module = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0)))
    return dict(nnx.to_flat_state(nnx.state(module)))


def test_every_file_is_a_family_and_named_for_it():
    files = {path.stem for path in (PACKAGE / "models" / "families").glob("*.py")} - {"__init__"}
    assert files == set(families()) and {"llama", "qwen2", "qwen3"} <= files


def test_nobody_else_knows_a_familys_name():
    """The rooms that interpret a family do not ask which one it is."""
    names = re.compile("|".join(rf"\b{name}\b" for name in families()), re.IGNORECASE)
    interpreters = [*(PACKAGE / "checkpoints").glob("*.py"), *(PACKAGE / "engine").glob("*.py")]
    interpreters += [path for path in (PACKAGE / "models").rglob("*.py") if path.parent.name != "families"]
    assert len(interpreters) > 25
    for path in interpreters:
        code = re.sub(r'""".*?"""|#.*', "", path.read_text("utf-8"), flags=re.DOTALL)
        code = code.replace("'llama3'", "").replace('"llama3"', "")  # a kind of rope
        assert not names.search(code), path


def test_a_file_that_is_added_is_found(tmp_path, monkeypatch):
    text = (PACKAGE / "models" / "families" / "qwen2.py").read_text("utf-8")
    (tmp_path / "added_family.py").write_text(text.replace('"qwen2"', '"added_family"'))
    monkeypatch.setattr(families_module, "__path__", [*families_module.__path__, str(tmp_path)])
    families.cache_clear()
    try:
        config = read_config(tiny_config("added_family"))
        assert config.family == "added_family" and config.qkv_bias
        _, model = load_model(tiny_checkpoint(tmp_path / "tiny", family="added_family"), dtype=jnp.float32)
        assert model.config == config
    finally:
        monkeypatch.undo()
        families.cache_clear()
    with pytest.raises(CheckpointError, match="added_family"):
        read_config(tiny_config("qwen2", model_type="added_family"))


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ({"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}, "qwen2"),
        ({"model_type": "llama4"}, "llama"),
        ({"model_type": None, "architectures": ["Qwen3MoeModel"]}, "qwen3_moe"),
    ],
)
def test_an_unknown_architecture_is_refused_with_the_list_and_the_nearest(given, nearest):
    known = {name for family in families().values() for name in (*family.model_types, *family.inside)}
    with pytest.raises(CheckpointError) as refused:
        read_config({**tiny_config(), "architectures": None, **given})
    first, listed = str(refused.value).split("\n")
    assert first.endswith(f"; the nearest by name is {nearest}.")
    assert listed == "Supported are " + ", ".join(sorted(known)) and {"gemma3", "gpt2"} <= known


def test_a_name_that_is_like_no_other_gets_no_nearest_one():
    with pytest.raises(CheckpointError, match=r"model_type 'zzyzx' is not supported\.\nSupported are cohere, "):
        read_config({**tiny_config(), "architectures": ["Zzyzx"], "model_type": "zzyzx"})


def test_a_field_that_a_family_honours_is_not_refused():
    config = {"final_logit_softcapping": 30.0, "layer_types": ["sliding_attention"]}
    refuse_unsupported(config, honoured=["final_logit_softcapping", "layer_types"])
    for honoured, refused in (("layer_types", "final_logit_softcapping"), ("final_logit_softcapping", "layer_types")):
        with pytest.raises(CheckpointError, match=refused):
            refuse_unsupported(config, honoured=[honoured])


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_the_rules_cover_every_parameter_once_and_can_be_inverted(name, changes):
    config = read_config(tiny_config(name, **changes))
    rules = family_of(config).tensors(config)
    expected = abstract_parameters(config)
    assert sorted(map(str, (rule.path for rule in rules))) == sorted(map(str, expected))
    # A tensor makes one parameter, or several that follow each other and of which each takes a share.
    sharing = [(tensors, list(made)) for tensors, made in groupby(rules, lambda rule: rule.tensors)]
    names = [tensor.name for tensors, _ in sharing for tensor in tensors]
    assert len(names) == len(set(names))
    rng = np.random.default_rng(0)
    for tensors, made in sharing:
        stored = [rng.normal(size=tensor.shape) for tensor in tensors]
        again = [np.full(tensor.shape, np.nan) for tensor in tensors]
        for rule in made:
            value = rule.join(stored)
            assert value.shape == rule.shape == expected[rule.path].shape, rule.path
            rule.split(value, again)
        for part, written in zip(stored, again, strict=True):
            np.testing.assert_array_equal(part, written)
        for rule in made:
            if rule.otherwise is not None:
                assert rule.otherwise.shape == rule.shape and rule.otherwise.path == rule.path
    assert parameter_count(config) == sum(int(np.prod(x.shape)) for x in expected.values())


def test_outputs_are_grouped_by_key_head():
    """Two key heads of two query heads each: q0 q1 k0 v0, then q2 q3 k1 v1."""
    q, k, v = np.array([[0, 1, 2, 3]]), np.array([[10, 11]]), np.array([[20, 21]])
    grouped = group([q, k, v], 2)
    assert grouped.tolist() == [[0, 1, 10, 20, 2, 3, 11, 21]]
    rule = Rule(("x",), tuple(Tensor("", part.shape) for part in (q, k, v)), groups=2)
    np.testing.assert_array_equal(rule.join([q, k, v]), grouped)
    for part, again in zip((q, k, v), rule.split(grouped), strict=True):
        np.testing.assert_array_equal(part, again)


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_every_parameter_declares_how_it_is_spread(name, changes):
    config = read_config(tiny_config(name, **changes))
    axes = {path: declared_axes(slot, path) for path, slot in abstract_parameters(config).items()}
    heads, experts = (HEADS if config.latent else KEY_HEADS), config.experts
    assert PartitionSpec(None, heads) in axes.values() and PartitionSpec(heads, None) in axes.values()
    if experts is None or experts.dense_layers or experts.shared_units:
        assert PartitionSpec(UNITS, None) in axes.values()
    if experts is not None:
        mixtures = {PartitionSpec(EXPERTS, None, UNITS), PartitionSpec(EXPERTS, UNITS, None)}
        assert mixtures <= set(axes.values())
    assert axes[("embedding",)] == PartitionSpec(VOCABULARY, None)
    divided = [path for path, spec in axes.items() if set(spec) != {None}]
    assert len(divided) >= 1 + 4 * config.num_layers


class Undeclared(Layer):
    """A layer whose author forgot one declaration."""

    def __init__(self, config, index, *, dtype, rngs):
        super().__init__(config, index, dtype=dtype, rngs=rngs)
        self.attention_norm.scale = nnx.Param(jnp.ones((config.hidden_size,), dtype))


def test_a_parameter_without_a_declaration_is_an_error(tmp_path, monkeypatch):
    """On one device too, so that it is found before anybody has a mesh."""
    folder = tiny_checkpoint(tmp_path / "tiny")

    def build(config, **options):
        return Transformer(config, layer=Undeclared, **options)

    monkeypatch.setitem(families(), "qwen3", replace(families()["qwen3"], build=build))
    with pytest.raises(ValueError, match=r"layers\.0\.attention_norm\.scale does not declare"):
        load_model(folder, dtype=jnp.float32)


def test_a_declaration_that_no_mesh_understands_is_an_error():
    mesh = Mesh(np.array(jax.devices()[:1]), ("model",))
    with pytest.raises(ValueError, match="'rooms' is unknown"):
        parameter_sharding(mesh, parameter(jnp.ones((2, 2)), None, "rooms"), ("x",))
    with pytest.raises(ValueError, match="needs 2 axes"):
        parameter(jnp.ones((2, 2)), None)
    where = parameter_sharding(mesh, RMSNorm(4, eps=1e-6, dtype=jnp.float32).scale, ("norm", "scale"))
    assert where.spec == PartitionSpec(None)
