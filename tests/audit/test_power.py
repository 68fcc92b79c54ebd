"""Each fault is named, and honest endpoints are not accused: many seeded runs, printed as tables (`pytest -s`)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.audit.broken import FAULTS, HONEST, SEEN_IN_TEXTS
from tests.audit.tables import is_named, run


def test_there_are_enough_faults():
    assert len(FAULTS) >= 50 and len(HONEST) >= 8
    assert len({one.finding for one in FAULTS.values()}) >= 25


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_its_test(fault):
    """One run of the test that should find it, alone."""
    found = run(fault, 1, only=[FAULTS[fault].finding])
    assert is_named(fault, found), found


@pytest.mark.parametrize("fault", SEEN_IN_TEXTS)
def test_a_fault_is_named_without_logprobs(fault):
    """The same where the distributions are the reference's, and each answer is one text."""
    found = run(fault, 1, texts_only=True, only=[FAULTS[fault].finding])
    assert is_named(fault, found), found


@pytest.mark.parametrize("fault", ["bfloat16_weights", "int8_weights", "int4_weights", "other_weights"])
def test_weights_are_named_along_the_tokens_of_a_prompt_too(fault):
    """Where the endpoint lists the logprobs of a prompt's tokens, which the run above has without."""
    found = run(fault, 2, only=["weights"])
    assert is_named(fault, found), found


def test_an_honest_endpoint_is_not_accused():
    """By every test; the table of sizes has more runs."""
    found = run("plain", 1)
    print(found)
    assert found.ok and all(one.ok is True for one in found.findings), found


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("table", ["power", "whole", "texts", "size"])
def test_table(table):
    """20 runs of each row: of a fault's own test, of whole audits, of audits without logprobs, of honest endpoints."""
    done = subprocess.run([sys.executable, "-m", "tests.audit.tables", table], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
