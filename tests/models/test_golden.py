"""Every family against logits that transformers' torch models gave: recorded, so that no torch is needed here.

`python -m tests.reference.golden` writes the records anew; tests/reference/test_families.py compares with torch itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from llmlab.checkpoints.load import load_model
from llmlab.models.families import families, family_of, read_config
from tests.models.cases import KEPT_POSITIONS, KEPT_TOKENS, all_cases, cases, tokens, weights

GOLDEN = Path(__file__).parent / "golden"


def test_every_family_has_three_cases_and_their_records():
    for name in families():
        recorded = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
        assert sorted(recorded) == sorted(case.name for case in cases(name)) and len(recorded) >= 3, name


def checkpoint(case, folder):
    """The folder of a case, with the weights that belong to its tensors' names."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(case.config))
    config = read_config(case.config)
    needed = [tensor for rule in family_of(config).tensors(config) for tensor in rule.tensors]
    save_file({tensor.name: weights(tensor.name, tensor.shape) for tensor in needed}, folder / "model.safetensors")
    return folder


def logits(model):
    ids = jnp.asarray(tokens())
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :], ids.shape)
    return np.asarray(model.logits(model(ids, positions)[0]))


def kept(model):
    """The logits that are recorded."""
    return logits(model)[0][list(KEPT_POSITIONS)][:, list(KEPT_TOKENS)]


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_logits_are_those_of_transformers(case, tmp_path):
    recorded = json.loads((GOLDEN / f"{case.family}.json").read_text("utf-8"))[case.name]
    _, model = load_model(checkpoint(case, tmp_path / "made"), dtype=jnp.float32)
    found = kept(model)
    difference = np.abs(found - np.array(recorded)).max()
    print(f"{case}: largest logit difference {difference:.1e}, largest logit {np.abs(found).max():.1f}")
    assert difference <= 1e-3
