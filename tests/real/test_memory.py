"""What loading the real model takes."""

from __future__ import annotations

import pytest

from llmlab.cli.load_memory import load_memory

pytestmark = pytest.mark.real


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_loading_needs_little_more_than_the_weights(smollm2, dtype):
    found = load_memory(str(smollm2), dtype=dtype)
    assert found is not None
    print(f"{dtype}: {found.weights / 1e6:.0f} MB of weights, peak {found.ratio:.2f} x")
    floats = 134_515_008 * 4
    if dtype == "int8":  # the file's own tables take some 30 MB, a quarter of such small weights
        assert found.weights <= 0.30 * floats and found.peak - found.base <= 1.15 * 0.30 * floats
    else:
        assert found.weights == floats // (1 if dtype == "float32" else 2)
        assert found.ratio <= 1.15
