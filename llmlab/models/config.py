"""The shape of a decoder as a value; `models.families.read_config` makes one from a checkpoint's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: its base, and how its frequencies are scaled beyond the trained context.

    `linear` divides every frequency by `factor` (Chen et al. 2023, arXiv:2306.15595). `llama3` divides only the low
    frequencies, with a smooth transition (Llama 3.1). `yarn` interpolates by wavelength and scales the attention (Peng
    et al. 2023, arXiv:2309.00071). `stretched` is the context that it was scaled to, where `config.json` says so: the
    original context times the factor; otherwise 0.

    `longrope` divides each frequency by a factor of its own (Ding et al. 2024, arXiv:2402.13753): by `short_factor`
    while the text is no longer than the original context, and by `long_factor` beyond it, then for every token of the
    text. cos and sin are multiplied by `short_attention_factor` and `attention_factor`.

    `query_beta` scales queries by 1 + beta ln(1 + floor(position / original context)) (Llama 4, Ministral 3).

    `rotary_dim` is how many numbers of a head are rotated, the first ones; 0 is all. `interleaved` pairs neighbours
    (x_0, x_1) in place of the halves (x_0, x_{H/2}).
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    short_attention_factor: float = 1.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    query_beta: float = 0.0
    truncate: bool = True
    stretched: int = 0
    rotary_dim: int = 0
    interleaved: bool = False


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the feed-forward: a router sends each token to a few of them, whose outputs are
    added with the router's weights (Shazeer et al. 2017, arXiv:1701.06538). No expert is ever full: each token gets all
    the experts that were chosen for it.

    Args:
        count: the number of experts.
        per_token: how many of them a token gets.
        units: the width of each.
        dense_layers: the numbers of the layers that have an ordinary feed-forward.
        scoring: how the router's logits become scores: "softmax" over all experts, or "sigmoid" of each.
        renormalise: the scores of the chosen experts are divided by their sum.
        correction: a bias of each expert is added to its score where experts are chosen, and nowhere else (Wang et al.
            2024, arXiv:2408.15664).
        groups: the experts stand in that many groups of equal size, of which only some are chosen from (DeepSeek-V2,
            arXiv:2405.04434, section 2.2.2).
        groups_kept: how many groups are chosen from.
        group_best: a group's score is the sum of that many of its best experts' scores.
        scaling: a factor on the weights.
        shared_units: the width of the feed-forward that every token gets beside its experts; 0 for none.
        shared_gate: that feed-forward's output is multiplied by the sigmoid of a number that the token gives.
        router_bias: the router has a bias, which counts for the weights too.
        bias: the experts' products have biases.
        limit: gpt-oss' activation in place of act(gate) * up, if not None: gate is cut above this number, up above it
            and below its negative, and the product is (up + 1) * gate * sigmoid(alpha * gate).
        alpha: see `limit`.
    """

    count: int
    per_token: int
    units: int
    dense_layers: tuple[int, ...] = ()
    scoring: str = "softmax"
    renormalise: bool = True
    correction: bool = False
    groups: int = 1
    groups_kept: int = 1
    group_best: int = 1
    scaling: float = 1.0
    shared_units: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    bias: bool = False
    limit: float | None = None
    alpha: float = 1.702


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): keys and values of all heads come from
    one vector of a token, and only that vector and one rotated key that the heads share are kept.

    Args:
        rank: the size of the vector that keys and values come from.
        query_rank: the size of the vector that queries come from; 0 where they come from the residual stream.
        plain: how many numbers of a head's query and key are not rotated.
        rotated: how many are.
        value: how many numbers of a value a head has.
        eps: of the norms of the two vectors.
    """

    rank: int
    query_rank: int
    plain: int
    rotated: int
    value: int
    eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder's shape. Names follow `config.json`; lengths are counted in tokens.

    The defaults are Llama's; a family's file says what it does otherwise. A family whose decoder needs more subclasses
    this class in its own file.

    Args:
        kv_copies: how often each key head is held; more than once where a mesh has more devices than there are.
        attention_kernel: the cache is read by a kernel that was written for the device (`models.kv.kernel`).
        rope: how queries and keys are rotated; of the layers with the longest sight where layers differ.
        ropes: one for each layer where layers differ, None for a layer that does not rotate; () is `rope` in each.
        windows: for each layer the number of tokens that a token sees, itself included, None for all; () is all.
        attention_scale: what queries times keys are multiplied by; None is 1 / sqrt(head_dim).
        attention_scale_by_layer: layer number i, counted from 1, has that scale divided by i.
        attention_softcap: c in c tanh(x / c), to which those products are bent before the mask; None for none.
        sinks: each query head has a number that takes part in the softmax and has no value.
        norm: "rms", or "layer" with a mean that is subtracted.
        norm_bias: a "layer" norm has a bias.
        norm_offset: what is added to a stored scale; 1 where a checkpoint stores scales around 0.
        norm_before: the input of attention and of the feed-forward is normed.
        norm_after: their output is, before it is added to the residual stream.
        parallel: attention and the feed-forward read the same residual stream, and both are added to it.
        feed_forward_norm: the feed-forward has a norm of its own before it; otherwise it reads what attention reads.
        qk_norm: "head" norms each head of q and k by itself, "width" all heads together, "" neither.
        gated: the feed-forward is act(x W_gate) * (x W_up); otherwise act(x W_up).
        learned_positions: a learned vector for each position is added to the embedding.
        embedding_scale: a factor on the embedding.
        residual_scale: a factor on what each half of a layer adds to the residual stream.
        logit_scale: a factor on the logits.
        head_bias: the output matrix has a bias.
        logit_softcap: as attention_softcap, for the logits.
        experts: the mixture that stands in place of the feed-forward in some layers, or in all; None for none.
        latent: latent attention in place of grouped-query attention; None for the latter.
        skipped_layers: the layers that a checkpoint may hold after the last one, which predict further tokens and are
            not read (DeepSeek-V3's multi-token prediction, arXiv:2412.19437, section 2.2).
    """

    family: str = ""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    kv_copies: int = 1
    attention_kernel: bool = False
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope: Rope = Rope()
    ropes: tuple[Rope | None, ...] = ()
    windows: tuple[int | None, ...] = ()
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    attention_scale: float | None = None
    attention_scale_by_layer: bool = False
    attention_softcap: float | None = None
    sinks: bool = False
    norm: str = "rms"
    norm_bias: bool = True
    norm_offset: float = 0.0
    norm_before: bool = True
    norm_after: bool = False
    parallel: bool = False
    feed_forward_norm: bool = True
    qk_norm: str = ""
    gated: bool = True
    learned_positions: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    head_bias: bool = False
    logit_softcap: float | None = None
    experts: Experts | None = None
    latent: Latent | None = None
    skipped_layers: int = 0

    def rope_of(self, layer: int) -> Rope | None:
        """How a layer rotates; None if it does not."""
        return self.ropes[layer] if self.ropes else self.rope

    def scale_of(self, layer: int) -> float:
        """What queries times keys are multiplied by in a layer."""
        scale = self.attention_scale or self.head_dim**-0.5
        return scale / (layer + 1) if self.attention_scale_by_layer else scale

    def window_of(self, layer: int) -> int | None:
        """How many tokens a token sees in a layer, itself included; None for all."""
        return self.windows[layer] if self.windows else None

    @property
    def context_switch(self) -> int | None:
        """The length of a text beyond which every token of it is rotated in another way; None if there is none.

        What a cache holds of a text that grows beyond it has to be computed anew.
        """
        ropes = self.ropes or (self.rope,)
        return next((rope.original_max_position for rope in ropes if rope and rope.kind == "longrope"), None)

    @property
    def context(self) -> int:
        """The positions that the model was made for: those of a stretched rope, if they are more than max_position."""
        return max(self.max_position, self.rope.stretched)

    @property
    def longest_context(self) -> int:
        """The most positions that can be asked for.

        A `linear` or `yarn` factor whose original context `config.json` does not state may have been applied to
        `max_position` already or not, so that more than `context` is a caller's choice.
        """
        return self.context if self.rope.stretched else max(self.context, int(self.max_position * self.rope.factor))

    @property
    def held_kv_heads(self) -> int:
        """The key heads that the decoder and its cache hold, copies included."""
        return self.num_kv_heads * self.kv_copies

    @property
    def kv_heads_divide(self) -> bool:
        """Whether a mesh divides the key heads; False for a decoder whose query heads all share one cache."""
        return self.latent is None

    @property
    def sharded_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """What a mesh divides: its axis -> the sizes that it must divide, by their names in `config.json`."""
        model = {"num_attention_heads": self.num_heads}
        experts = self.experts
        if experts is None or experts.dense_layers:
            model["intermediate_size"] = self.intermediate_size
        if experts is None:
            return {"model": model}
        model["moe_intermediate_size"] = experts.units
        if experts.shared_units:
            model["shared_expert_intermediate_size"] = experts.shared_units
        return {"model": model, "expert": {"num_experts": experts.count}}

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has a mixture of experts."""
        return self.experts is not None and layer not in self.experts.dense_layers
