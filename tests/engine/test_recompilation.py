"""After `warmup` nothing compiles, counted from JAX's own events."""

import jax
import numpy as np
import pytest

from llmlab.engine.engine import Engine
from tests.engine.rows import END, read, row

_COMPILED: list[str] = []
_LISTENING = False


def compiled():
    """The list that every compilation of this process is added to."""
    global _LISTENING
    if not _LISTENING:
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, seconds, **_: _COMPILED.append(event) if "backend_compile" in event else None
        )
        _LISTENING = True
    return _COMPILED


def test_the_events_are_heard():
    before = len(compiled())
    jax.jit(lambda x: x * 3 + before)(np.float32(1))
    assert len(compiled()) > before


@pytest.mark.parametrize("slots", [None, 4])
def test_two_hundred_requests_compile_nothing(decoder, slots):
    engine = Engine(*decoder, ends=(END,), slots=slots)
    told = []
    engine.warmup(progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == len(told)
    before = len(compiled())
    rng = np.random.default_rng(0)
    open_tickets = []
    for _ in range(200):
        n = int(rng.choice([1, 1, 1, 2, 5, 40]))
        prompt = "w" * int(rng.integers(1, 300))
        params = {
            "seed": int(rng.integers(-(2**63), 2**63)),
            "temperature": float(rng.choice([0.0, 0.5, 1.0, 2.0])),
            "top_k": int(rng.choice([0, 1, 50, 128])),
            "top_p": float(rng.uniform(0.1, 1.0)),
            "min_p": float(rng.choice([0.0, 0.05])),
            "repetition_penalty": float(rng.choice([1.0, 1.2])),
            "frequency_penalty": float(rng.choice([0.0, -1.0])),
            "presence_penalty": float(rng.choice([0.0, 1.5])),
            "logit_bias": {int(t): 5.0 for t in rng.integers(0, 256, rng.integers(0, 4))},
            "min_tokens": int(rng.integers(0, 3)),
        }
        budget = int(rng.integers(1, 60))
        open_tickets.append((engine.submit([row(prompt, choice=i, budget=budget, **params) for i in range(n)]), n))
        if rng.random() < 0.5:  # some alone, some together
            read(*open_tickets.pop(0))
        if rng.random() < 0.1:
            engine.next_logits(row(prompt).prompt)
        if rng.random() < 0.05 and open_tickets:
            open_tickets.pop()[0].cancel()
    for ticket, n in open_tickets:
        read(ticket, n)
    assert compiled()[before:] == []
    engine.close()
