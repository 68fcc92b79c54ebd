"""A sweep over three servers of the embedded model, each a process of its own, of which one is killed half-way."""

from __future__ import annotations

import threading

import pandas as pd
import pytest

import llmlab
from tests.serve.process import Process
from tests.serve.puppet import wait

pytestmark = pytest.mark.slow

GRID = {"temperature": [0.4, 0.7, 1.0, 1.3], "top_p": [0.6, 0.8, 1.0], "n": 4, "seed": 7, "max_tokens": 48}
PROMPTS = ["Tell me a short story.", "Name an animal.", "What is the weather in Oslo?"]


def test_a_sweep_survives_the_death_of_one_of_three(tmp_path):
    processes: list[Process] = []
    try:
        for name in "abc":
            processes.append(Process("--model", "demo", log=tmp_path / f"{name}.log"))
        alone = llmlab.connect(processes[0].api, quiet=True)
        expected = alone.sweep(PROMPTS, **GRID).frame()
        alone.close()
        lab = llmlab.connect([process.api for process in processes], quiet=True, concurrency=3, retries=1)
        assert "3 up" in repr(lab) and "***" not in repr(lab)
        killed: list[int] = []

        def kill():
            members = list(lab.backend.members)
            wait(lambda: sum(each.answered for each in members) >= 12 and members[1].load > 0, seconds=300)
            killed.append(sum(each.answered for each in members))
            processes[1].kill()  # SIGKILL

        killer = threading.Thread(target=kill)
        killer.start()
        swept = lab.sweep(PROMPTS, save=tmp_path / "sweep.parquet", **GRID)
        killer.join()
        assert killed[0] < 36  # it was half-way
        assert swept.is_complete
        frame = swept.frame()
        assert not frame.duplicated(["prompt", "temperature", "top_p", "choice"]).any()
        pd.testing.assert_frame_equal(frame, expected, check_exact=True)
        pd.testing.assert_frame_equal(llmlab.Sweep.load(tmp_path / "sweep.parquet").frame(), expected, check_exact=True)
        moved = [note for result in swept.results for note in result.notes if note.startswith("endpoint:")]
        assert moved and all(processes[1].api in note for note in moved)
        assert "1 of 3 endpoints is down" in repr(lab)
        print(f"killed after {killed[0]} of 36 answers; {len(moved)} requests moved")
        print(lab)
        lab.close()
    finally:
        for process in processes:
            process.kill()
