"""A GPU or TPU that is there and not used must be said loudly."""

from pathlib import Path

import pytest

from llmlab.backends import devices


@pytest.fixture
def machine(monkeypatch):
    """A machine on which only the given paths exist."""

    def has(*paths):
        monkeypatch.setattr(Path, "exists", lambda self: str(self) in paths)
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.delenv("COLAB_TPU_ADDR", raising=False)

    return has


@pytest.mark.parametrize(
    ("path", "words"), [("/dev/nvidia0", "NVIDIA"), ("/proc/driver/nvidia/version", "NVIDIA"), ("/dev/accel0", "TPU")]
)
def test_what_was_passed_over(machine, path, words):
    machine(path)
    warning = devices.passed_over("cpu")
    assert words in warning and "pip install" in warning
    assert devices.passed_over("gpu") is None


def test_nothing_to_say(machine, monkeypatch):
    machine()
    assert devices.passed_over("cpu") is None
    machine("/dev/nvidia0")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # who asked for the CPU need not be told
    assert devices.passed_over("cpu") is None


def test_the_free_memory_is_that_of_this_machine():
    free = devices.free_memory()
    assert free is None or 2**20 < free < 2**50
