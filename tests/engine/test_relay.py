"""A follower that makes the leader's calls holds what the leader holds; here both are in one process."""

from __future__ import annotations

import gc
import threading

import jax
import numpy as np
import pytest
from flax import nnx

from llmlab.engine.engine import Engine
from llmlab.engine.programs import Programs
from llmlab.engine.relay import Calls, pack, unpack
from llmlab.engine.scheduler import Row
from llmlab.engine.state import row_fields
from llmlab.errors import EngineError
from llmlab.models.families import build_model, read_config
from llmlab.sampling.params import SamplingParams
from llmlab.testing import tiny_config

CONFIG = read_config(tiny_config(num_hidden_layers=1))


class Wire:
    """A relay whose follower is in this process: it makes each call right after the leader has told it."""

    def __init__(self, model, *, config=CONFIG):
        self.follower = Programs(config, model).replay()
        self.sent = []
        self.calls = Calls(self._send, lock=threading.RLock())
        self.lost = None
        self.closed = False

    def _send(self, message):
        self.sent.append(message)
        self.follower.run(message)

    def told(self, name, function):
        return self.calls.told(name, function)

    def failed(self, error):
        self.lost = EngineError(f"lost: {error}")
        return self.lost

    def close(self):
        self.closed = True


def make_model():
    return build_model(CONFIG, rngs=nnx.Rngs(0), dtype=np.float32)


@pytest.fixture
def engine():
    model = make_model()
    made = Engine(CONFIG, model, slots=2, max_context=128, relay=Wire(model))
    yield made
    made.close()


def ids(engine, *rows):
    found = [[] for _ in rows]
    for block in engine.submit(rows):
        for piece in block:
            found[piece.row] += piece.tokens.tolist()
    return found


def searched(engine, row):
    with engine.search(row, rows=2) as search:
        return np.concatenate([search.start()[None], search.advance([0, 0], [3, 4]), search.advance([1], [5])])


def test_a_follower_holds_what_the_leader_holds(engine):
    alone = Engine(CONFIG, make_model(), slots=2, max_context=128)
    rows = [Row(np.arange(1, 40, dtype=np.int32), SamplingParams(seed=seed), budget=12) for seed in range(3)]
    assert ids(engine, *rows) == ids(alone, *rows)
    given = np.arange(5, 9, dtype=np.int32)
    for ask in (
        lambda each: each.next_logits(given),
        lambda each: each.score(rows[0], given).logprob,
        lambda each: np.concatenate(list(each.logits(rows[0], given))),
        lambda each: each.step_logits(rows[0], given),
        lambda each: searched(each, rows[0]),
    ):
        np.testing.assert_array_equal(ask(engine), ask(alone))
    alone.close()
    relay = engine._relay
    gc.collect()
    ids(engine, Row(given, SamplingParams(), budget=1))  # what was freed is told with the next call
    gc.collect()
    held = {number: array() for number, array in relay.calls._held.values()}
    theirs = relay.follower._held
    living = {number for number, array in held.items() if not array.is_deleted()}
    assert living and living <= theirs.keys()
    for number in living:
        np.testing.assert_array_equal(held[number], theirs[number])
    # Nothing is kept that the leader has freed, except what it has freed since its last call.
    assert set(theirs) - set(held) <= set(relay.calls._gone)


def test_messages_are_small_and_no_array_of_a_device_is_sent(engine):
    ids(engine, Row(np.arange(1, 40, dtype=np.int32), SamplingParams(), budget=12))
    cache = sum(x.nbytes for x in jax.tree.leaves(engine.programs.row_cache(length=128)))
    assert max(map(len, engine._relay.sent)) < cache / 2
    with pytest.raises(AssertionError, match="not of a program that was told"):
        engine.programs.lengthen(Programs(CONFIG, make_model()).row_cache(length=128), length=256)


def test_messages_come_back_as_they_were():
    fields = row_fields(
        np.arange(3, dtype=np.int32),
        SamplingParams(temperature=0.5, logit_bias={3: 1.5}),
        budget=4,
        ignore_ends=False,
        vocab_size=40,
        ends=(2,),
    )
    message = {"a": fields, "b": [1, 2.5, None, True, "text"], "c": np.float32(2.5), "d": (np.zeros((0, 3), bool),)}
    found = unpack(pack(message, number=id), held=lambda number: None)
    assert type(found["a"]) is type(fields) and found["b"] == (1, 2.5, None, True, "text")
    for one, other in zip(
        jax.tree.leaves([message["a"], 2.5, message["d"]]),
        jax.tree.leaves([found["a"], found["c"], found["d"]]),
        strict=True,
    ):
        assert np.asarray(one).shape == np.asarray(other).shape
        np.testing.assert_array_equal(one, other)
    assert found["a"].inputs.bias.dtype == np.float32 and found["d"][0].shape == (0, 3)


def test_no_message_names_a_class_of_another_package():
    import json

    head = json.dumps({"named": ["collections", "Counter", 1]}).encode()
    with pytest.raises(TypeError, match="no named tuple of this package"):
        unpack(len(head).to_bytes(8, "little") + head, held=lambda number: None)
    with pytest.raises(TypeError, match="holds no set"):
        pack({1}, number=id)


def test_a_program_that_fails_ends_the_engine_for_all(engine):
    relay, row = engine._relay, Row(np.arange(1, 4, dtype=np.int32), SamplingParams(), budget=4)
    ids(engine, row)

    def broken(message):
        raise ValueError("the device is on fire")

    relay.calls._send = broken
    with pytest.raises(EngineError, match="lost: the device is on fire"):
        ids(engine, row)
    with pytest.raises(EngineError, match="lost: the device is on fire"):
        engine.next_logits(row.prompt)
    engine.close()
    assert relay.closed


def test_a_reader_is_told_although_the_driver_waits(engine):
    """The driver may wait in a program for a process that is gone."""
    relay, row = engine._relay, Row(np.arange(1, 4, dtype=np.int32), SamplingParams(), budget=4)
    waits, goes = threading.Event(), threading.Event()

    def stuck(message):
        waits.set()
        assert goes.wait(timeout=60)

    relay.calls._send = stuck
    ticket = engine.submit([row])
    assert waits.wait(timeout=60)
    relay.lost = EngineError("process 1 is gone")
    with pytest.raises(EngineError, match="process 1 is gone"):
        list(ticket)
    with pytest.raises(EngineError, match="process 1 is gone"):
        engine.next_logits(row.prompt)
    engine.close()
    goes.set()
