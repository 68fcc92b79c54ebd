"""A model over eight devices, by every mesh that divides it, is the model on one. The devices are made of one CPU.

Each family runs in a process of its own: the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import json

import pytest

from tests.devices import on_devices

pytestmark = pytest.mark.slow

CODE = """
import json, sys, warnings
from pathlib import Path
import jax
import numpy as np
from llmlab.backends.local.backend import LocalBackend
from llmlab.models.plan import footprint, meshes
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint

warnings.simplefilter("error")
family, changes = sys.argv[2], json.loads(sys.argv[3])
folder = tiny_checkpoint(Path(sys.argv[1]), family=family, **changes)
requests = [
    ChatRequest.build("Hello", seed=3, max_tokens=24, temperature=0.8, top_p=0.95, n=6),
    ChatRequest.build("A list of things", seed=1, max_tokens=12, temperature=0),
]

def asked(mesh):
    lab = LocalBackend.load(folder, slots=8, max_context=128, mesh=mesh)
    tokens = [[choice.tokens.ids.tolist() for choice in lab.complete(request).choices] for request in requests]
    logits = np.stack([lab.next_logits(lab.render(request)) for request in requests])
    weights = lab.engine.programs._weights
    held = sum(x.addressable_shards[0].data.nbytes for x in weights)
    cache = lab.engine.programs.empty(width=8, length=128).cache
    entries = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(cache))
    context = lab.engine.programs.cache_bytes(width=8, length=128)
    config = lab.engine.config
    lab.close()
    return tokens, logits, held, entries, context, config

tokens, logits, *_, config = asked(None)
found = []
for abstract in meshes(config, 8):
    shape = tuple(abstract.shape.values())
    mesh = jax.make_mesh(shape, tuple(abstract.shape), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    same, other, held, entries, context, _ = asked(mesh)
    plan = footprint(config, abstract, dtype="float32")
    found.append({
        "mesh": dict(abstract.shape),
        "same": same == tokens,
        "difference": float(np.abs(other - logits).max()),
        "weights": held / plan.weights,
        "cache": entries / context,
        "planned cache": entries / (plan.token * 128 * -(-8 // abstract.shape["data"])),
    })
print(json.dumps(found))
"""

#: Eight query heads and two key heads: fewer than devices, as in most models.
DENSE = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 264}


#: As many experts as devices.
MIXED = {**DENSE, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize(
    ("family", "changes", "count"),
    [
        ("qwen3", DENSE, 4),
        pytest.param("gemma2", {**DENSE, "sliding_window": 16}, 4, marks=pytest.mark.exhaustive),
        pytest.param("qwen3_moe", {**MIXED, "num_experts": 8}, 10, marks=pytest.mark.exhaustive),
        pytest.param("deepseek_v3", {**MIXED, "n_routed_experts": 8}, 10, marks=pytest.mark.exhaustive),
    ],
)
def test_every_mesh_of_eight_devices_gives_what_one_device_gives(tmp_path, family, changes, count):
    found = json.loads(on_devices(8, CODE, tmp_path / "tiny", family, json.dumps(changes)))
    for told in found:
        print(told)
    assert len(found) == count
    for told in found:
        assert told["same"] and told["difference"] <= 1e-4, told
        assert all(abs(told[name] - 1) <= 0.05 for name in ("weights", "cache", "planned cache")), told
