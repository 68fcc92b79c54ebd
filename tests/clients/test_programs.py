"""Programs that people use, unchanged, against `llmlab serve`."""

from __future__ import annotations

import pytest

from llmlab.lab.lab import Lab
from tests.clients.checks import CHECKS
from tests.clients.environment import FOLDER, Programs

pytestmark = pytest.mark.clients


@pytest.mark.parametrize(("program", "case"), [pytest.param(*pair, id="-".join(pair)) for pair in CHECKS])
def test_a_program(program: str, case: str, programs: Programs, demo: Lab) -> None:
    outcome = programs.report(program)[case]
    assert "failed" not in outcome, outcome["failed"]
    CHECKS[program, case](outcome["said"], demo)


def test_every_case_has_its_check(programs: Programs) -> None:
    names = sorted(path.stem for path in (FOLDER / "programs").glob("with_*.py"))
    assert {(name, case) for name in names for case in programs.report(name)} == CHECKS.keys()
