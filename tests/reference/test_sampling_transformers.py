"""The stages against transformers' own logits processors, live, on random logits in which nothing ties.

Three conventions differ and are avoided or allowed for: its top_k keeps everything that ties with the k-th; its top_p
sorts ascending and drops a token while the mass up to and including it is <= 1 - p, which is ours but for a mass that
hits p exactly; its min_p drops what is strictly less, as ours does.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.sampling.penalties import apply_repetition
from llmlab.sampling.truncation import apply_min_p, apply_temperature, apply_top_k, apply_top_p

pytestmark = pytest.mark.reference

B, V = 8, 2000


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    from scipy import stats

    rng = np.random.default_rng(0)
    quantiles = stats.norm.ppf((np.arange(V) + rng.uniform(0.2, 0.8, V)) / V) * 3
    values = np.stack([rng.permutation(quantiles) for _ in range(B)]).astype(np.float32)
    assert all(len(np.unique(row)) == V for row in values)
    return values


def column(value: float, dtype: type = jnp.float32) -> jnp.ndarray:
    return jnp.full((B,), value, dtype)


def theirs(processor, logits: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    import torch

    seen = torch.zeros((B, 1), dtype=torch.long) if ids is None else torch.from_numpy(ids)
    return processor(seen, torch.from_numpy(logits.copy())).numpy()


def same_law(ours: jnp.ndarray, theirs: np.ndarray) -> None:
    """The same support, and the same probabilities to 1e-6."""
    left = np.asarray(ours)
    np.testing.assert_array_equal(left > -np.inf, theirs > -np.inf)

    def softmax(values: np.ndarray) -> np.ndarray:
        weights = np.exp(values.astype(np.float64) - values.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    np.testing.assert_allclose(softmax(left), softmax(theirs), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 1.9])
def test_temperature(logits: np.ndarray, temperature: float) -> None:
    from transformers import TemperatureLogitsWarper

    ours = apply_temperature(jnp.asarray(logits), temperature=column(temperature))
    same_law(ours, theirs(TemperatureLogitsWarper(temperature), logits))


@pytest.mark.parametrize("k", [1, 2, 50, 128])
def test_top_k(logits: np.ndarray, k: int) -> None:
    from transformers import TopKLogitsWarper

    ours = apply_top_k(jnp.asarray(logits), top_k=column(k, jnp.int32))
    same_law(ours, theirs(TopKLogitsWarper(k), logits))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9, 0.99])
def test_top_p(logits: np.ndarray, p: float) -> None:
    from transformers import TopPLogitsWarper

    ours = apply_top_p(jnp.asarray(logits), top_p=column(p))
    same_law(ours, theirs(TopPLogitsWarper(p), logits))


@pytest.mark.parametrize("min_p", [0.001, 0.05, 0.5, 1.0])
def test_min_p(logits: np.ndarray, min_p: float) -> None:
    from transformers import MinPLogitsWarper

    ours = apply_min_p(jnp.asarray(logits), min_p=column(min_p))
    same_law(ours, theirs(MinPLogitsWarper(min_p), logits))


@pytest.mark.parametrize("penalty", [0.5, 1.1, 2.0])
def test_repetition(logits: np.ndarray, penalty: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    ids = np.random.default_rng(1).integers(0, V, (B, 60))
    seen = np.zeros((B, V), bool)
    seen[np.arange(B)[:, None], ids] = True
    ours = apply_repetition(jnp.asarray(logits), penalty=column(penalty), seen=jnp.asarray(seen))
    np.testing.assert_allclose(ours, theirs(RepetitionPenaltyLogitsProcessor(penalty), logits, ids), rtol=1e-6)


def test_all_together(logits: np.ndarray) -> None:
    # In transformers' order, which for these four is ours.
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    left, reference = jnp.asarray(logits), logits
    left = apply_temperature(left, temperature=column(1.3))
    left = apply_top_k(left, top_k=column(100, jnp.int32))
    left = apply_top_p(left, top_p=column(0.9))
    left = apply_min_p(left, min_p=column(0.02))
    for warper in (TemperatureLogitsWarper(1.3), TopKLogitsWarper(100), TopPLogitsWarper(0.9), MinPLogitsWarper(0.02)):
        reference = theirs(warper, reference)
    same_law(left, reference)
