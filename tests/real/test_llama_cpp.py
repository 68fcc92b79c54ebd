"""The real model against what llama.cpp made of the same file; recorded by `python -m tests.real.record`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.real.record import RECORD

pytestmark = pytest.mark.real

RECORDED = json.loads(RECORD.read_text("utf-8"))
#: What the order of a sum may move a logit by. Where two tokens are nearer than that, either is the greedy one.
NEAR = 1e-3


@pytest.mark.parametrize("one", RECORDED["texts"], ids=lambda one: one["text"][:20].encode("unicode_escape").decode())
def test_tokens_of_a_text(lab, one):
    assert [int(i) for i in lab.tokenize(one["text"])] == one["ids"]


@pytest.mark.parametrize("one", RECORDED["answers"], ids=lambda one: one["prompt"])
def test_greedy_answers(lab, one):
    answer = lab.chat(one["prompt"], temperature=0.0, max_tokens=len(one["tokens"]))
    assert [int(i) for i in answer.prompt_ids] == one["prompt_ids"]
    found = [int(i) for i in answer.choices[0].tokens.ids]
    rounded = answer.text == one["text_with_rounded_activations"][: len(answer.text)]
    print(f"with activations rounded to 8 bits llama.cpp {'says the same' if rounded else 'says something else'}")
    parted = next((i for i, (a, b) in enumerate(zip(found, one["tokens"], strict=False)) if a != b), None)
    if parted is None:
        assert answer.text == one["text"]
        return
    ids = np.array(one["prompt_ids"] + one["tokens"][:parted], np.int32)
    logits = lab.backend.next_logits(ids)
    margin = logits[found[parted]] - logits[one["tokens"][parted]]
    print(f"token {parted} is another, by a margin of {margin:.1e}")
    assert abs(margin) <= NEAR
