"""What a closed or a forgotten lab leaves on the device: nothing, whoever still holds its results."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import jax
import pytest

import llmlab
from llmlab.engine import engine as engine_module
from llmlab.errors import EngineError
from llmlab.testing import tiny_checkpoint
from tests.serve.puppet import wait


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("freed") / "tiny", hidden_size=128, intermediate_size=256)


def live_bytes() -> int:
    return sum(x.nbytes for x in jax.live_arrays() if not x.is_deleted())


def asked(lab: llmlab.Lab) -> list[Any]:
    """Answers of every kind, which refer to their lab."""
    return [
        lab.chat("Hello", max_tokens=4, seed=1),
        lab.next_token("Hello"),
        lab.score("Hello", "there"),
        lab.sweep("Hello", temperature=[0, 1], n=2, max_tokens=3, seed=1),
    ]


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=[pytest.mark.slow, pytest.mark.exhaustive]), "int8"])
def test_close_frees_the_weights_and_the_caches_at_once(folder: Path, dtype: str) -> None:
    gc.collect()
    kept, before = [], live_bytes()
    for first in (True, False):
        lab = llmlab.load(folder, dtype=dtype, max_context=128, quiet=True)
        weights = lab.backend.engine.programs.weight_bytes
        kept += [lab, *(asked(lab) if first and dtype == "float32" else [lab.chat("Hello", max_tokens=4)])]
        assert live_bytes() - before >= weights
        lab.close()
        assert live_bytes() - before <= 0.05 * weights, "held by something other than a circle"
        assert lab.describe()["weight_bytes"] == weights and "weights" in repr(lab)
    with pytest.raises(EngineError, match="closed"):
        lab.chat("Hello")
    with pytest.raises(EngineError, match="closed"):
        lab.backend.engine.programs.model.logits(None)


def test_a_lab_that_is_idle_is_freed_too_when_it_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver thread has ended by itself, and left the prompts."""
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.01)
    gc.collect()
    before = live_bytes()
    lab = llmlab.load(folder, max_context=128, quiet=True)
    weights = lab.backend.engine.programs.weight_bytes
    lab.chat("Hello", max_tokens=4)
    wait(lambda: lab.backend.engine._thread is None)
    lab.close()
    assert live_bytes() - before <= 0.05 * weights


def test_a_lab_that_nobody_refers_to_is_freed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the collection with which the next model's loading begins, and not only once its thread has been idle."""
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 3600.0)
    gc.collect()
    before = live_bytes()
    lab = llmlab.load(folder, max_context=128, quiet=True)
    weights = lab.backend.engine.programs.weight_bytes
    for _ in range(2):
        lab.chat("Hello", max_tokens=4)
        assert lab.last is not None, "which refers to the lab"
        driver = lab.backend.engine._thread
        del lab
        lab = llmlab.load(folder, max_context=128, quiet=True)
        assert driver is not None
        wait(lambda thread=driver: not thread.is_alive())
        assert live_bytes() - before <= 1.05 * weights
    lab.close()


def test_a_stream_is_read_to_its_end_although_its_lab_is_gone(folder: Path) -> None:
    lab = llmlab.load(folder, max_context=128, quiet=True)
    expected = lab.chat("Hello", max_tokens=40, seed=1, ignore_eos=True).text
    stream = lab.stream("Hello", max_tokens=40, seed=1, ignore_eos=True)
    driver = lab.backend.engine._thread
    del lab
    gc.collect()
    assert stream.result().text == expected
    del stream
    gc.collect()
    wait(lambda: driver not in threading.enumerate())
