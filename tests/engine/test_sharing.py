"""Rows that begin with one prompt hold and read its cache once, and get what they would with a copy each."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Job, Scheduler
from llmlab.engine.sharing import after_lengths, prefix_lengths
from llmlab.models.families import cache_bytes
from tests.devices import on_devices
from tests.engine.rows import END, read, row, run
from tests.engine.test_relay import CONFIG, Wire, make_model
from tests.engine.test_step_logits import logprob

PROMPT = "In the beginning was the word, and the word was a token. " * 5
OTHER = "A prompt of somebody else, of another length, that is as long. " * 4
pytestmark = pytest.mark.usefixtures("few_widths")


@pytest.fixture(scope="module")
def sharing(decoder, few_widths):
    engine = Engine(*decoder, ends=(END,))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def apart(decoder, few_widths):
    """An engine that has a copy of the prompt for every row."""
    engine = Engine(*decoder, ends=(END,))
    for batch in engine._lanes._batches:
        batch.sharing.on, batch.sharing.lengths = False, engine.lengths
    yield engine
    engine.close()


def choices(count, prompt=PROMPT[:200], **options):
    return [row(prompt, choice=i, **{"temperature": 0.9, "ignore_ends": True, **options}) for i in range(count)]


def alike(found, expected):
    """The same tokens, and every statistic to what float32 holds of it."""
    assert found[0] == expected[0] and found[2] == expected[2]
    for ours, theirs in zip(found[1], expected[1], strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x.astype(np.float64), y.astype(np.float64), atol=1e-4)


def watch(engine, monkeypatch):
    """The shape of the batch after each chunk: width, positions of its cache, positions of the shared prompt."""
    shapes, run_lanes = [], engine._lanes.run

    def watched(**options):
        found = run_lanes(**options)
        for batch in engine._lanes._batches:
            if batch._slots is not None:
                prefix = batch.sharing.prefix
                shapes.append((batch._slots.width, batch._slots.length, prefix.cache.length if prefix else 0))
        return found

    monkeypatch.setattr(engine._lanes, "run", watched)
    return shapes


def test_choices_are_those_of_rows_with_a_copy_each(sharing, apart, monkeypatch):
    """Into a second length of what follows; and a second time, from the prompt's pieces in the store."""
    rows = choices(5, budget=80)
    expected = run(apart, *rows)
    shapes = watch(sharing, monkeypatch)
    before = sharing.read_tokens
    alike(run(sharing, *rows), expected)
    assert set(shapes) == {(8, 64, 512), (8, 128, 512)}
    alike(run(sharing, *rows), expected)
    assert sharing.read_tokens - before == 199


def test_rows_that_share_beside_rows_that_do_not(sharing, apart, monkeypatch):
    """They come before, with them and after them; another prompt takes the place of one that nobody uses any more."""
    groups = [
        [row("x", budget=90, ignore_ends=True)],
        choices(4, budget=30),
        [row("A short one", budget=12, ignore_ends=True), *choices(1, OTHER, budget=20)],
        choices(6, OTHER, budget=25),
        choices(4, PROMPT[:180], budget=10),
    ]
    expected = [run(apart, *group) for group in groups]
    shapes = watch(sharing, monkeypatch)
    tickets = [sharing.submit(group) for group in groups]
    for ticket, group, was in zip(tickets, groups, expected, strict=True):
        alike(read(ticket, len(group)), was)
    assert {prefix for _, _, prefix in shapes} >= {512}  # and 0, where the last of them end one by one


def test_a_step_that_is_repeated_is_the_one_that_was_drawn(sharing):
    rows = choices(6, budget=70, temperature=1.0)
    tokens, figures, _ = run(sharing, *rows)
    for which, at in ((0, 0), (5, 40), (3, 66)):
        found = sharing.step_logits(rows[which], np.array(tokens[which][:at], np.int32), rows=6)
        assert logprob(found, tokens[which][at]) == pytest.approx(figures[which][0][at], abs=1e-6)


def test_they_may_be_cancelled_and_go_on_narrow(sharing, apart, monkeypatch):
    rows = [replace(each, budget=40 if i == 2 else 6) for i, each in enumerate(choices(6))]
    expected = run(apart, *rows)
    shapes = watch(sharing, monkeypatch)
    ticket = sharing.submit(rows)
    ticket.cancel([1])
    tokens, _, _ = read(ticket, 6)
    assert [made for i, made in enumerate(tokens) if i != 1] == [made for i, made in enumerate(expected[0]) if i != 1]
    assert (1, 64, 512) in shapes


def test_with_pinned_slots_nothing_is_shared(pinned, monkeypatch):
    """So that a choice has the same bits alone."""
    shapes = watch(pinned, monkeypatch)
    rows = choices(6, budget=5)
    together = run(pinned, *rows)
    assert {prefix for _, _, prefix in shapes} == {0}
    np.testing.assert_array_equal(run(pinned, rows[3])[1][0][0], together[1][3][0])


def test_128_choices_take_the_memory_of_one_prompt_and_what_follows(decoder, monkeypatch):
    """In two lanes, which hold the prompt once."""
    monkeypatch.setattr(engine_module, "WIDTHS", (1, 8, 32, 64, 128))
    monkeypatch.setattr(engine_module, "lane_count", lambda: 2)
    config, _ = decoder
    engine = Engine(*decoder, ends=(END,))
    held, run_lanes = [], engine._lanes.run

    def watched(**options):
        found = run_lanes(**options)
        caches = [(x._slots.cache, x.sharing.prefix.cache) for x in engine._lanes._batches if x._slots is not None]
        held.append(sum({id(array): array.nbytes for array in jax.tree.leaves(caches)}.values()))
        return found

    monkeypatch.setattr(engine._lanes, "run", watched)
    tokens, _, _ = run(engine, *choices(128, (PROMPT * 2)[:448], budget=64))
    assert [len(made) for made in tokens] == [64] * 128
    position = cache_bytes(config, batch=1, length=512, dtype=np.float32) / 512
    assert max(held) <= 1.2 * (448 + 128 * 64) * position
    assert (engine.prefills, engine.read_tokens) == (1, 447)
    engine.close()


