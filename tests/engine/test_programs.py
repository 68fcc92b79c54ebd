"""What the programs promise beside their results: precision, words for those who wait, widths that follow the load."""

import re

import numpy as np
import pytest

from llmlab.engine import engine as engine_module
from llmlab.engine import scheduler as scheduler_module
from llmlab.engine.engine import Engine
from llmlab.engine.score import pieces, with_masks
from llmlab.engine.score_tree import every_size
from llmlab.sampling.params import SamplingParams, stack
from llmlab.sampling.stages import ORDERS
from tests.engine.rows import END, read, row, run


def lowered(programs):
    """The programs that hold matrix products, as XLA is given them."""
    weights, nobody = programs._weights, programs.row_fields(row(budget=1), ends=())
    slots, cache = programs.empty(width=1, length=128), programs.row_cache(length=128)
    piece = pieces(np.zeros(2, np.int32), prompt=1, length=128)[0]
    inputs = with_masks(nobody.inputs, piece, None, first=0)
    scored = {"piece": piece, "inputs": inputs, "history": nobody.history, "order": "llmlab"}
    tree = next(every_size(vocab_size=programs.config.vocab_size, adapter=None))
    of_tree = {"tree": tree, "inputs": nobody.inputs, "history": nobody.history, "order": "llmlab"}
    one = np.zeros((1, 32), np.int32)
    return {
        "prefill": programs._prefill.lower(weights, cache=cache, tokens=one, start=np.int32(0), length=np.int32(1)),
        "forward": programs._forward.lower(weights, slots=slots),
        "chunk": programs._chunk.lower(weights, slots=slots, steps=np.int32(1), order="llmlab"),
        "feed": programs._feed.lower(weights, cache=cache, piece=piece),
        "score": programs._score.lower(weights, cache=cache, **scored),
        "score of a tree": programs._score_tree.lower(weights, cache=cache, **of_tree),
    }


def test_float32_is_float32_on_every_device(pinned):
    """A GPU or TPU multiplies float32 in less unless it is told otherwise, in every product of every program."""
    for name, program in lowered(pinned.programs).items():
        products = [line for line in program.as_text().splitlines() if "dot_general" in line]
        assert len(products) >= 7, name
        assert all("HIGHEST" in line for line in products), name


def test_a_reader_that_waits_is_told_what_is_compiled(decoder, monkeypatch):
    monkeypatch.setattr(scheduler_module, "WAIT_SECONDS", 0.005)
    engine = Engine(*decoder, ends=(END,), slots=3)
    told = set()
    ticket = engine.submit([row(budget=3)])
    ticket.on_wait = lambda: told.add(engine.programs.compiling)
    read(ticket, 1)
    assert any(said and said.startswith("compiling: ") for said in told), told
    assert engine.programs.compiling is None
    engine.close()


def test_a_batch_of_which_one_row_is_left_goes_on_narrow(free, monkeypatch):
    widths, run_lanes = set(), free._lanes.run

    def noted(**options):  # on the driver's thread: a reader may come to look after it has gone narrow
        widths.update(slots.width for batch in free._lanes._batches if (slots := batch._slots))
        return run_lanes(**options)

    monkeypatch.setattr(free._lanes, "run", noted)
    run(free, *[row(seed=seed, budget=90 if seed == 3 else 2, ignore_ends=True) for seed in range(8)])
    assert {8, 1} <= widths


def test_an_idle_engine_holds_its_prompts_and_no_batch(decoder, monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    engine = Engine(*decoder, ends=(END,), slots=8)
    for text in ("abcd" * 10, "efgh" * 10):
        run(engine, row(text, budget=2))
        if (thread := engine._thread) is not None:
            thread.join(timeout=30)
        assert all(batch._slots is None for batch in engine._lanes._batches), "the batch is free"
        assert engine._lanes.prompts._last is None
    assert len(engine._lanes.prompts.store) == 4, "the prompts stay for the next question about them"
    engine.close()
    assert len(engine._lanes.prompts.store) == 0


@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**63 - 1])
def test_a_row_that_fills_the_context_to_its_last_position(pinned, seed):
    """From the longest prompt there may be, and from the shortest."""
    for size in (pinned.max_context - 1, 1):
        budget = pinned.max_context - size
        (made,), (figures,), finish = run(pinned, row("x" * size, seed=seed, budget=budget, ignore_ends=True))
        assert len(made) == budget and finish == ["length"]
        assert all(np.isfinite(values).all() for values in figures[:7])


def test_which_stages_run_is_computed_once_for_a_whole_chunk(pinned):
    """Ten conditions computed at every step cost a small model an eighth of its speed at batch 1."""
    text = lowered(pinned.programs)["chunk"].compile().as_text()
    conditions = re.findall(r" conditional\(%?([\w.-]+)", text)
    made = {name: re.search(rf"^\s+(?:ROOT )?%?{re.escape(name)} = .*", text, re.M)[0] for name in conditions}
    before_the_loop = [name for name in conditions if " get-tuple-element(" in made[name]]
    # Every stage, the noise, and the watched tokens; top_k and top_p have one each of their own, on the logits.
    assert len(before_the_loop) == len(ORDERS["llmlab"]) + 2, made
    assert len(conditions) == len(before_the_loop) + 2


@pytest.mark.parametrize("order", ORDERS)
def test_empty_slots_ask_for_no_stage(pinned, order):
    inputs = pinned.programs.empty(width=1, length=128).inputs
    neutral = stack([SamplingParams()], vocab_size=inputs.bias.shape[1])
    assert [np.array_equal(a, b) for a, b in zip(inputs, neutral, strict=True) if a is not None].count(False) == 0
    assert not any(np.asarray(stage.active(inputs)).any() for stage in ORDERS[order])
