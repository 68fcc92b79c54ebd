"""A distribution as bars: bars are as long as their probabilities, and whatever a token holds, the page stays whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from llmlab.display.bars import DistributionBars, message, to_html
from llmlab.text.spelling import label
from tests.completions import VOCABULARY
from tests.display.test_strip import Tree


def bars_of(**changes) -> DistributionBars:
    K = len(VOCABULARY)
    prob = np.full(K, 1 / K)
    fields = {
        "labels": tuple(label(raw, name="<|im_end|>") for raw in VOCABULARY), "token_ids": tuple(range(K)),
        "raw": prob, "prob": prob, "final": prob, "removed_by": ("",) * K, "kept": K, "vocab_size": K,
        "settings": {}, "removed": {}, "place": "<b>here</b>",
    }  # fmt: skip
    return DistributionBars(**(fields | changes))


def test_any_token_can_be_shown() -> None:
    bars = bars_of(would=(16, "<script>"), drawn=(18, "</script>"), seed=-(2**63))
    source = to_html(bars)
    tree = Tree(source)
    assert not {"script", "link", "img"} & tree.tags
    assert not [name for name in tree.attributes if name.startswith("on")]
    assert "http" not in source
    for name in bars.labels:
        assert name in tree.text
    assert "<b>here</b>" in tree.text
    assert "the answer has </script> · the noise of seed -9223372036854775808 draws <script> here" in tree.text
    rows = re.findall(r'<div class="row ([a-z ]*)" title="id (\d+)', source)
    assert [at for marks, at in rows if "would" in marks] == ["16"]
    assert [at for marks, at in rows if "drawn" in marks] == ["18"]


@dataclass
class Case:
    raw: float
    prob: float
    final: float
    cut: str
    scale: str
    width: str
    tick: str
    shown: str


@pytest.mark.parametrize(
    "case",
    [
        Case(0.04, 0.05, 0.08, "", "0.1", "80.00%", "40.00%", "0.0800"),
        Case(0.5, 0.4, 0.45, "", "0.5", "90.00%", "100.00%", "0.450"),
        Case(0.3, 0.6, 0.0, "top_p", "1", "60.00%", "30.00%", "top_p"),
        Case(1.0, 0.0, 0.0, "", "1", "0.00%", "100.00%", "0"),
        Case(0.0, 1e-5, 1e-5, "", "0.1", "0.01%", "0.00%", "1e-5"),
    ],
)
def test_a_bar_is_as_long_as_its_probability(case: Case) -> None:
    bars = bars_of(
        labels=("a",), token_ids=(0,), raw=np.array([case.raw]), prob=np.array([case.prob]),
        final=np.array([case.final]), removed_by=(case.cut,), settings={"top_p": 0.9} if case.cut else {},
        removed={"top_p": (3, 0.25)} if case.cut else {}, vocab_size=1,
    )  # fmt: skip
    source = to_html(bars)
    assert f'<span class="end">{case.scale}</span>' in source
    assert f'<span class="bar {case.cut and f"removed {case.cut}"}" style="width:{case.width};' in source
    assert f'<span class="tick" style="left:{case.tick}">' in source
    assert f'<span class="p">{case.shown}</span>' in source
    assert ("top_p removes 3 (25.00%)" in source) == bool(case.cut)


def test_a_message_takes_the_place_of_the_bars() -> None:
    assert Tree(message("no <distribution> here")).text.endswith("no <distribution> here")


def test_what_has_no_bar_has_one_together() -> None:
    """Twelve bars of 0.47 in all are not the distribution: the row of all others says where the rest is."""
    prob = np.full(12, 0.47 / 12)
    source = to_html(bars_of(
        labels=("a",) * 12, token_ids=tuple(range(12)), raw=prob, prob=prob, final=prob * 2, removed_by=("",) * 12,
        vocab_size=2048,
    ))  # fmt: skip
    (row,) = re.findall(r'<div class="row others".*?</div>', source)
    assert "2,036 others" in row and '<span class="p">0.0600</span> <span class="p">0.530</span>' in row
    assert "left:53.00%" in row and "width:6.00%" in row
    assert "others" not in re.sub(r"<style>.*?</style>", "", to_html(bars_of()))
