"""The real model, found and loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import llmlab
from tests.real.smollm2 import INSTALL, find_smollm2


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    path = find_smollm2()
    if path is None:
        pytest.fail(f"the tests marked real need the real model: {INSTALL}")
    return path


@pytest.fixture(scope="session")
def lab(smollm2: Path) -> Iterator[llmlab.Lab]:
    """It in a lab, in float32."""
    made = llmlab.load(smollm2, dtype="float32", slots=2, max_context=512, quiet=True)
    yield made
    made.close()
