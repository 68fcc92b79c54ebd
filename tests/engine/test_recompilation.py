"""After `warmup` nothing compiles, counted from JAX's own events."""

import time

import jax
import numpy as np
import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.engine import engine as engine_module
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint

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


#: Most requests are free; those that are not have a grammar.
FORMS = [
    *[None] * 14,
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "items": {"type": "boolean"}}}},
]


def warm_up_beside_requests(backend):
    """Without waiting: requests are answered meanwhile, and the visit that they interrupt is made again."""
    backend.warmup(wait=False)
    request = ChatRequest.build("w", max_tokens=3, seed=1)
    answers = []
    for _ in range(3):
        answers.append(backend.complete(request).choices[0].text)
        assert backend.engine._spare, "the request did not wait for all programs"
    while backend.engine._spare:
        time.sleep(0.01)
    assert len(set(answers)) == 1 and backend.complete(request).choices[0].text == answers[0]


@pytest.mark.parametrize("slots", [pytest.param(None, marks=[pytest.mark.slow, pytest.mark.exhaustive]), 4])
def test_two_hundred_requests_compile_nothing(tmp_path, monkeypatch, slots):
    # One layer, two widths and two cache lengths: every kind of program and every way between them, in a third of the
    # time that all of the widths take to compile.
    monkeypatch.setattr(engine_module, "WIDTHS", (1, 4, 8))  # two lanes share the widest
    folder = tiny_checkpoint(tmp_path / "tiny", num_hidden_layers=1, max_position_embeddings=256)
    backend = LocalBackend.load(folder, slots=slots)
    if slots:
        warm_up_beside_requests(backend)
    else:
        told = []
        backend.warmup(progress=lambda done, total: told.append((done, total)))
        assert told[-1][0] == told[-1][1] == len(told)
    assert len(backend.engine.widths) == (2 if slots is None else 1)
    before = len(compiled())
    rng = np.random.default_rng(0)
    under_way = []
    for _ in range(200):
        request = ChatRequest.build(
            "w" * int(rng.integers(1, 190)),
            n=int(rng.choice([1, 1, 1, 1, 2, 9])),
            seed=int(rng.integers(-(2**63), 2**63)),
            max_tokens=int(rng.integers(1, 13)),
            temperature=rng.choice([0.0, 0.5, 1.0, 2.0]),
            top_k=rng.choice([0, 1, 50, 128]),
            top_p=rng.uniform(0.1, 1.0),
            min_p=rng.choice([0.0, 0.05]),
            repetition_penalty=rng.choice([1.0, 1.2]),
            frequency_penalty=rng.choice([0.0, -1.0]),
            presence_penalty=rng.choice([0.0, 1.5]),
            logit_bias={int(t): 5.0 for t in rng.integers(0, 256, rng.integers(0, 4))},
            min_tokens=int(rng.integers(0, 2)),
            logprobs=True,
            top_logprobs=int(rng.integers(0, 21)),
            stop=["x", "yz"] if rng.random() < 0.3 else None,
            response_format=FORMS[rng.integers(len(FORMS))],
        )
        under_way.append(backend.stream(request))
        if rng.random() < 0.5:  # some alone, some together
            under_way.pop(0).result()
        if rng.random() < 0.1:
            backend.next_logits(backend.render(request))
        if rng.random() < 0.05 and under_way:
            under_way.pop().close()
    for stream in under_way:
        stream.result()
    assert compiled()[before:] == []
    backend.close()
