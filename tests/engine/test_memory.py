"""What lies on the device, and for whom: caches of several lengths, lanes that share the memory, rows nobody wants."""

import time

import numpy as np

from llmlab.engine.engine import Engine
from llmlab.models.cache import cache_bytes
from tests.engine.rows import END, read, row, run


def test_the_lanes_keep_to_the_memory_together(decoder, monkeypatch):
    config, model = decoder
    one = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
    memory = one * 256 * 40  # 32 rows of 256 positions in one lane leave room for 8 in another
    engine = Engine(config, model, ends=(END,), max_context=256, memory=memory)
    sizes, run_lanes = [], engine._lanes.run

    def watched(**options):  # on the driver's thread, where nobody else has hold of the slots
        found = run_lanes(**options)
        held = [slots for batch in engine._lanes._batches if (slots := batch._slots)]
        sizes.append(sum(cache_bytes(config, batch=s.width, length=s.length, dtype=np.float32) for s in held))
        return found

    monkeypatch.setattr(engine._lanes, "run", watched)
    ticket = engine.submit([row(choice=i, budget=200, ignore_ends=True) for i in range(48)])
    tokens, finish = 0, []
    for block in ticket:
        tokens += sum(len(piece.tokens) for piece in block)
        finish += [piece.finish for piece in block if piece.finish]
    assert tokens == 48 * 200 and finish == ["length"] * 48
    assert one * 256 * 32 <= max(sizes) <= memory
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
