"""Mixtures of experts: the router and the sum against float64, and a token's numbers whatever stands beside it."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from llmlab.checkpoints.load import load_model
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.errors import CheckpointError
from llmlab.models.config import Experts
from llmlab.models.experts import MixtureOfExperts, choose, mix, tile_size
from llmlab.models.families import build_model, families, family_of, read_config
from llmlab.sampling.params import SamplingParams
from llmlab.testing import tiny_checkpoint, tiny_config

MIXTURES = [name for name in families() if read_config(tiny_config(name)).experts is not None]
ROUTINGS = {
    "softmax": Experts(count=8, per_token=3, units=16, renormalise=False),
    "renormalised": Experts(count=8, per_token=3, units=16, scaling=1.5),
    "sigmoid": Experts(count=8, per_token=3, units=16, scoring="sigmoid", correction=True, scaling=2.5),
    "groups": Experts(
        count=16, per_token=3, units=16, scoring="sigmoid", correction=True, groups=4, groups_kept=2, group_best=2
    ),
    "best": Experts(count=16, per_token=3, units=16, renormalise=False, groups=4, groups_kept=2, group_best=1),
    "biased": Experts(count=8, per_token=2, units=16, router_bias=True, bias=True, limit=0.5, alpha=1.3),
}


def mixture(settings, seed=0):
    """A mixture whose parameters are all other than 0 and 1."""
    config = replace(read_config(tiny_config("qwen3_moe")), experts=settings)
    graph, state = nnx.split(MixtureOfExperts(config, settings, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(seed)
    drawn = [jnp.asarray(rng.normal(size=x.shape) * (0.4 if x.ndim > 1 else 0.3), x.dtype) for x in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, drawn))


def oracle(module, x):
    """The same in float64, token by token, expert by expert."""
    settings = module.experts

    def wide(parameter):
        return np.asarray(parameter[...], np.float64)

    found = np.zeros_like(x, dtype=np.float64)
    for t, token in enumerate(np.asarray(x, np.float64)):
        logits = token @ wide(module.router.kernel)
        if settings.router_bias:
            logits = logits + wide(module.router.bias)
        scores = 1 / (1 + np.exp(-logits)) if settings.scoring == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
        ranked = scores + (wide(module.router.correction) if settings.correction else 0)
        if settings.groups > 1:
            groups = ranked.reshape(settings.groups, -1)
            totals = np.sort(groups, axis=1)[:, -settings.group_best :].sum(axis=1)
            dropped = np.argsort(-totals)[settings.groups_kept :]
            groups[dropped] = -np.inf
            ranked = groups.reshape(-1)
        chosen = np.argsort(-ranked, kind="stable")[: settings.per_token]
        weights = scores[chosen]
        if settings.renormalise:
            weights = weights / weights.sum()
        for e, weight in zip(chosen, weights * settings.scaling, strict=True):
            both = token @ wide(module.gate_up)[e]
            both = both + (wide(module.gate_up_bias)[e] if settings.bias else 0)
            gate, up = both[0::2], both[1::2]
            if settings.limit is None:
                units = gate / (1 + np.exp(-gate)) * up
            else:
                gate, up = np.minimum(gate, settings.limit), np.clip(up, -settings.limit, settings.limit)
                units = (up + 1) * gate / (1 + np.exp(-settings.alpha * gate))
            out = units @ wide(module.down)[e]
            found[t] += weight * (out + (wide(module.down_bias)[e] if settings.bias else 0))
    return found


def tokens(count, seed=1, size=32):
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


@pytest.mark.parametrize("name", ROUTINGS)
@pytest.mark.parametrize("count", [1, 7, 64])
def test_a_mixture_is_what_its_definition_says(name, count):
    module, x = mixture(ROUTINGS[name]), tokens(count)
    found = np.asarray(module(jnp.asarray(x)[None])[0])
    expected = oracle(module, x)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_correction_chooses_and_does_not_weigh():
    settings = replace(ROUTINGS["sigmoid"], per_token=1, renormalise=False, scaling=1.0)
    module, x = mixture(settings), jnp.asarray(tokens(20))
    module.router.correction[...] = jnp.zeros(8).at[5].set(100.0)
    chosen, weights = module.router(x)
    assert (np.asarray(chosen) == 5).all()
    logits = np.asarray(x) @ np.asarray(module.router.kernel[...])
    np.testing.assert_allclose(np.asarray(weights)[:, 0], 1 / (1 + np.exp(-logits[:, 5])), atol=1e-5)


def test_equal_scores_go_to_the_lower_expert():
    """Torch's own answer depends on the number of experts and on the device, so that there is none to follow."""
    scores = jnp.asarray([[0.5, 0.5, 0.5, 0.5, 0.1, 0.5], [0.1, 0.2, 0.2, 0.1, 0.2, 0.0]])
    settings = Experts(count=6, per_token=2, units=1)
    assert np.asarray(choose(scores, None, settings)).tolist() == [[0, 1], [1, 2]]
    grouped = replace(settings, groups=3, groups_kept=1, group_best=2)
    assert np.asarray(choose(jnp.full((1, 6), 0.5), None, grouped)).tolist() == [[0, 1]]


