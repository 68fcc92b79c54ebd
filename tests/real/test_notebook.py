"""The notebook of a model of one's own, run again with the real model."""

from __future__ import annotations

import nbformat
import pytest

from tests.notebooks.outputs import differences
from tests.notebooks.run import FOLDER, REAL, run

pytestmark = pytest.mark.real


def test_the_notebook_puts_out_what_was_committed(smollm2, tmp_path):
    committed = nbformat.read(FOLDER / f"{REAL}.ipynb", as_version=4)
    again = run(committed, folder=tmp_path)
    assert differences(committed, again) == [], "python -m tests.notebooks.refresh 10"
