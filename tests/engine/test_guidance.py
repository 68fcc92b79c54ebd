"""Rows with a negative prompt: guidance and contrastive decoding where rows are decoded, admitted, moved and scored.

The oracle reads both texts whole, without a cache, and combines their log-probabilities in float64.
"""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.engine.chunks import ChunkedBatch
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.grammar.compose import JSON, grammar
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.sampling.draw import noise
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.params import seed_words
from tests.devices import on_devices
from tests.engine.rows import END, read, row, run
from tests.engine.test_recompilation import compiled
from tests.engine.test_relay import CONFIG, Wire, make_model
from tests.engine.test_sharing import alike
from tests.engine.test_step_logits import logprob

FIELDS = TokenStatistics._fields
LONGEST = 256
LIST = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 20}
pytestmark = pytest.mark.usefixtures("few_widths")


@pytest.fixture(scope="module")
def engine(decoder, few_widths):
    engine = Engine(*decoder, ends=(END,), max_context=256)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def logprobs(decoder):
    """Log-probabilities [V] after a text in float64, read in one pass without a cache."""
    return reader(decoder[1])


def reader(model):
    @jax.jit
    def after(ids, count):
        positions = jnp.arange(LONGEST, dtype=jnp.int32)[None]
        hidden, _ = model(ids[None], positions, length=count[None])
        return model.logits(hidden)[0, count - 1]

    def found(ids):
        padded = np.zeros(LONGEST, np.int32)
        padded[: len(ids)] = ids
        return normed(np.asarray(after(padded, np.int32(len(ids))), np.float64))

    return found


def normed(x):
    return x - np.logaddexp.reduce(x[np.isfinite(x)])


