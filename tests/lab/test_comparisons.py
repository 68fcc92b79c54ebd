"""Two models over the same tokens: the divergences of NumPy, and the draws that the two models really make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

import llmlab
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.results.drift import DRIFT_COLUMNS
from llmlab.testing import tiny_checkpoint
from llmlab.text.token_class import TOKEN_CLASSES, token_class
from tests.backends.endpoint import Endpoint, entry, spoken

PROMPTS = ["Once", "A fox", "Why?"]
FIELDS: dict[str, Any] = {"max_tokens": 24, "temperature": 0.7, "top_k": 40, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", scale=4.0)


@pytest.fixture(scope="module")
def lab(folder: Path) -> Any:
    lab = llmlab.load(folder, slots=4, max_context=256, quiet=True)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def other(folder: Path) -> Any:
    lab = llmlab.load(folder, dtype="bfloat16", slots=4, max_context=256, quiet=True)
    yield lab
    lab.close()


def test_divergences_are_those_of_both_models_logits(lab: Lab, other: Lab) -> None:
    found = lab.compare(other, PROMPTS, seed=3, n=2, **FIELDS)
    frame = found.frame()
    assert len(found) == len(frame) == 3 * 2 * 24
    for text, choice, position in ((0, 0, 0), (1, 1, 7), (2, 0, 23)):
        data = found.results[text].data
        made = data.choices[choice].tokens.ids
        p_log, q_log = (
            log_softmax(one.backend.next_logits(np.concatenate([data.prompt_ids, made[:position]])).astype(np.float64))
            for one in (lab, other)
        )
        row = frame[(frame.text == text) & (frame.choice == choice) & (frame.position == position)].iloc[0]
        p, q = np.exp(p_log), np.exp(q_log)
        np.testing.assert_allclose(row.kl, rel_entr(p, q).sum(), rtol=0.02, atol=1e-6)
        np.testing.assert_allclose(row.reverse_kl, rel_entr(q, p).sum(), rtol=0.02, atol=1e-6)
        np.testing.assert_allclose(row.total_variation, np.abs(p - q).sum() / 2, rtol=0.02, atol=1e-4)
        assert row.token_id == made[position] and row.top == p.argmax() and row.other_top == q.argmax()
        np.testing.assert_allclose(
            [row.logprob, row.other_logprob], [x[made[position]] for x in (p_log, q_log)], atol=0.02
        )
        assert row.token_class in TOKEN_CLASSES
    texts = found.texts_frame()
    np.testing.assert_allclose(texts["kl"], frame.groupby(["text", "choice"])["kl"].mean())
    np.testing.assert_allclose(texts["same_top"], frame.groupby(["text", "choice"])["same_top"].mean())
    for groups in (found.classes_frame(), found.entropy_frame(ranges=5)):
        assert groups["tokens"].sum() == len(frame)
        np.testing.assert_allclose((groups["kl"] * groups["tokens"]).sum(), frame["kl"].sum())


def test_the_first_other_draw_is_where_the_two_models_answers_part(lab: Lab, other: Lab) -> None:
    """Predicted from the first model's answers; seen when both are asked with the same seeds."""
    parted = 0
    found = lab.compare(other, "Once", seed=11, n=12, **{**FIELDS, "max_tokens": 40})
    answers = lab.chat("Once", seed=11, n=12, **{**FIELDS, "max_tokens": 40})
    others = other.chat("Once", seed=11, n=12, **{**FIELDS, "max_tokens": 40})
    for row, mine, theirs in zip(found.texts_frame().itertuples(), answers.choices, others.choices, strict=True):
        ids, other_ids = mine.tokens.ids, theirs.tokens.ids
        differs = np.flatnonzero(ids != other_ids)
        if not len(differs):
            assert np.isnan(row.first_difference) and np.isnan(row.margin)
            continue
        parted += 1
        assert row.first_difference == differs[0] and row.margin > 0
        assert (row.draw, row.other_draw) == (ids[differs[0]], other_ids[differs[0]])
    assert parted >= 3


def test_the_probability_of_another_draw_is_the_share_of_seeds(lab: Lab, other: Lab) -> None:
    found = lab.compare(other, "A fox", seed=1, **{**FIELDS, "max_tokens": 6})
    frame, result = found.frame(), found.results[0]
    at = int(frame["differ_probability"].to_numpy().argmax())
    made = result.choices[0].tokens.ids[:at]
    seeds = range(4000)
    prompt = [*result.data.prompt_ids.tolist(), *made.tolist()]
    shape = {"temperature": FIELDS["temperature"], "top_k": FIELDS["top_k"]}
    draws = [one.next_token(prompt=prompt, **shape).sample(seeds) for one in (lab, other)]
    share, expected = np.mean(draws[0] != draws[1]), frame["differ_probability"][at]
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 0.003


