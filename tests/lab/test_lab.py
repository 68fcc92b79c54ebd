from __future__ import annotations

import sys

import numpy as np
import pytest

import llmlab
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.protocol.backend import Backend
from llmlab.results.result import Asker
from llmlab.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    lab = llmlab.load(tiny_checkpoint(tmp_path_factory.mktemp("tiny")), slots=2, max_context=128, quiet=True)
    yield lab
    lab.close()


def test_a_chat_with_every_sampling_field(lab: Lab) -> None:
    result = lab.chat(
        "hello", temperature=0.8, top_p=0.9, top_k=40, min_p=0.01, n=2, seed=11, max_tokens=12, stop=["zzz"],
        logit_bias={65: 1.0}, frequency_penalty=0.1, presence_penalty=0.1, repetition_penalty=1.1, logprobs=True,
        top_logprobs=7,
    )  # fmt: skip
    assert len(result) == 2 and result.seed == 11
    frame, top = result.logprobs_frame(), result.top_logprobs_frame()
    assert frame.groupby("choice").size().le(12).all()
    assert top.groupby(["choice", "position"]).size().eq(7).all()
    assert frame["kept"].le(40).all() and frame["logprob"].le(0).all()
    assert lab.chat(result.request).texts == result.texts, "the same seed"
    assert result.completion.choices[0].logprobs is not None


def test_figures_are_there_without_asking(lab: Lab) -> None:
    result = lab.chat([{"role": "user", "content": "hi"}], max_tokens=4, seed=3)
    assert result.completion.choices[0].logprobs is None
    frame = result.logprobs_frame()
    assert frame.drop(columns="bytes").notna().all(axis=None)
    assert len(result.top_logprobs_frame()) == 5 * len(frame)


def test_a_request_is_validated_and_can_be_changed(lab: Lab) -> None:
    request = lab.request("hello", temperature=0.5, seed=1)
    assert request.messages == ({"role": "user", "content": "hello"},)
    assert lab.request(request) is request
    changed = lab.request(request, temperature=0.25)
    assert (changed.temperature, changed.seed, request.temperature) == (0.25, 1, 0.5)
    with pytest.raises(RequestError, match="temperature"):
        lab.request("hello", temperatur=0.5)
    with pytest.raises(RequestError, match="order"):
        lab.chat("hello", order="mine")


def test_the_next_token_is_the_law_that_chat_draws_from(lab: Lab) -> None:
    law = lab.next_token("hello", temperature=0.7, top_k=5)
    first = lab.chat("hello", temperature=0.7, top_k=5, seed=5, max_tokens=1)
    row = first.logprobs_frame().iloc[0]
    frame = law.frame(top=None).set_index("token_id")
    assert frame["kept"].sum() == row["kept"] == 5
    np.testing.assert_allclose(frame.loc[row["token_id"], "logprob"], row["logprob"], atol=1e-4)
    np.testing.assert_allclose(frame.loc[row["token_id"], "sampling_logprob"], row["sampling_logprob"], atol=1e-4)
    assert frame.loc[row["token_id"], "rank"] == row["rank"]
    assert frame.loc[258, "token"] == "<|im_end|>"


def test_an_endpoint_without_logits_says_so() -> None:
    class Remote(Backend):
        name = "far"

        def complete(self, request, *, order="llmlab"): ...
        def stream(self, request, *, order="llmlab"): ...
        def describe(self):
            return {"model": "far"}

    lab = Lab(Remote())
    with pytest.raises(RequestError, match="far is an endpoint that gives no logits"):
        lab.next_token("hello")
    lab.warmup()
    lab.close()
    assert repr(lab) == "llmlab · far" and "far" in lab._repr_html_()


def test_an_interrupt_stops_the_run_and_is_passed_on(story) -> None:
    closed = []

    class Stream:
        header = story

        def __iter__(self):
            raise KeyboardInterrupt

        def on_wait(self, tell): ...

        def on_restart(self, tell): ...

        def result(self):
            return story

        def close(self):
            closed.append(True)

    class Slow(Backend):
        name = "slow"

        def complete(self, request, *, order="llmlab"): ...
        def stream(self, request, *, order="llmlab"):
            return Stream()

        def describe(self):
            return {"model": "slow"}

    lab = Lab(Slow())
    with pytest.raises(KeyboardInterrupt) as caught:
        lab.chat("hello")
    assert closed == [True]
    assert "lab.last" in caught.value.__notes__[0]
    assert lab.last is not None and lab.last.choices is story.choices


def test_the_banner_says_what_runs_where(lab: Lab) -> None:
    facts = lab.describe()
    text = repr(lab)
    for part in ("qwen3", "float32", facts["device"], "context 128 tokens", "2 slots", facts["model"]):
        assert part in text and part in lab._repr_html_()
    assert "***" not in text


def test_a_fallback_to_the_cpu_is_loud(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = "this machine has an NVIDIA GPU, but JAX runs on the CPU: pip install <it>"
    facts = lab.describe() | {"warning": loud, "notes": ["stored as bfloat16", loud]}
    monkeypatch.setattr(lab.backend, "describe", lambda: facts)
    assert repr(lab).splitlines()[-2:] == ["stored as bfloat16", f"*** {loud} ***"]
    html = lab._repr_html_()
    assert html.count("pip install &lt;it&gt;") == 1 and "⚠" in html


def test_loading_shows_the_banner_on_stderr_unless_quiet(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    for quiet in (True, False):
        llmlab.load(folder, quiet=quiet).close()
        out, err = capsys.readouterr()
        assert out == ""
        assert ("parameters" in err) is not quiet


def test_a_notebook_gets_the_banner_as_html(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    from llmlab.display import banner

    shown: list[object] = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    banner.show(lab)
    assert shown == [lab]


def test_tab_shows_what_can_be_asked_of_a_lab(lab: Lab) -> None:
    assert isinstance(lab, Asker)
    assert {name for name in dir(lab) if not name.startswith("_")} == {
        "answers", "arithmetic_sample", "audit", "backend", "beam_search", "chat", "check_calibration",
        "check_sampler", "client", "close", "compare", "compare_orders", "complete", "describe", "drift", "last",
        "last_answers", "last_sweep", "next_token", "p_true", "playground", "request", "sample_without_replacement",
        "save_model", "score", "stream", "sweep", "tokenize", "tokenizer", "warmup",
    }  # fmt: skip
