"""A parameter that is put together piece by piece is the one that is put together at once, on one device or on many."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints import placing
from llmlab.checkpoints.placing import _fill, _Share, load_parameter, row_pieces
from llmlab.errors import CheckpointError
from llmlab.models.tensors import Rule, Tensor
from tests.checkpoints.held import Held
from tests.devices import on_devices


def random_tensors(rule):
    """A source of what a rule reads."""
    rng = np.random.default_rng(0)
    return Held({tensor.name: rng.normal(size=tensor.shape).astype(np.float32) for tensor in rule.tensors})


def rule(*shapes, **how):
    return Rule(("x",), tuple(Tensor(f"t{i}", shape) for i, shape in enumerate(shapes)), **how)


RULES = {
    "vector": rule((12,)),
    "embedding": rule((12, 8)),
    "linear": rule((12, 8), transpose=True),
    "qkv": rule((24, 8), (12, 8), (12, 8), transpose=True, groups=4),
    "qkv bias": rule((24,), (12,), (12,), groups=4),
    "units one by one": rule((12, 8), (12, 8), transpose=True, groups=12),
    "conv1d": rule((8, 24), (8, 12), groups=4),
    "fused": rule((48, 8), transpose=True, parts=(24, 12, 12), groups=4),
    "fused bias": rule((48,), parts=(24, 12, 12), groups=4),
    "fused and stored as [in, out]": rule((8, 48), parts=(24, 12, 12), groups=4),
    "key heads held twice": rule((24, 8), (6, 8), (6, 8), transpose=True, groups=4, copies=(1, 2, 2)),
    "fused, key heads held twice": rule((36, 8), transpose=True, parts=(24, 6, 6), groups=4, copies=(1, 2, 2)),
    "experts": rule(*[(12, 8)] * 4, transpose=True, stacked=4),
    "gated experts": rule(*[(12, 8)] * 8, transpose=True, groups=12, stacked=4),
    "fused experts": rule((4, 24, 8), transpose=True, parts=(12, 12), groups=6),
    "experts as they are": rule((4, 8, 24)),
    "experts' bias": rule((4, 24), parts=(12, 12), groups=12),
}


def by_hand(one, held):
    """The parameter by NumPy's own functions, as `Rule` describes it."""

    def joined(parts):
        parts = [part.swapaxes(-1, -2) if one.transpose and part.ndim > 1 else part for part in parts]
        if one.parts:
            parts = np.split(parts[0], np.cumsum(one.parts)[:-1], axis=-1)
        if one.copies:
            blocks = [np.split(part, one.groups // n, axis=-1) for part, n in zip(parts, one.copies, strict=True)]
            parts = [
                np.concatenate([block for block in part for _ in range(n)], axis=-1)
                for part, n in zip(blocks, one.copies, strict=True)
            ]
        if len(parts) == 1:
            return parts[0]
        split = [np.stack(np.split(part, one.groups, axis=-1)) for part in parts]
        return np.concatenate(list(np.concatenate(split, axis=-1)), axis=-1)

    parts = [held.tensors[tensor.name] for tensor in one.tensors]
    if not one.stacked:
        return joined(parts)
    each = len(parts) // one.stacked
    return np.stack([joined(parts[i : i + each]) for i in range(0, len(parts), each)])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("piece", [1, 20, 50, 1 << 20])
def test_a_parameter_is_whole_however_few_rows_are_read_at_a_time(monkeypatch, name, piece):
    monkeypatch.setattr(placing, "_PIECE", piece)
    held = random_tensors(RULES[name])
    expected = by_hand(RULES[name], held)
    np.testing.assert_array_equal(load_parameter(held, RULES[name], dtype=np.float32), expected)
    np.testing.assert_array_equal(RULES[name].join(list(held.tensors.values())), expected)
    for part, again in zip(held.tensors.values(), RULES[name].split(expected), strict=True):
        np.testing.assert_array_equal(part, again)


@pytest.mark.parametrize("name", RULES)
def test_any_part_of_a_parameter_can_be_filled_alone(monkeypatch, name):
    """Every box along two axes, also those that begin and end within a group."""
    monkeypatch.setattr(placing, "_PIECE", 20)
    held = random_tensors(RULES[name])
    expected = by_hand(RULES[name], held)
    cuts = [sorted({0, size // 4, size // 3, size // 2, size - 1, size}) for size in expected.shape]
    sides = [[slice(*pair) for pair in itertools.combinations(ends, 2)] for ends in cuts]
    if len(sides) == 3:
        sides[1] = sides[1][::4]
    for box in itertools.product(*sides):
        share = _Share(box, np.full(expected[box].shape, np.nan, np.float32), [])
        _fill([share], held, RULES[name])
        np.testing.assert_array_equal(share.value, expected[box], err_msg=str(box))


def test_only_the_rows_of_a_share_are_read(monkeypatch):
    monkeypatch.setattr(placing, "_PIECE", 8)  # one row

    def read(name, *box):
        held, place = random_tensors(RULES[name]), tuple(slice(*ends) for ends in box)
        _fill([_Share(place, np.empty([stop - start for start, stop in box], np.float32), [])], held, RULES[name])
        assert all(count == 1 for _, count in held.rows)
        return [name for name, _ in held.rows]

    assert read("embedding", (3, 6), (0, 8)) == ["t0"] * 3
    assert read("linear", (0, 8), (3, 6)) == ["t0"] * 3
    assert sorted(read("qkv", (0, 8), (12, 24))) == ["t0"] * 6 + ["t1"] * 3 + ["t2"] * 3  # one of four key heads
    assert sorted(read("gated experts", (1, 2), (0, 8), (0, 24))) == ["t2"] * 12 + ["t3"] * 12  # one of four experts


def test_values_are_rounded_once_and_memory_is_taken_over(monkeypatch):
    held = random_tensors(RULES["qkv"])
    value = load_parameter(held, RULES["qkv"], dtype=jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(value), by_hand(RULES["qkv"], held).astype(jnp.bfloat16))
    made = []
    allocate = placing._aligned
    monkeypatch.setattr(placing, "_aligned", lambda *a: made.append(allocate(*a)) or made[-1])
    for shape in ((3,), (5, 7), (64, 33)):
        value = load_parameter(random_tensors(rule(shape)), rule(shape), dtype=np.float32)
        assert value.unsafe_buffer_pointer() == made[-1].ctypes.data, shape


def test_a_value_that_float16_does_not_reach(monkeypatch):
    held = random_tensors(RULES["linear"])
    held.tensors["t0"][3, 4] = -65504
    assert np.isfinite(np.asarray(load_parameter(held, RULES["linear"], dtype=np.float16))).all()
    held.tensors["t0"][3, 4] = -70000
    with pytest.raises(CheckpointError, match=r"t0 has values beyond 65504.*bfloat16") as caught:
        load_parameter(held, RULES["linear"], dtype=np.float16)
    assert caught.value.param == "dtype"


@pytest.mark.parametrize("shape", [(1,), (5, 0), (0, 5), (7, 3), (3, 1 << 21), (2500, 1000)])
def test_pieces_cover_the_rows(shape):
    pieces = list(row_pieces(shape))
    assert [row for rows in pieces for row in range(rows.start, rows.stop)] == list(range(shape[0]))
    assert all(rows.stop - rows.start == 1 or (rows.stop - rows.start) * shape[-1] <= 1 << 20 for rows in pieces)


ON_EIGHT_DEVICES = """
import itertools, json
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from llmlab.checkpoints.placing import load_parameter
from tests.checkpoints.test_placing import RULES, by_hand, random_tensors

meshes = [Mesh(np.array(jax.devices()).reshape(shape), ("a", "b")) for shape in ((4, 2), (2, 4))]
done = 0
for name, rule in RULES.items():
    held = random_tensors(rule)
    expected = by_hand(rule, held)
    for mesh in meshes:
        for spec in itertools.product((None, "a", "b", ("a", "b")), repeat=expected.ndim):
            used = [axis for one in spec for axis in (one if isinstance(one, tuple) else (one,)) if axis]
            if len(used) > len(set(used)):
                continue
            sharding = NamedSharding(mesh, PartitionSpec(*spec))
            try:
                sharding.shard_shape(expected.shape)
            except ValueError:  # does not divide
                continue
            held.rows.clear()
            value = load_parameter(held, rule, dtype=np.float32, sharding=sharding)
            assert value.sharding == sharding
            # Each tensor once, however many devices there are.
            assert sum(count for _, count in held.rows) == sum(tensor.shape[0] for tensor in rule.tensors)
            np.testing.assert_array_equal(np.asarray(value), expected, err_msg=f"{name} {spec}")
            for shard in value.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), expected[shard.index])
            done += 1
print(json.dumps(done))
"""


def test_on_eight_devices_each_has_its_share():
    assert json.loads(on_devices(8, ON_EIGHT_DEVICES)) > 5 * len(RULES)