def test_it_keeps_to_the_memory(decoder, monkeypatch):
    """Where the prompt's own cache does not fit beside the rows, they have copies; where it does, all fits."""
    config, _ = decoder

    def size(positions):
        return cache_bytes(config, batch=1, length=512, dtype=np.float32) * positions // 512

    for room, expected in ((512 + 256 + 9 * 64, {(8, 64, 512)}), (3 * 256, {(1, 256, 0)})):
        engine = Engine(*decoder, ends=(END,), memory=size(room) + 4096)
        shapes = watch(engine, monkeypatch)
        tokens, _, finish = run(engine, *choices(5, budget=40))
        assert [len(made) for made in tokens] == [40] * 5 and finish == ["length"] * 5
        assert set(shapes) == expected
        assert engine._lanes._batches[0].claim <= size(room) + 4096
        engine.close()
        monkeypatch.undo()


def test_which_rows_share(sharing):
    policy = sharing._lanes._batches[0].sharing
    assert policy.worth(row(PROMPT[:129]), rows=4) == 128
    assert policy.worth(row(PROMPT[:128]), rows=128) == 0, "too short"
    assert policy.worth(row(PROMPT[:200]), rows=3) == 0, "too few"
    assert prefix_lengths((128, 256, 512, 1024, 2048)) == (512, 2048)
    assert prefix_lengths((128, 256, 512, 1024)) == (1024,) and prefix_lengths((128, 256)) == (256,)
    assert after_lengths((128, 256)) == (64, 128, 256)


def test_rows_that_wait_are_counted_by_what_they_begin_with():
    queue = Scheduler()
    first, second = Job(choices(3), "llmlab"), Job([*choices(2), *choices(2, OTHER)], "llmlab")
    other = replace(choices(1)[0], adapter=1)
    for job in (first, second):
        queue.add(job)
    assert [queue.alike(each) for each in (first.rows[0], second.rows[3], other, row("x"))] == [5, 2, 0, 0]
    queue.started(first)
    queue.drop(second, [1, 2])
    assert [queue.alike(each) for each in (first.rows[0], second.rows[3])] == [3, 1]
    queue.clear()
    queue.drop(second, [0])
    assert queue.alike(first.rows[0]) == 0 and not queue._alike


@pytest.mark.slow
@pytest.mark.exhaustive
def test_after_the_warmup_nothing_of_it_compiles(decoder):
    engine = Engine(*decoder, ends=(END,), max_context=256)
    engine.warmup()
    met = set(engine.programs._met)
    assert any("after 256" in shape for shape in met)
    run(
        engine,
        row("x", budget=100),
        *[replace(each, budget=20 + 13 * i) for i, each in enumerate(choices(7, PROMPT[:150]))],
    )
    run(engine, *choices(8, PROMPT[:150], budget=90), row("y" * 150, budget=9))
    assert engine.programs._met == met
    engine.close()


def test_a_follower_holds_the_prompt_too():
    model = make_model()
    wire = Wire(model)
    engine, alone = Engine(CONFIG, model, max_context=256, relay=wire), Engine(CONFIG, make_model(), max_context=256)
    rows = choices(4, PROMPT[:150], budget=12)
    assert run(engine, *rows)[0] == run(alone, *rows)[0]
    assert any("after 256" in shape for shape in engine.programs._met)
    held = {number: array() for number, array in wire.calls._held.values()}
    living = [number for number, array in held.items() if array is not None and not array.is_deleted()]
    assert living
    for number in living:
        np.testing.assert_array_equal(held[number], wire.follower._held[number])
    alone.close()
    engine.close()


CODE = """
import json, sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from llmlab.checkpoints.load import load_model
from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import row, run

engine_module.WIDTHS = (1, 8)
engine_module.lane_count = lambda: 1
folder = tiny_checkpoint(Path(sys.argv[1]), num_hidden_layers=1)
rows = [row("x" * 100 + "y" * 50, choice=i, budget=12, ignore_ends=True, temperature=0.9) for i in range(6)]
found = []
for shape in ((2, 2), None):
    mesh = shape and jax.make_mesh(shape, ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    engine = Engine(*load_model(folder, dtype=jnp.float32, mesh=mesh), max_context=256, mesh=mesh)
    tokens, figures, _ = run(engine, *rows)
    shared = any("after 256" in shape for shape in engine.programs._met)
    with engine.search(rows[0], rows=6) as search:
        search.start(), search.advance([0] * 5, range(5))
        searched = search.advance([4, 0, 4, 3], [7, 8, -1, 9])
    found.append([tokens, [each[0].tolist() for each in figures], shared, searched.tolist()])
    engine.close()
print(json.dumps(found))
"""


def test_over_a_mesh_that_divides_rows_and_heads(tmp_path):
    (tokens, logprobs, shared, logits), (expected, theirs, _, alone) = json.loads(
        on_devices(4, CODE, tmp_path / "tiny")
    )
    assert shared and tokens == expected
    np.testing.assert_allclose(logprobs, theirs, atol=1e-4)
    # Rows of a search, whose cache lies on the devices as that of a batch does.
    np.testing.assert_allclose(logits, alone, atol=1e-3)
