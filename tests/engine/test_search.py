"""Rows that go on from any of each other: the logits of each are those that it has alone, and nobody else is moved."""

import gc
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.errors import EngineError
from llmlab.models.families import build_model, cache_bytes, read_config
from llmlab.sampling.params import SamplingParams
from tests.engine.rows import END, read, row, run
from tests.engine.test_recompilation import compiled
from tests.engine.test_score_tree import _LATENT, _WINDOWS

NEAR = {"atol": 2e-4, "rtol": 1e-5}


def walk(engine, one, *, rows, steps, seed=0, most=97):
    """Random steps of a search; yields the tokens of each row and the logits after them."""
    rng = np.random.default_rng(seed)
    with engine.search(one, rows=rows) as search:
        texts, logits = [()], search.start()[None]
        yield texts, logits
        for _ in range(steps):
            count = int(rng.integers(1, rows + 1))
            parents = rng.integers(0, len(texts), count)
            tokens = np.where(rng.random(count) < 0.2, -1, rng.integers(0, most, count))
            logits = search.advance(parents, tokens)
            assert logits.shape == (count, engine.config.vocab_size) and logits.dtype == np.float32
            texts = [texts[p] if t < 0 else (*texts[p], int(t)) for p, t in zip(parents, tokens, strict=True)]
            yield texts, logits


def test_to_the_bit_what_rows_have_that_are_drawn_alone(pinned):
    one = row("Once upon a time", budget=12)
    for texts, logits in walk(pinned, one, rows=6, steps=8):
        for text, found in zip(texts, logits, strict=True):
            alone = pinned.step_logits(one, np.array(text, np.int32), rows=6)
            np.testing.assert_array_equal(found, alone)


def test_over_the_end_of_a_cache_and_beside_a_shared_prompt(free):
    # 120 tokens leave 8 positions of the shortest cache; of 200 tokens the rows have only what follows them.
    for length, shared in ((120, 0), (200, 199)):
        one = row("In the beginning was the word. " * 10, budget=40)
        one = Row(one.prompt[:length], one.params, budget=40)
        assert free._lanes._sharing.worth(one, rows=8) == shared
        for step, (texts, logits) in enumerate(walk(free, one, rows=8, steps=30, seed=length)):
            if step % 7 and step < 28:
                continue
            for text, found in list(zip(texts, logits, strict=True))[:2]:
                alone = free.next_logits(np.concatenate([one.prompt, text]).astype(np.int32))
                np.testing.assert_allclose(found, alone, **NEAR)


@pytest.mark.parametrize("family", ["windows", "latent"])
def test_other_caches(family):
    """A window of 7 tokens, and latent vectors."""
    config = read_config(_WINDOWS if family == "windows" else _LATENT)
    engine = Engine(config, build_model(config, rngs=nnx.Rngs(1), dtype=jnp.float32), slots=4)
    one = Row(np.arange(20, dtype=np.int32), SamplingParams(), budget=12)
    for texts, logits in walk(engine, one, rows=4, steps=8, most=96):
        for text, found in zip(texts, logits, strict=True):
            np.testing.assert_array_equal(found, engine.step_logits(one, np.array(text, np.int32), rows=4))
    engine.close()


def test_what_a_row_was_given_comes_before_the_search(pinned):
    made = np.array([5, 6, 7], np.int32)
    one = row("Once upon", budget=4)
    later = Row(one.prompt, one.params, budget=4, made=made)
    with pinned.search(later, rows=2) as search:
        np.testing.assert_array_equal(search.start(), pinned.step_logits(later, made[:0], rows=2))


def test_the_prompt_is_read_once(pinned):
    one = row("A prompt that nobody has read before, of some length; " * 3, budget=5)
    before = pinned.read_tokens
    for _ in range(2):
        for _ in walk(pinned, one, rows=8, steps=4):
            pass
    assert pinned.read_tokens - before == len(one.prompt) - 1


def test_rows_of_a_batch_are_not_moved(pinned):
    rows = [row("Once upon a time", seed=seed, budget=60, temperature=0.9, ignore_ends=True) for seed in range(3)]
    expected = run(pinned, *rows)
    ticket, found = pinned.submit(rows), []
    reader = threading.Thread(target=lambda: found.append(read(ticket, 3)))
    reader.start()
    other = row("Something else", budget=40)
    alone = [logits for _, logits in walk(pinned, other, rows=8, steps=30, seed=3)]
    reader.join()
    assert found[0][0] == expected[0]
    for ours, theirs in zip(found[0][1], expected[1], strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)
    for first, again in zip(alone, walk(pinned, other, rows=8, steps=30, seed=3), strict=True):
        np.testing.assert_array_equal(first, again[1])


def test_two_searches_beside_each_other(pinned):
    one, other = row("Once upon a time", budget=9), row("Something else", budget=9)
    alone = [[logits for _, logits in walk(pinned, each, rows=4, steps=6, seed=1)] for each in (one, other)]
    beside = zip(walk(pinned, one, rows=4, steps=6, seed=1), walk(pinned, other, rows=4, steps=6, seed=1), strict=True)
    for step, (first, second) in enumerate(beside):
        np.testing.assert_array_equal(first[1], alone[0][step])
        np.testing.assert_array_equal(second[1], alone[1][step])


