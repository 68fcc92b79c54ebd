"""Every family against transformers' torch models, past the window and the original context, in both spellings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.save import save_checkpoint
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.models.families import parameter_count, read_config
from llmlab.sampling.params import SamplingParams
from tests.models.cases import all_cases, tokens
from tests.models.test_golden import logits
from tests.reference.golden import torch_logits, torch_model

pytestmark = pytest.mark.reference

#: Greedy tokens after a prompt; together past every window and every original context of the cases.
PROMPT, MADE = 21, 64


#: The families that CI compares with torch itself: each has something that those before it have not. The logits that
#: torch gave for every family were recorded, and are compared in the plain run (`tests/models/test_golden.py`).
DIFFERENT = {
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt2", "cohere2", "gpt_oss"),
    *("qwen3_moe", "deepseek_v3"),
}


def grouped() -> Iterator[Any]:
    """Every case; the first of a family that is `DIFFERENT` is for CI. What is asked of one stays in one process."""
    seen: set[str] = set()
    for case in all_cases():
        further = [] if case.family in DIFFERENT - seen else [pytest.mark.exhaustive]
        seen.add(case.family)
        yield pytest.param(case, marks=[pytest.mark.xdist_group(str(case)), *further], id=str(case))


@pytest.fixture(scope="module", params=list(grouped()))
def pair(request, tmp_path_factory):
    """A case as torch holds it and as we load what torch saves; the case's own config.json must read the same."""
    theirs = torch_model(request.param)
    folder = tmp_path_factory.mktemp("family") / "saved"
    theirs.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text("utf-8"))
    assert read_config(request.param.config) == read_config(written), "both spellings of config.json read alike"
    return request.param, theirs, load_model(folder, dtype=jnp.float32), written


def test_logits(pair):
    case, theirs, (_, ours), _ = pair
    expected = torch_logits(theirs)
    difference = np.abs(logits(ours) - expected).max()
    print(f"{case}: largest logit difference {difference:.1e}, largest logit {np.abs(expected).max():.1f}")
    assert difference <= 1e-3


def test_64_greedy_tokens_and_rows_of_a_batch(pair):
    """Cached, padded and batched: three prompts of different lengths at once, each as torch continues it alone.

    A token is the one that torch's greedy answer has if it is the likeliest after the same tokens, which one pass over
    all of them says; transformers' own loop over a cache is run for one prompt.
    """
    import torch

    _, theirs, (config, ours), _ = pair
    prompts = [tokens()[row][: PROMPT + 40 * row] for row in range(3)]
    engine = Engine(config, ours, slots=3, max_context=256)
    try:
        rows = [Row(prompt, SamplingParams(temperature=0.0), budget=MADE, ignore_ends=True) for prompt in prompts]
        made: dict[int, list[int]] = {row: [] for row in range(3)}
        for block in engine.submit(rows):
            for piece in block:
                made[piece.row] += piece.tokens.tolist()
    finally:
        engine.close()
    changes = config.rope.kind == "longrope"  # one pass would rotate the first tokens as the last ones
    for row, prompt in enumerate(prompts):
        whole = torch.tensor([[*prompt.tolist(), *made[row]]], dtype=torch.long)
        if changes or row == 0:
            with torch.no_grad():
                expected = theirs.generate(
                    whole[:, : len(prompt)],
                    attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=MADE,
                    min_new_tokens=MADE,
                    eos_token_id=None,
                    pad_token_id=0,
                )[0, len(prompt) :].tolist()
            assert made[row] == expected, row
        if not changes:
            with torch.no_grad():
                likeliest = theirs(whole, use_cache=False).logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()
            assert made[row] == likeliest and len(likeliest) == MADE, row


def test_our_own_save_is_read_by_transformers(pair, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    _, theirs, (config, ours), written = pair
    assert parameter_count(config) == sum(p.numel() for p in theirs.parameters()) + sum(
        b.numel() for n, b in theirs.named_buffers() if n in theirs.state_dict()
    )
    save_checkpoint(tmp_path, model=ours, config=written)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict().items())


def test_the_text_half_of_a_multimodal_checkpoint(tmp_path):
    """Gemma 3 as transformers writes it with a model that sees images: its text logits, and the text saved alone."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

    case = next(case for case in all_cases() if str(case) == "gemma3_text-plain")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=case.config, vision_config={**vision, "image_size": 28, "patch_size": 14}, image_token_index=95
    )
    config._attn_implementation = "eager"
    theirs = Gemma3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path / "whole")
    written = json.loads((tmp_path / "whole" / "config.json").read_text("utf-8"))
    _, ours = load_model(tmp_path / "whole", dtype=jnp.float32)
    ids = torch.tensor(np.minimum(tokens(), 94), dtype=torch.long)  # 95 stands for an image
    with torch.no_grad():
        expected = theirs(ids).logits.numpy()
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    found = ours.logits(ours(jnp.asarray(ids.numpy(), jnp.int32), positions)[0])
    assert np.abs(np.asarray(found) - expected).max() <= 1e-3
    save_checkpoint(tmp_path / "text", model=ours, config=written)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        assert np.abs(again(ids).logits.numpy() - expected).max() <= 1e-3
