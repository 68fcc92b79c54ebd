"""The wrong argument everywhere: one error that names the argument and the value; and what works as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmlab.errors import RequestError
from llmlab.protocol.arguments import PlaceError, choice_at, listed, place, whole

SCRIPT = Path(__file__).with_name("wrong_arguments.py")


def test_a_place_is_counted_from_either_end():
    assert [place(at, among="abc", choice=0) for at in (0, 2, -1, -3, np.int64(1))] == [0, 2, 2, 0, 1]
    assert place(3, among="abc", choice=0, after_last=True) == 3 and choice_at(np.int64(1), among="ab") == 1
    with pytest.raises(IndexError, match=r"position 3 is outside the 3 tokens of choice 0; there is 0\.\.2, or -1"):
        place(3, among="abc", choice=0)
    with pytest.raises(PlaceError, match="outside the 0 tokens of choice 1; there is none"):
        place(0, among="", choice=1)
    with pytest.raises(PlaceError, match="choice 1 is outside the 1 choice of this result; there is 0 alone"):
        choice_at(1, among="a")


def test_several_values_come_in_many_ways():
    for given in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), pd.Series([1, 2]), iter([1, 2])):
        assert listed("x", given) == [1, 2]
    for bad in ("ab", b"ab", 1, None, {1: 2}, np.array(1)):
        with pytest.raises(RequestError, match="x must be a list of values, got"):
            listed("x", bad)
    assert whole("x", np.uint8(3)) == 3


@pytest.mark.slow
def test_every_method_says_what_is_wrong_and_takes_numpy_and_pandas() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    ran = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert (ran.stdout, ran.returncode) == ("", 0), ran.stdout + ran.stderr
