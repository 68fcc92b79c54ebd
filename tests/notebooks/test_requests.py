from __future__ import annotations

import re
from pathlib import Path

import nbformat

from llmlab.protocol.request import ChatRequest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_requests.ipynb"


def test_every_field_is_used_and_spoken_of() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    # `stream` is a method here, and `messages` the first argument.
    used = set(re.findall(r"(\w+)=", code)) | set(re.findall(r'"(\w+)":', code)) | {"stream", "messages"}
    assert set(ChatRequest.model_fields) - used == set()
    assert set(ChatRequest.model_fields) - set(re.findall(r"`(\w+)", prose)) == set()