def ids(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def guided(prompt, negative, *, extra, budget=30, temperature=1.0, **more):
    asked = row(prompt, budget=budget, ignore_ends=True, temperature=temperature, extra=extra, **more)
    return replace(asked, negative=None if negative is None else ids(negative))


def expected(own, other, extra):
    """The definitions: Sanchez et al. 2023, equation 6; Li et al. 2022, equations 2 and 3."""
    if "guidance_scale" in extra:
        return normed(other + extra["guidance_scale"] * (own - other))
    if "contrastive_strength" not in extra:
        return own
    kept = np.exp(own) >= extra.get("contrastive_alpha", 0.1) * np.exp(own).max()
    return normed(np.where(kept, own - extra["contrastive_strength"] * other, -np.inf))


ROWS = [
    guided("Once upon a time", "Twice", extra={"guidance_scale": 2.5}),
    guided("a", "The second prompt may be the longer one.", extra={"guidance_scale": 0.0}, choice=1),
    guided("Once upon a time", None, extra={"guidance_scale": 1.7}, choice=2),  # against the prompt's last token
    guided("Once upon a time", "A time, upon", extra={"contrastive_strength": 1.0}, choice=3),
    guided("b", "ab", extra={"contrastive_strength": 0.6, "contrastive_alpha": 0.02}, temperature=0.7, choice=4),
    guided("Neither", "nor", extra={}, choice=5),
]
ORDER = "llmlab + guidance + contrast"


@pytest.mark.parametrize("at", range(len(ROWS)))
def test_every_token_is_that_of_the_definition(engine, logprobs, at):
    asked = ROWS[at]
    tokens, figures, _ = run(engine, asked)
    tokens, figures = np.array(tokens[0], np.int32), dict(zip(FIELDS, figures[0], strict=True))
    negative = asked.prompt[-1:] if asked.negative is None else asked.negative
    for t, token in enumerate(tokens):
        own = logprobs(np.concatenate([asked.prompt, tokens[:t]]))
        final = expected(own, logprobs(np.concatenate([negative, tokens[:t]])), asked.params.extra)
        final = normed(final / asked.params.temperature)
        seed = jnp.array([seed_words(asked.params.seed)], jnp.uint32)
        place = [jnp.array([x], jnp.int32) for x in (asked.params.choice, t)]
        perturbed = final + np.asarray(noise(seed, *place, len(final)), np.float64)[0]
        assert perturbed.max() - perturbed[token] < 1e-3
        # Raw stays what the model itself says after the prompt; what was drawn from is the combination.
        assert figures["logprob"][t] == pytest.approx(own[token], abs=1e-4)
        assert figures["sampling_logprob"][t] == pytest.approx(final[token], abs=1e-3)
        assert abs(int(figures["kept"][t]) - np.isfinite(final).sum()) <= 1
    assert len(tokens) == asked.budget


def test_rows_beside_others_in_other_widths_and_in_short_chunks_are_those_alone(engine, monkeypatch):
    alone = [run(engine, each, order=ORDER) for each in ROWS]
    together = tuple(list(part) for part in zip(*[tuple(p[0] for p in one) for one in alone], strict=True))
    alike(run(engine, *ROWS, order=ORDER), together)
    before = len(compiled())
    values = {"guidance_scale": 4.25, "contrastive_strength": 0.3, "contrastive_alpha": 0.4}
    run(
        engine,
        *[replace(r, params=r.params.changed(**{k: values[k] for k in r.params.extra})) for r in ROWS],
        order=ORDER,
    )
    assert len(compiled()) == before, "every number is traced"

    monkeypatch.setattr(ChunkedBatch, "_fitting", lambda self, seconds: 1)
    # Rows that come while others are there, and stay when these end.
    first = engine.submit([ROWS[0], replace(ROWS[1], budget=9)], order=ORDER)
    blocks = iter(first)
    begun = [next(blocks)]
    second = run(engine, *ROWS[2:4], order=ORDER)

    class Whole:
        def __iter__(self):
            return iter([*begun, *blocks])

    tokens, figures, finish = read(Whole(), 2)
    alike(([tokens[0]], [figures[0]], [finish[0]]), alone[0])
    assert tokens[1] == alone[1][0][0][:9]
    for at in (0, 1):
        alike(tuple([part[at]] for part in second), alone[at + 2])


def test_a_neutral_row_is_another_rows_neighbour_and_keeps_its_bits(pinned):
    """In a pinned batch: alone, beside guided rows, and without any."""
    plain = guided("Neither", None, extra={})
    alone = run(pinned, plain)
    neutral = run(pinned, replace(plain, params=plain.params.changed(guidance_scale=1.0, contrastive_strength=0.0)))
    assert neutral[0] == alone[0]
    for one, other in zip(neutral[1][0], alone[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    by_itself = [run(pinned, each, order=ORDER) for each in ROWS]
    together = run(pinned, *ROWS, *ROWS[:2], order=ORDER)
    for at, each in enumerate(by_itself):
        assert together[0][at] == each[0][0]
        for one, other in zip(together[1][at], each[1][0], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_scored_tokens_have_the_distributions_that_they_were_drawn_from(engine, at):
    """Over pieces of a text, and with a stage that has a state beside it."""
    extra = {**ROWS[at].params.extra, **({"mirostat": 2, "mirostat_tau": 4.0} if at else {})}
    asked = replace(ROWS[at], params=ROWS[at].params.changed(**extra), budget=90)
    tokens, figures, _ = run(engine, asked)
    scored = engine.score(asked, np.array(tokens[0], np.int32))
    for name in ("logprob", "sampling_logprob", "sampling_entropy", "entropy"):
        np.testing.assert_allclose(getattr(scored, name), figures[0][FIELDS.index(name)], atol=2e-2 if at else 1e-3)
    # A text of several is scored as alone, whatever its place.
    both = engine.score_all([both_text(ROWS[5], tokens[0][:40]), both_text(asked, tokens[0])])
    np.testing.assert_allclose(both[1].sampling_logprob, scored.sampling_logprob, atol=1e-5)


def both_text(asked, tokens):
    from llmlab.engine.score_plan import Text

    return Text(asked, np.array(tokens, np.int32))


def test_steps_gone_again_are_those_that_tokens_were_drawn_from(pinned):
    asked = ROWS[1]
    tokens, figures, _ = run(pinned, asked)
    for at in (0, 1, 17):
        own, other = pinned.step_logits(asked, np.array(tokens[0][:at], np.int32))
        token = tokens[0][at]
        assert logprob(own, token) == pytest.approx(figures[0][0][at], abs=1e-6)
        final = expected(normed(own.astype(np.float64)), normed(other.astype(np.float64)), asked.params.extra)
        assert final[token] == pytest.approx(figures[0][1][at], abs=1e-5)


def test_a_grammar_leaves_what_it_allows(engine, decoder):
    """In a batch whose masks come from the host."""
    size = decoder[0].vocab_size
    words = Vocabulary([bytes([i]) for i in range(256)], size=size, ends=(END,))
    asked = replace(
        guided("Say", "Be silent", extra={"guidance_scale": 2.0}, budget=60),
        grammar=grammar(words, JSON(LIST)), ignore_ends=False,
    )  # fmt: skip
    plain = replace(asked, params=asked.params.changed(guidance_scale=1.0))
    found, other = run(engine, asked), run(engine, plain)
    assert found[0] != other[0]
    scored_own, scored_other = engine.step_logits(asked, np.array(found[0][0][:3], np.int32))
    assert scored_own.shape == scored_other.shape == (size,)
    matcher = asked.grammar.matcher()
    for token in found[0][0]:
        if token != END:
            matcher.advance(token)


def test_memory_is_that_of_two_caches(decoder, monkeypatch):
    """A row takes two caches, and rows that do not fit wait."""
    plain = Engine(*decoder, ends=(END,), max_context=128)
    size = plain.programs.cache_bytes
    memory = 2 * size(width=1, length=128) + 2 * size(width=1, length=128)
    plain.close()
    engine = Engine(*decoder, ends=(END,), max_context=128, memory=memory)
    shapes = []
    run_lanes = engine._lanes.run

    def watched(**options):
        shapes.append([batch._slots.width for batch in engine._lanes._batches if batch._slots is not None])
        return run_lanes(**options)

    monkeypatch.setattr(engine._lanes, "run", watched)
    some = [replace(each, budget=9) for each in ROWS[:3]]
    found = run(engine, *some)
    assert {width for each in shapes for width in each} == {1}
    assert [len(each) for each in found[0]] == [9, 9, 9]
    engine.close()


def test_what_does_not_fit_is_refused(engine):
    long = Row(ids("a"), ROWS[0].params, budget=60, negative=np.zeros(200, np.int32))
    with pytest.raises(ValueError, match="200 prompt tokens and 60 more exceed 256"):
        engine.submit([long])
    with pytest.raises(ValueError, match="at least one prompt token"):
        engine.submit([replace(long, negative=np.zeros(0, np.int32))])


def test_other_orders_hold_no_second_cache(engine):
    assert engine.programs.empty(width=1, length=128, order="llmlab + typical_p").negative is None
    assert run(engine, replace(ROWS[5], negative=None))[0] == run(engine, ROWS[5])[0], "nothing reads it"


def test_a_followers_process_runs_the_same_programs():
    """Where a mesh spans processes: every call is told, and the arrays of both caches are numbered."""
    model = make_model()
    wire = Wire(model)
    engine, alone = Engine(CONFIG, model, max_context=128, relay=wire), Engine(CONFIG, make_model(), max_context=128)
    rows = [replace(each, budget=9) for each in ROWS[:3]]
    assert run(engine, *rows)[0] == run(alone, *rows)[0]
    tokens = np.array(run(engine, rows[0])[0][0], np.int32)
    np.testing.assert_allclose(
        engine.score(rows[0], tokens).sampling_logprob, alone.score(rows[0], tokens).sampling_logprob
    )
    alone.close()
    engine.close()


MESH = """
import json, sys
from pathlib import Path
import jax
import jax.numpy as jnp
from llmlab.checkpoints.load import load_model
from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import run
from tests.engine.test_guidance import ROWS

engine_module.WIDTHS = (1, 8)
engine_module.lane_count = lambda: 1
folder = tiny_checkpoint(Path(sys.argv[1]), num_hidden_layers=1)
found = []
for shape in ((2, 2), None):
    mesh = shape and jax.make_mesh(shape, ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    engine = Engine(*load_model(folder, dtype=jnp.float32, mesh=mesh), max_context=128, mesh=mesh)
    tokens, figures, _ = run(engine, *ROWS, order="llmlab + guidance + contrast")
    found.append([tokens, [each[1].tolist() for each in figures]])
    engine.close()
print(json.dumps(found))
"""


def test_over_a_mesh_that_divides_rows_and_heads(tmp_path):
    (tokens, logprobs), (expected, theirs) = json.loads(on_devices(4, MESH, tmp_path / "tiny"))
    assert tokens == expected
    np.testing.assert_allclose(logprobs, theirs, atol=1e-4)