def test_no_expert_is_ever_full():
    """All tokens choose the same experts, and each gets them: what a capacity would drop is there."""
    module, x = mixture(ROUTINGS["sigmoid"]), tokens(50)
    module.router.correction[...] = jnp.zeros(8).at[jnp.array([1, 4, 6])].set(100.0)
    assert {*np.asarray(module.router(jnp.asarray(x))[0]).reshape(-1).tolist()} == {1, 4, 6}
    np.testing.assert_allclose(np.asarray(module(jnp.asarray(x)[None])[0]), oracle(module, x), atol=2e-5)


def test_an_expert_without_tokens_is_not_read():
    """Its weights may be no numbers at all."""
    module, x = mixture(ROUTINGS["sigmoid"]), jnp.asarray(tokens(30))
    module.router.correction[...] = jnp.zeros(8).at[2].set(-100.0)
    module.gate_up[...] = module.gate_up[...].at[2].set(jnp.nan)
    assert np.isfinite(np.asarray(module(x[None]))).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 8, 32, 64, 128])
@pytest.mark.parametrize(("experts", "size", "units"), [(8, 32, 16), (16, 96, 40), (4, 256, 128)])
def test_a_tokens_bits_do_not_depend_on_its_neighbours(count, experts, size, units, dtype):
    """Within one shape: whatever the other tokens are, and wherever the token stands among them."""
    rng = np.random.default_rng(0)
    gate_up = jnp.asarray(rng.normal(size=(experts, size, 2 * units)) * 0.2, dtype)
    down = jnp.asarray(rng.normal(size=(experts, units, size)) * 0.2, dtype)
    router = jnp.asarray(rng.normal(size=(size, experts)) * 0.2, jnp.float32)

    @jax.jit
    def run(x):
        scores = jax.nn.softmax(x.astype(jnp.float32) @ router)
        weights, chosen = jax.lax.top_k(scores, 3)

        def expert(rows, e):
            both = (rows @ gate_up[e]).reshape(rows.shape[0], -1, 2)
            return (jax.nn.silu(both[..., 0]) * both[..., 1]) @ down[e]

        return mix(x, chosen.astype(jnp.int32), weights, expert, count=experts)

    probe = tokens(1, seed=9, size=size)[0]
    seen = set()
    for trial in range(6):
        x = tokens(count, seed=trial, size=size) * (1 + trial)
        if trial == 4:  # all alike: every token at the same experts
            x[:] = probe
        place = trial * 5 % count
        x[place] = probe
        seen.add(np.asarray(run(jnp.asarray(x, dtype))[place]).tobytes())
    assert len(seen) == 1


def test_tiles_follow_how_many_tokens_an_expert_gets():
    assert [tile_size(n, 32) for n in (4, 32, 64, 256, 512, 100_000)] == [1, 2, 4, 16, 32, 64]
    assert [tile_size(8, 128), tile_size(64, 128), tile_size(96, 32)] == [1, 1, 8]


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_pinned_slots_give_the_same_tokens_alone_and_beside_others(name):
    config = read_config(tiny_config(name))
    graph, state = nnx.split(build_model(config, rngs=nnx.Rngs(0)))
    model = nnx.merge(graph, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, state))
    engine = Engine(config, model, slots=4, max_context=128)

    def made(prompts):
        rows = [
            Row(
                np.frombuffer(text.encode(), np.uint8).astype(np.int32),
                SamplingParams(seed=3),
                budget=24,
            )
            for text in prompts
        ]
        found = [([], []) for _ in rows]  # tokens, and the bits of their log-probabilities
        for block in engine.submit(rows):
            for piece in block:
                found[piece.row][0].extend(piece.tokens.tolist())
                found[piece.row][1].extend(np.asarray(piece.figures.logprob).view(np.uint32).tolist())
        return found

    try:
        alone = made(["Where is it?"])[0]
        assert made(["Where is it?", "x" * 40, "another", "!"])[0] == alone
        assert made(["1", "22", "Where is it?"])[2] == alone
    finally:
        engine.close()


@pytest.mark.parametrize("name", MIXTURES)
def test_the_router_stays_in_float32(name, tmp_path):
    folder = tiny_checkpoint(tmp_path / "tiny", family=name)
    _, model = load_model(folder, dtype=jnp.bfloat16)
    flat = {path: slot[...].dtype for path, slot in nnx.to_flat_state(nnx.state(model))}
    routers = {path for path in flat if "router" in path}
    assert routers and all(flat[path] == jnp.float32 for path in routers)
    assert all(dtype == jnp.bfloat16 for path, dtype in flat.items() if path not in routers)


