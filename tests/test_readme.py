"""The README says what there is: every field, the two commands, and code that runs."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import llmlab
from llmlab.cli.bench.table import table
from llmlab.lab.lab import Lab
from llmlab.protocol.request import ChatRequest, PromptRequest
from tests.serve.conftest import running

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_field_is_listed():
    named = set(re.findall(r"`(\w+)", README.partition("## What a request can say")[2]))
    assert {*ChatRequest.model_fields, *PromptRequest.model_fields} - named == set()


def test_the_commands_are_those_that_ci_runs():
    for command in ("pip install -e . && llmlab demo", 'pip install -e ".[test]" && pytest'):
        assert f"```\n{command}\n```" in README
    assert 'pip install -e ".[test]" && pytest' in (ROOT / ".ci" / "run").read_text("utf-8")


def run_and_compare(block: str, names: dict[str, object]) -> int:
    """Runs a block statement by statement; a line that ends in `# -> value` is an expression with that value."""
    compared, lines = 0, block.splitlines()
    for statement in ast.parse(block).body:
        source = ast.get_source_segment(block, statement)
        _, said, value = lines[statement.end_lineno - 1].partition("# -> ")
        if said:
            assert eval(source, names) == ast.literal_eval(value), source
            compared += 1
        else:
            exec(compile(ast.Module([statement], []), "<README>", "exec"), names)
    return compared


def test_the_examples_run(
    demo: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One after the other, as a reader would run them, on the model that is loaded already, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    load, dtypes = llmlab.load, list[Lab]()

    def loaded(name: str, **options: object) -> Lab:
        if options:
            dtypes.append(load(name, max_context=512, quiet=True, **options))
        return dtypes[-1] if options else demo

    monkeypatch.setattr(llmlab, "load", loaded)
    connect, names = llmlab.connect, dict[str, object]()
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) > 4
    with running(demo.backend) as server:
        monkeypatch.setattr(llmlab, "connect", lambda url, api_key: connect(f"{server.url}/v1", quiet=True))
        compared = sum(run_and_compare(block, names) for block in blocks)
        assert compared == README.count("# ->") > 3
        assert names["answer"].notes == ()
        names["there"].close()
    for lab in dtypes:
        lab.close()
    plt.close("all")
    request, result = names["request"], names["r"]
    assert request.to_openai() in capsys.readouterr().out
    assert result.choices[0].reasoning and result.text == "42"


def test_the_table_of_the_bench_is_what_the_files_of_its_last_runs_say():
    files = sorted((ROOT / "data" / "bench").glob("*.json"))
    runs = [json.loads(file.read_text("utf-8")) for file in files]
    assert len(runs) > 2 and all(run["figures"] for run in runs)
    assert table(runs) in README


def test_the_version_is_said_once_in_each_place():
    assert PROJECT["dynamic"] == ["version"], "the build reads llmlab/version.py"
    assert importlib.metadata.version("llmlab") == llmlab.__version__
    assert llmlab.__version__ in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_a_plain_installation_brings_no_torch():
    plain = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    assert not [requirement for requirement in plain if requirement.startswith("torch")]