def test_a_second_search_compiles_nothing(pinned):
    # However many rows a step has, whichever their parents; and with another prompt, budget and bound.
    for _ in walk(pinned, row("Once upon a time", budget=30), rows=8, steps=20, seed=1):
        pass
    before = len(compiled())
    for rows, seed in ((8, 2), (3, 3), (5, 4)):
        for _ in walk(pinned, row("Another text", budget=25 + rows), rows=rows, steps=20, seed=seed):
            pass
    assert compiled()[before:] == []


def test_wrong_steps_change_nothing(pinned):
    one = row("Once upon a time", budget=2)
    with pytest.raises(ValueError, match="1 to 8 rows, got 9"):
        pinned.search(one, rows=9)
    with pytest.raises(ValueError, match="exceed"):
        pinned.search(row("a", budget=pinned.max_context), rows=2)
    with pinned.search(one, rows=3) as search:
        search.start()
        expected = search.advance([0, 0], [5, 6])
        for parents, tokens, match in (
            ([0] * 4, [1] * 4, "1 to 3 rows"),
            ([], [], "1 to 3 rows"),
            ([0, 1], [1], "2 parents and 1 tokens"),
            ([2], [1], "parents must lie in 0..1"),
            ([-1], [1], "parents must lie"),
            ([0], [pinned.config.vocab_size], "tokens must lie"),
            ([0], [-2], "tokens must lie"),
        ):
            with pytest.raises(ValueError, match=match):
                search.advance(parents, tokens)
        np.testing.assert_array_equal(search.advance([0, 1], [-1, -1]), expected)
        search.advance([1], [9])
        with pytest.raises(ValueError, match="room for 2 tokens"):
            search.advance([0], [9])
    with pytest.raises(EngineError, match="closed"):
        search.advance([0], [-1])
    search.close()


def test_memory_is_counted_and_given_back(decoder):
    config, model = decoder
    size = lambda width, length: cache_bytes(config, batch=width, length=length, dtype=np.float32)  # noqa: E731
    # Two caches of 8 rows and 256 positions, since a step copies the rows, and one to read the prompt into.
    needed = 2 * size(8, 256) + size(1, 256)
    engine = Engine(config, model, ends=(END,), slots=8, max_context=256, memory=needed + size(1, 256))
    one = row("Once upon a time", budget=20)
    with engine.search(one, rows=8):
        assert engine._lanes._searched == needed
        with pytest.raises(EngineError, match="ask for fewer rows") as refused:
            engine.search(one, rows=2)
        assert refused.value.status == 503 and "are in use" in refused.value.message
        # A row has to run somewhere, also beside a search that has almost all of the memory.
        assert len(run(engine, row("Once", budget=5, ignore_ends=True))[0][0]) == 5
    assert engine._lanes._searched == 0
    forgotten = engine.search(one, rows=8)
    del forgotten
    gc.collect()
    assert engine._lanes._searched == 0
    with engine.search(one, rows=8) as search:
        search.start()
    engine.close()
    small = Engine(config, model, ends=(END,), slots=8, max_context=256, memory=needed - 1)
    with pytest.raises(EngineError, match=r"8 rows of up to 20 tokens needs .* MiB") as refused:
        small.search(one, rows=8)
    assert refused.value.status == 400 and refused.value.code == "search_too_large"
    assert len(run(small, row("Once", budget=5, ignore_ends=True))[0][0]) == 5
    small.close()


def test_an_interrupt_frees_the_memory_and_leaves_the_engine(pinned, monkeypatch):
    one, expand = row("Once upon a time", budget=9), pinned.programs.expand
    expected = [logits for _, logits in walk(pinned, one, rows=4, steps=5)]
    under_way = threading.Event()

    def slow(*args, **others):
        under_way.set()
        time.sleep(0.3)
        return expand(*args, **others)

    def interrupted(answer, lost):
        assert under_way.wait(60)
        raise KeyboardInterrupt

    with pinned.search(one, rows=4) as search:
        search.start()
        monkeypatch.setattr(pinned.programs, "expand", slow)
        # In place of a signal, which reaches a thread when it likes.
        monkeypatch.setattr(engine_module, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search.advance([0], [3])
        monkeypatch.undo()
        with pytest.raises(EngineError, match="closed"):
            search.advance([0], [3])
        assert pinned._lanes._searched == 0
    for first, again in zip(expected, walk(pinned, one, rows=4, steps=5), strict=True):
        np.testing.assert_array_equal(first, again[1])


def test_a_failure_ends_this_search_alone(pinned, monkeypatch):
    one = row("Once upon a time", budget=9)

    def fails(*args, **others):
        raise RuntimeError("the device is on fire")

    with pinned.search(one, rows=4) as search, pinned.search(one, rows=4) as other:
        first = other.start()
        monkeypatch.setattr(pinned.programs, "expand", fails)
        with pytest.raises(RuntimeError, match="on fire"):
            search.start()
        monkeypatch.undo()
        with pytest.raises(EngineError, match="closed"):
            search.start()
        np.testing.assert_array_equal(other.advance([0], [-1])[0], first)


def test_after_two_idle_seconds_a_search_goes_on(pinned, monkeypatch):
    from llmlab.engine import engine as module

    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    one = row("Once upon a time", budget=9)
    with pinned.search(one, rows=4) as search:
        first = search.start()
        while pinned._thread is not None:
            time.sleep(0.01)
        np.testing.assert_array_equal(search.advance([0, 0], [-1, -1])[1], first)


def test_a_closed_engine_says_so(decoder):
    engine = Engine(*decoder, ends=(END,), slots=8)
    search = engine.search(row("Once", budget=3), rows=2)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        search.start()
    search.close()
