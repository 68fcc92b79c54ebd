"""Many texts in one pass: the statistics of each are those that it has alone, and its beginning is read once."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.engine.engine import Engine
from llmlab.engine.prefill import pieces
from llmlab.engine.scheduler import Row
from llmlab.engine.score_plan import Text, plan
from llmlab.errors import EngineError
from llmlab.models.families import build_model, read_config
from llmlab.sampling.params import SamplingParams
from tests.engine.rows import END

SIZES = (32, 128)
RNG = np.random.default_rng(3)


def ids(count, *, low=1, high=250):
    return RNG.integers(low, high, count).astype(np.int32)


def after(prompt, tokens, **fields):
    return Text(Row(prompt, SamplingParams(**fields), budget=0), tokens)


def logits_alone(engine, text):
    """The logits of each of a text's tokens, from decoding steps of that text alone."""
    row = text.row
    for at in range(len(text.tokens)):
        yield engine.next_logits(np.concatenate([row.given, text.tokens[:at]]).astype(np.int32))


def processed_logprobs(logits, fields, *, prompt, made):
    """Logprobs of the sampling distribution in float64, by the stages' definitions, one after the other."""
    x = logits.astype(np.float64)
    counts = np.bincount(made, minlength=len(x))
    seen = counts.astype(bool)
    seen[prompt] = True
    factor = fields.get("repetition_penalty", 1.0)
    x = np.where(seen, np.where(x > 0, x / factor, x * factor), x)
    x = x - fields.get("frequency_penalty", 0.0) * counts - fields.get("presence_penalty", 0.0) * (counts > 0)
    x = x / fields.get("temperature", 1.0)
    return x - (np.log(np.exp(x - x.max()).sum()) + x.max())


FIELDS = {"temperature": 0.7, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.2}


@pytest.mark.parametrize("count", [1, 5, 40])
def test_texts_after_one_prompt_have_the_distributions_that_they_have_alone(free, count):
    prompt = ids(70)
    stem = ids(4)
    texts = [
        after(prompt, np.concatenate([stem[: i % 5], ids(int(RNG.integers(1, 9)))]).astype(np.int32), **FIELDS)
        for i in range(count)
    ]
    found = free.score_all(texts)
    assert len(found) == count
    for text, figures in zip(texts[:6], found, strict=False):
        assert len(figures.logprob) == len(text.tokens)
        for at, raw in enumerate(logits_alone(free, text)):
            token, made = text.tokens[at], text.tokens[:at]
            exact = raw.astype(np.float64)
            logprobs = exact - np.log(np.exp(exact).sum())
            np.testing.assert_allclose(figures.logprob[at], logprobs[token], atol=1e-5)
            np.testing.assert_allclose(figures.entropy[at], -(np.exp(logprobs) * logprobs).sum(), atol=1e-5)
            theirs = processed_logprobs(raw, FIELDS, prompt=prompt, made=made)
            np.testing.assert_allclose(figures.sampling_logprob[at], theirs[token], atol=1e-5)
            assert abs(int(figures.rank[at]) - int((raw > raw[token]).sum()) - 1) <= 1


def texts_of_all_kinds():
    """Equal prompts, prompts that begin alike, others, one that has generated something, long and short texts."""
    first = ids(140)
    few = [after(np.append(first, ids(3)).astype(np.int32), ids(n)) for n in (1, 2, 7, 30)]
    same = [after(first, ids(6), temperature=0.5) for _ in range(40)]
    other = [after(ids(n), ids(5)) for n in (1, 2, 20, 33, 90)]
    made = [Text(Row(first, SamplingParams(frequency_penalty=1.0), budget=0, made=ids(n)), ids(4)) for n in (1, 9)]
    long = [after(ids(5), ids(200), repetition_penalty=1.2), after(ids(200), ids(129))]
    return few + same + other + made + long


