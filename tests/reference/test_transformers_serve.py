"""An endpoint that ignores without a word: `transformers serve`, with the embedded model behind it.

It takes n, logprobs, response_format and more, answers one choice without logprobs, and says nothing. The lab gives
what was asked for all the same, or says what is missing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmlab
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab

pytestmark = pytest.mark.reference

MODEL = Path(__file__).resolve().parent.parent.parent / "data" / "demo"
ASK = "Tell me a short story."
#: Seconds until it has imported torch and read the model, on a machine that is busy with something else.
PATIENCE = 180


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a process of its own."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", MODEL, "--device", "cpu", "--port", str(port)]
    with open(folder / "log", "w+") as log:
        server = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1"],
            stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)},
        )  # fmt: skip
        try:
            end = time.monotonic() + PATIENCE
            while not _is_up(f"http://127.0.0.1:{port}/health"):
                log.seek(0)
                assert server.poll() is None and time.monotonic() < end, log.read()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture(scope="module")
def lab(url: str) -> Iterator[Lab]:
    # One at a time: its seed is one for the whole process.
    lab = llmlab.connect(url, model=str(MODEL), concurrency=1, quiet=True)
    yield lab
    lab.close()


def fields(notes: tuple[str, ...]) -> set[str]:
    return {note.partition(":")[0] for note in notes}


def test_choices_that_it_does_not_give(lab):
    result = lab.chat(ASK, n=3, seed=7, temperature=1.0, max_tokens=16)
    assert len(result) == len(set(result.texts)) == 3 and all(result.texts)
    assert result.finish_reasons == ["length"] * 3
    assert fields(result.notes) >= {"n", "logprobs", "seed"}
    assert (result.usage.completion_tokens, result.usage.total_tokens) == (48, 48 + result.usage.prompt_tokens)
    # Its seeds do count, though it does not say so; and the first choices do not depend on n.
    assert result.rerun().texts == result.texts
    assert lab.chat(ASK, n=2, seed=7, temperature=1.0, max_tokens=16).texts == result.texts[:2]


def test_figures_that_it_does_not_give(lab):
    result = lab.chat(ASK, logprobs=True, top_logprobs=3, max_tokens=4)
    assert result.text and len(result.logprobs_frame()) == len(result.top_logprobs_frame()) == 0
    assert len(result.logprobs_frame().columns) == 13
    assert "logprobs: none were sent" in result.notes
    frame = lab.sweep(ASK, temperature=[0.5, 1.0], n=2, seed=1, max_tokens=4).frame()
    assert len(frame) == 4 and frame.text.str.len().gt(0).all()
    unknown = ["tokens", "mean_logprob", "perplexity", "mean_entropy", "distinct_1", "distinct_2"]
    assert frame[unknown].isna().all(axis=None)


def test_a_format_that_it_does_not_keep_to(lab):
    form = {"type": "json_object"}
    result = lab.chat("Say hello.", response_format=form, temperature=0, max_tokens=40)
    assert result.finish_reasons == ["stop"]
    assert "response_format: ignored, the content is not JSON" in result.notes


def test_a_field_that_it_refuses(lab):
    with pytest.raises(RequestError, match="top_k") as caught:
        lab.chat(ASK, top_k=3)
    assert caught.value.param == "top_k"


def test_greedily_it_says_what_this_engine_says(lab, demo):
    here, there = (each.chat(ASK, temperature=0, max_tokens=24) for each in (demo, lab))
    assert there.text.strip() == here.text.strip() != ""
