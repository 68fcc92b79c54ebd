"""Guidance against transformers' processor: live on random logits, and token by token through `generate`."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import llmlab
from llmlab.embedded import demo_folder
from llmlab.sampling.contrasts import apply_guidance

pytestmark = pytest.mark.reference


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 7.25])
def test_the_processor(scale: float) -> None:
    import torch
    from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

    own, other = np.random.default_rng(0).normal(0, 3, (2, 6, 700)).astype(np.float32)

    def model(ids, **_):
        return SimpleNamespace(logits=torch.from_numpy(other)[:, None], get=lambda *_: None)

    theirs = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model)(
        torch.zeros((6, 1), dtype=torch.long), torch.from_numpy(own)
    ).numpy()
    ours = np.asarray(
        apply_guidance(jnp.asarray(own), negative=jnp.asarray(other), scale=jnp.full(6, scale, jnp.float32))
    )
    if scale == 1.0:  # where every bit is left as it is; theirs are normed
        ours = ours - np.logaddexp.reduce(ours.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 0.6, 1.5, 3.0])
@pytest.mark.parametrize("negative", ["A sad story: Once upon a time", "Once", None])
def test_greedy_answers_are_those_of_generate(scale: float, negative: str | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    lab = llmlab.load("demo", max_context=256)
    model = AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float32).eval()
    prompt = lab.tokenize("Once upon a time there was a happy").ids.tolist()
    ids = None if negative is None else lab.tokenize(negative).ids.tolist()
    ours = lab.complete(prompt, temperature=0, max_tokens=24, min_tokens=24, guidance_scale=scale, negative_prompt=ids)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones((1, len(prompt)), dtype=torch.long), do_sample=False,
            max_new_tokens=24, min_new_tokens=24, guidance_scale=scale, pad_token_id=0,
            negative_prompt_ids=None if ids is None else torch.tensor([ids]), return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
    theirs, scores = out.sequences[0, len(prompt) :].tolist(), np.stack([x[0].numpy() for x in out.scores])
    found = ours.choices[0].tokens.ids.tolist()
    lab.close()
    parted = next((at for at, (one, other) in enumerate(zip(found, theirs, strict=True)) if one != other), None)
    if parted is not None:
        assert abs(float(scores[parted][found[parted]] - scores[parted][theirs[parted]])) < 1e-3
