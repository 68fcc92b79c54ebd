"""`/v1/completions` as a scorer: log-likelihoods against transformers' torch model in float64."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from llmlab.embedded import demo_folder

pytestmark = pytest.mark.reference

PAIRS = [
    ("Once upon a", " time"),
    ("Once upon a", " xylophone"),
    ("The sky is", " blue and the grass is green."),
    ("<|im_start|>user\nName an animal.<|im_end|>\n<|im_start|>assistant", "\nA fox."),
    ("é🦊", " ☕ and 日本"),
]


@pytest.fixture(scope="module")
def torch_logprobs() -> Any:
    """Token ids [T] -> logprobs [T, V] of what follows each of them, by torch."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float64).eval()

    def logprobs(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return torch.log_softmax(model(torch.tensor([ids])).logits[0], -1).numpy()

    return logprobs


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_log_likelihoods_of_a_batch_are_torchs(demo, torch_logprobs, max_tokens):
    """The request of an evaluation harness: ids, echo, one alternative, no token or one; read as it reads it."""
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(demo_folder()).encode
    pairs = [(encode(context), encode(context + rest)) for context, rest in PAIRS]
    with demo.client() as client:
        answer = client.completions.create(
            model="demo", prompt=[whole for _, whole in pairs], echo=True, logprobs=1, max_tokens=max_tokens,
            temperature=0, seed=1234,
        )  # fmt: skip
    worst = 0.0
    for (context, whole), choice in zip(pairs, answer.choices, strict=True):
        read = slice(len(context), len(whole))
        truth = torch_logprobs(whole)[len(context) - 1 : len(whole) - 1]
        own = np.array(choice.logprobs.token_logprobs[read])
        expected = truth[np.arange(len(truth)), whole[read]]
        np.testing.assert_allclose(own, expected, atol=1e-4)
        worst = max(worst, float(np.abs(own - expected).max()))
        greedy = [one == max(top.values()) for one, top in zip(own, choice.logprobs.top_logprobs[read], strict=True)]
        assert greedy == (truth.argmax(-1) == whole[read]).tolist()
        assert len(choice.logprobs.tokens) == len(whole) + max_tokens
    print(f"\nlargest difference of a logprob: {worst:.1e}")


def test_prompt_logprobs_are_torchs(demo, torch_logprobs):
    ids = demo.backend.tokenizer.encode("Once upon a time there was a fox 🦊.")
    found = demo.complete(ids, prompt_logprobs=20, max_tokens=1).completion.prompt_logprobs
    truth = torch_logprobs(ids)
    for entry, row, token in zip(found[1:], truth, ids[1:], strict=False):
        assert str(token) in entry and len(json.dumps(entry)) > 20
        for name, value in entry.items():
            assert value["logprob"] == pytest.approx(row[int(name)], abs=1e-4)
            if value["rank"] < 20:  # two in the tail may be too close to call
                assert abs(value["rank"] - 1 - int((row > row[int(name)]).sum())) <= 1