def test_a_model_and_itself(lab: Lab) -> None:
    found = lab.compare(lab, PROMPTS, seed=3, **FIELDS)
    frame = found.frame()
    assert (frame[["kl", "reverse_kl", "total_variation", "margin"]] == 0).all(axis=None)
    assert frame["same_top"].all() and frame["same_draw"].all() and frame["differ_probability"].max() < 1e-9
    np.testing.assert_array_equal(frame["draw"], frame["token_id"])


def test_what_can_be_compared(lab: Lab, other: Lab) -> None:
    given = lab.compare(other, "Once", ["upon a time", "more"])
    assert given.frame()["choice"].nunique() == 2
    raw = lab.compare(other, prompt="Once upon a time")
    assert len(raw) == len("Once upon a time") - 1
    result = lab.chat("Once", seed=2, max_tokens=5, ignore_eos=True)
    assert lab.compare(other, result).frame()["token_id"].tolist() == result.choices[0].tokens.ids.tolist()
    assert len(lab.compare(other, [result, result])) == 10
    named = lab.compare(lab.backend.name, result)
    assert named.frame()["kl"].max() == 0


def test_what_is_shown(lab: Lab, other: Lab, tmp_path: Path) -> None:
    found = lab.compare(other, "Once", seed=2, **FIELDS)
    assert found.names[0].endswith("(float32)") and found.names[1].endswith("(bfloat16)")
    assert "mean KL" in repr(found) and "<table" in found._repr_html_()
    page = found.to_html(tmp_path / "page.html")
    assert page == (tmp_path / "page.html").read_text("utf-8") and page.count('class="pair"') == 1
    assert found.plot().get_yscale() == "log"
    bars = found.plot_tokens()
    np.testing.assert_allclose(
        [bar.get_height() for bar in bars.patches[: len(found)]], found.frame()["kl"], atol=1e-12
    )
    with pytest.raises(RequestError, match="there is no choice 3 of text 0"):
        found.plot_tokens(choice=3)


def test_wrong_arguments(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="other: this lab has no model 'nobody', only"):
        lab.compare("nobody", "Once")
    result = lab.chat("Once", seed=2, max_tokens=2)
    with pytest.raises(RequestError, match="compared as it is"):
        lab.compare(lab, result, temperature=0.3)
    with pytest.raises(RequestError, match="ranges"):
        lab.compare(lab, result).entropy_frame(ranges=0)
    demo = llmlab.load("demo", slots=1, max_context=128, quiet=True)
    with pytest.raises(RequestError, match=r"the models have other tokens: id \d+ is"):
        lab.compare(demo, "Once", max_tokens=1)
    demo.close()
    endpoint = Endpoint(lambda body: spoken(entry("a"))).lab()
    with pytest.raises(RequestError, match="endpoint that gives no logits"):
        lab.compare(endpoint, "Once", max_tokens=1)
    with pytest.raises(RequestError, match="dtypes must be one of"):
        lab.drift(dtypes=["float8"])
    with pytest.raises(RequestError, match="cannot be read as a saved drift"):
        lab.drift(saved=tmp_path / "nothing.parquet")


def test_drift_and_the_run_of_another_device(lab: Lab, tmp_path: Path) -> None:
    found = lab.drift("Once", seed=1, dtypes=["float32", "bfloat16", "int8"], **FIELDS)
    frame = found.frame()
    assert list(frame.columns) == list(DRIFT_COLUMNS) and frame["dtype"].tolist() == ["bfloat16", "int8"]
    assert (frame["tokens"] == 24).all() and (frame["kl"] > 0).all() and (frame["kl"] <= frame["most_kl"]).all()
    for dtype, own in found.comparisons.items():
        values = own.frame()
        row = frame[frame["dtype"] == dtype].iloc[0]
        np.testing.assert_allclose(row["kl"], values["kl"].mean())
        np.testing.assert_allclose(row["logprob_error"], (values["logprob"] - values["other_logprob"]).abs().max())
    assert "int8" in repr(found) and "<table" in found._repr_html_()
    found.save(tmp_path / "here.parquet")
    both = lab.drift("Once", seed=1, dtypes=["float16"], saved=tmp_path / "here.parquet", **FIELDS).frame()
    assert both["dtype"].tolist() == ["float16", "bfloat16", "int8"]
    with pytest.raises(RequestError, match="the saved run read other tokens"):
        lab.drift("Twice", seed=1, dtypes=["float16"], saved=tmp_path / "here.parquet", **FIELDS)
    (tmp_path / "other.parquet").write_bytes(b"no")
    with pytest.raises(RequestError, match="cannot be read as a saved drift"):
        lab.drift("Once", saved=tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (None, "control"), (b"\xc3", "bytes"), (b" \n", "white space"), (b" 12", "number"), (b" word", "word"),
        (b"word", "letters"), ("\u00e4".encode(), "letters"), (b"!?", "punctuation"), (b" a1", "mixed"),
        (b"'s", "mixed"),
    ],
)  # fmt: skip
def test_kinds_of_tokens(data: bytes | None, kind: str) -> None:
    assert token_class(data) == kind
