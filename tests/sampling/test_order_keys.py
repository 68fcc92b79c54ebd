"""Orders as values: their keys, what a redefined stage means, and how many orders keep their programs."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.errors import RequestError
from llmlab.sampling import ORDERS, Stage, define_stage, integer, number
from llmlab.sampling.compiled import KEPT, PerOrder
from llmlab.sampling.orders import layout_of, order_key, order_of, placed
from llmlab.sampling.params import SamplingParams, stack
from llmlab.sampling.registry import forget, further_fields, user_fields
from llmlab.sampling.stages import MASK


def shift(by: float) -> Stage:
    @define_stage(number("shift_strength", 0, 1, default=0))
    def shift(logits, inputs, history):  # type: ignore[no-untyped-def]
        return logits.at[:, 1].add(by * inputs.shift_strength)

    return shift


@pytest.fixture
def own() -> Iterator[Stage]:
    yield shift(1.0)
    forget("shift")


def test_a_key_stands_for_its_stages(own: Stage) -> None:
    for value in (
        "vllm",
        ["vllm", own],
        ["mask", "temperature", own],
        ["temperature"],
        [own],
        [*ORDERS["sglang"], own],
    ):
        key = order_key(value)
        assert order_key(key) == key and order_of(order_key(key)) == order_of(key)
    assert order_key(list(ORDERS["vllm"])) == "vllm"
    assert order_of(order_key(["temperature"]))[0] == MASK, "grammars and min_tokens need it"
    assert order_of(order_key([*ORDERS["sglang"], own])) == (*ORDERS["sglang"], own)
    assert layout_of("vllm") == layout_of(order_key(["temperature"])) == "llmlab" != layout_of(order_key([own]))


def test_a_new_definition_has_a_key_of_its_own_and_the_old_one_stays(own: Stage) -> None:
    old = order_key(["llmlab", own])
    new = shift(2.0)
    assert order_key(["llmlab", "shift"]) == order_key(["llmlab", new]) != old
    assert order_of(old)[-1] == own and order_of(order_key(["llmlab", "shift"]))[-1] == new
    assert order_key(["llmlab", new]) == order_key(["llmlab", new]), "the same stage has the same key"
    forget("shift")
    assert "shift_strength" not in user_fields() and "shift_strength" not in further_fields()
    with pytest.raises(RequestError, match="no stage 'shift'"):
        order_key(["llmlab", "shift"])
    shift(1.0)


def test_the_fields_of_an_order_are_stacked_and_no_others(own: Stage) -> None:
    rows = [SamplingParams(extra={"shift_strength": 0.5, "typical_p": 0.9}), SamplingParams()]
    assert stack(rows, vocab_size=4).extra == {}
    inputs = stack(rows, vocab_size=4, order=order_of(order_key(["llmlab", own])))
    assert set(inputs.extra) == {"shift_strength"} and inputs.shift_strength.tolist() == [0.5, 0.0]
    with pytest.raises(AttributeError, match="typical_p"):
        _ = inputs.typical_p
    key = placed("llmlab", rows)
    assert key.partition("#")[0] == "llmlab + typical_p + shift"
    assert [stage.name for stage in order_of(key)][4:7] == ["mask", "shift", "temperature"]
    assert rows[0].changed(typical_p=1.0, top_k=3).extra == {"shift_strength": 0.5}


def test_an_integer_parameter_is_an_integer_array() -> None:
    @define_stage(integer("cap_places", 0, 9, default=0), kind="truncation")
    def cap(logits, inputs, history):  # type: ignore[no-untyped-def]
        assert inputs.cap_places.dtype == jnp.int32
        top = jnp.max(logits, axis=-1, keepdims=True)
        return jnp.where(logits >= top - inputs.cap_places[:, None].astype(jnp.float32), logits, -jnp.inf)

    assert order_of(order_key(["llmlab", cap]))[-1] is cap
    forget("cap")


def test_programs_of_old_orders_are_dropped() -> None:
    traced: list[str] = []

    def function(x, *, order):  # type: ignore[no-untyped-def]
        traced.append(order)
        return x + 1

    compiled = PerOrder(function)
    for order in ["llmlab", *(f"mask > {i}" for i in range(KEPT + 3)), "llmlab"]:
        assert int(compiled(np.int32(1), order=order)) == 2
    assert len(compiled._others) == KEPT and traced.count("llmlab") == 1
    compiled(np.int32(1), order=f"mask > {KEPT + 2}")
    assert len(traced) == KEPT + 4
    compiled(np.int32(1), order="mask > 0")
    assert len(traced) == KEPT + 5, "one that was dropped is compiled anew"
