"""Starting beside torch: what is installed for others must not slow the first answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.reference


def test_the_first_answer_of_the_embedded_model_does_not_import_torch():
    code = (
        "import sys, llmlab; lab = llmlab.load('demo', quiet=True, max_context=128, slots=1); "
        "text = lab.chat('Hello', max_tokens=2).text; lab.close(); "
        "print(sorted({'torch', 'tensorflow', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
