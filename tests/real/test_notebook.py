"""The notebooks of a real model, run again with it."""

from __future__ import annotations

import nbformat
import pytest

from tests.notebooks.outputs import differences
from tests.notebooks.run import FOLDER, REAL, run

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", [REAL[0], *(pytest.param(one, marks=pytest.mark.exhaustive) for one in REAL[1:])])
def test_a_notebook_puts_out_what_was_committed(smollm2, tmp_path, name):
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    again = run(committed, folder=tmp_path)
    assert differences(committed, again) == [], f"python -m tests.notebooks.refresh {name}"
