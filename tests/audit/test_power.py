"""Each fault is named, and honest endpoints are not accused: many seeded runs, printed as a table (`pytest -s`)."""

from __future__ import annotations

import pytest

from llmlab.audit.audit import MAX_REQUESTS, MAX_TOKENS, TESTS, WITH_REFERENCE, audit
from tests.audit.broken import FAULTS, HONEST, Server

RUNS = 20
TESTS_IN_ALL = sum(len(test.names) for test in TESTS) + len(WITH_REFERENCE)


def run(fault, seed, **options):
    """An audit of one endpoint; where weights are to be compared, the reference is an honest endpoint."""
    reference = Server("plain", 1000 + seed) if fault in ("plain", "other_weights", "int8_weights") else None
    server = Server(fault, seed)
    found = audit(
        server, model="puppet", reference=reference, reference_model="reference", parallel=1, **options,
    )  # fmt: skip
    assert server.requests == found.requests <= MAX_REQUESTS and found.tokens <= MAX_TOKENS
    assert server.tokens == found.tokens or fault == "usage_counts_one_choice"
    return found


def is_named(fault, found):
    wanted = FAULTS[fault]
    return any(one.name == wanted.finding and wanted.words in one.what for one in found.found)


def test_there_are_enough_faults():
    assert len(FAULTS) >= 45 and len(HONEST) >= 8
    assert len({one.finding for one in FAULTS.values()}) >= 25


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_its_test(fault):
    """One run of the test that should find it, alone."""
    found = run(fault, 1, only=[FAULTS[fault].finding])
    assert is_named(fault, found), found


def test_an_honest_endpoint_is_not_accused():
    """By every test; `test_size` has more runs."""
    found = run("plain", 1)
    print(found)
    assert found.ok and all(one.ok is True for one in found.findings), found


@pytest.mark.slow
@pytest.mark.exhaustive
def test_power():
    """20 runs of each fault, its test alone, but as strict as beside all others: a table of how often it is named."""
    rows, weak = [], []
    for name, fault in FAULTS.items():
        audits = [run(name, seed, only=[fault.finding], false_alarms=0.01 / TESTS_IN_ALL) for seed in range(RUNS)]
        named = sum(is_named(name, one) for one in audits)
        cost = max(one.requests for one in audits)
        rows.append(f"{name:28} named {named:2} of {RUNS} by {fault.finding:20} {cost:4} requests")
        print(rows[-1], flush=True)
        if named < RUNS - 1:
            weak.append(rows[-1])
    assert not weak, "\n".join(weak)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_power_of_whole_audits():
    """As above with every test in every run, which is what a user sees: also what else a fault makes the audit say."""
    weak = []
    for name in FAULTS:
        audits = [run(name, seed) for seed in range(RUNS)]
        named = sum(is_named(name, one) for one in audits)
        also = sorted({f.name for one in audits for f in one.found} - {FAULTS[name].finding})
        cost = max(one.requests for one in audits)
        print(f"{name:28} named {named:2} of {RUNS}  {cost:4} requests  also: {', '.join(also)}", flush=True)
        if named < RUNS - 1:
            weak.append(name)
    assert not weak


@pytest.mark.slow
@pytest.mark.exhaustive
def test_size():
    """20 whole audits of each honest variant: a table of false alarms."""
    alarms = {}
    for kind in HONEST:
        audits = [run(kind, seed) for seed in range(RUNS)]
        found = [one.name for each in audits for one in each.found]
        alarms[kind] = sum(not one.ok for one in audits)
        print(f"{kind:28} alarms {alarms[kind]:2} of {RUNS}  {', '.join(found)}", flush=True)
    assert max(alarms.values()) <= 1, alarms
