"""Rows that hypothesis makes up for the oracle, and their arrays for the program.

Three kinds, because float32 rounds each penalty to some 4e-6 at a logit of 60, and a temperature of 1e-4 would blow
that up to percents of a probability with nobody to blame:

- *grid*: logits and penalties that float32 adds and multiplies exactly, with ties everywhere, at any temperature;
- *bare*: any float32 logits, without bias and penalties, at any temperature;
- *smooth*: any logits and any penalties, at temperatures from 0.3 on, and greedy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from tests.sampling.oracle import Case

PLAIN = SamplingParams()


def _eighths(low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(int(low * 8), int(high * 8)).map(lambda n: n / 8)


_TEMPERATURES = st.one_of(st.just(1.0), st.just(0.0), st.floats(0.3, 2.0), st.floats(1.01e-5, 0.3))
_WARM = st.one_of(st.just(1.0), st.sampled_from([0.0, 9.9e-6]), st.floats(0.3, 2.0))
_TOP_K = st.one_of(st.just(0), st.just(0), st.integers(1, 8), st.integers(1, 128))
_TOP_P = st.one_of(st.just(1.0), st.sampled_from([0.5, 0.25, 0.9, 1e-6]), st.floats(1e-3, 0.9999))
_MIN_P = st.one_of(st.just(0.0), st.just(0.0), st.sampled_from([1.0, 0.5, 0.05]), st.floats(1e-3, 1.0))


def _bias(values: st.SearchStrategy[float], vocab_size: int) -> st.SearchStrategy[dict[int, float]]:
    return st.one_of(st.just({}), st.dictionaries(st.integers(0, vocab_size - 1), values, max_size=5))


@st.composite
def params(draw: st.DrawFn, *, kind: str, vocab_size: int) -> SamplingParams:
    fields = {
        "temperature": draw(_WARM if kind == "smooth" else _TEMPERATURES),
        "top_k": draw(_TOP_K),
        "top_p": draw(_TOP_P),
        "min_p": draw(_MIN_P),
        "min_tokens": draw(st.integers(0, 2)),
        "seed": draw(st.integers(-(2**63), 2**63 - 1)),
        "choice": draw(st.integers(0, 127)),
    }
    if kind == "grid":
        fields |= {
            "repetition_penalty": draw(st.sampled_from([1.0, 0.5, 2.0])),
            "frequency_penalty": draw(st.one_of(st.just(0.0), _eighths(-2, 2))),
            "presence_penalty": draw(st.one_of(st.just(0.0), _eighths(-2, 2))),
            "logit_bias": draw(_bias(_eighths(-100, 100), vocab_size)),
        }
    if kind == "smooth":
        fields |= {
            "repetition_penalty": draw(st.one_of(st.just(1.0), st.floats(0.2, 2.0))),
            "frequency_penalty": draw(st.one_of(st.just(0.0), st.floats(-2, 2))),
            "presence_penalty": draw(st.one_of(st.just(0.0), st.floats(-2, 2))),
            "logit_bias": draw(_bias(st.one_of(st.sampled_from([-100.0, 100.0]), st.floats(-5, 5)), vocab_size)),
        }
    return SamplingParams(**fields)


def _logits(rng: np.random.Generator, kind: str, shape: str, vocab_size: int) -> np.ndarray:
    scale = {"flat": 0.0, "mild": 1.0, "peaked": 6.0, "huge": 500.0 if kind == "bare" else 6.0}[shape]
    logits = np.clip(rng.normal(size=vocab_size) * scale, -6 * scale, 6 * scale)
    if kind == "grid":
        logits = np.round(logits * 8) / 8
    elif rng.random() < 0.3:
        logits = rng.choice(logits, size=vocab_size)  # some values occur several times
    return logits.astype(np.float32)


@st.composite
def case(draw: st.DrawFn, *, vocab_size: int) -> Case:
    """One row. What is large comes from a seed that hypothesis draws; what decides, it draws itself."""
    kind = draw(st.sampled_from(["grid", "bare", "smooth"]))
    shape = draw(st.sampled_from(["mild", "peaked", "flat", "huge"]))
    removed = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    grammar = draw(st.sampled_from([None, None, 0.5, 0.02, 0.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = _logits(rng, kind, shape, vocab_size)
    if removed:  # 1.0: one token is left
        gone = rng.random(vocab_size) < removed
        gone[rng.integers(vocab_size)] = False
        logits[gone] = -np.inf
    allowed = None
    if grammar is not None:  # 0.0: the grammar leaves one token
        allowed = rng.random(vocab_size) < grammar
        allowed[rng.integers(vocab_size)] = True
    counts = np.where(rng.random(vocab_size) < 0.2, rng.integers(1, 5, vocab_size), 0)
    return Case(
        logits=logits,
        params=draw(params(kind=kind, vocab_size=vocab_size)),
        prompt=rng.random(vocab_size) < 0.2,
        counts=counts,
        position=draw(st.integers(0, 2)),
        ends=(0,),
        allowed=allowed,
    )


def arrays(cases: Sequence[Case]) -> tuple[np.ndarray, SamplerInputs, History]:
    """The arguments of `run` for a batch of cases, with a grammar's mask in every row that has one."""
    vocab_size = len(cases[0].logits)
    inputs = stack([case.params for case in cases], vocab_size=vocab_size, ends=cases[0].ends)
    words = -(-vocab_size // 32)
    # The bits past the vocabulary are set, and the rows without a grammar forbid all: neither may matter.
    bits = np.zeros((len(cases), words * 32), bool)
    bits[:, vocab_size:] = True
    for row, case in enumerate(cases):
        if case.allowed is not None:
            bits[row, :vocab_size] = case.allowed
    packed = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
    masked = np.array([case.allowed is not None for case in cases])
    history = History(
        prompt=np.stack([case.prompt for case in cases]),
        counts=np.stack([case.counts for case in cases]).astype(np.int32),
        position=np.array([case.position for case in cases], np.int32),
    )
    return np.stack([case.logits for case in cases]), inputs._replace(mask=packed, masked=masked), history
