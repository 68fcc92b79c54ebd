"""Readers for the fields of `config.json` that describe experts and latent attention."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.models.config import Experts, Latent
from llmlab.models.config_json import flag, layer_count, number, positive
from llmlab.models.llama_like import shape_fields
from llmlab.models.rope_json import RopeDefaults

#: The spellings of the number of experts; which one is written depends on the family and on who wrote the file.
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
#: Small sizes of latent attention and of experts, for the families' tiny configurations.
TINY_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
TINY_LATENT = {
    "q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
}  # fmt: skip
#: The spellings of the number of layers that predict further tokens.
_SKIPPED = ("num_nextn_predict_layers", "num_mtp_layers")


def either(config: Mapping[str, Any], fields: Sequence[str], default: int | None = None, *, least: int = 1) -> int:
    """The integer that one of several fields has, which mean the same.

    Raises:
        CheckpointError: it is none, or is absent and has no default, or two of the fields differ.
    """
    found = {field: positive(config, field, least=least) for field in fields if config.get(field) is not None}
    if len(set(found.values())) > 1:
        told = " and ".join(f"{field} {value}" for field, value in found.items())
        raise CheckpointError(f"config.json: {told} mean the same and differ; keep one of them", param=fields[0])
    return next(iter(found.values())) if found else positive(config, fields[0], default, least=least)


def skipped_layers(config: Mapping[str, Any], default: int) -> int:
    """How many layers after the last one a checkpoint may hold that predict further tokens."""
    return either(config, _SKIPPED, default, least=0)


def only(config: Mapping[str, Any], field: str, values: Collection[Any]) -> None:
    """Refuses a field that says something other than what the family does.

    Raises:
        CheckpointError: it is there, and neither null nor one of `values`.
    """
    if config.get(field) is not None and config[field] not in values:
        told = " or ".join(repr(value) for value in values)
        raise CheckpointError(
            f"config.json: {field} = {config[field]!r} is not supported in a model of this family; only {told} is",
            param=field,
        )


def checked(experts: Experts) -> Experts:
    """The mixture, if tokens can be sent to it as it says.

    Raises:
        CheckpointError: more experts a token than there are to choose from, or groups that do not divide them.
    """
    if experts.count % experts.groups:
        raise CheckpointError(
            f"config.json: {experts.count} experts do not divide into n_group {experts.groups}", param="n_group"
        )
    in_group = experts.count // experts.groups
    if experts.groups_kept > experts.groups:
        raise CheckpointError(
            f"config.json: topk_group {experts.groups_kept} is more than n_group {experts.groups}", param="topk_group"
        )
    if experts.groups > 1 and experts.group_best > in_group:
        raise CheckpointError(
            f"config.json: n_group {experts.groups} leaves {in_group} experts in a group; at least "
            f"{experts.group_best} are needed",
            param="n_group",
        )
    there = in_group * experts.groups_kept
    if experts.per_token > there:
        raise CheckpointError(
            f"config.json: num_experts_per_tok {experts.per_token} is more than the {there} experts there are to "
            "choose from",
            param="num_experts_per_tok",
        )
    return experts


def stepped_dense_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The layers without experts by `mlp_only_layers` and `decoder_sparse_step`, as Qwen says it.

    Raises:
        CheckpointError: impossible values, or no layer with experts.
    """
    count, step = layer_count(config), positive(config, "decoder_sparse_step", 1)
    listed = config.get("mlp_only_layers") or []
    if not isinstance(listed, list | tuple) or any(isinstance(i, bool) or not isinstance(i, int) for i in listed):
        raise CheckpointError(
            f"config.json: mlp_only_layers must be a list of integers, found {listed!r}", param="mlp_only_layers"
        )
    return _some_sparse([i for i in range(count) if i in listed or (i + 1) % step], count)


def first_dense_layers(config: Mapping[str, Any], default: int) -> tuple[int, ...]:
    """The layers without experts by `first_k_dense_replace`, or by `mlp_layer_types`, which must agree with it.

    Raises:
        CheckpointError: impossible values, or no layer with experts.
    """
    count = layer_count(config)
    dense = [*range(min(positive(config, "first_k_dense_replace", default, least=0), count))]
    kinds = config.get("mlp_layer_types")
    if kinds is not None:
        if not isinstance(kinds, list | tuple) or len(kinds) != count or not set(kinds) <= {"dense", "sparse"}:
            raise CheckpointError(
                f"config.json: mlp_layer_types must be {count} of dense, sparse, found {kinds!r}",
                param="mlp_layer_types",
            )
        listed = [i for i, kind in enumerate(kinds) if kind == "dense"]
        if config.get("first_k_dense_replace") is not None and listed != dense:
            raise CheckpointError(
                f"config.json: mlp_layer_types {kinds!r} is not what first_k_dense_replace "
                f"{config['first_k_dense_replace']} says; keep one of them",
                param="mlp_layer_types",
            )
        dense = listed
    return _some_sparse(dense, count)


