"""The tests are only as strict as their set-up: that it is in force is worth a test of its own."""

from __future__ import annotations

import warnings

import jax.dtypes
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from llmlab.text.stops import StopMatcher


def test_dtypes_are_not_promoted_silently():
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(3, jnp.float32) + jnp.ones(3, jnp.int32)


def test_ranks_are_not_promoted_silently():
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_annotations_are_checked():
    with pytest.raises(TypeCheckError, match="include"):
        StopMatcher(["a"], include="yes")


def test_shapes_are_checked():
    from llmlab.sampling.logprobs import logprobs_and_entropy

    with pytest.raises(TypeCheckError):
        logprobs_and_entropy(np.zeros((2, 3, 4), np.float32))


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning, match="here"):
        warnings.warn("here", stacklevel=1)
