"""What Llama-like families share, for a family's file to compose: the common fields of config.json, and tensor rules.

The families differ in defaults, biases and norms, which their own files state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.models.config_json import activation, flag, layer_count, number, positive, refuse_unsupported
from llmlab.models.rope_json import RopeDefaults, read_rope
from llmlab.models.tensors import Rule, Tensor, under

#: Tensors of old checkpoints that the configuration already implies.
IGNORED = ("*.rotary_emb.inv_freq",)

#: Where a decoder lies in a larger model that sees images too, and what else lies there; for `Family.prefixes` and
#: `Family.ignored`. The first two are how such checkpoints were published, the third how transformers 5 writes them.
INSIDE = (
    ("model.", ""),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "model.language_model."),
)
BESIDE = ("*vision_tower.*", "*multi_modal_projector.*")

#: Llama's rotary embedding, where config.json says nothing of it.
ROPE = RopeDefaults()


def shape_fields(
    config: Mapping[str, Any],
    *,
    max_position: int,
    head_dim: int | None = None,
    honoured: Collection[str] = (),
    rope: RopeDefaults = ROPE,
    activation_field: str = "hidden_act",
    activation_default: str = "silu",
    eps_field: str = "rms_norm_eps",
    eps: float = 1e-6,
    tied: bool = False,
) -> dict[str, Any]:
    """The fields of ModelConfig that Llama-like families read alike; biases and norms are left to the family.

    Args:
        config: the parsed config.json.
        max_position: the family's context where the field is absent.
        head_dim: the family's head size where the field is absent; None for hidden_size / num_attention_heads.
        honoured: fields that the family reads itself.
        rope: the family's rotary embedding where config.json is silent.
        activation_field: what the family calls the feed-forward's activation.
        activation_default: the activation where the field is absent.
        eps_field: what the family calls the norms' epsilon.
        eps: the epsilon where the field is absent.
        tied: tie_word_embeddings where it is absent.

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
        "num_layers": layer_count(config),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": size,
        "max_position": context,
        "rms_norm_eps": number(config, eps_field, eps),
        "hidden_act": activation(config, activation_field, activation_default),
        "rope": read_rope(config, max_position=context, head_dim=size, defaults=rope),
        "tie_word_embeddings": flag(config, "tie_word_embeddings", tied),
    }


@dataclass(frozen=True)
class Names:
    """How a family's checkpoints call their tensors; the defaults are Llama's.

    Args:
        model: what stands before every name except the output matrix's.
        embedding: the table of embeddings.
        positions: the table of positions.
        layers: the layers.
        norm: the last norm.
        head: the output matrix.
        attention: the first half of a layer.
        feed_forward: the second half.
        attention_norm: the norm before attention.
        attention_norm_after: the norm after it.
        feed_forward_norm: the norm before the feed-forward.
        feed_forward_norm_after: the norm after it.
        qkv: one tensor with q, k and v one after the other; "" where there are three.
        o: the output projection of attention.
        gate_up: one tensor with gate and up one after the other; "" where there are two.
        up: of the feed-forward.
        down: of the feed-forward.
        q_norm: the norm of q.
        k_norm: the norm of k.
        transpose: the matrices are stored as [out, in]; otherwise as [in, out].
    """

    model: str = "model."
    embedding: str = "embed_tokens"
    positions: str = ""
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    feed_forward: str = "mlp"
    attention_norm: str = "input_layernorm"
    attention_norm_after: str = ""
    feed_forward_norm: str = "post_attention_layernorm"
    feed_forward_norm_after: str = ""
    qkv: str = ""
    o: str = "o_proj"
    gate_up: str = ""
    up: str = "up_proj"
    down: str = "down_proj"
    q_norm: str = "q_norm"
    k_norm: str = "k_norm"
    transpose: bool = True


#: Llama's names.
NAMES = Names()

#: The rules of one layer, by its number.
LayerRules = Callable[[int], list[Rule]]


def tensor_rules(config: ModelConfig, *, names: Names = NAMES, layer: LayerRules | None = None) -> list[Rule]:
    """The rules of a whole decoder, in the order of the computation.

    Args:
        config: the shape.
        names: of the tensors.
        layer: the rules of a layer, paths and names relative to it; None for `layer_rules`.
    """
    embedding, head = f"{names.model}{names.embedding}.weight", f"{names.head}.weight"
    table = (config.vocab_size, config.hidden_size)
    tied = head if config.tie_word_embeddings else None
    rules = [Rule(("embedding",), (Tensor(embedding, table, tied=tied),))]
    if config.learned_positions:
        places = Tensor(f"{names.model}{names.positions}.weight", (config.max_position, config.hidden_size))
        rules.append(Rule(("positions",), (places,)))
    for i in range(config.num_layers):
        found = layer_rules(config, names) if layer is None else layer(i)
        rules += under(f"{names.model}{names.layers}.{i}.", ("layers", i), found)
    rules += norm(("norm",), f"{names.model}{names.norm}", config)
    if not tied:
        rules.append(Rule(("head", "kernel"), (Tensor(head, table),), transpose=True))
    if config.head_bias:
        rules.append(Rule(("head", "bias"), (Tensor(f"{names.head}.bias", (config.vocab_size,)),)))
    return rules


