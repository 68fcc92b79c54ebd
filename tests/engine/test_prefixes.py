"""What two texts begin with is read once; a text that starts from there is answered to the bit as one that is read."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.engine import prefill as prefill_module
from llmlab.engine.engine import Engine
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import END, read, row, run
from tests.engine.test_seeds import same

LONG = "In the beginning was the word, and the word was a token. " * 5  # 285 tokens


@pytest.fixture(params=["llama", "deepseek_v3", "gemma3_text"])
def cold(request, tmp_path):
    """An engine with pinned slots that has read nothing, over keys and values, latent vectors, and a window."""
    decoder = load_model(tiny_checkpoint(tmp_path / "tiny", family=request.param), dtype=jnp.float32)
    engine = Engine(*decoder, ends=(END,), slots=4)
    yield engine
    engine.close()


def forget(engine):
    engine._call(engine._lanes.prompts.clear)


def test_to_the_bit_whether_read_or_from_the_store(cold):
    """Alone, beside others and streamed; from a whole prompt, a beginning, one in another's middle, and nothing."""
    rows = [
        row(text, budget=20, temperature=0.9, ignore_ends=True)
        for text in (LONG[:200], LONG[:261], LONG[:90] + "and so on", LONG, LONG[:129], LONG[:128], "In", LONG[:200])
    ]
    expected = []
    for one in rows:
        forget(cold)
        expected.append(run(cold, one))
    forget(cold)
    before = cold.read_tokens
    for turn in range(2):  # each from what the ones before it left; then each from itself
        for one, was in zip(rows, expected, strict=True):
            same(run(cold, one), was)
        assert cold.read_tokens - before < sum(len(one.prompt) for one in rows), turn
    forget(cold)
    tickets = [cold.submit([one]) for one in rows]
    for ticket, was in zip(tickets, expected, strict=True):
        same(read(ticket, 1), was)


def test_what_the_decoder_says_after_a_prompt_does_not_depend_on_the_store(cold):
    texts = [row(LONG[:count]).prompt for count in (40, 41, 150, 285)]
    first = []
    for text in texts:
        forget(cold)
        first.append(cold.next_logits(text))
    forget(cold)
    for text, was in zip([*texts, *texts[::-1]], [*first, *first[::-1]], strict=True):
        np.testing.assert_array_equal(cold.next_logits(text), was)


def test_a_text_starts_from_the_longest_beginning_that_was_read(decoder):
    engine = Engine(*decoder, ends=(END,))
    run(engine, row(LONG[:261], budget=2))
    assert (engine.prefills, engine.read_tokens) == (1, 260)
    run(engine, row(LONG[:261], budget=2), row(LONG[:261], budget=2, choice=1))
    assert (engine.prefills, engine.read_tokens) == (1, 260)
    run(engine, row(LONG[:200] + "?", budget=2))  # 128 are shared; 72 follow, in pieces of 32 that nobody has read
    assert (engine.prefills, engine.read_tokens) == (2, 260 + 72)
    run(engine, row(LONG[:197] + " " * 40, budget=2))  # 192 are shared
    assert engine.read_tokens == 260 + 72 + 44
    engine.score(row(LONG[:261]), np.arange(3, dtype=np.int32))
    engine.next_logits(row(LONG[:200] + "?").prompt)
    assert (engine.prefills, engine.read_tokens) == (3, 260 + 72 + 44)
    engine.close()


def test_the_next_turn_of_a_chat_reads_what_is_new(decoder):
    """Not more than the answer, the question, and the last border before them."""
    engine = Engine(*decoder, ends=(END,))
    text, read_so_far = LONG, []
    for turn in range(5):
        (made,), _, _ = run(engine, row(text, seed=turn, budget=12, ignore_ends=True))
        read_so_far.append(engine.read_tokens)
        text += "".join(map(chr, np.array(made) % 128)) + "And then?"
    assert all(later - now <= 128 + 21 for now, later in zip(read_so_far, read_so_far[1:], strict=False))
    engine.close()


def test_what_was_made_is_read_after_its_prompt(decoder):
    """As `branch` and `tree` submit it."""
    engine = Engine(*decoder, ends=(END,))
    one = row(LONG[:98], budget=4, ignore_ends=True)
    run(engine, one)
    for made in range(1, 8):
        run(engine, replace(one, made=np.arange(made, dtype=np.int32)))
    assert engine.read_tokens <= 97 + 7 * 8
    engine.close()


def test_many_choices_read_their_prompt_once(decoder):
    engine = Engine(*decoder, ends=(END,))
    run(engine, *(row(LONG, choice=i, budget=3) for i in range(128)))
    assert (engine.prefills, engine.read_tokens) == (1, len(LONG) - 1)
    engine.close()


def test_an_error_while_a_prompt_is_read_leaves_what_was_read(decoder, monkeypatch):
    engine = Engine(*decoder, ends=(END,))
    prefill, calls = engine.programs.prefill, []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("no such luck")
        return prefill(*args, **options)

    monkeypatch.setattr(engine.programs, "prefill", failing)
    with pytest.raises(Exception, match="no such luck"):
        run(engine, row(LONG, budget=3))
    assert not any(node.uses for node in engine._lanes.prompts.store)
    assert len(run(engine, row(LONG, budget=3, ignore_ends=True))[0][0]) == 3
    assert engine.read_tokens == len(LONG) - 1
    engine.close()


def test_the_sizes_of_an_accelerator(decoder, monkeypatch):
    """Larger pieces, the same logits to what float32 holds of them."""
    engine = Engine(*decoder, ends=(END,))
    expected = [engine.next_logits(row(LONG[:count]).prompt) for count in (20, 140, 285)]
    engine.close()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sizes = prefill_module.piece_sizes(512)
    monkeypatch.undo()
    assert sizes == (128, 512)
    monkeypatch.setattr("llmlab.engine.prompts.piece_sizes", lambda length: sizes)
    engine = Engine(*decoder, ends=(END,))
    for count, was in zip((20, 140, 285), expected, strict=True):
        np.testing.assert_allclose(engine.next_logits(row(LONG[:count]).prompt), was, atol=1e-4)
    engine.close()