def _some_sparse(dense: Sequence[int], count: int) -> tuple[int, ...]:
    if len(dense) == count:
        raise CheckpointError("config.json: no layer of this model has experts", param="num_hidden_layers")
    return tuple(dense)


def deepseek_experts(
    config: Mapping[str, Any],
    *,
    dense: tuple[int, ...],
    count: int | None,
    per_token: int | None,
    units: int | None,
    groups: int = 1,
    groups_kept: int = 1,
    scaling: float = 1.0,
) -> Experts:
    """The mixture of DeepSeek-V3 and of what was made after it: sigmoid scores, a correction, a shared feed-forward.

    Args:
        config: the parsed config.json.
        dense: the layers without experts.
        count: the number of experts where no field has it; so for the other arguments.
        per_token: see `Experts`.
        units: see `Experts`.
        groups: see `Experts`.
        groups_kept: see `Experts`.
        scaling: see `Experts`.
    """
    only(config, "moe_layer_freq", (1,))
    only(config, "scoring_func", ("sigmoid",))
    only(config, "topk_method", ("noaux_tc",))
    units = positive(config, "moe_intermediate_size", units)
    return checked(
        Experts(
            count=either(config, COUNTS, count),
            per_token=positive(config, "num_experts_per_tok", per_token),
            units=units,
            dense_layers=dense,
            scoring="sigmoid",
            renormalise=flag(config, "norm_topk_prob", True),
            correction=True,
            groups=positive(config, "n_group", groups),
            groups_kept=positive(config, "topk_group", groups_kept),
            group_best=2,
            scaling=number(config, "routed_scaling_factor", scaling),
            shared_units=units * positive(config, "n_shared_experts", 1),
        )
    )


def read_latent(config: Mapping[str, Any], defaults: Latent) -> Latent:
    """The sizes of latent attention; `q_lora_rank` may be null."""
    rank = defaults.query_rank
    query = None if config.get("q_lora_rank", rank) is None else positive(config, "q_lora_rank", rank)
    rotated = positive(config, "qk_rope_head_dim", defaults.rotated)
    if rotated % 2:
        raise CheckpointError(
            f"config.json: qk_rope_head_dim {rotated} is odd; rotary embedding needs pairs", param="qk_rope_head_dim"
        )
    return Latent(
        rank=positive(config, "kv_lora_rank", defaults.rank),
        query_rank=query or 0,
        plain=positive(config, "qk_nope_head_dim", defaults.plain),
        rotated=rotated,
        value=positive(config, "v_head_dim", defaults.value),
        eps=defaults.eps,
    )


def latent_fields(
    config: Mapping[str, Any],
    defaults: Latent,
    *,
    max_position: int,
    honoured: Collection[str],
    eps: float = 1e-6,
    rope: RopeDefaults | None = None,
) -> dict[str, Any]:
    """The fields of ModelConfig of a decoder with latent attention.

    `head_dim` and `num_key_value_heads` say nothing in such a config.json: a head's sizes have fields of their own, and
    what is kept of a token is one head.

    Args:
        config: the parsed config.json.
        defaults: the sizes where it is silent.
        max_position: so for the context.
        honoured: fields that the family reads itself.
        eps: rms_norm_eps where it is absent.
        rope: of the whole head, where the family counts the rotated part from that; None where all that is rotated is
            counted from `qk_rope_head_dim`.
    """
    latent = read_latent(config, defaults)
    interleaved = flag(config, "rope_interleave", True)
    size = latent.rotated if rope is None else latent.plain + latent.rotated
    of = replace(rope or RopeDefaults(partial=1.0), interleaved=interleaved)
    plain = {**config, "head_dim": size, "num_key_value_heads": None}
    fields = shape_fields(plain, max_position=max_position, honoured=honoured, eps=eps, rope=of)
    found = fields["rope"].rotary_dim or size
    if found != latent.rotated:
        raise CheckpointError(
            f"config.json: partial_rotary_factor rotates {found} numbers of a head, qk_rope_head_dim {latent.rotated}",
            param="partial_rotary_factor",
        )
    bias = flag(config, "attention_bias", False)
    return {
        **fields,
        "num_kv_heads": 1,
        "head_dim": latent.plain + latent.rotated,
        "rope": replace(fields["rope"], rotary_dim=latent.rotated),
        "attention_scale": latent_scale(config, latent),
        "latent": latent,
        "qkv_bias": bias,
        "o_bias": bias,
    }


def latent_scale(config: Mapping[str, Any], latent: Latent) -> float:
    """What queries times keys are multiplied by: 1 / sqrt(size), and the square of YaRN's factor where a m is given.

    DeepSeek puts YaRN's factor on the products and not on cos and sin, which rotate a part of a head only.
    """
    scale = (latent.plain + latent.rotated) ** -0.5
    told = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (told.get("rope_type") or told.get("type") or "default") == "default" or not told.get("mscale_all_dim"):
        return float(scale)
    factor = number(told, "factor", 1.0)
    more = 0.1 * number(told, "mscale_all_dim", 1.0) * math.log(factor) + 1.0 if factor > 1 else 1.0
    return float(scale * more * more)