@pytest.mark.parametrize("name", [name for name in MIXTURES if name not in ("gpt_oss", "granitemoe")])
def test_experts_in_one_tensor_are_read_as_experts_one_by_one(name, tmp_path):
    """As transformers 5 calls them where it does not write the published names."""
    folder = tiny_checkpoint(tmp_path / "tiny", family=name)
    stored = load_file(folder / "model.safetensors")
    config, model = load_model(folder, dtype=jnp.float32)
    fused = {}
    for rule in family_of(config).tensors(config):
        if rule.otherwise is not None:
            value = np.asarray(dict(nnx.to_flat_state(nnx.state(model)))[rule.path][...])
            for tensor in rule.tensors:
                stored.pop(tensor.name)
            fused |= dict(zip((t.name for t in rule.otherwise.tensors), rule.otherwise.split(value), strict=True))
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in fused)
    save_file(stored | fused, folder / "model.safetensors")
    _, again = load_model(folder, dtype=jnp.float32)
    for one, other in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(again)), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("name", ["glm4_moe", "glm4_moe_lite", "deepseek_v3"])
def test_layers_that_predict_further_tokens_are_skipped(name, tmp_path):
    folder = tiny_checkpoint(tmp_path / "tiny", family=name)
    stored = load_file(folder / "model.safetensors")
    extra = {
        "model.layers.2.eh_proj.weight": np.ones((2, 2), np.float32),
        "model.layers.2.shared_head.norm.weight": np.ones(3, np.float32),
    }
    save_file(stored | extra, folder / "model.safetensors")
    assert load_model(folder, dtype=jnp.float32)[0].num_layers == 2
    save_file(stored | {"model.layers.3.eh_proj.weight": np.ones(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"surplus: model\.layers\.3\.eh_proj"):
        load_model(folder, dtype=jnp.float32)
    config = {**json.loads((folder / "config.json").read_text()), "num_nextn_predict_layers": 0}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored | extra, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"surplus: model\.layers\.2"):
        load_model(folder, dtype=jnp.float32)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok 9 is more than the 8 experts"),
        ("qwen3_moe", {"num_local_experts": 4}, "num_experts 8 and num_local_experts 4 mean the same and differ"),
        ("qwen3_moe", {"mlp_only_layers": [0, 1]}, "no layer of this model has experts"),
        ("qwen3_moe", {"mlp_only_layers": "0"}, "mlp_only_layers must be a list"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step must be a positive integer"),
        ("gpt_oss", {"experts_per_token": 3}, "experts_per_token = 3 is not supported"),
        ("gpt_oss", {"swiglu_limit": -1}, "swiglu_limit must be a number above 0"),
        ("gpt_oss", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ("deepseek_v3", {"n_group": 3}, "8 experts do not divide into n_group 3"),
        ("deepseek_v3", {"topk_group": 5}, "topk_group 5 is more than n_group 4"),
        ("deepseek_v3", {"n_group": 8, "topk_group": 4}, "leaves 1 experts in a group"),
        ("deepseek_v3", {"topk_group": 1, "num_experts_per_tok": 3}, "more than the 2 experts"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func = 'softmax' is not supported"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method = 'greedy' is not supported"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq = 2 is not supported"),
        ("deepseek_v3", {"qk_rope_head_dim": 5}, "qk_rope_head_dim 5 is odd"),
        ("deepseek_v3", {"kv_lora_rank": 0}, "kv_lora_rank must be a positive integer"),
        ("deepseek_v3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor rotates 2 numbers"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob = True is not supported"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method must be 'greedy'"),
        ("glm4_moe_lite", {"mlp_layer_types": ["dense"]}, "mlp_layer_types must be 2 of dense, sparse"),
        (
            "glm4_moe_lite",
            {"mlp_layer_types": ["sparse", "sparse"], "first_k_dense_replace": 1},
            "is not what first_k_dense_replace 1 says",
        ),
        ("minimax_m2", {"attn_type_list": [1, 0]}, r"attn_type_list \[1, 0\] is not supported"),
        ("minimax_m2", {"use_qk_norm": False}, "use_qk_norm = False is not supported"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv = 8.0 asks for a computation"),
    ],
)
def test_what_cannot_be_is_one_clear_error(family, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_config(tiny_config(family, **changes))


def test_a_mesh_must_divide_the_units_of_experts():
    sizes = read_config(tiny_config("qwen3_moe")).sharded_sizes
    assert sizes["expert"] == {"num_experts": 8} and sizes["model"]["moe_intermediate_size"] == 16
    assert sizes["model"]["intermediate_size"] == 48  # layer 0 has no experts
    assert "intermediate_size" not in read_config(tiny_config("mixtral")).sharded_sizes["model"]
