"""A model whose logits are not numbers: every question to it is one clear error, and nothing is drawn or plotted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llmlab
from llmlab.errors import EngineError
from llmlab.testing import tiny_checkpoint


@pytest.fixture(scope="module", params=[np.nan, np.inf], ids=["nan", "inf"])
def lab(request, tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp("sick"))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][ord("?")] = request.param  # the output matrix is the embedding
    save_file(weights, folder / "model.safetensors")
    lab = llmlab.load(folder, max_context=128, quiet=True)
    yield lab
    lab.close()


ASKED: dict[str, Callable[[llmlab.Lab], Any]] = {
    "chat": lambda lab: lab.chat("a", max_tokens=2),
    "greedy": lambda lab: lab.chat("a", max_tokens=2, temperature=0),
    "stream": lambda lab: lab.stream("a", max_tokens=2).result(),
    "complete": lambda lab: lab.complete("a", max_tokens=2),
    "grammar": lambda lab: lab.chat("a", max_tokens=2, response_format={"type": "json_object"}),
    "score": lambda lab: lab.score("a", "bc"),
    "score a prompt": lambda lab: lab.score(prompt="abc"),
    "next token": lambda lab: lab.next_token("a"),
    "sweep": lambda lab: lab.sweep("a", temperature=[0, 1], n=2, max_tokens=2),
    "check": lambda lab: lab.check_sampler("a", draws=10),
    "logits": lambda lab: list(lab.backend.logits(np.array([97], np.int32), np.array([98], np.int32))),
    "step logits": lambda lab: lab.backend.step_logits(np.array([97], np.int32), np.array([98], np.int32)),
}


@pytest.mark.parametrize("name", ASKED)
def test_every_question_is_the_same_error(lab: llmlab.Lab, name: str) -> None:
    with pytest.raises(EngineError, match="the model's logits are not numbers"):
        ASKED[name](lab)
