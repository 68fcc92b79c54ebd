"""Beam search against transformers' `generate(num_beams=)`, token by token, over the same weights.

transformers 5 has no diverse beam search any more; ours is compared with the paper's algorithm in
`tests/search/test_beams.py`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import llmlab
from llmlab.embedded import demo_folder
from llmlab.testing import tiny_checkpoint

pytestmark = pytest.mark.reference

BEAMS, LENGTH_PENALTIES, EARLY = (2, 5), (0.0, 1.0, 2.5, -0.5), (False, True, "never")
SETTINGS = list(itertools.product(BEAMS, LENGTH_PENALTIES, EARLY))
#: Tokens that end a sequence besides the model's own: of a sixth of the vocabulary, so that beams end at every length.
ENDS = tuple(range(0, 256, 6))


def torch_model(folder: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def theirs(model: Any, prompt: list[int], **options: Any) -> tuple[list[list[int]], np.ndarray]:
    """The generated ids of each returned sequence, up to its end, and their scores."""
    import torch

    ends = options["eos_token_id"]
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones((1, len(prompt)), dtype=torch.long), do_sample=False,
            return_dict_in_generate=True, output_scores=True, pad_token_id=ends[0], **options,
        )  # fmt: skip
    found = []
    for ids in out.sequences[:, len(prompt) :].tolist():
        stop = next((at for at, token in enumerate(ids) if token in ends), len(ids) - 1)
        found.append(ids[: stop + 1])
    return found, out.sequences_scores.numpy()


def compare(lab: llmlab.Lab, model: Any, prompt: list[int], *, ends: tuple[int, ...], new: int, **options: Any) -> Any:
    beams, n = options["beams"], options.pop("n", options["beams"])
    ours = lab.beam_search(prompt=prompt, max_tokens=new, stop_token_ids=list(ends) or None, n=n, **options)
    ids, scores = theirs(
        model, prompt, num_beams=beams, num_return_sequences=n, max_new_tokens=new,
        eos_token_id=[*lab.backend.end_ids, *ends], length_penalty=options["length_penalty"],
        early_stopping=options["early_stopping"],
    )  # fmt: skip
    frame = ours.frame()
    assert [list(one.ids) for one in ours.data.found] == ids
    np.testing.assert_allclose(frame["score"], scores, atol=2e-4)
    return frame


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp("beams") / "tiny", scale=4.0)
    lab = llmlab.load(folder, slots=8, max_context=128, quiet=True)
    yield lab, torch_model(folder)
    lab.close()


@pytest.mark.parametrize("number", range(2))
def test_beams_with_many_ends(tiny, number):
    """24 settings after each of two prompts."""
    lab, model = tiny
    rng = np.random.default_rng(number)
    prompt = rng.integers(1, 250, int(rng.integers(2, 30))).tolist()
    reasons: set[str] = set()
    lengths: set[int] = set()
    for beams, length_penalty, early in SETTINGS:
        frame = compare(
            lab, model, prompt, ends=ENDS, new=10, beams=beams, length_penalty=length_penalty, early_stopping=early
        )
        reasons |= set(frame["finish_reason"])
        lengths |= set(frame["tokens"])
    assert "stop" in reasons and len(lengths) > 2


@pytest.mark.parametrize("early", EARLY)
def test_beams_that_no_token_ends(tiny, early):
    lab, model = tiny
    for n in (1, 4):
        frame = compare(
            lab, model, [7, 70, 100], ends=(), new=12, beams=4, n=n, length_penalty=1.0, early_stopping=early
        )
        assert len(frame) == n and set(frame["finish_reason"]) == {"length"}


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("early", EARLY)
def test_whole_answers_of_the_embedded_model(demo, length_penalty, early):
    """Answers that end by the model's own end token, and a story that is cut."""
    model = torch_model(demo_folder())
    for text, new in (("Name an animal.", 12), ("Tell me a story.", 16)):
        prompt = demo.backend.render(demo.request(text)).tolist()
        compare(demo, model, prompt, ends=(), new=new, beams=5, length_penalty=length_penalty, early_stopping=early)


def test_end_tokens_that_are_held_back(demo):
    """Theirs forbids them in log-probabilities, which `renormalize_logits` makes those of the tokens that are left."""
    model = torch_model(demo_folder())
    prompt = demo.backend.render(demo.request("Name an animal.")).tolist()
    ours = demo.beam_search(prompt=prompt, beams=4, max_tokens=8, min_tokens=4)
    ids, scores = theirs(
        model, prompt, num_beams=4, num_return_sequences=4, max_new_tokens=8, eos_token_id=list(demo.backend.end_ids),
        min_new_tokens=4, renormalize_logits=True,
    )  # fmt: skip
    assert ids == [list(one.ids) for one in ours.data.found]
    np.testing.assert_allclose(ours.frame()["score"], scores, atol=2e-4)
