"""A model over two devices answers as on one. Two devices are made of one CPU, in a process of its own."""

import json
from contextlib import closing

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from llmlab.backends.local.backend import LocalBackend
from llmlab.checkpoints.files import open_weights
from llmlab.checkpoints.load import load_model, model_from
from llmlab.checkpoints.save import save_checkpoint
from llmlab.errors import RequestError
from llmlab.models.families import read_config
from llmlab.models.plan import abstract_mesh
from llmlab.models.sharding import checked_mesh, fitted
from llmlab.testing import tiny_checkpoint, tiny_config
from tests.devices import on_devices

CODE = """
import json, sys, warnings
from pathlib import Path
import jax
import numpy as np
import numpy as np
from llmlab.backends.local.backend import LocalBackend
from llmlab.protocol.backend import GivenTokens
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
answers = [GivenTokens(i, np.frombuffer(x, np.uint8).astype(np.int32)) for i, x in enumerate((b"you", b"your", b"who"))]
texts = [GivenTokens(0, np.arange(5, 60, dtype=np.int32))]

def scores(lab):
    done = [lab.score(requests[0], each, seed=0) for each in (answers, texts)]
    tokens = [choice.tokens for one in done for choice in one.choices]
    return np.concatenate([np.concatenate([each.logprob, each.sampling_entropy]) for each in tokens])

scored = scores(two)
recompiled = len(compiled) - before if warm else 0
expected = [[choice.tokens.ids.tolist() for choice in one.complete(request).choices] for request in requests]
theirs = [one.next_logits(one.render(request)) for request in requests]
cache = two.engine.programs.empty(width=4, length=128).cache
weights = two.engine.programs._weights
print(json.dumps({
    "found": found,
    "expected": expected,
    "difference": float(np.abs(np.array(logits) - np.array(theirs)).max()),
    "scores": float(np.abs(scored - scores(one)).max()),
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
@pytest.mark.exhaustive
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
    told = json.loads(on_devices(2, CODE, tmp_path / "tiny", family, json.dumps(changes), axes))
    assert told["found"] == told["expected"] and told["difference"] < 1e-4
    assert told["scores"] < 1e-4 and told["recompiled"] == 0
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


def mesh_of(names, *shape):
    return Mesh(np.array([jax.devices()[0]] * int(np.prod(shape))).reshape(shape), names)


def test_a_mesh_that_the_model_does_not_divide_by(folder):
    with pytest.raises(RequestError, match="axes named data, expert, model, or one axis") as caught:
        LocalBackend.load(folder, mesh=jax.make_mesh((1, 1), ("rows", "model")))
    assert caught.value.param == "mesh"
    for wrong in (2, "all"):
        with pytest.raises(RequestError, match="jax.sharding.Mesh or 'auto'"):
            LocalBackend.load(folder, mesh=wrong)
    config = read_config(json.loads((folder / "config.json").read_text()))
    for shape, named in (
        ({"model": 3}, "3 devices along 'model'.*num_attention_heads 4 does not divide; 1, 2 would do"),
        ({"all": 8}, "8 devices along 'model'.*num_attention_heads 4"),
        ({"data": 2, "expert": 2}, "2 devices along 'expert'.*no experts; 1 would do"),
    ):
        with pytest.raises(RequestError, match=named):
            checked_mesh(mesh_of(tuple(shape), *shape.values()), config)
    # Six key heads and four devices: neither number divides the other.
    config = read_config(tiny_config(num_attention_heads=12, num_key_value_heads=6, head_dim=8))
    with pytest.raises(RequestError, match="num_key_value_heads 6 neither divides"):
        checked_mesh(mesh_of(("model",), 4), config)


def test_a_mesh_is_put_in_one_order(folder):
    """Neighbouring devices share a layer, whatever the order of the caller's axes."""
    config = read_config(json.loads((folder / "config.json").read_text()))
    mesh = checked_mesh(mesh_of(("model", "data"), 2, 3), config)
    assert dict(mesh.shape) == {"data": 3, "expert": 1, "model": 2}
    assert dict(checked_mesh(mesh_of(("x",), 4), config).shape) == {"data": 1, "expert": 1, "model": 4}


def test_fewer_key_heads_than_devices_are_held_more_than_once(tmp_path):
    """Two key heads for four devices: the decoder with copies gives the same numbers, and is saved as it was."""
    for family, changes in (("qwen3", {}), ("llama", {"attention_bias": True}), ("qwen2", {})):
        folder = tiny_checkpoint(tmp_path / family, family=family, **changes)
        config, plain = load_model(folder, dtype=np.float32)
        copied = fitted(config, abstract_mesh(model=4))
        assert (copied.kv_copies, config.kv_copies) == (2, 1)
        with closing(open_weights(folder)) as source:
            model = model_from(source, copied, held=folder, dtype=np.float32)
        ids = np.random.default_rng(0).integers(0, 256, (2, 24)).astype(np.int32)
        at = np.broadcast_to(np.arange(24, dtype=np.int32), (2, 24))
        one, other = (m.logits(m(jax.numpy.asarray(ids), jax.numpy.asarray(at))[0]) for m in (plain, model))
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5)
        written = json.loads((folder / "config.json").read_text())
        again = save_checkpoint(tmp_path / "again", model=model, config=written)
        assert again.read_bytes() == (folder / "model.safetensors").read_bytes()