def layer_rules(
    config: ModelConfig,
    names: Names = NAMES,
    *,
    attention: list[Rule] | None = None,
    feed_forward: list[Rule] | None = None,
) -> list[Rule]:
    """One layer's rules.

    Args:
        config: the shape.
        names: of the tensors.
        attention: the rules of the first half, with their whole names and paths; None for grouped-query attention.
        feed_forward: the rules of the second half, with their whole names and paths; None for a dense one.
    """
    if attention is None:
        attention = under(f"{names.attention}.", ("attention",), attention_rules(config, names))
    if feed_forward is None:
        feed_forward = under(f"{names.feed_forward}.", ("feed_forward",), feed_forward_rules(config, names))
    rules: list[Rule] = []
    for part, before, after in (
        (attention, ("attention_norm", names.attention_norm), ("attention_norm_after", names.attention_norm_after)),
        (
            feed_forward,
            ("feed_forward_norm", names.feed_forward_norm),
            ("feed_forward_norm_after", names.feed_forward_norm_after),
        ),
    ):
        there = config.norm_before and (config.feed_forward_norm or part is not feed_forward)
        rules += norm((before[0],), before[1], config) if there else []
        rules += part
        rules += norm((after[0],), after[1], config) if config.norm_after else []
    return rules


def attention_rules(config: ModelConfig, names: Names = NAMES) -> list[Rule]:
    """q, k, v grouped by key head, the output projection; where there are any, the norms of q and k, and the sinks."""
    d, h = config.hidden_size, config.head_dim
    q, kv = config.num_heads * h, config.num_kv_heads * h
    outputs = {"q_proj": q, "k_proj": kv, "v_proj": kv}
    rules = projection(
        ("qkv",),
        outputs,
        inputs=d,
        bias=config.qkv_bias,
        groups=config.held_kv_heads,
        copies=(1, config.kv_copies, config.kv_copies) if config.kv_copies > 1 else (),
        fused=names.qkv,
        transpose=names.transpose,
    )
    rules += projection(("o",), {names.o: d}, inputs=q, bias=config.o_bias, transpose=names.transpose)
    if config.qk_norm:
        sizes = (q, kv) if config.qk_norm == "width" else (h, h)
        rules += norm(("q_norm",), names.q_norm, config, size=sizes[0])
        wide = norm(("k_norm",), names.k_norm, config, size=sizes[1])
        if config.kv_copies > 1 and config.qk_norm == "width":
            wide = [replace(rule, groups=config.held_kv_heads, copies=(config.kv_copies,)) for rule in wide]
        rules += wide
    if config.sinks:
        rules.append(Rule(("sinks",), (Tensor("sinks", (config.num_heads,)),)))
    return rules


def feed_forward_rules(config: ModelConfig, names: Names = NAMES, *, units: int | None = None) -> list[Rule]:
    """Gate and up grouped by unit, and down; `units` is the width where it is not the shape's own."""
    d, f, bias = config.hidden_size, units or config.intermediate_size, config.mlp_bias
    if config.gated:
        outputs = {"gate_proj": f, names.up: f}
        rules = projection(("gate_up",), outputs, inputs=d, bias=bias, groups=f, fused=names.gate_up)
    else:
        rules = projection(("up",), {names.up: f}, inputs=d, bias=bias, transpose=names.transpose)
    return rules + projection(("down",), {names.down: d}, inputs=f, bias=bias, transpose=names.transpose)


def projection(
    path: tuple[str, ...],
    names: Mapping[str, int],
    *,
    inputs: int,
    bias: bool,
    groups: int = 1,
    copies: tuple[int, ...] = (),
    fused: str = "",
    transpose: bool = True,
) -> list[Rule]:
    """The rules of a `layers.Projection`: its kernel, and its bias where it has one.

    Args:
        path: of the projection.
        names: the linear layers that it is made of -> their numbers of outputs.
        inputs: the number of inputs.
        bias: whether the layers have one.
        groups: as in `Rule`.
        copies: as in `Rule`.
        fused: the one linear layer that holds them all, one after the other; "" where each is stored by itself.
        transpose: as in `Rule`.
    """
    parts = tuple(names.values()) if fused else ()
    stored = {fused: sum(parts)} if fused else names
    weights = tuple(
        Tensor(f"{name}.weight", (out, inputs) if transpose else (inputs, out)) for name, out in stored.items()
    )
    rules = [Rule((*path, "kernel"), weights, transpose=transpose, groups=groups, parts=parts, copies=copies)]
    if bias:
        biases = tuple(Tensor(f"{name}.bias", (out,)) for name, out in stored.items())
        rules.append(Rule((*path, "bias"), biases, groups=groups, parts=parts, copies=copies))
    return rules


def norm(path: tuple[str, ...], name: str, config: ModelConfig, *, size: int | None = None) -> list[Rule]:
    """The rules of a norm of the decoder's kind; `size` is hidden_size where it is not given."""
    shape = (size or config.hidden_size,)
    rules = [Rule((*path, "scale"), (Tensor(f"{name}.weight", shape),))]
    if config.norm != "layer" or not config.norm_bias:
        return rules
    return [*rules, Rule((*path, "bias"), (Tensor(f"{name}.bias", shape),))]
