"""The README says what there is: every field, the two commands, and code that at least parses."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import llmlab
from llmlab.request import ChatRequest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_field_is_listed():
    named = set(re.findall(r"`(\w+)", README.partition("## What a request can say")[2]))
    assert set(ChatRequest.model_fields) - named == set()


def test_the_commands_are_those_that_ci_runs():
    for command in ("pip install -e . && llmlab demo", 'pip install -e ".[test]" && pytest'):
        assert f"```\n{command}\n```" in README
    assert 'pip install -e ".[test]" && pytest' in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_examples_parse_and_ask_for_names_that_exist():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "llmlab":
                assert node.attr in llmlab.__all__


def test_the_version_is_said_once_in_each_place():
    assert PROJECT["version"] == llmlab.__version__
    assert llmlab.__version__ in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_a_plain_installation_brings_no_torch():
    plain = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    assert not [requirement for requirement in plain if requirement.startswith("torch")]
