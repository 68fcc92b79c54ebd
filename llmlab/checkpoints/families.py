"""One table from the tensors of a checkpoint to the arrays of the decoder.

A rule names a parameter of `models.Transformer` and the tensors that it is made of. Linear weights lie as [out, in] in
a checkpoint and as [in, out] here, so matrices are transposed; where several tensors make one parameter (q, k and v;
gate and up) they are joined along the last axis, in the order given.
"""

from __future__ import annotations

from typing import NamedTuple

from llmlab.models.config import ModelConfig

#: The two that are one where they are tied.
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Rule(NamedTuple):
    """How one parameter is read: its path in the module, its tensors with their shapes as stored, transposed or not."""

    path: tuple[str | int, ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    transpose: bool = False


def rules(config: ModelConfig) -> list[Rule]:
    """Every parameter of a decoder of this shape, in the order of the computation."""
    table = [Rule(("embedding",), ((EMBEDDING, (config.vocab_size, config.hidden_size)),))]
    for i in range(config.num_layers):
        for path, tensors, transpose in _layer(config):
            named = tuple((f"model.layers.{i}.{name}", shape) for name, shape in tensors)
            table.append(Rule(("layers", i, *path), named, transpose))
    table.append(Rule(("norm", "scale"), (("model.norm.weight", (config.hidden_size,)),)))
    if not config.tie_word_embeddings:
        head = ((HEAD, (config.vocab_size, config.hidden_size)),)
        table.append(Rule(("head", "kernel"), head, transpose=True))
    return table


def unused(name: str, config: ModelConfig) -> bool:
    """Tensors that some checkpoints hold although the configuration already implies them."""
    return name.endswith(".rotary_emb.inv_freq") or (name == HEAD and config.tie_word_embeddings)


def _layer(config: ModelConfig) -> list[Rule]:
    """One layer's rules, paths and tensor names relative to it."""
    d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_heads * h, config.num_kv_heads * h
    products = [  # path, (tensor, outputs) ..., inputs, bias
        (("attention", "qkv"), (("q_proj", q), ("k_proj", kv), ("v_proj", kv)), d, config.qkv_bias),
        (("attention", "o"), (("o_proj", d),), q, config.o_bias),
        (("feed_forward", "gate_up"), (("gate_proj", f), ("up_proj", f)), d, config.mlp_bias),
        (("feed_forward", "down"), (("down_proj", d),), f, config.mlp_bias),
    ]
    norms: list[tuple[tuple[str, ...], str, int]] = [
        (("attention_norm",), "input_layernorm", d),
        (("feed_forward_norm",), "post_attention_layernorm", d),
    ]
    if config.qk_norm:
        norms += [(("attention", "q_norm"), "self_attn.q_norm", h), (("attention", "k_norm"), "self_attn.k_norm", h)]
    table = [Rule((*path, "scale"), ((f"{name}.weight", (size,)),)) for path, name, size in norms]
    for path, parts, inputs, bias in products:
        block = "self_attn" if path[0] == "attention" else "mlp"
        weights = tuple((f"{block}.{part}.weight", (out, inputs)) for part, out in parts)
        table.append(Rule((*path, "kernel"), weights, transpose=True))
        if bias:
            table.append(Rule((*path, "bias"), tuple((f"{block}.{part}.bias", (out,)) for part, out in parts)))
    return table
