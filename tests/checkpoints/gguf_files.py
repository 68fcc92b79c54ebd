"""Writes checkpoints as GGUF files, as llama.cpp's converter does; by hand, so that the reader is checked by it.

Source: github.com/ggml-org/ggml, docs/gguf.md; github.com/ggml-org/llama.cpp, conversion/.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

#: llama.cpp's names of architectures, where they are others than those of config.json.
ARCHITECTURES = {"gemma3_text": "gemma3"}
#: Those whose q and k are stored in pairs, and those whose norms are stored with 1 added.
PAIRED, ADDED = ("llama", "smollm3"), ("gemma2", "gemma3")

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def architecture(config: Mapping[str, Any]) -> str:
    """llama.cpp's name of it."""
    return ARCHITECTURES.get(config["model_type"], config["model_type"])


def stored_name(name: str, arch: str) -> str:
    """The name of a tensor in a GGUF file."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.{kind}"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    if arch in ADDED and part == "post_attention_layernorm":
        return f"blk.{number}.post_attention_norm.{kind}"
    return f"blk.{number}.{_NAMES[part]}.{kind}"


def stored(name: str, value: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """The values of a tensor as a GGUF file holds them."""
    arch = architecture(config)
    for part, count in ((".q_proj.", "num_attention_heads"), (".k_proj.", "num_key_value_heads")):
        if arch in PAIRED and part in name:
            heads = config[count]
            halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
            return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(value.shape)
    return value + 1 if arch in ADDED and name.endswith("norm.weight") else value


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of the decoder, by keys without the architecture; an integer is written as uint32."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head = config.get("head_dim") or width // heads
    found: dict[str, Any] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": width,
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": int(head * config.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(config.get("rope_theta", 10000.0)),
        "vocab_size": config["vocab_size"],
    }
    for field, key in (
        ("sliding_window", "attention.sliding_window"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ):
        if config.get(field):
            found[key] = config[field]
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") in ("linear", "yarn"):
        found |= {"rope.scaling.type": scaling["rope_type"], "rope.scaling.factor": float(scaling["factor"])}
    if scaling.get("rope_type") == "yarn":
        found["rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"]
        found |= {
            f"rope.scaling.yarn_{key}": float(scaling[key]) for key in ("beta_fast", "beta_slow") if key in scaling
        }
    if scaling.get("type") == "longrope":
        stretched = config["max_position_embeddings"] / config["original_max_position_embeddings"]
        found["rope.scaling.attn_factor"] = float(
            np.sqrt(1 + np.log(stretched) / np.log(config["original_max_position_embeddings"]))
            if stretched > 1
            else 1.0
        )
    return found


def beside(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors that are no parameters: how the frequencies of the rotary embedding are divided."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") == "longrope":
        return {
            f"rope_factors_{kind}.weight": np.array(scaling[f"{kind}_factor"], np.float32) for kind in ("long", "short")
        }
    if scaling.get("rope_type") != "llama3":
        return {}
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    low, high, factor = (scaling[name] for name in ("low_freq_factor", "high_freq_factor", "factor"))
    original, divided = scaling["original_max_position_embeddings"], []
    for i in range(0, head, 2):
        wavelength = 2 * np.pi * config["rope_theta"] ** (i / head)
        if wavelength < original / high:
            divided.append(1.0)
        elif wavelength > original / low:
            divided.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divided.append(1 / ((1 - smooth) / factor + smooth))
    return {"rope_freqs.weight": np.array(divided, np.float32)}


Quantize = Callable[[str, np.ndarray], tuple[np.ndarray, gguf.GGMLQuantizationType]]


def as_float32(name: str, value: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    """A tensor as it is."""
    return value.astype(np.float32), gguf.GGMLQuantizationType.F32


def quantized(kind: str) -> Quantize:
    """Matrices in a format that the gguf package writes; vectors as float32, as llama.cpp has them."""

    def quantize(name: str, value: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
        if value.ndim == 1:
            return as_float32(name, value)
        to = gguf.GGMLQuantizationType[kind]
        if kind == "F16":
            return value.astype(np.float16), to
        return gguf.quantize(value.astype(np.float32), to), to

    return quantize


def write_gguf(
    path: Path,
    folder: Path,
    *,
    quantize: Quantize = as_float32,
    tokenizer: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
    parts: int = 1,
) -> Path:
    """Writes a checkpoint folder as a GGUF file; returns its path, or that of the first part.

    Args:
        path: of the file; of parts, the name that theirs are made of.
        folder: config.json and model.safetensors.
        quantize: what becomes of each tensor.
        tokenizer: the values under tokenizer.ggml, and chat_template; None for as many tokens as config.json says.
        fields: whole keys to add, to change, or with None to leave out.
        tensors: by their names in the file, to add, to change, or with None to leave out.
        parts: the number of files.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    arch = architecture(config)
    held = {
        stored_name(name, arch): stored(name, value, config)
        for name, value in load_file(folder / "model.safetensors").items()
    }
    held = {**beside(config), **held, **(tensors or {})}
    ids = {f"{key}_token_id": config[f"{key}_token_id"] for key in ("bos", "eos") if f"{key}_token_id" in config}
    words = {**some_tokens(config["vocab_size"]), **ids} if tokenizer is None else tokenizer
    told: dict[str, Any] = {
        **{f"{arch}.{key}": value for key, value in metadata(config).items()},
        **{f"tokenizer.{'' if key == 'chat_template' else 'ggml.'}{key}": value for key, value in words.items()},
        **(fields or {}),
    }
    told.setdefault("general.architecture", arch)
    names = [name for name, value in held.items() if value is not None]
    paths = (
        [path] if parts == 1 else [path.with_name(f"{path.stem}-{i + 1:05}-of-{parts:05}.gguf") for i in range(parts)]
    )
    for i, part in enumerate(paths):
        split = {} if parts == 1 else {"split.no": i, "split.count": parts, "split.tensors.count": len(names)}
        _write(
            part, {**(told if i == 0 else {}), **split}, {name: quantize(name, held[name]) for name in names[i::parts]}
        )
    return paths[0]


