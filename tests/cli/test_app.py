from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import llmlab
from llmlab.cli.app import app


def llmlab_command(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from llmlab.testing import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("cli") / "tiny")


def test_the_version():
    done = llmlab_command("--version")
    assert (done.exit_code, done.stdout) == (0, f"llmlab {llmlab.__version__}\n")


def test_the_package_is_the_command_as_well():
    done = subprocess.run([sys.executable, "-m", "llmlab", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"llmlab {llmlab.__version__}\n", "")


def test_the_devices():
    done = llmlab_command("devices")
    assert done.exit_code == 0
    assert re.match(r"jax \S+ on (cpu|gpu|tpu)\n  0: ", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chat", "hi", "--temperature", "3.5"], "llmlab: temperature must be between 0 and 2, got 3.5"),
        (["chat", "hi", "--n", "0"], "llmlab: n must be between 1 and 128, got 0"),
        (["chat", "hi", "--model", "./no/such/folder"], "llmlab: there is no folder ./no/such/folder"),
        (["demo", "--out", "/dev/null/x"], "llmlab: /dev/null"),
        (["serve", "--host", "0.0.0.0"], "llmlab: '0.0.0.0' can be reached by others, so it needs a key"),
        (["serve", "--api-key", "two words"], "llmlab: the API key must be ASCII characters without spaces"),
        (["serve", "--host", "192.0.2.1", "--api-key", "k"], "llmlab: cannot listen on 192.0.2.1:8000: "),
        (["serve", "--adapter", "mine"], "llmlab: --adapter must be NAME=FOLDER, got 'mine'"),
        (["serve", "--adapter", "a=x", "--adapter", "a=y"], "llmlab: --adapter names 'a' twice: x and y"),
        (["serve", "--stages", "mine"], "llmlab: stages: 'mine' must be MODULE:NAME"),
        (["serve", "--stages", "no_such_module:mine"], "llmlab: stages: 'no_such_module:mine' cannot be imported"),
        (["serve", "--stages", "json:dumps"], "llmlab: stages: 'json:dumps' is a function"),
        (["serve", "--port", "70000"], "Invalid value for '--port'"),
        (["chat"], "Missing argument"),
        (["bake"], "No such command"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, says):
    done = llmlab_command(*arguments)
    assert done.exit_code == 2 and done.stdout == ""
    assert says in done.stderr and "Traceback" not in done.stderr
    if says.startswith("llmlab: "):
        assert done.stderr.count("\n") == 1


def test_a_folder_that_is_no_checkpoint_is_a_users_mistake(tmp_path):
    done = llmlab_command("chat", "hi", "--model", tmp_path)
    assert done.exit_code == 2 and "config.json" in done.stderr


def test_an_answer_is_printed_as_it_comes_and_is_the_responses(model):
    fields = ["--model", model, "--temperature", "0.5", "--seed", "3", "--max-tokens", "8"]
    streamed = llmlab_command("chat", "hi", *fields, "--logprobs")
    whole = llmlab_command("chat", "hi", *fields, "--json")
    assert streamed.exit_code == whole.exit_code == 0, streamed.output + whole.output
    response = json.loads(whole.stdout)
    assert response["object"] == "chat.completion"
    text, _, table = streamed.stdout.partition("\nhow sure the model was")
    assert text == response["choices"][0]["message"]["content"]
    assert table.count("│ content │") + table.count("│ end     │") == response["usage"]["completion_tokens"]


def test_several_answers_are_all_printed(model):
    done = llmlab_command("chat", "hi", "--model", model, "--n", "2", "--max-tokens", "4", "--system", "Be brief.")
    assert done.exit_code == 0, done.output
    assert "[0] " in done.stdout and "[1] " in done.stdout


@pytest.mark.slow
def test_the_demo_writes_what_it_says(tmp_path):
    done = llmlab_command("demo", "--out", tmp_path / "out", "--seed", 11)
    assert done.exit_code == 0, done.output
    picture, page = tmp_path / "out" / "demo.png", tmp_path / "out" / "demo.html"
    assert done.stdout.endswith(f"the plots:  {picture}\nthe tokens: {page}\n")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    assert page.read_text("utf-8").lstrip().lower().startswith("<!doctype html>")
    assert "tokens/s, and the same tokens" in " ".join(done.stdout.split())
    assert "how sure the model was" in done.stdout and "at 0.3" in done.stdout and "at 1.5" in done.stdout


def test_a_plan_says_what_a_model_takes(tmp_path):
    """Llama 3.1 8B: 16.1 GB, more than a T4 has, and less than an A100."""
    fields = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    fields |= {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **fields}))
    done = llmlab_command("plan", tmp_path, "--devices", "A100-40GB")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("llama, 8.0 B parameters, 131,072 tokens of context\n")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["bfloat16", "1", "x", "A100-40GB", "-", "16.1", "GB"] in [line[:7] for line in lines]
    assert ["float32", "1", "x", "A100-40GB", "-", "32.1", "GB"] in [line[:7] for line in lines]
    file = llmlab_command("plan", tmp_path / "config.json", "--devices", "2xT4", "--context", "4096", "--rows", "4")
    assert "for 4 rows of 4,096 tokens" in file.stdout and "model=2" in file.stdout
    assert "does not fit; 4 would do" in llmlab_command("plan", tmp_path, "--devices", "1xT4").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--devices", "9xY"], "devices must be like"),
        (["--context", "999999999"], "context must be from 1 to 512"),
        (["--rows", "0"], "rows must be a positive integer"),
    ],
)
def test_a_plan_that_cannot_be_made(model, arguments, said):
    done = llmlab_command("plan", model, *arguments)
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--coordinator", "nowhere"], "--coordinator must be HOST:PORT or auto, got 'nowhere'"),
        (["--coordinator", "a:1"], "needs --processes"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "(0 is the one that listens); got 2 and 2"),
        (["--processes", "2"], "--processes and --process go with --coordinator"),
        (["--mesh", "all"], "--mesh must be auto, got 'all'"),
    ],
)
def test_several_hosts_that_cannot_serve(model, arguments, said):
    done = llmlab_command("serve", "--model", model, "--port", "0", *arguments)
    assert done.exit_code == 2 and said in done.stderr, done.output
