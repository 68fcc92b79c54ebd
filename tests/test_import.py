"""`import llmlab` brings nothing heavy, and costs next to nothing beside what everybody pays for JAX."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import llmlab

HEAVY = {
    *("jax", "jaxlib", "flax", "numpy", "scipy", "pandas", "matplotlib", "IPython", "ipywidgets", "transformers"),
    *("tokenizers", "torch", "openai", "pydantic", "typer", "rich", "tqdm", "huggingface_hub", "safetensors"),
}


def python(code):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, time.perf_counter() - start


def test_importing_the_package_imports_nothing_heavy():
    out, _ = python("import sys, llmlab; print(*{name.partition('.')[0] for name in sys.modules})")
    assert "llmlab" in out.split()
    assert not HEAVY & set(out.split())


def test_importing_the_package_costs_little_beside_importing_jax():
    nothing, ours, theirs = (min(python(code)[1] for _ in range(2)) for code in ("", "import llmlab", "import jax"))
    ours, theirs = ours - nothing, theirs - nothing
    print(f"\nimport llmlab: {ours * 1e3:.0f} ms; import jax: {theirs * 1e3:.0f} ms; ratio {ours / theirs:.3f}")
    assert ours < 1.0 and ours < theirs


def test_every_public_name_is_there():
    for name in llmlab.__all__:
        assert getattr(llmlab, name).__name__ in (name, f"llmlab.{name}")
        assert name in llmlab.__doc__, "help(llmlab) names it"
    assert set(llmlab.__all__) <= set(dir(llmlab))
    assert {"Any", "annotations", "importlib"}.isdisjoint(dir(llmlab)), "tab completion offers what there is to use"


def test_a_name_that_is_not_there_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="'llmlab' has no attribute 'nothing'"):
        _ = llmlab.nothing