def test_any_texts_together_and_in_any_order(free):
    texts = texts_of_all_kinds()
    mixed = RNG.permutation(len(texts))
    found = free.score_all([texts[at] for at in mixed])
    for at, figures in zip(mixed, found, strict=True):
        alone = free.score(texts[at].row, texts[at].tokens)
        for name, ours, theirs in zip(figures._fields, figures, alone, strict=True):
            assert ours.shape == theirs.shape
            if name in ("rank", "top_ids", "kept"):  # a tie within the rounding may fall either way
                assert np.mean(ours == theirs) > 0.98
            else:
                np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_masks_are_those_of_each_text(free):
    prompt, words = ids(20), -(-free.config.vocab_size // 32)
    texts, allowed = [], []
    for _ in range(9):
        tokens = ids(5)
        only = RNG.random((5, words * 32)) < 0.3
        only[np.arange(5), tokens] = True
        allowed.append(only[:, : free.config.vocab_size])
        masks = np.packbits(only, axis=1, bitorder="little").view(np.uint32)
        texts.append(Text(Row(prompt, SamplingParams(), budget=0), tokens, masks))
    texts.append(after(prompt, ids(5)))
    found = free.score_all(texts)
    for text, only, figures in zip(texts, allowed, found, strict=False):
        assert (figures.kept <= only.sum(axis=1)).all()
        for at, raw in enumerate(logits_alone(free, text)):
            x = np.where(only[at], raw.astype(np.float64), -np.inf)
            expected = x[text.tokens[at]] - np.log(np.exp(x).sum())
            np.testing.assert_allclose(figures.sampling_logprob[at], expected, atol=1e-5)
    assert (found[-1].kept == free.config.vocab_size).all(), "the text without a mask"


def test_a_prompt_is_read_once_for_all_of_its_texts(decoder):
    engine = Engine(*decoder, ends=(END,))
    prompt = ids(300)
    before = engine.read_tokens
    engine.score_all([after(prompt, ids(10)) for _ in range(64)])
    assert engine.read_tokens - before == len(prompt) - 1
    engine.score_all([after(prompt, ids(10)) for _ in range(64)])
    assert engine.read_tokens - before == len(prompt) - 1, "and it is kept"
    engine.close()


@pytest.mark.parametrize("room", [32, 128])
def test_the_plan_holds_every_target_once_on_its_own_way(room):
    """Whatever is packed how, a target's context is the text before it."""
    texts = [text for text in texts_of_all_kinds() if len(text.tokens) <= room]
    seen = []
    for packed in plan(texts, room=room, sizes=SIZES):
        assert 0 < len(packed.tokens) <= room and len(packed.nodes) <= room
        assert (packed.ends > np.arange(len(packed.tokens))).all()
        nodes = packed.nodes.tolist()
        begin = texts[packed.texts[0]].fed[: packed.start]
        borders = {piece.start for piece in pieces(texts[packed.texts[0]].row.given, sizes=SIZES)}
        whole = all(len(texts[at].row.given) - 1 == packed.start for at in packed.texts)
        assert whole or packed.start in borders, "what is read ends where a piece does"
        for at in packed.texts:
            seen.append(at)
            text, mine = texts[at], nodes[: len(texts[at].tokens)]
            del nodes[: len(text.tokens)]
            for number, node in enumerate(mine):
                way = [j for j in range(node + 1) if packed.ends[j] > node]
                context = np.concatenate([begin, packed.tokens[way]])
                np.testing.assert_array_equal(context, np.concatenate([text.row.given, text.tokens[:number]]))
                np.testing.assert_array_equal(packed.positions[way], packed.start + np.arange(len(way)))
        assert not nodes
    assert sorted(seen) == list(range(len(texts)))


def test_texts_that_begin_alike_share_their_tokens():
    prompt, stem = ids(50), ids(20)
    texts = [after(prompt, np.append(stem, i).astype(np.int32)) for i in range(30)]
    (packed,) = plan(texts, room=700, sizes=SIZES)
    assert packed.start == 49 and len(packed.tokens) == 21, "the prompt's last token and the stem"
    many = [after(ids(12), ids(4)) for _ in range(30)]
    assert sum(1 for _ in plan(many, room=128, sizes=SIZES)) == 4, "30 x 15 tokens of short prompts"


@pytest.mark.parametrize("family", ["windows", "latent"])
def test_other_attentions_see_the_same(family):
    """Sliding windows, and a cache of latent vectors."""
    config = read_config(_WINDOWS if family == "windows" else _LATENT)
    engine = Engine(config, build_model(config, rngs=nnx.Rngs(1), dtype=jnp.float32))
    prompt = ids(45, high=90)
    texts = [after(prompt, ids(n, high=90)) for n in (1, 12, 25)] + [after(ids(9, high=90), ids(9, high=90))]
    for text, figures in zip(texts, engine.score_all(texts), strict=True):
        for at, raw in enumerate(logits_alone(engine, text)):
            exact = raw.astype(np.float64)
            np.testing.assert_allclose(
                figures.logprob[at], exact[text.tokens[at]] - np.log(np.exp(exact).sum()), atol=1e-5
            )
    engine.close()


_LLAMA = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}  # fmt: skip
_WINDOWS = {
    **_LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 7,
}  # fmt: skip
_LATENT = {
    **_LLAMA, "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "num_key_value_heads": 4,
    "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": True,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1,
}  # fmt: skip


def test_logits_that_are_not_numbers():
    config = read_config(_WINDOWS)
    model = build_model(config, rngs=nnx.Rngs(1), dtype=jnp.float32)
    model.norm.scale[...] = jnp.full_like(model.norm.scale[...], jnp.nan)
    engine = Engine(config, model)
    with pytest.raises(EngineError, match="not numbers"):
        engine.score_all([after(ids(5, high=90), ids(3, high=90)) for _ in range(2)])
    engine.close()
