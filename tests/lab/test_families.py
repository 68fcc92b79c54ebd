"""Every family from a checkpoint folder to an answer: loading, the chat template, the engine, the figures."""

from __future__ import annotations

import re
from contextlib import closing

import numpy as np
import pytest

import llmlab
from llmlab.errors import RequestError
from llmlab.models.families import families
from llmlab.testing import tiny_checkpoint

#: One slot and one cache length, so that few programs are compiled.
OPTIONS = {"slots": 1, "max_context": 128, "quiet": True}


@pytest.mark.parametrize("family", families())
def test_a_tiny_model_answers(family, tmp_path):
    """Under a grammar, whose steps draw in a program that all families share: a sampler takes longest to compile."""
    with closing(llmlab.load(tiny_checkpoint(tmp_path / "tiny", family=family), **OPTIONS)) as lab:
        answer = lab.chat("hi", max_tokens=6, structured_outputs={"regex": "[a-z]{5}"}, seed=1)
        assert re.fullmatch("[a-z]{5}", answer.text)
        frame = answer.logprobs_frame()
        assert np.isfinite(frame["logprob"]).all() and frame["logprob"].max() < 0
        first = lab.next_token("hi")
        assert first.logprobs[frame["token_id"][0]] == pytest.approx(frame["logprob"][0], abs=1e-4)


def test_a_base_model_completes_and_says_why_it_does_not_chat(tmp_path):
    with closing(llmlab.load(tiny_checkpoint(tmp_path / "tiny", family="gpt2", template=None), **OPTIONS)) as lab:
        with pytest.raises(RequestError, match=r"no chat template; use lab\.complete"):
            lab.chat("hi")
        assert len(lab.complete("Once", max_tokens=4, min_tokens=4, seed=1).logprobs_frame()) == 4


def test_a_context_past_a_gpt2s_positions_is_refused(tmp_path):
    folder = tiny_checkpoint(tmp_path / "tiny", family="gpt2", n_positions=100)
    with pytest.raises(RequestError, match="max_context must be at most 100"):
        llmlab.load(folder, max_context=101, quiet=True)
    with closing(llmlab.load(folder, slots=1, quiet=True)) as lab:
        assert len(lab.complete("x" * 90, max_tokens=10, ignore_eos=True).logprobs_frame()) == 10
        with pytest.raises(RequestError, match="exceed the context of 100"):
            lab.complete("x" * 90, max_tokens=11, context_length_exceeded_behavior="error")
        with pytest.raises(RequestError, match="100"):
            lab.complete("x" * 100)
