"""A model over two devices answers as on one. Two devices are made of one CPU, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.errors import RequestError
from llmlab.testing import tiny_checkpoint

CODE = """
import json, sys, warnings
from pathlib import Path
import jax
import numpy as np
import numpy as np
from llmlab.backends.local.backend import LocalBackend
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint

warnings.simplefilter("error")  # a cache that is donated in vain, for one
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)
family, changes = sys.argv[2], json.loads(sys.argv[3])
folder = tiny_checkpoint(Path(sys.argv[1]), family=family, num_hidden_layers=1, **changes)
mesh = jax.make_mesh((2,), ("model",), axis_types=(getattr(jax.sharding.AxisType, sys.argv[4]),))
one, two = (LocalBackend.load(folder, slots=4, max_context=128, mesh=over) for over in (None, mesh))
warm = family == "qwen3"  # once is enough
if warm:
    two.warmup()
requests = [
    ChatRequest.build("Hello", seed=3, max_tokens=40, temperature=0.8, top_p=0.95, n=3),
    ChatRequest.build("A list", seed=1, max_tokens=20, response_format={"type": "json_object"}),
]
before = len(compiled)
found = [[choice.tokens.ids.tolist() for choice in two.complete(request).choices] for request in requests]
logits = [two.next_logits(two.render(request)) for request in requests]
recompiled = len(compiled) - before if warm else 0
expected = [[choice.tokens.ids.tolist() for choice in one.complete(request).choices] for request in requests]
theirs = [one.next_logits(one.render(request)) for request in requests]
cache = two.engine.programs.empty(width=4, length=128).cache
weights = two.engine.programs._weights
print(json.dumps({
    "found": found,
    "expected": expected,
    "difference": float(np.abs(np.array(logits) - np.array(theirs)).max()),
    "recompiled": recompiled,
    "cache": [x.sharding.shard_shape(x.shape)[1] / x.shape[1] for x in (*cache.keys, *cache.values)],
    "held": sum(x.addressable_shards[0].data.nbytes for x in weights) / sum(x.nbytes for x in weights),
    "device": two.describe()["device"],
    "notes": [one.describe()["notes"], two.describe()["notes"]],
    "fingerprints": [one.system_fingerprint, two.system_fingerprint],
}))
one.close()
two.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes", "axes"),
    [
        # The vocabulary of 261 tokens does not divide by two, and is on both.
        ("qwen3", {}, "Auto"),
        (
            "llama",
            {"tie_word_embeddings": False, "vocab_size": 262, "attention_bias": True, "mlp_bias": True},
            "Explicit",
        ),
    ],
)
def test_two_devices_answer_as_one(tmp_path, family, changes, axes):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "tiny"), family, json.dumps(changes), axes],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).resolve().parents[2],
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["found"] == told["expected"] and told["difference"] < 1e-4
    assert told["recompiled"] == 0
    assert set(told["cache"]) == {0.5} and told["held"] < (0.9 if family == "qwen3" else 0.52)
    assert told["device"].startswith("2 x ")
    assert any("mesh=" in note for note in told["notes"][0]) and not any("mesh=" in note for note in told["notes"][1])
    assert told["fingerprints"][0] != told["fingerprints"][1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("mesh") / "tiny", num_hidden_layers=1)


def test_a_mesh_of_one_device(folder):
    backend = LocalBackend.load(folder, slots=1, max_context=128, mesh=jax.make_mesh((1,), ("all",)))
    assert backend.engine.mesh.size == 1 and backend.describe()["device"] == jax.devices()[0].device_kind
    backend.close()


def test_a_mesh_that_the_model_does_not_divide_by(folder):
    from jax.sharding import Mesh

    from llmlab.models.families import read_config
    from llmlab.models.sharding import checked_mesh

    with pytest.raises(RequestError, match="one axis") as caught:
        LocalBackend.load(folder, mesh=jax.make_mesh((1, 1), ("data", "model")))
    assert caught.value.param == "mesh"
    with pytest.raises(RequestError, match="jax.sharding.Mesh"):
        LocalBackend.load(folder, mesh=2)
    config = read_config(json.loads((folder / "config.json").read_text()))
    for devices, named in ((3, "num_attention_heads 4"), (4, "num_key_value_heads 2")):
        with pytest.raises(RequestError, match=f"{devices} devices.*{named}"):
            checked_mesh(Mesh(np.array([jax.devices()[0]] * devices), ("model",)), config)
