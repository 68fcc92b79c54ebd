"""Rules for the tensors of experts and of latent attention, for a family's file to compose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llmlab.models.config import Experts, Latent, ModelConfig
from llmlab.models.llama_like import NAMES, Names, feed_forward_rules, layer_rules, norm, projection, tensor_rules
from llmlab.models.tensors import Rule, Tensor, under


@dataclass(frozen=True)
class ExpertNames:
    """How a family's checkpoints call the tensors of a mixture; the defaults are Qwen's and DeepSeek's.

    Args:
        mixture: the second half of a layer with experts, one tensor an expert.
        router: of the mixture.
        correction: the bias that counts where experts are chosen.
        gate: of an expert.
        up: of an expert.
        down: of an expert.
        shared: the feed-forward beside the experts.
        shared_gate: the factor on its output.
    """

    mixture: str = "mlp"
    router: str = "gate"
    correction: str = "gate.e_score_correction_bias"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "shared_experts"
    shared_gate: str = "shared_expert_gate"


EXPERT_NAMES = ExpertNames()

#: The rules of a mixture, from the shape and the mixture, with whole names and paths relative to the layer.
MixtureRules = Callable[[ModelConfig, Experts], list[Rule]]


def mixed_rules(
    config: ModelConfig,
    *,
    names: Names = NAMES,
    mixture: MixtureRules | None = None,
    experts: ExpertNames = EXPERT_NAMES,
) -> list[Rule]:
    """The rules of a whole decoder with experts, with latent attention where it has that.

    Args:
        config: the shape.
        names: of the tensors outside of the mixture.
        mixture: the rules of a mixture; None for `mixture_rules` with the names in `experts`.
        experts: the names in the mixture.
    """
    found = mixture or (lambda config, settings: mixture_rules(config, settings, experts))

    def layer(i: int) -> list[Rule]:
        second = found(config, config.experts) if config.experts is not None and config.has_experts(i) else None
        first = None if config.latent is None else latent_rules(config, config.latent)
        return layer_rules(config, names, attention=first, feed_forward=second)

    return tensor_rules(config, names=names, layer=layer)


def mixture_rules(config: ModelConfig, experts: Experts, names: ExpertNames = EXPERT_NAMES) -> list[Rule]:
    """Router, experts and what they share.

    The experts are stored one by one, or all in one tensor with gate and up one after the other, which transformers 5
    calls `mlp.experts` in every family.
    """
    d, f, e = config.hidden_size, experts.units, experts.count
    router = Tensor(f"{names.router}.weight", (e, d))
    rules = [Rule(("router", "kernel"), (router,), transpose=True)]
    if experts.correction:
        rules.append(Rule(("router", "correction"), (Tensor(names.correction, (e,)),)))
    each = [f"experts.{i}." for i in range(e)]
    both = tuple(Tensor(f"{one}{part}.weight", (f, d)) for one in each for part in (names.gate, names.up))
    rules.append(Rule(("gate_up",), both, transpose=True, groups=f, stacked=e))
    down = tuple(Tensor(f"{one}{names.down}.weight", (d, f)) for one in each)
    rules.append(Rule(("down",), down, transpose=True, stacked=e))
    if experts.shared_units:
        rules += under(f"{names.shared}.", ("shared",), feed_forward_rules(config, units=experts.shared_units))
    if experts.shared_gate:
        rules += projection(("shared_gate",), {names.shared_gate: 1}, inputs=d, bias=False)
    rules = under(f"{names.mixture}.", ("feed_forward",), rules)
    fused = under("mlp.", ("feed_forward",), _fused_rules(config, experts, names))
    joined = {rule.path: rule for rule in fused}
    return [_otherwise(rule, joined.get(rule.path)) for rule in rules]


def _fused_rules(config: ModelConfig, experts: Experts, names: ExpertNames) -> list[Rule]:
    """The parts of a mixture that transformers 5 calls in its own way."""
    d, f, e = config.hidden_size, experts.units, experts.count
    both, down = Tensor("experts.gate_up_proj", (e, 2 * f, d)), Tensor("experts.down_proj", (e, d, f))
    rules = [
        Rule(("router", "kernel"), (Tensor("gate.weight", (e, d)),), transpose=True),
        Rule(("gate_up",), (both,), transpose=True, groups=f, parts=(f, f)),
        Rule(("down",), (down,), transpose=True),
    ]
    if experts.correction:
        name = names.correction
        rules.append(Rule(("router", "correction"), (Tensor(name, (e,)),)))
    return rules


def _otherwise(rule: Rule, other: Rule | None) -> Rule:
    return rule if other is None or other.tensors == rule.tensors else replace(rule, otherwise=other)


def latent_rules(config: ModelConfig, latent: Latent) -> list[Rule]:
    """Latent attention, with whole names and paths relative to the layer; key and value matrices share a tensor."""
    d, heads = config.hidden_size, config.num_heads
    kept, wide = latent.rank + latent.rotated, heads * (latent.plain + latent.rotated)
    down = {"q_a_proj": latent.query_rank} if latent.query_rank else {}
    rules = projection(("down",), {**down, "kv_a_proj_with_mqa": kept}, inputs=d, bias=config.qkv_bias)
    if latent.query_rank:
        rules += norm(("query_norm",), "q_a_layernorm", config, size=latent.query_rank)
    up = "q_b_proj" if latent.query_rank else "q_proj"
    rules += projection(("query_up",), {up: wide}, inputs=latent.query_rank or d, bias=False)
    rules += norm(("norm",), "kv_a_layernorm", config, size=latent.rank)
    size = latent.plain + latent.value
    both = (Tensor("kv_b_proj.weight", (heads * size, latent.rank)),)
    for path, picked in (("key_up", (0, latent.plain)), ("value_up", (latent.plain, size))):
        rules.append(Rule((path,), both, transpose=True, stacked=heads, picked=picked))
    rules += projection(("o",), {"o_proj": d}, inputs=heads * latent.value, bias=config.o_bias)
    return under("self_attn.", ("attention",), rules)
