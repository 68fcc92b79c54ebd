"""How often each fault is named and how often an honest endpoint is accused, in many seeded audits, as tables.

    python -m tests.audit.tables power      # each fault by its own test; also: whole, texts, size

The tests run it in a process of its own, where shapes are not checked at run time: that would take ten times as long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from llmlab.audit.asking import Ask
from llmlab.audit.audit import MAX_REQUESTS, MAX_TOKENS, TESTS, WITH_REFERENCE, audit
from llmlab.audit.report import Audit
from llmlab.audit.weights import Reference
from tests.audit.broken import FAULTS, HONEST, OF_WEIGHTS, SEEN_IN_TEXTS, WEIGHTS, Server

RUNS = 20
TESTS_IN_ALL = sum(len(test.names) for test in TESTS) + len(WITH_REFERENCE)


@contextmanager
def copy(dtype: str) -> Iterator[Ask]:
    """The honest endpoint with its weights rounded."""
    yield Server("plain", 7, scores=True, weights=WEIGHTS.rounded({"bfloat16": 16, "int8": 8}[dtype]))


def reference(seed: int) -> Reference:
    """An honest endpoint as the reference."""
    return Reference(Server("plain", 1000 + seed, scores=True), "reference", "float32", "float32", copy)


def run(fault: str, seed: int, *, texts_only: bool = False, **options: Any) -> Audit:
    """An audit of one endpoint; with a reference where weights are to be compared, or no logprobs are listed."""
    server = Server(fault, seed, scores=seed % 2 == 0, texts_only=texts_only)
    beside = reference(seed) if texts_only or fault == "plain" or fault in OF_WEIGHTS else None
    found = audit(server, model="puppet", reference=beside, parallel=1, **options)
    assert server.requests == found.requests <= MAX_REQUESTS and found.tokens <= MAX_TOKENS
    assert server.tokens == found.tokens or fault == "usage_counts_one_choice"
    return found


def is_named(fault: str, found: Audit) -> bool:
    """Whether the test that should find a fault has found it, and says what it is."""
    wanted = FAULTS[fault]
    return any(one.name == wanted.finding and wanted.words in one.what for one in found.found)


class Row(NamedTuple):
    """A row of a table, and whether it is as it should be."""

    text: str
    ok: bool


def _power(fault: str, *, alone: bool, texts_only: bool = False) -> Row:
    finding = FAULTS[fault].finding
    # Its test alone has to be as strict as beside all others.
    options = {"only": [finding], "false_alarms": 0.01 / TESTS_IN_ALL} if alone else {}
    audits = [run(fault, seed, texts_only=texts_only, **options) for seed in range(RUNS)]
    named, most = sum(is_named(fault, one) for one in audits), max(one.requests for one in audits)
    also = sorted({f.name for one in audits for f in one.found} - {finding})
    beside = "" if alone else f"  also: {', '.join(also) or '-'}"
    text = f"{fault:26} named {named:2} of {RUNS} by {finding:18} {most:3} requests{beside}"
    return Row(text, named >= RUNS - 1)


def _size(kind: str, *, texts_only: bool = False) -> Row:
    audits = [run(kind, seed, texts_only=texts_only) for seed in range(RUNS)]
    alarms = sum(not one.ok for one in audits)
    tested = min(sum(one.ok is not None for one in each.findings) for each in audits)
    names = ", ".join(one.name for each in audits for one in each.found)
    label = f"{kind}, texts only" if texts_only else kind
    most = max(one.requests for one in audits)
    return Row(f"{label:26} alarms {alarms:2} of {RUNS}, {tested} tests, {most:3} requests  {names}", alarms <= 1)


def rows(table: str) -> Sequence[tuple[Callable[..., Row], str]]:
    """What makes each row of a table."""
    if table == "power":
        return [(partial(_power, alone=True), fault) for fault in FAULTS]
    if table == "whole":
        return [(partial(_power, alone=False), fault) for fault in FAULTS]
    if table == "texts":
        return [(partial(_power, alone=True, texts_only=True), fault) for fault in SEEN_IN_TEXTS]
    assert table == "size", table
    return [(_size, kind) for kind in HONEST] + [(partial(_size, texts_only=True), "plain")]


def main(table: str, *names: str) -> int:
    """Prints a table, or the rows of it that are named; returns 1 where a row is not as it should be."""
    wanted = [(make, name) for make, name in rows(table) if not names or name in names]
    with ProcessPoolExecutor(2) as pool:
        bad = 0
        for future in [pool.submit(make, name) for make, name in wanted]:
            row = future.result()
            bad += not row.ok
            print(row.text, "" if row.ok else "  <- not as it should be", flush=True)
    print(f"{table}: {len(wanted) - bad} of {len(wanted)} rows as they should be", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
