"""The bench's peers with the real programs: each makes as many tokens as it was asked for."""

from __future__ import annotations

import pytest

from llmlab.cli.bench.parts import WITH_PEERS
from llmlab.cli.bench.subject import Options

pytestmark = pytest.mark.reference


def test_every_peer_answers():
    asked = Options(model="shape:tiny", rows=(1, 3), prompt=8, tokens=5, repeats=1)
    figures = list(WITH_PEERS["peers"](asked))
    assert [one.note for one in figures] == [""] * len(figures)
    assert {one.setting for one in figures} == {
        f"rows {rows}, prompt 8{told}"
        for rows in (1, 3)
        for told in (", llmlab", ", transformers", ", llama.cpp", ": llmlab / transformers", ": llmlab / llama.cpp")
    }
    assert all(one.value > 0 for one in figures)


def test_both_start():
    figures = list(WITH_PEERS["starts"](Options(repeats=1)))
    assert len(figures) == 5 and all(one.value > 0 and not one.note for one in figures)
