"""What a decode step on two devices communicates, counted in the compiled program."""

from __future__ import annotations

import json

import pytest

from tests.devices import on_devices

CODE = """
import json, re, sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from llmlab.checkpoints.load import load_model
from llmlab.engine.programs import Programs
from llmlab.testing import tiny_checkpoint

NAMES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))

def counted(program):
    text = program.compile().as_text()
    return {name: len(re.findall(rf" {name}(?:-start)?\\(", text)) for name in NAMES}

found = []
for layers in (2, 3):
    folder = Path(sys.argv[1]) / str(layers)
    tiny_checkpoint(folder, num_hidden_layers=layers, **json.loads(sys.argv[2]))
    config, model = load_model(folder, dtype=jnp.float32, mesh=mesh)
    programs = Programs(config, model, mesh=mesh)
    slots = programs.empty(width=4, length=128)
    steps = programs._chunk.lower(
        programs._weights, slots=slots, steps=np.int32(1), order="llmlab"
    )
    piece = {"tokens": np.zeros((1, 32), np.int32), "start": np.int32(0), "length": np.int32(32)}
    prompt = programs._prefill.lower(programs._weights, cache=programs.row_cache(length=128), **piece)
    found.append({"chunk": counted(steps), "prefill": counted(prompt)})
print(json.dumps(found))
"""

#: Of the embedding and the output matrix, where the vocabulary divides: the rows that the tokens look up are summed
#: over the devices, and the logits are gathered once, so that the sampler runs without communication.
OF_A_DIVIDED_VOCABULARY = {"all-reduce": 1, "all-gather": 1}


@pytest.mark.parametrize(
    ("changes", "around"),
    [
        ({"family": "qwen3"}, {}),  # 261 tokens do not divide by two: every device has the embedding
        pytest.param(
            {"family": "qwen2", "vocab_size": 262},
            OF_A_DIVIDED_VOCABULARY,
            marks=[pytest.mark.slow, pytest.mark.exhaustive],
        ),
        pytest.param(
            {
                "family": "llama",
                "vocab_size": 262,
                "tie_word_embeddings": False,
                "attention_bias": True,
                "mlp_bias": True,
            },
            OF_A_DIVIDED_VOCABULARY,
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value.get("family"),
)
def test_a_layer_needs_two_all_reduces_and_nothing_else(tmp_path, changes, around):
    shallow, deep = json.loads(on_devices(2, CODE, tmp_path, json.dumps(changes)))
    print(f"two layers: {shallow}, three layers: {deep}")
    for program in ("chunk", "prefill"):
        one_layer = {name: deep[program][name] - count for name, count in shallow[program].items()}
        assert one_layer == {name: 2 * (name == "all-reduce") for name in one_layer}, program
    outside = {name: count - 2 * 2 * (name == "all-reduce") for name, count in shallow["chunk"].items()}
    assert {name: count for name, count in outside.items() if count} == around
