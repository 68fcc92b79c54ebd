"""A tiny decoder in two engines: one of a pinned width, one whose width follows the load."""

import jax.numpy as jnp
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import END


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    return load_model(tiny_checkpoint(tmp_path_factory.mktemp("engine") / "tiny"), dtype=jnp.float32)


@pytest.fixture(scope="session")
def pinned(decoder):
    """Eight slots, always."""
    engine = Engine(*decoder, ends=(END,), slots=8)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def free(decoder):
    """A width that follows the load."""
    engine = Engine(*decoder, ends=(END,))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def few_widths():
    """One lane of up to 8 rows, so that few programs are compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "WIDTHS", (1, 8))
        patch.setattr(engine_module, "lane_count", lambda: 1)
        yield
