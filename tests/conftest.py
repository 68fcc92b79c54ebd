"""Strictness that only the tests pay for, and the fixtures that more than one file wants.

Array shapes written in annotations are checked at run time, JAX refuses to promote dtypes or ranks silently, and the
programs that XLA compiled once are kept between runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Set before JAX is imported, and inherited by the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# No window, whatever the machine offers; and nothing in the tests may go looking on the hub.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings  # noqa: E402 - the environment above has to come first
from jaxtyping import install_import_hook  # noqa: E402

# Every module of the package that is imported from here on is checked; an int is welcome where a float is (PEP 484).
install_import_hook("llmlab", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# A first call may compile for seconds, so no example has a deadline. Under CI the examples are the same every time.
settings.register_profile("llmlab", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("llmlab")


from tests.completions import (  # noqa: E402 - after the import hook
    _make_completion,  # noqa: F401 - fixtures for every room
    _make_tokens,  # noqa: F401
    assert_nothing_clipped,  # noqa: F401
    hard,  # noqa: F401
    story,  # noqa: F401
)


@pytest.fixture(scope="session")
def demo():
    """The embedded model in a lab, its width pinned: the same request gives the same bits, whatever runs beside it."""
    import llmlab

    lab = llmlab.load("demo", slots=8, max_context=512, quiet=True)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tokenizers and templates that lie beside a checkout; a test that wants them says what it misses."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real tokenizers and chat templates are not at {folder}")
    return folder
