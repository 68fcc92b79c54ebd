"""What the prompts of a sweep are called, in its axes, its frames, its file and its plots."""

from __future__ import annotations

import pandas as pd
import pytest

from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.sweeps.sweep import Sweep

CAT, DOG = "Name a cat.", "Name a dog."
ASKED = {"n": 2, "seed": 3, "max_tokens": 2}


@pytest.fixture(scope="module")
def labelled(demo: Lab) -> Sweep:
    return demo.sweep([CAT, DOG], label=["cat", "dog"], temperature=[0.5, 1.5], **ASKED)


def test_a_prompt_is_its_text_unless_it_has_a_label(demo: Lab, labelled: Sweep) -> None:
    plain = demo.sweep([CAT, DOG], temperature=[0.5, 1.5], **ASKED)
    assert plain.axes["prompt"] == (CAT, DOG) and labelled.axes["prompt"] == ("cat", "dog")
    assert plain.frame()["prompt"].unique().tolist() == [CAT, DOG]
    assert labelled.frame()["prompt"].tolist() == ["cat"] * 4 + ["dog"] * 4
    assert labelled.frame()["text"].tolist() == plain.frame()["text"].tolist(), "a label changes no answer"
    assert labelled.at(prompt="dog", temperature=0.5) is labelled.at(prompt=1, temperature=0.5)
    assert labelled.at(prompt="dog", temperature=0.5).texts == plain.at(prompt=DOG, temperature=0.5).texts
    with pytest.raises(RequestError, match="0 of the finished cells"):
        labelled.at(prompt=2, temperature=0.5)
    assert labelled.summary_frame("tokens", by="prompt")["prompt"].tolist() == ["cat", "dog"]
    assert len(labelled.summary_frame("tokens", over="prompts")) == 2


@pytest.mark.parametrize(
    ("prompts", "names"),
    [
        ([CAT, CAT, DOG, CAT], [CAT, f"{CAT} (2)", DOG, f"{CAT} (3)"]),
        ([CAT, f"{CAT} (2)", CAT], [CAT, f"{CAT} (2)", f"{CAT} (3)"]),
        ([[{"role": "system", "content": "Be brief."}, {"role": "user", "content": CAT}], DOG], [CAT, DOG]),
        ([[{"role": "user", "content": [{"type": "text", "text": CAT}]}]], [CAT]),
    ],
)
def test_names_are_texts_and_all_different(demo: Lab, prompts: list, names: list[str]) -> None:
    assert list(demo.sweep(prompts, n=1, seed=1, max_tokens=1).axes["prompt"]) == names


def test_raw_prompts_have_names_too(demo: Lab) -> None:
    assert demo.sweep(prompt=["Once", [5, 6]], n=1, max_tokens=1).axes == {"prompt": ("Once", "[5, 6]")}


def test_a_file_keeps_them_and_a_sweep_goes_on_under_other_labels(demo: Lab, labelled: Sweep, tmp_path) -> None:
    path = labelled.save(tmp_path / "s.parquet")
    loaded = Sweep.load(path, lab=demo)
    assert loaded.axes == labelled.axes
    pd.testing.assert_frame_equal(loaded.frame(), labelled.frame())
    again = demo.sweep([CAT, DOG], temperature=[0.5, 1.5], resume=labelled, **ASKED)
    assert again.axes["prompt"] == (CAT, DOG)
    assert all(again.completions[at] is labelled.completions[at] for at in again.completions), "nothing is asked again"


def test_a_file_of_an_older_version_has_numbers(labelled: Sweep, tmp_path) -> None:
    from dataclasses import replace

    numbers = {"cat": 0, "dog": 1}
    cells = tuple(
        replace(cell, point={**cell.point, "prompt": numbers[cell.point["prompt"]]}) for cell in labelled.grid.cells
    )
    grid = replace(labelled.grid, axes={**labelled.axes, "prompt": (0, 1)}, cells=cells)
    loaded = Sweep.load(Sweep(grid, labelled.completions).save(tmp_path / "old.parquet"))
    assert loaded.frame()["prompt"].dtype == "int64"
    assert loaded.at(prompt=1, temperature=0.5).texts == labelled.at(prompt="dog", temperature=0.5).texts


def test_a_plot_has_them(labelled: Sweep) -> None:
    ax = labelled.plot("tokens", x="prompt", by="temperature")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (["cat"], "label has 1 texts and there are 2 prompts"),
        (["cat", "cat"], "label has 'cat' twice"),
        ("cats", "label must be a list of texts, got 'cats'"),
    ],
)
def test_labels_that_cannot_be(demo: Lab, label, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        demo.sweep([CAT, DOG], label=label, **ASKED)
    assert caught.value.param == "label"


def test_a_single_prompt_has_no_label_and_system_is_one_text(demo: Lab) -> None:
    with pytest.raises(RequestError, match="label names the prompts of a list"):
        demo.sweep(CAT, label=["cat"], **ASKED)
    with pytest.raises(RequestError, match="system is one text"):
        demo.sweep(CAT, system=["a", "b"], **ASKED)
