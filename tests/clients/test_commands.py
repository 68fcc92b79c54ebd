"""Commands that people use against `llmlab serve`: lm-eval's two endpoint models, and `llm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmlab.lab.lab import Lab
from tests.clients.checks import PERSON_FORM, animal, begun, weather
from tests.clients.environment import Programs
from tests.clients.programs.cases import ANIMAL, BEGINNING, PERSON, WEATHER
from tests.conftest import ROOT

pytestmark = pytest.mark.clients

#: Contexts and continuations whose log-likelihoods are asked for.
LIKELY = {BEGINNING: [" there was a little fox", " it into all"], "The cat": [" sat", " lived by the sea."]}


def evaluate(
    programs: Programs, folder: Path, kind: str, path: str, tasks: dict[str, dict[str, Any]], *more: str
) -> Any:
    """Returns task -> samples, from lm-eval with tasks that read local rows."""
    rows = [{"context": context, "choices": each, "ask": ANIMAL} for context, each in LIKELY.items()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
    for name, task in tasks.items():  # JSON is YAML
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, "test_split": "test", **source, **task}))
    programs.command(
        "lm_eval", "run", "--model", kind, "--model_args",
        f"model=demo,base_url={programs.api}/{path},tokenizer_backend=huggingface,tokenizer={ROOT / 'data' / 'demo'}",
        "--include_path", str(folder), "--tasks", ",".join(tasks), "--output_path", str(folder / "out"),
        "--log_samples", *more,
        HF_HOME=str(folder / "hf"),
    )  # fmt: skip
    found = {}
    for name in tasks:
        [file] = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        found[name] = [json.loads(line) for line in file.read_text().splitlines()]
    return found


def test_lm_eval_computes_log_likelihoods(programs: Programs, demo: Lab, tmp_path: Path) -> None:
    """Those of the lab itself, over /v1/completions with echo: of continuations, and of whole texts."""
    tasks = {
        "likely": {
            "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
            "doc_to_target": 0, "target_delimiter": "", "metric_list": [{"metric": "acc"}],
        },
        "rolling": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{context}}",
            "metric_list": [{"metric": "byte_perplexity"}],
        },
    }  # fmt: skip
    found = evaluate(programs, tmp_path, "local-completions", "completions", tasks)
    tokenizer = demo.backend.tokenizer
    for sample, (context, choices) in zip(found["likely"], LIKELY.items(), strict=True):
        for [[logprob, greedy]], choice in zip(sample["resps"], choices, strict=True):
            frame = demo.score(prompt=context, given=choice).logprobs_frame()
            assert float(logprob) == pytest.approx(frame.logprob.sum(), abs=1e-3)
            assert (greedy == "True") is bool((frame["rank"] == 1).all())
    for sample, context in zip(found["rolling"], LIKELY, strict=True):
        ids = [tokenizer.eos_ids[0], *tokenizer.encode(context)]
        [[logprob]] = sample["resps"]
        assert float(logprob) == pytest.approx(demo.score(prompt=ids).logprobs_frame().logprob.sum(), abs=1e-3)


def test_lm_eval_reads_chat_answers(programs: Programs, demo: Lab, tmp_path: Path) -> None:
    task = {
        "output_type": "generate_until", "doc_to_text": "{{ask}}", "doc_to_target": animal(demo),
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 20, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    kind, path = "local-chat-completions", "chat/completions"
    found = evaluate(programs, tmp_path, kind, path, {"said": task}, "--apply_chat_template")
    assert [sample["exact_match"] for sample in found["said"]] == [1.0, 1.0]


def test_llm(programs: Programs, demo: Lab, tmp_path: Path) -> None:
    common = f"  model_name: demo\n  api_base: {programs.api}\n"
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: demo\n{common}  supports_schema: true\n  supports_tools: true\n"
        f"- model_id: raw\n{common}  completion: true\n"
    )

    def llm(*arguments: str) -> str:
        said = programs.command(
            "llm", "--no-log", "-o", "temperature", "0", "-m", *arguments, LLM_USER_PATH=str(tmp_path)
        )
        return said.removesuffix("\n")

    assert llm("demo", ANIMAL) == llm("demo", ANIMAL, "--no-stream") == animal(demo)
    assert llm("raw", BEGINNING, "-o", "max_tokens", "5") == begun(demo)
    schema = json.dumps(PERSON_FORM["json_schema"]["schema"])
    found = json.loads(llm("demo", PERSON, "-o", "max_tokens", "60", "--schema", schema))
    assert isinstance(found["name"], str) and isinstance(found["age"], int)
    function = 'def get_weather(city: str) -> str:\n    "The weather in a city."\n    return "7 degrees in " + city\n'
    assert llm("demo", WEATHER, "--functions", function) and weather(demo)[0] == "get_weather"
