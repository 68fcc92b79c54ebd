"""Writes the logits that tests/models/test_golden.py compares with: `python -m tests.reference.golden [FAMILY ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.models.cases import KEPT_POSITIONS, KEPT_TOKENS, Case, cases, tokens, weights
from tests.models.test_golden import GOLDEN


def torch_model(case: Case) -> Any:
    """Transformers' model of a case, with the weights that belong to its tensors' names; attention is the plain one.

    The names are those of a checkpoint: a mixture's experts are stored one by one where transformers joins them. So the
    model is saved, its tensors are replaced, and it is read again.
    """
    import torch
    from safetensors.numpy import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: value for name, value in case.config.items() if name != "model_type"}
    config = AutoConfig.for_model(case.config["model_type"], **fields)
    with TemporaryDirectory() as folder:
        fresh = AutoModelForCausalLM.from_config(config)
        fresh.save_pretrained(folder)
        path = Path(folder) / "model.safetensors"
        made = {name: weights(name, tensor.shape) for name, tensor in load_file(path).items()}
        save_file(made, path, metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    left = [
        name for name, tensor in everything(model).items() if not everything_changed(tensor, everything(fresh)[name])
    ]
    assert not left, f"still as they were made: {left}"
    return model


def everything(model: Any) -> dict[str, Any]:
    """What a checkpoint of the model holds: its parameters, and those buffers that are stored."""
    return {**dict(model.named_parameters()), **persistent(model)}


def everything_changed(tensor: Any, before: Any) -> bool:
    """Whether no number of a tensor is what it was, so that none of it stayed at a 0 or 1 that hides a mistake."""
    return bool((tensor != before).all())


def persistent(model: Any) -> dict[str, Any]:
    """The buffers that a checkpoint holds."""
    return {name: tensor for name, tensor in model.named_buffers() if name in model.state_dict()}


def torch_logits(model: Any) -> np.ndarray:
    """[3, LENGTH, V], of the common tokens."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens(), dtype=torch.long), use_cache=False).logits.numpy()


def main(families: list[str]) -> None:
    for family in families:
        recorded = {}
        for case in cases(family):
            kept = torch_logits(torch_model(case))[0][list(KEPT_POSITIONS)][:, list(KEPT_TOKENS)]
            recorded[case.name] = [[round(float(x), 5) for x in row] for row in kept]
        lines = [f" {json.dumps(name)}: {json.dumps(rows)}" for name, rows in recorded.items()]
        (GOLDEN / f"{family}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    from llmlab.models.families import families

    main(sys.argv[1:] or list(families()))
