"""A GPU or TPU that the machine has and JAX does not use leads to a warning."""

from pathlib import Path

import jax
import pytest

from llmlab.backends.local import devices


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
def test_what_was_fallback_warning(machine, path, words):
    machine(path)
    warning = devices.fallback_warning("cpu")
    assert words in warning and "pip install" in warning
    assert devices.fallback_warning("gpu") is None


def test_nothing_to_say(machine, monkeypatch):
    machine()
    assert devices.fallback_warning("cpu") is None
    machine("/dev/nvidia0")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # who asked for the CPU need not be told
    assert devices.fallback_warning("cpu") is None


def test_the_free_memory_is_that_of_this_machine():
    free = devices.free_memory()
    assert free is None or 2**20 < free < 2**50


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/", "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")),
        ("0::/user.slice/mine", "sys/fs/cgroup/user.slice/mine", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:memory:/docker/1f",  # as the machine names it; inside of the container its own lies at the top
            "sys/fs/cgroup/memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_a_containers_limit_counts(tmp_path, line, folder, names):
    limit, used, cached = names
    assert devices._container_free_memory(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"1:cpu:/\n{line}\n")
    assert devices._container_free_memory(tmp_path) is None
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / limit).write_text("9000\n")
    (tmp_path / folder / used).write_text("4000\n")
    (tmp_path / folder / "memory.stat").write_text(f"anon 3000\n{cached} 500\n")
    assert devices._container_free_memory(tmp_path) == 5500
    (tmp_path / folder / limit).write_text("max\n")
    assert devices._container_free_memory(tmp_path) is None


@pytest.mark.parametrize(("machine", "container"), [(9000, 5500), (5500, 9000), (None, 5500), (5500, None)])
def test_whichever_is_less_is_free(monkeypatch, machine, container):
    monkeypatch.setattr(devices, "_host_free_memory", lambda: machine)
    monkeypatch.setattr(devices, "_container_free_memory", lambda: container)
    monkeypatch.setattr(type(jax.devices()[0]), "memory_stats", lambda self: None, raising=False)
    assert devices.free_memory() == 5500
