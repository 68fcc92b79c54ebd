"""Several sweeps as one."""

from __future__ import annotations

import pandas as pd
import pytest

from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.sweeps.sweep import Sweep
from tests.backends.endpoint import Endpoint, entry, spoken

QUESTION = "Name an animal."
ASKED = {"n": 2, "seed": 3, "max_tokens": 2}


@pytest.fixture(scope="module")
def cool(demo: Lab) -> Sweep:
    return demo.sweep(QUESTION, temperature=[0.2, 0.5], **ASKED)


@pytest.fixture(scope="module")
def hot(demo: Lab) -> Sweep:
    return demo.sweep(QUESTION, temperature=[1.5, 1.9], **ASKED)


def test_the_cells_of_all_are_those_of_one(demo: Lab, cool: Sweep, hot: Sweep, tmp_path) -> None:
    both = Sweep.concat([cool, hot])
    assert both.axes == {"temperature": (0.2, 0.5, 1.5, 1.9)} and both.is_complete
    pd.testing.assert_frame_equal(both.frame(), pd.concat([cool.frame(), hot.frame()], ignore_index=True))
    whole = demo.sweep(QUESTION, temperature=[0.2, 0.5, 1.5, 1.9], **ASKED)
    pd.testing.assert_frame_equal(both.frame(), whole.frame())
    assert both.at(temperature=1.9).texts == hot.at(temperature=1.9).texts
    pd.testing.assert_frame_equal(both.summary_frame("tokens"), whole.summary_frame("tokens"))
    loaded = Sweep.load(both.save(tmp_path / "both.parquet"), lab=demo)
    pd.testing.assert_frame_equal(loaded.frame(), both.frame())
    assert both.resume().is_complete


def test_a_label_tells_them_apart(cool: Sweep, tmp_path) -> None:
    twice = Sweep.concat([cool, cool], label=["monday", "tuesday"])
    assert list(twice.axes) == ["sweep", "temperature"] and twice.axes["sweep"] == ("monday", "tuesday")
    assert twice.frame()["sweep"].tolist() == ["monday"] * 4 + ["tuesday"] * 4
    assert twice.at(sweep="tuesday", temperature=0.5).texts == cool.at(temperature=0.5).texts
    ax = twice.plot("tokens", x="temperature", by="sweep")
    assert {"monday", "tuesday"} <= {text.get_text() for text in ax.get_legend().get_texts()}
    pd.testing.assert_frame_equal(Sweep.load(twice.save(tmp_path / "t.parquet")).frame(), twice.frame())


def test_two_models_are_compared_and_cannot_be_resumed(cool: Sweep) -> None:
    far = Lab(Endpoint(lambda body: spoken(entry("Cat", -0.3))).backend())
    other = far.sweep(QUESTION, temperature=[0.2, 0.5], n=1, seed=3, max_tokens=2)
    both = Sweep.concat([cool, other], label=["near", "far"])
    assert both.frame()["sweep"].unique().tolist() == ["near", "far"] and len(both.frame()) == 6
    with pytest.raises(RequestError, match="was made with"):
        both.resume()


def test_an_unfinished_sweep_stays_unfinished(cool: Sweep, hot: Sweep) -> None:
    part = Sweep(hot.grid, {1: hot.completions[1]})
    both = Sweep.concat([part, cool])
    assert not both.is_complete and len(both.frame()) == 6
    assert both.at(temperature=1.9).texts == hot.at(temperature=1.9).texts


def test_what_does_not_go_together(demo: Lab, cool: Sweep, hot: Sweep) -> None:
    for sweeps, label, said in (
        ([], None, "sweeps is an empty list"),
        ([cool, cool], None, r"two of the sweeps have a cell at \{'temperature': 0.2\}"),
        ([cool, demo.sweep(QUESTION, top_k=[1], **ASKED)], None, "vary different parameters: temperature, and top_k"),
        ([cool, hot], ["a"], "label must be 2 different texts"),
        ([cool, hot], ["a", "a"], "label must be 2 different texts"),
        ([cool, demo.sweep(QUESTION, temperature=[1.0], independent=True, **ASKED)], None, "independent is True in"),
    ):
        with pytest.raises(RequestError, match=said):
            Sweep.concat(sweeps, label=label)
