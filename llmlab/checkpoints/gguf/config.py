"""The metadata of a GGUF file in the words of config.json, and its tensors by the names of such a checkpoint."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from llmlab.checkpoints.gguf.architectures import ARCHITECTURES, Architecture
from llmlab.checkpoints.gguf.header import Header, Stored
from llmlab.checkpoints.sources.gguf import GgufSource, Origin
from llmlab.errors import CheckpointError, short
from llmlab.models.families import family_of, read_config
from llmlab.models.tensors import Rule

__all__ = ["config_json", "open_source"]

#: What every architecture says of its shape -> what config.json calls it, and whether a file may leave it out.
_SHAPE = {
    "block_count": ("num_hidden_layers", int, True),
    "embedding_length": ("hidden_size", int, True),
    "feed_forward_length": ("intermediate_size", int, True),
    "attention.head_count": ("num_attention_heads", int, True),
    "attention.head_count_kv": ("num_key_value_heads", int, False),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", float, True),
    "context_length": ("max_position_embeddings", int, True),
    "attention.key_length": ("head_dim", int, False),
    "rope.freq_base": ("rope_theta", float, False),
}
_TABLE, _HEAD = "token_embd.weight", "output.weight"
#: Keys of the architecture that change nothing, whatever they say.
_REMARKS = ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "pooling_type")
#: Values that ask for nothing, and keys whose other values ask for nothing either.
_NOTHING: tuple[Any, ...] = (None, 0, False, "", "none", [])
_NEUTRAL: dict[str, Any] = {
    "attention.causal": True,
    "rope.scaling.factor": 1.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "embedding_scale": 1.0,
}
#: Sizes of a head, which must all be the one that queries and keys have.
_HEAD_SIZES = ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa")
_ROTATED = ("rope.dimension_count", "rope.dimension_count_swa")
_MOST_NAMED = 12
#: A float that was rounded to 32 bits is nearest to a number of so many digits.
_DIGITS = 7


def config_json(header: Header) -> dict[str, Any]:
    """What config.json would say of the model in a GGUF file.

    Raises:
        CheckpointError: an unknown architecture, or something that its files must have is missing or impossible.
    """
    known = _architecture(header)
    fields: dict[str, Any] = {}
    for key, (field, kind, needed) in _SHAPE.items():
        found = header.value(f"{header.architecture}.{key}", kind)
        if isinstance(found, float):
            found = float(f"{found:.{_DIGITS}g}")
        if found is not None:
            fields[field] = found
        elif needed:
            raise CheckpointError(f"{header.path} has no {header.architecture}.{key}; fetch it again")
    fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
    fields.setdefault("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    fields.setdefault("rope_theta", 10000.0)  # llama.cpp's default, whatever the architecture
    if _TABLE not in header.tensors:
        raise CheckpointError(f"{header.path} has no tensor {_TABLE}, so it is no whole model")
    # Not the number of tokens: the table may have more rows.
    fields["vocab_size"] = header.tensors[_TABLE].shape[0]
    _check_vocabulary(header)
    fields["tie_word_embeddings"] = _HEAD not in header.tensors
    for name in ("bos", "eos"):
        if (token := header.value(f"tokenizer.ggml.{name}_token_id", int)) is not None:
            fields[f"{name}_token_id"] = token
    source = GgufSource(header, {})
    try:
        own = known.read(header, fields, lambda name: source.read(name) if name in header.tensors else None)
    finally:
        source.close()
    _refuse_others(header, head_dim=fields["head_dim"])
    return {"model_type": known.model_type, **fields, **own}


def open_source(header: Header, config: Mapping[str, Any]) -> GgufSource:
    """The tensors of a GGUF file as a checkpoint with such a config.json has them."""
    import gguf

    known = _architecture(header)
    shape = read_config(config)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    spelled = gguf.get_tensor_name_map(kinds[header.architecture], shape.num_layers)
    rules = family_of(shape).tensors(shape)
    _check_tensors(header, rules, lambda name: spelled.get_name(name, try_suffixes=(".weight", ".bias")))
    origins = {}
    for tensor in (tensor for rule in rules for tensor in rule.tensors):
        for name in (tensor.name, tensor.tied):
            stored = name and spelled.get_name(name, try_suffixes=(".weight", ".bias"))
            if name and stored and stored in header.tensors:
                origins[name] = _origin(stored, known, head=shape.head_dim)
    # Read already, as a part of the configuration.
    beside = [name for name in known.beside if name in header.tensors]
    left = {name: stored for name, stored in header.tensors.items() if name not in beside}
    return GgufSource(Header(header.path, header.metadata, left), origins)


def _architecture(header: Header) -> Architecture:
    name = header.architecture
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0) if name else []
        raise CheckpointError(
            f"{header.path}: the architecture {short(name)} is not read from GGUF files; read are "
            f"{', '.join(sorted(ARCHITECTURES))}{f', of which the nearest by name is {near[0]}' if near else ''}. "
            "A folder of safetensors may be read where a GGUF file is not",
            param="model_type",
        )
    return ARCHITECTURES[name]


def _check_vocabulary(header: Header) -> None:
    """Raises CheckpointError if there are tokens that the table of embeddings has no row for."""
    tokens, rows = header.value("tokenizer.ggml.tokens", list, []), header.tensors[_TABLE].shape[0]
    if len(tokens) > rows:
        raise CheckpointError(
            f"{header.path}: its tokenizer has {len(tokens)} tokens and {_TABLE} has {rows} rows, so they are of "
            "different models; fetch another file of the model"
        )


def _refuse_others(header: Header, *, head_dim: int) -> None:
    """Raises CheckpointError where a file says what changes the result, and nobody has asked for it."""
    own = f"{header.architecture}."
    for key in ("adapter.type", "general.type"):
        if (kind := header.metadata.get(key)) not in (None, "model"):
            raise CheckpointError(f"{header.path} is no model: its {key} is {short(kind)}; name the model's own file")
    for key, value in header.metadata.items():
        name = key.removeprefix(own)
        if not key.startswith(own) or key in header.asked or name in _REMARKS or value in _NOTHING:
            continue
        if value == _NEUTRAL.get(name) or (name in (*_HEAD_SIZES, *_ROTATED) and value == head_dim):
            continue
        raise CheckpointError(
            f"{header.path}: {key} = {short(value)} asks for a computation that is not supported in GGUF files; load "
            "the model from its folder of safetensors"
        )


def _check_tensors(header: Header, rules: list[Rule], stored_name: Callable[[str], str | None]) -> None:
    """Raises CheckpointError where the file does not hold what its metadata describes; by the file's own names."""
    problems = []
    for tensor in (tensor for rule in rules for tensor in rule.tensors):
        names = [found for name in (tensor.name, tensor.tied) if name and (found := stored_name(name))]
        held: Stored | None = next((header.tensors[name] for name in names if name in header.tensors), None)
        if held is None:
            problems.append(f"missing: {names[0] if names else tensor.name} {list(tensor.shape)}")
        elif held.shape != tensor.shape:
            problems.append(f"misshapen: {names[0]} is {list(held.shape)}, the metadata implies {list(tensor.shape)}")
    if problems:
        more = f"\n  ... and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise CheckpointError(
            f"the tensors in {header.path} do not fit its metadata; fetch it again, or another file of the model:\n  "
            + "\n  ".join(problems[:_MOST_NAMED])
            + more
        )


def _origin(stored: str, known: Architecture, *, head: int) -> Origin:
    paired = known.pairs and stored.rpartition(".")[0].endswith((".attn_q", ".attn_k"))
    norm = stored.endswith("norm.weight")
    return Origin(stored, head=head if paired else 0, added=known.norms_added if norm else 0.0)
