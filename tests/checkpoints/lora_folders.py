"""LoRA adapters written as peft writes them, and what they make of a base, in float64: both without peft."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

PREFIX = "base_model.model."


def write_adapter(
    folder: Path,
    base: Path,
    modules: Sequence[str],
    *,
    ranks: Mapping[str, int] | None = None,
    rank: int = 3,
    turned: bool = False,
    biases: Sequence[str] = (),
    whole: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes an adapter with random numbers.

    Args:
        folder: of the adapter.
        base: the checkpoint that it is for.
        modules: that are changed.
        ranks: of some of them, where they are not `rank`.
        rank: r.
        turned: the base's matrices are [in, out].
        biases: modules whose B has a bias.
        whole: further tensors, by their names in the model.
        seed: of the numbers.
        config: further fields of adapter_config.json.
    """
    rng = np.random.default_rng(seed)
    stored, made = load_file(base / "model.safetensors"), {}

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.1, shape).astype(np.float32)

    for module in modules:
        weight = stored.get(f"{module}.weight", stored.get("model.embed_tokens.weight"))
        r = (ranks or {}).get(module, rank)
        if module.endswith(("embed_tokens", "wte")):
            made |= {f"{module}.lora_embedding_A": drawn(r, weight.shape[0])}
            made |= {f"{module}.lora_embedding_B": drawn(weight.shape[1], r)}
            continue
        out, inputs = weight.shape[::-1] if turned else weight.shape
        made |= {f"{module}.lora_A.weight": drawn(r, inputs), f"{module}.lora_B.weight": drawn(out, r)}
        if module in biases:
            made[f"{module}.lora_B.bias"] = drawn(out)
        if config.get("use_dora"):
            made[f"{module}.lora_magnitude_vector"] = 1 + np.abs(drawn(out))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({PREFIX + name: value for name, value in {**made, **(whole or {})}.items()}, folder / WEIGHTS)
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "owner/the-base",
        "r": rank,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "bias": "none",
        "inference_mode": True,
        "peft_version": "0.21.2",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


WEIGHTS = "adapter_model.safetensors"


def merged(base: Path, adapter: Path, *, turned: bool = False) -> dict[str, np.ndarray]:
    """The base's tensors with an adapter merged, by the formulas of the papers, in float64.

    A tied base gets an output matrix of its own, which begins as the embedding.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    made = {name.removeprefix(PREFIX): value for name, value in load_file(adapter / WEIGHTS).items()}
    found = {name: value.astype(np.float64) for name, value in load_file(base / "model.safetensors").items()}
    if "model.embed_tokens.weight" in found:
        found.setdefault("lm_head.weight", found["model.embed_tokens.weight"])

    def pick(patterns: str, module: str, default: float) -> float:
        given = (config.get(patterns) or {}).items()
        return next((value for key, value in given if re.search(rf"(^|\.)({key})$", module)), default)

    for module in dict.fromkeys(re.split(r"\.lora_", name)[0] for name in made if ".lora_" in name):
        r, alpha = pick("rank_pattern", module, config["r"]), pick("alpha_pattern", module, config["lora_alpha"])
        scale = alpha / (np.sqrt(r) if config.get("use_rslora") else r)
        name = f"{module}.weight"
        if f"{module}.lora_embedding_A" in made:
            a, b = (made[f"{module}.lora_embedding_{part}"].astype(np.float64) for part in "AB")
            found[name] = found[name] + scale * (b @ a).T
            continue
        a, b = (made[f"{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
        weight = found[name].T if turned else found[name]
        weight = weight + scale * b @ a
        if config.get("use_dora"):
            length = np.sqrt((weight**2).sum(axis=1))
            weight = weight * (made[f"{module}.lora_magnitude_vector"] / length)[:, None]
        found[name] = weight.T if turned else weight
        if f"{module}.lora_B.bias" in made:
            found[f"{module}.bias"] = found[f"{module}.bias"] + scale * made[f"{module}.lora_B.bias"]
    return found | {name: value.astype(np.float64) for name, value in made.items() if ".lora_" not in name}
