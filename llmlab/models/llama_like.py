"""What Llama-like families share, for a family's file to compose: the common fields of config.json, and tensor rules.

The families differ in defaults, biases and norms, which their own files state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.config_json import activation, flag, number, positive, read_rope, refuse_unsupported
from llmlab.models.tensors import Rule, Tensor, under

#: Tensors of old checkpoints that the configuration already implies.
IGNORED = ("*.rotary_emb.inv_freq",)


def shape_fields(
    config: Mapping[str, Any],
    *,
    max_position: int,
    head_dim: int | None = None,
    honoured: Collection[str] = (),
) -> dict[str, Any]:
    """The fields of ModelConfig that Llama-like families read alike; biases and norms are left to the family.

    Args:
        config: the parsed config.json.
        max_position: the family's context where the field is absent.
        head_dim: the family's head size where the field is absent; None for hidden_size / num_attention_heads.
        honoured: fields that the family reads itself.

    Raises:
        CheckpointError: a missing or impossible field, or one that asks for a computation that is not done.
    """
    refuse_unsupported(config, honoured=honoured)
    heads = positive(config, "num_attention_heads")
    hidden = positive(config, "hidden_size")
    kv_heads = positive(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            param="num_key_value_heads",
        )
    size = positive(config, "head_dim", head_dim or hidden // heads)
    if size % 2:
        raise CheckpointError(f"config.json: head_dim {size} is odd; rotary embedding needs pairs", param="head_dim")
    context = positive(config, "max_position_embeddings", max_position)
    return {
        "vocab_size": positive(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": positive(config, "intermediate_size"),
        "num_layers": positive(config, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": size,
        "max_position": context,
        "rms_norm_eps": number(config, "rms_norm_eps", 1e-6),
        "hidden_act": activation(config),
        "rope": read_rope(config, max_position=context),
        "tie_word_embeddings": flag(config, "tie_word_embeddings", False),
    }


def tensor_rules(config: ModelConfig, *, layer: list[Rule] | None = None) -> list[Rule]:
    """The rules of a whole decoder, in the order of the computation.

    Args:
        config: the shape.
        layer: the rules of one layer, paths and names relative to it; None for `layer_rules`.
    """
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    table = (config.vocab_size, config.hidden_size)
    tied = head if config.tie_word_embeddings else None
    rules = [Rule(("embedding",), (Tensor(embedding, table, tied=tied),))]
    for i in range(config.num_layers):
        rules += under(f"model.layers.{i}.", ("layers", i), layer_rules(config) if layer is None else layer)
    rules.append(Rule(("norm", "scale"), (Tensor("model.norm.weight", (config.hidden_size,)),)))
    if not tied:
        rules.append(Rule(("head", "kernel"), (Tensor(head, table),), transpose=True))
    return rules


def layer_rules(config: ModelConfig) -> list[Rule]:
    """One layer's rules."""
    return [
        norm(("attention_norm",), "input_layernorm", config.hidden_size),
        *under("self_attn.", ("attention",), attention_rules(config)),
        norm(("feed_forward_norm",), "post_attention_layernorm", config.hidden_size),
        *under("mlp.", ("feed_forward",), feed_forward_rules(config)),
    ]


def attention_rules(config: ModelConfig) -> list[Rule]:
    """q, k and v grouped by key head, the output projection, and the norms of q and k where there are any."""
    d, h = config.hidden_size, config.head_dim
    q, kv = config.num_heads * h, config.num_kv_heads * h
    names = {"q_proj": q, "k_proj": kv, "v_proj": kv}
    rules = projection(("qkv",), names, inputs=d, bias=config.qkv_bias, groups=config.num_kv_heads)
    rules += projection(("o",), {"o_proj": d}, inputs=q, bias=config.o_bias)
    if config.qk_norm:
        rules += [norm(("q_norm",), "q_norm", h), norm(("k_norm",), "k_norm", h)]
    return rules


def feed_forward_rules(config: ModelConfig) -> list[Rule]:
    """Gate and up grouped by unit, and down."""
    d, f, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
    gate_up = projection(("gate_up",), {"gate_proj": f, "up_proj": f}, inputs=d, bias=bias, groups=f)
    return gate_up + projection(("down",), {"down_proj": d}, inputs=f, bias=bias)


def projection(
    path: tuple[str, ...], names: Mapping[str, int], *, inputs: int, bias: bool, groups: int = 1
) -> list[Rule]:
    """The rules of a `layers.Projection`: its kernel, and its bias where it has one.

    Args:
        path: of the projection.
        names: the linear layers that it is made of -> their numbers of outputs.
        inputs: the number of inputs.
        bias: whether the layers have one.
        groups: as in `Rule`.
    """
    weights = tuple(Tensor(f"{name}.weight", (out, inputs)) for name, out in names.items())
    rules = [Rule((*path, "kernel"), weights, transpose=True, groups=groups)]
    if bias:
        biases = tuple(Tensor(f"{name}.bias", (out,)) for name, out in names.items())
        rules.append(Rule((*path, "bias"), biases, groups=groups))
    return rules


def norm(path: tuple[str, ...], name: str, size: int) -> Rule:
    """The rule of a `layers.RMSNorm`."""
    return Rule((*path, "scale"), (Tensor(f"{name}.weight", (size,)),))
