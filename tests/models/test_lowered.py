"""DeepSeek-R1 at its full size, lowered for 64 devices that are not there: everything lies where the plan says."""

from __future__ import annotations

import re
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from llmlab.engine import decode, state
from llmlab.engine.prefill import prefill
from llmlab.models.families import build_model, cache_bytes, read_config
from llmlab.models.plan import abstract_mesh, footprint
from llmlab.models.sharding import array_sharding, fitted, parameter_sharding, placed
from tests.models.test_full_size import R1

MESH = abstract_mesh(data=2, expert=8, model=4)
ROWS, POSITIONS = 64, 4096
BYTES = {"bf16": 2, "f32": 4, "i32": 4, "ui32": 4, "i1": 1}
#: An argument of the lowered function: its shape and dtype, and the axes of the mesh that divide each axis.
ARGUMENT = re.compile(r"%arg\d+: tensor<([^>]+)> \{[^%]*?sdy\.sharding = #sdy\.sharding<@mesh, \[([^\]]*)\]>\}")


def arguments(text):
    """Of each argument of the program: its shape, and the bytes of it that a device holds."""
    head = next(line for line in text.splitlines() if "func.func public @main" in line)
    found = []
    for kind, axes in ARGUMENT.findall(head):
        *shape, dtype = kind.split("x")
        sizes = [int(size) for size in shape]
        divided = [
            [MESH.shape[name] for name in re.findall(r'"(\w+)"', one)] for one in re.findall(r"\{([^}]*)\}", axes)
        ]
        # A scalar has no axes; what is divided, divides.
        assert len(divided) == len(sizes)
        assert all(size % prod(by) == 0 for size, by in zip(sizes, divided, strict=True))
        found.append((tuple(sizes), prod(sizes) // prod(map(prod, divided)) * BYTES[dtype]))
    return found


#: How an array lies whose first axis counts rows.
BY_ROWS = PartitionSpec("rows")


def spread(x, axes=BY_ROWS):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=array_sharding(MESH, axes, x.shape))


def spread_cache(cache):
    return jax.tree.map(spread, cache, cache.axes())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_deepseek_r1_lowers_with_everything_where_the_plan_says():
    config = fitted(read_config(R1), MESH)
    graph, weights = nnx.split(nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0), dtype="bfloat16")))
    slots = [(path, slot) for path, slot in nnx.to_flat_state(weights)]
    weights = nnx.from_flat_state(
        [
            (path, x.replace(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parameter_sharding(MESH, x, path))))
            for path, x in slots
        ]
    )
    plan = footprint(read_config(R1), MESH, dtype="bfloat16")
    batch = jax.eval_shape(partial(state.empty, config, width=ROWS, length=POSITIONS, dtype=jnp.bfloat16))
    rest = jax.tree.map(spread, batch._replace(cache=()))
    batch = rest._replace(cache=spread_cache(batch.cache))

    step = placed(partial(decode.forward, graph), MESH, by_rows=True)
    text = jax.jit(step).trace(weights, slots=batch).lower(lowering_platforms=("cuda",)).as_text()
    assert f"num_partitions = {MESH.size}" in text
    held = arguments(text)
    parameters, others = held[: len(slots)], held[len(slots) :]
    assert [shape for shape, _ in parameters] == [x.shape for _, x in slots]
    assert sum(size for _, size in parameters) == plan.weights
    entry = (ROWS, 1, POSITIONS, 576)
    entries = [size for shape, size in others if shape == entry]
    assert len(entries) == config.num_layers
    cache = sum(entries) + next(size for shape, size in others if shape == (ROWS, POSITIONS))
    assert cache == cache_bytes(config, batch=ROWS, length=POSITIONS, dtype="bfloat16", mesh=MESH)
    # The plan counts the positions of one row on each share of the rows.
    assert cache == pytest.approx(plan.token * POSITIONS * ROWS / MESH.shape["data"], rel=1e-3)
    assert constrained(text, entry) == config.num_layers
    print(f"a device of 64 holds {plan.weights / 1e9:.2f} GB of weights and {cache / 1e9:.2f} GB of cache")

    one = jax.eval_shape(lambda: state.empty(config, width=1, length=POSITIONS, dtype=jnp.bfloat16).cache)
    numbers = {"tokens": (1, 512), "start": (), "length": ()}
    asked = {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in numbers.items()}
    read = placed(partial(prefill, graph), MESH)
    # Prefill computes no logits; the parameters that it does not use are there all the same.
    traced = jax.jit(read, keep_unused=True).trace(weights, cache=spread_cache(one), **asked)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert sum(size for _, size in arguments(text)[: len(slots)]) == plan.weights
    assert constrained(text, (1, *entry[1:])) == config.num_layers


def constrained(text, shape):
    """How many results of that shape are put in their places."""
    kind = "x".join(map(str, shape)) + "xbf16"
    return len(re.findall(rf"sdy\.sharding_constraint .* : tensor<{kind}>", text))