def some_tokens(count: int) -> dict[str, Any]:
    """A vocabulary that nothing is written in."""
    tokens = ["a", "b", "ab", *(f"<{i}>" for i in range(3, count))]
    return {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": [NORMAL] * count, "merges": ["a b"]}


def byte_level(folder: Path, *, pre: str) -> dict[str, Any]:
    """The values of a byte-level tokenizer.json."""
    whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    added = {one["id"]: one for one in whole["added_tokens"]}
    ids = {index: piece for piece, index in whole["model"]["vocab"].items()} | {
        i: one["content"] for i, one in added.items()
    }
    tokens = [ids.get(i, f"[PAD{i}]") for i in range(max(ids) + 1)]
    kinds = [NORMAL if i not in added else CONTROL if added[i]["special"] else USER_DEFINED for i in range(len(tokens))]
    merges = [one if isinstance(one, str) else " ".join(one) for one in whole["model"]["merges"]]
    found = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds, "merges": merges}
    return found | _specials(settings, tokens)


def sentencepiece(folder: Path) -> dict[str, Any]:
    """The values of a tokenizer.json that was made of a SentencePiece file, in which a token's score is its number."""
    whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    added = {one["id"]: one for one in whole["added_tokens"]}
    tokens = [piece for piece, _ in sorted(whole["model"]["vocab"].items(), key=lambda one: one[1])]
    kinds = [
        UNKNOWN if piece == "<unk>" else CONTROL if i in added else BYTE if piece.startswith("<0x") else NORMAL
        for i, piece in enumerate(tokens)
    ]
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(whole["model"]["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    scores = [float(-ranks.get(piece, len(ranks))) for piece in tokens]
    return {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores} | _specials(settings, tokens)


def _specials(settings: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = settings.get(f"{name}_token")
        token = token["content"] if isinstance(token, dict) else token
        if token in tokens:
            found[f"{key}_token_id"] = tokens.index(token)
    for key in ("add_bos_token", "add_eos_token"):
        if key in settings:
            found[key] = settings[key]
    return found | ({"chat_template": settings["chat_template"]} if "chat_template" in settings else {})


def _write(
    path: Path, told: Mapping[str, Any], tensors: Mapping[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]
) -> None:
    architecture = told.get("general.architecture", "")
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in told.items():
        if key == "general.architecture" or value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            (writer.add_uint16 if key in ("split.no", "split.count") else writer.add_uint32)(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (value, kind) in tensors.items():
        writer.add_tensor(name, value, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
