"""A tiny model and a byte tokenizer for anybody's tests: real checkpoints with random weights, made in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Control tokens of the byte tokenizer; their ids follow the 256 bytes. The last two are visible text, as in Qwen3.
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")

#: ChatML with a thinking switch, as short as it can be.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking | default(false) %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

_SHAPE: dict[str, Any] = {
    "vocab_size": 256 + len(SPECIALS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def tiny_config(family: str = "qwen3", **changes: Any) -> dict[str, Any]:
    """The config.json of a two-layer decoder over bytes; `family` is a file in `llmlab/models/families`."""
    from llmlab.models.families import families

    found = families()[family]
    ids = {"bos_token_id": 256, "eos_token_id": 258}
    fields = {**_SHAPE, **ids, **found.tiny, **changes}
    return {"architectures": [found.architectures[0]], "model_type": family, **fields}


def byte_tokenizer(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Writes a tokenizer whose tokens are the 256 bytes and `SPECIALS`, so that characters can be split anywhere."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    letters = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}
    tokenizer = Tokenizer(BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS[:3]])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in SPECIALS[3:]])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def tiny_checkpoint(
    folder: Path | str,
    *,
    family: str = "qwen3",
    seed: int = 0,
    scale: float = 8.0,
    template: str | None = TEMPLATE,
    **changes: Any,
) -> Path:
    """Writes a whole checkpoint: config.json, model.safetensors with random weights, the byte tokenizer.

    Args:
        folder: the folder, which is created if it does not exist.
        family: one of those in `llmlab/models/families`.
        seed: the seed of the weights.
        scale: a factor on the usual weights, so that next-token distributions are far from uniform.
        template: the chat template; None for a base model.
        changes: fields of config.json to add or replace.
    """
    import jax
    from flax import nnx

    from llmlab.checkpoints.save import save_checkpoint
    from llmlab.models.families import build_model, read_config

    folder = byte_tokenizer(Path(folder), template=template)
    config = tiny_config(family, **changes)
    model = build_model(read_config(config), rngs=nnx.Rngs(seed))
    graph, weights = nnx.split(model)
    weights = jax.tree.map(lambda x: x * scale if x.ndim > 1 else x, weights)
    save_checkpoint(folder, model=nnx.merge(graph, weights), config=config)
    return folder


def random_model(config: Any, *, dtype: Any, seed: int = 0) -> Any:
    """A decoder of any size with random weights, made in the time that writing them takes, for measuring speed.

    Matrices repeat one tile of normal numbers, norms are 1 and biases 0, so that the numbers stay in range.

    Args:
        config: a `ModelConfig`.
        dtype: of the weights.
        seed: of the tile.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from llmlab.models.families import build_model

    module = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(seed), dtype=dtype))
    graph, abstract = nnx.split(module)
    tile = jax.random.normal(jax.random.key(seed), (2**20 + 7,)) * 0.02  # no divisor of any width

    def filled(path: tuple[Any, ...], slot: Any) -> Any:
        if len(slot.shape) > 1:
            return slot.replace(jnp.resize(tile, slot.shape).astype(slot.dtype))
        return slot.replace(jnp.full(slot.shape, float("bias" not in str(path[-1])), slot.dtype))

    flat = dict(nnx.to_flat_state(abstract))
    return nnx.merge(graph, nnx.from_flat_state([(path, filled(path, slot)) for path, slot in flat.items()]))
