"""int8 over eight devices: the weights and scales of one device, spread as planned. The devices are made of one CPU."""

from __future__ import annotations

import json

import pytest

from tests.backends.test_eight_devices import DENSE, MIXED
from tests.devices import on_devices

pytestmark = pytest.mark.slow

CODE = """
import json, sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from llmlab.checkpoints.load import load_model
from llmlab.models.plan import footprint, meshes
from llmlab.testing import tiny_checkpoint

family, changes = sys.argv[2], json.loads(sys.argv[3])
folder = tiny_checkpoint(Path(sys.argv[1]), family=family, **changes)
tokens = jnp.asarray(np.random.default_rng(0).integers(0, 96, (2, 12)), jnp.int32)
positions = jnp.broadcast_to(jnp.arange(12, dtype=jnp.int32), (2, 12))

def loaded(mesh):
    config, model = load_model(folder, dtype=jnp.float32, int8=True, mesh=mesh)
    return config, model, jax.tree.leaves(nnx.state(model))

@nnx.jit
def logits(model):
    return model.logits(model(tokens, positions)[0])

config, model, weights = loaded(None)
expected = np.asarray(logits(model))
found = []
for abstract in meshes(config, 8):
    shape = tuple(abstract.shape.values())
    mesh = jax.make_mesh(shape, tuple(abstract.shape), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    fitted, spread, held = loaded(mesh)
    alike = [np.array_equal(one, other) for one, other in zip(weights, held, strict=True) if one.shape == other.shape]
    found.append({
        "mesh": dict(abstract.shape),
        "alike": all(alike) and len(alike) > len(weights) // 2,
        "difference": float(np.abs(np.asarray(logits(spread)) - expected).max()),
        "planned": sum(x.addressable_shards[0].data.nbytes for x in held)
        / footprint(fitted, abstract, dtype="int8", cache_dtype="float32").weights,
    })
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("family", "changes", "count"),
    [
        ("qwen3", DENSE, 4),
        pytest.param("qwen3_moe", {**MIXED, "num_experts": 8}, 10, marks=pytest.mark.exhaustive),
        pytest.param("deepseek_v3", {**MIXED, "n_routed_experts": 8}, 10, marks=pytest.mark.exhaustive),
    ],
)
def test_every_mesh_of_eight_devices_has_the_weights_of_one(tmp_path, family, changes, count):
    found = json.loads(on_devices(8, CODE, tmp_path / "tiny", family, json.dumps(changes)))
    for told in found:
        print(told)
    assert len(found) == count
    for told in found:
        assert told["alike"] and told["difference"] <= 1e-4 and abs(told["planned"] - 1) <= 0.05, told
