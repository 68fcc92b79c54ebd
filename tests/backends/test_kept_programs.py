"""Compiled programs stay on disk: what a second process finds, and every way to say no."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llmlab.backends.local.kept_programs import CACHE_VARIABLE, programs_folder

COUNT = """
import json
from collections import Counter
import jax
events = Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rsplit("/", 1)[-1]]))
"""
TELL = """
print(json.dumps({"hits": events["cache_hits"], "misses": events["cache_misses"]}))
"""
# Something is compiled before: JAX decides at a process's first compilation whether it has a cache.
SMALL = f"""{COUNT}
jax.jit(lambda x: x + 1)(1.0)
from llmlab.backends.local.kept_programs import keep_programs
print(keep_programs())
jax.jit(lambda x: x * 3 + 2)(1.0)
{TELL}"""
CHAT = f"""{COUNT}
import llmlab
answer = llmlab.load("demo", quiet=True).chat("Hello", max_tokens=3, seed=1)
print(answer.texts)
{TELL}"""


def run(code, **variables):
    """The lines that a process prints, with the test run's own folder of programs out of its sight."""
    given = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", CACHE_VARIABLE))
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**given, **variables}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr
    *lines, told = done.stdout.splitlines()
    return lines, json.loads(told)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*-cache"))


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    (folder,), first = run(SMALL, XDG_CACHE_HOME=str(tmp_path))
    assert folder.startswith(str(tmp_path / "llmlab" / "xla"))
    assert first["misses"] and not first["hits"]
    kept = files(tmp_path)
    assert kept
    (_,), second = run(SMALL, XDG_CACHE_HOME=str(tmp_path))
    assert second["hits"] and not second["misses"]
    assert files(tmp_path) == kept


@pytest.mark.parametrize("word", ["off", "OFF", "0", "no"])
def test_it_can_be_switched_off(tmp_path, word, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, word)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert programs_folder() is None


def test_switched_off_nothing_is_written(tmp_path):
    lines, _ = run(SMALL, XDG_CACHE_HOME=str(tmp_path), **{CACHE_VARIABLE: "off"})
    assert lines == ["None"]
    assert not list(tmp_path.iterdir())


def test_another_folder_can_be_named(tmp_path):
    (folder,), _ = run(SMALL, XDG_CACHE_HOME=str(tmp_path / "no"), **{CACHE_VARIABLE: str(tmp_path / "mine")})
    assert folder.startswith(str(tmp_path / "mine"))
    assert files(tmp_path / "mine")
    assert not (tmp_path / "no").exists()


def test_a_folder_that_jax_was_given_is_left_alone(tmp_path):
    given = str(tmp_path / "given")
    lines, _ = run(SMALL, XDG_CACHE_HOME=str(tmp_path / "no"), JAX_COMPILATION_CACHE_DIR=given)
    assert lines == ["None"]
    assert not (tmp_path / "no").exists()


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    lines, _ = run(SMALL, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert lines == ["None"]


@pytest.mark.slow
def test_the_second_start_compiles_nothing_before_its_first_answer(tmp_path):
    said, first = run(CHAT, XDG_CACHE_HOME=str(tmp_path))
    assert first["misses"]
    again, second = run(CHAT, XDG_CACHE_HOME=str(tmp_path))
    assert again == said
    assert second["hits"] and not second["misses"]
