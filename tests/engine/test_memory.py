"""What lies on the device, and for whom: caches of several lengths, lanes that share the memory, rows nobody wants."""

import time

import jax
import numpy as np

from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.models.families import cache_bytes
from tests.engine.rows import END, read, row, run


def watched(engine, config, monkeypatch):
    """What the batch's caches take in bytes, after each chunk; with the prompts they never take more than there is."""
    sizes, run_lanes = [], engine._lanes.run

    def run(**options):  # on the driver's thread, where nobody else has hold of the slots
        found = run_lanes(**options)
        held = [slots for batch in engine._lanes._batches if (slots := batch._slots)]
        sizes.append(sum(cache_bytes(config, batch=s.width, length=s.length, dtype=np.float32) for s in held))
        if (memory := engine._lanes._memory) is not None:
            prompts = engine._lanes.prompts
            last = [prompts._last.cache] if prompts._last else []
            whole = [x for s in held for x in jax.tree.leaves(s.cache)] + jax.tree.leaves(
                [[node.value for node in prompts.store], last]
            )
            assert sum(x.nbytes for x in whole) <= memory
        return found

    monkeypatch.setattr(engine._lanes, "run", run)
    return sizes


def test_the_lanes_keep_to_the_memory_together(decoder, monkeypatch):
    config, model = decoder
    one = cache_bytes(config, batch=1, length=1, dtype=np.float32)
    memory = one * 256 * 41  # 32 rows of 256 positions in one lane leave room for 8 in another, and one to read into
    engine = Engine(config, model, ends=(END,), max_context=256, memory=memory)
    sizes = watched(engine, config, monkeypatch)
    ticket = engine.submit([row(choice=i, budget=200, ignore_ends=True) for i in range(48)])
    tokens, finish = 0, []
    for block in ticket:
        tokens += sum(len(piece.tokens) for piece in block)
        finish += [piece.finish for piece in block if piece.finish]
    assert tokens == 48 * 200 and finish == ["length"] * 48
    assert one * 256 * 32 <= max(sizes) <= memory
    engine.close()


def test_a_cache_that_became_long_counts_as_long_while_rows_are_in_it(decoder, monkeypatch):
    """A long row that has ended leaves the others in its long cache: as many as would fit a short one do not fit it."""
    config, model = decoder
    monkeypatch.setattr(engine_module, "lane_count", lambda: 1)
    memory = cache_bytes(
        config, batch=9, length=512, dtype=np.float32
    )  # to read one and hold 8, or 32 of 128 positions
    engine = Engine(config, model, ends=(END,), max_context=512, memory=memory)
    sizes = watched(engine, config, monkeypatch)
    long = engine.submit([row("x" * 300, budget=2, ignore_ends=True), row(budget=100, ignore_ends=True)])
    blocks = iter(long)
    next(blocks)
    many = engine.submit([row(choice=i, budget=4, ignore_ends=True) for i in range(30)])
    tokens, _, finish = read(many, 30)
    assert [len(made) for made in tokens] == [4] * 30 and finish == ["length"] * 30
    assert sum(len(piece.tokens) for block in blocks for piece in block if piece.row == 1) > 10
    assert max(sizes) <= memory
    engine.close()


def test_a_lane_whose_rows_have_ended_leaves_its_memory_to_the_other(decoder, monkeypatch):
    """Also while rows keep coming, so that nobody has the time to tidy up."""
    config, model = decoder
    monkeypatch.setattr(engine_module, "lane_count", lambda: 2)
    both = cache_bytes(config, batch=64, length=128, dtype=np.float32)  # two lanes of 32 short rows, or one of long
    memory = both + cache_bytes(config, batch=1, length=256, dtype=np.float32)
    engine = Engine(config, model, ends=(END,), max_context=256, memory=memory)
    monkeypatch.setattr(engine._lanes, "narrow", lambda: None)
    sizes = watched(engine, config, monkeypatch)
    run(engine, *[row(choice=i, budget=2, ignore_ends=True) for i in range(34)])
    assert max(sizes) == both
    run(engine, *[row("x" * 100, choice=i, budget=100, ignore_ends=True) for i in range(32)])
    assert max(sizes) == both
    engine.close()


