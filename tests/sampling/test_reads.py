"""How often the truncations of a row read its logits, counted in the compiled program."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from llmlab.sampling.front import front
from llmlab.sampling.params import SamplingParams, stack
from llmlab.sampling.stages import ORDERS

V = 151_936
#: Instructions that name an array and read nothing of it.
NAMES = ("bitcast", "tuple", "parameter", "get-tuple-element", "conditional", "while")


def reads(function: Callable[..., Any], *given: Any) -> int:
    """The instructions of a compiled program, outside of fusions, that take a float array of V elements or more."""
    text = jax.jit(function).lower(*given).compile().as_text()
    inside = set(re.findall(r"(?:calls|to_apply)=%?([\w.-]+)", text))
    count = 0
    for part in re.split(r"\n(?=\S)", text):
        head = re.match(r"(?:ENTRY )?%?([\w.-]+) ", part)
        if head is None or head[1] in inside:
            continue
        large: set[str] = set()
        for name, shape, kind, taken in re.findall(
            r"^\s+(?:ROOT )?%?([\w.-]+) = f32(\S*) ([\w-]+)\((.*?)\)", part, re.M
        ):
            size = 1
            for length in re.findall(r"\d+", shape.partition("]")[0]):
                size *= int(length)
            if size >= V:
                large.add(name)
            operands = {one.split(" ")[-1].lstrip("%") for one in taken.split(", ")}
            count += kind not in NAMES and bool(operands & large)
    return count


def test_a_pass_is_counted() -> None:
    x = jnp.zeros((1, V))
    assert reads(lambda x: jnp.max(x, axis=-1), x) == 1
    assert reads(lambda x: jnp.max(x, axis=-1) + jnp.sum(jax.lax.optimization_barrier(jnp.exp(x)), axis=-1), x) >= 2


@pytest.mark.parametrize("order", ORDERS)
def test_every_truncation_of_a_row_with_top_k_takes_eight_reads_at_most(order: str) -> None:
    inputs = jax.tree.map(jnp.asarray, stack([SamplingParams(top_k=50)], vocab_size=V))
    cuts = [stage for stage in ORDERS[order] if stage.kind in ("temperature", "truncation")]

    def few(logits: jax.Array, inputs: Any) -> jax.Array:
        left = front(logits).logits
        for stage in cuts:
            left = stage.apply(left, inputs, None)
        return left

    assert 1 <= reads(few, jnp.zeros((1, V)), inputs) <= 8
