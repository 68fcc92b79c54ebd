"""Writes a checkpoint folder as the GGUF file from which llama.cpp runs the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llmlab.checkpoints.gguf.architectures import ARCHITECTURES
from llmlab.checkpoints.opened import Checkpoint, open_checkpoint
from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.families import family_of, read_config

__all__ = ["write_gguf"]

#: Those of which a file says nothing besides the common fields.
_WRITTEN = ("llama", "qwen2", "qwen3")
_TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "float16": gguf.GGMLQuantizationType.F16,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
}


def write_gguf(folder: Path, to: Path, *, dtype: str) -> Path:
    """Writes the weights, and a vocabulary of as many tokens in which nothing can be written; returns `to`.

    Args:
        folder: a checkpoint as `llmlab.load` reads it.
        to: the file.
        dtype: of the matrices, "float32", "float16", "bfloat16" or "int8" (Q8_0, blocks of 32 with a scale); vectors
            are float32, as llama.cpp wants them.

    Raises:
        CheckpointError: a family that this does not write, or a stretched rotary embedding.
    """
    checkpoint = open_checkpoint(folder)
    name, shape = str(checkpoint.config["model_type"]), read_config(checkpoint.config)
    if name not in _WRITTEN or (checkpoint.config.get("rope_scaling") or {}).get("rope_type", "default") != "default":
        raise CheckpointError(f"the bench writes GGUF files of plain {', '.join(_WRITTEN)}, and {folder} is another")
    writer = gguf.GGUFWriter(to, name)
    _describe(writer, checkpoint.config, shape)
    _add_tensors(writer, checkpoint, shape, name=name, kind=_TYPES[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def _describe(writer: gguf.GGUFWriter, config: Any, shape: ModelConfig) -> None:
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # Three in which something can be merged, which is the least that llama.cpp takes for a vocabulary.
    writer.add_token_list(["a", "b", "ab", *(f"<{i}>" for i in range(3, shape.vocab_size))])
    writer.add_token_types([1] * shape.vocab_size)
    writer.add_token_merges(["a b"])


def _add_tensors(
    writer: gguf.GGUFWriter, checkpoint: Checkpoint, shape: ModelConfig, *, name: str, kind: gguf.GGMLQuantizationType
) -> None:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    spelled = gguf.get_tensor_name_map(kinds[name], shape.num_layers)
    source = checkpoint.open_weights()
    held = [tensor.name for rule in family_of(shape).tensors(shape) for tensor in rule.tensors]
    try:
        for tensor in dict.fromkeys(name for name in held if name in source.names()):
            value = source.read(tensor)
            if ARCHITECTURES[name].pairs and (".q_proj." in tensor or ".k_proj." in tensor):
                value = _paired(value, head=shape.head_dim)
            as_kind = kind if value.ndim > 1 else gguf.GGMLQuantizationType.F32
            stored = spelled.get_name(tensor, try_suffixes=(".weight", ".bias"))
            if stored is None:
                raise CheckpointError(f"llama.cpp has no name for {tensor}")
            writer.add_tensor(stored, gguf.quantize(value.astype(np.float32), as_kind), raw_dtype=as_kind)
    finally:
        source.close()


def _paired(value: np.ndarray, *, head: int) -> np.ndarray:
    """The rows of q or k as llama.cpp rotates them: those of the two halves of a head in turn."""
    halves = value.reshape(-1, 2, head // 2, *value.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(value.shape)