def test_the_prompts_give_way_to_the_batch(decoder, monkeypatch):
    """Idle, they may take a quarter of the memory; beside a batch what it leaves; and more is read again."""
    config, model = decoder
    monkeypatch.setattr(engine_module, "lane_count", lambda: 1)
    memory = cache_bytes(config, batch=9, length=256, dtype=np.float32) + cache_bytes(
        config, batch=1, length=64, dtype=np.float32
    )
    engine = Engine(config, model, ends=(END,), max_context=256, memory=memory)
    sizes = watched(engine, config, monkeypatch)
    held = []
    for i in range(12):
        run(engine, row(f"{i:03}" * 33, budget=2, ignore_ends=True))
        held.append(engine._lanes.prompts.held_bytes)
    assert held == sorted(held) and memory / 5 < held[-1] <= memory / 4
    # Of prompts of their own, so that each row has a whole copy.
    run(engine, *[row(f"{i}" * 140, budget=3, ignore_ends=True) for i in range(8)])
    assert engine._lanes.prompts.held_bytes <= cache_bytes(config, batch=1, length=64, dtype=np.float32)
    assert 0 < max(sizes) <= memory
    engine.close()
    assert engine._lanes.prompts.held_bytes == 0


def test_a_cache_is_no_longer_than_its_rows_may_get(decoder, monkeypatch):
    """Though a chunk has more steps than they have tokens left."""
    config, model = decoder
    engine = Engine(config, model, ends=(END,), max_context=256)
    sizes = watched(engine, config, monkeypatch)
    for budget in (127, 128):
        tokens, _, _ = run(engine, row("x", budget=budget, ignore_ends=True))
        assert len(tokens[0]) == budget
        assert max(sizes) == cache_bytes(config, batch=1, length=128 if budget == 127 else 256, dtype=np.float32)
    engine.close()


def test_the_warmup_keeps_to_the_memory_and_leaves_nothing_out(decoder, monkeypatch):
    config, model = decoder
    memory = cache_bytes(config, batch=9, length=128, dtype=np.float32)
    monkeypatch.setattr(engine_module, "WIDTHS", (1, 8))
    monkeypatch.setattr(engine_module, "lane_count", lambda: 1)
    engine = Engine(config, model, ends=(END,), max_context=256, memory=memory)
    sizes, empty = [], engine.programs.empty

    def noted(*, width, length, order):
        sizes.append(cache_bytes(config, batch=width, length=length, dtype=np.float32))
        return empty(width=width, length=length, order=order)

    monkeypatch.setattr(engine.programs, "empty", noted)
    engine.warmup()
    assert max(sizes) == cache_bytes(config, batch=8, length=128, dtype=np.float32)
    met = set(engine.programs._met)
    for rows in ([row(budget=4)] * 8, [row("x" * 200, budget=4)], [row(budget=120)] * 2, [row(budget=200)] * 2):
        run(engine, *rows)
    run(engine, row(budget=8), *[row("x" * 130, budget=8)] * 2)
    assert engine.programs._met == met
    engine.close()


def test_a_prompt_that_was_kept_in_a_longer_cache_is_read_again_for_a_shorter(free):
    expected = run(free, row("somebody's prompt", budget=5))[0]
    ticket = free.submit([row("x" * 300, budget=100, ignore_ends=True)])
    blocks = iter(ticket)
    next(blocks)
    assert run(free, row("a prompt that two have", budget=5))[0]  # beside a long row, in a long cache
    ticket.cancel()
    list(blocks)
    alone = run(free, row("a prompt that two have", budget=5, temperature=0.0))[0]
    assert alone == run(free, row("a prompt that two have", budget=5, temperature=0.0))[0]
    assert run(free, row("somebody's prompt", budget=5))[0] == expected


def test_nothing_comes_of_a_row_once_it_is_cancelled(pinned):
    """Not even what lay ready."""
    ticket = pinned.submit([row(seed=seed, budget=60, ignore_ends=True) for seed in range(3)])
    deadline = time.monotonic() + 60
    while ticket._job.results.qsize() < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    ticket.cancel([0, 2])
    tokens, _, _ = read(ticket, 3)
    assert tokens[0] == tokens[2] == [] and len(tokens[1]) == 60
