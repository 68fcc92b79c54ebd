"""What is fetched from the hub, and the one error where it is not to be had: over HTTP, from a hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from llmlab.checkpoints.hub import resolve
from llmlab.errors import ModelNotFoundError, RequestError
from tests.checkpoints.fake_hub import BROKEN, COMMIT, GATED, PRIVATE, TOKEN, fake_hub

ROOT = Path(__file__).resolve().parents[2]

FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"",
    "additional_chat_templates/rag.jinja": b"",
}
LEFT = {
    "pytorch_model.bin": b"a pickle",
    "model.gguf": b"G",
    "modeling_custom.py": b"code",
    "tf_model.h5": b"h",
    "original/consolidated.00.pth": b"a pickle",
    "original/model.safetensors": b"the same again",
    "consolidated.safetensors": b"the same again",
}
GGUFS = dict.fromkeys(("a.gguf", "big/b-00001-of-00002.gguf", "big/b-00002-of-00002.gguf", "README.md"), b"GGUF")
REPOSITORIES = {
    "owner/model": {"main": {**FILES, **LEFT}, "v1": {**FILES, "config.json": b'{"version": 1}'}},
    GATED: {"main": FILES},
    PRIVATE: {"main": FILES},
    "owner/ggufs": {"main": GGUFS},
}

#: Resolves each of some names, and prints what is in the folders or what the errors say.
RESOLVE = """
import json, sys
from pathlib import Path
from llmlab.checkpoints.hub import resolve
from llmlab.errors import LLMLabError

answers = []
for asked in json.loads(sys.argv[1]):
    try:
        name, folder = resolve(asked.pop("name"), **asked)
        if folder.is_file():
            beside = sorted(path.name for path in folder.parent.iterdir())
            answers.append({"name": name, "file": folder.name, "beside": beside})
            continue
        held = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        answers.append({"name": name, "files": held, "config": (folder / "config.json").read_text()})
    except LLMLabError as error:
        answers.append({"error": type(error).__name__, "message": error.message, "param": error.param})
print(json.dumps(answers))
"""


def resolved(asked, home, url, **environment):
    """The answers of a process of its own, since the hub's package reads its environment once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": url, **environment}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, json.dumps(asked)],
        env={**kept, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ONLINE = {
    "model": {"name": "owner/model"},
    "revision": {"name": "owner/model", "revision": "v1"},
    "commit": {"name": "owner/model", "revision": COMMIT["v1"]},
    "no revision": {"name": "owner/model", "revision": "v9"},
    "unknown": {"name": "owner/unknown"},
    "gated": {"name": GATED},
    "gated with a token": {"name": GATED, "token": TOKEN},
    "private": {"name": PRIVATE},
    "private with a token": {"name": PRIVATE, "token": TOKEN},
    "unknown with a token": {"name": "owner/unknown", "token": TOKEN},
    "wrong token": {"name": "owner/unknown", "token": "hf_wrong"},
    "broken": {"name": BROKEN},
    "a file": {"name": "owner/ggufs/a.gguf"},
    "a part": {"name": "owner/ggufs/big/b-00002-of-00002.gguf"},
    "no such file": {"name": "owner/ggufs/c.gguf"},
    "no file named": {"name": "owner/ggufs"},
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Answers by name, the requests that were made, the hub's cache and its address."""
    home = tmp_path_factory.mktemp("hub")
    with fake_hub(REPOSITORIES) as server:
        answers = dict(zip(ONLINE, resolved(list(ONLINE.values()), home, server.url), strict=True))
        yield answers, list(server.asked), home, server.url


def test_a_repository_is_fetched_without_its_pickles_and_copies(hub):
    answers, asked, _, _ = hub
    assert answers["model"] == {"name": "owner/model", "files": sorted(FILES), "config": "{}"}
    fetched = {path.rpartition("/resolve/")[2].partition("/")[2] for method, path, _ in asked if method == "GET"}
    assert not fetched & LEFT.keys()


def test_a_gguf_file_of_a_repository_is_fetched_alone_or_with_its_other_parts(hub):
    answers, asked, _, _ = hub
    assert answers["a file"] == {"name": "a", "file": "a.gguf", "beside": ["a.gguf"]}
    second = "b-00002-of-00002.gguf"
    assert answers["a part"] == {"name": second[:-5], "file": second, "beside": ["b-00001-of-00002.gguf", second]}
    assert not any(path.endswith("README.md") for _, path, _ in asked)


def test_a_repository_of_gguf_files_lists_them(hub):
    answers, _, _, _ = hub
    for asked, words in (
        ("no such file", "has no c.gguf"),
        ("no file named", "name one of them, as 'owner/ggufs/a.gguf'"),
    ):
        assert answers[asked]["error"] == "ModelNotFoundError"
        assert words in answers[asked]["message"]
        assert "a.gguf, big/b-00001-of-00002.gguf" in answers[asked]["message"]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub):
    answers, _, _, url = hub
    assert answers["revision"]["config"] == answers["commit"]["config"] == '{"version": 1}'
    refused = answers["no revision"]
    assert (refused["error"], refused["param"]) == ("RequestError", "revision")
    assert "'v9'" in refused["message"] and f"{url}/owner/model/tree/main" in refused["message"]


def test_a_repository_that_is_not_there(hub):
    answers, _, _, url = hub
    for name in ("unknown", "unknown with a token"):
        refused = answers[name]
        assert (refused["error"], refused["param"]) == ("ModelNotFoundError", "model")
        assert f"no repository {url}/owner/unknown" in refused["message"] and "check the name" in refused["message"]


def test_a_gated_repository_says_where_to_accept_and_how_to_log_in(hub):
    answers, asked, _, url = hub
    message = answers["gated"]["message"]
    for words in ("gated", f"accept its conditions at {url}/{GATED}", "hf auth login", "HF_TOKEN", "token="):
        assert words in message
    assert answers["gated with a token"]["files"] == sorted(FILES)
    assert {token for _, path, token in asked if GATED in path} == {None, TOKEN}


def test_a_private_repository_needs_a_token(hub):
    answers, _, _, _ = hub
    assert "if it is private" in answers["private"]["message"] and "token=" in answers["private"]["message"]
    assert answers["private with a token"]["files"] == sorted(FILES)


def test_a_token_that_the_hub_refuses_is_not_repeated(hub):
    answers, _, _, url = hub
    refused = answers["wrong token"]
    assert (refused["error"], refused["param"]) == ("RequestError", "token")
    assert f"{url}/settings/tokens" in refused["message"] and "hf_wrong" not in refused["message"]


def test_a_hub_that_fails_is_one_error(hub):
    answers, _, _, _ = hub
    assert "it answered 500" in answers["broken"]["message"] and "try again later" in answers["broken"]["message"]


def test_a_token_of_the_environment(hub):
    _, _, home, url = hub
    (answer,) = resolved([{"name": GATED}], home / "fresh", url, HF_TOKEN=TOKEN)
    assert answer["files"] == sorted(FILES)


def test_without_a_network_the_cache_serves_what_it_has(hub):
    _, _, home, _ = hub
    asked = [{"name": "owner/model"}, {"name": "owner/model", "revision": "v1"}, {"name": "owner/other"}]
    nowhere = "http://127.0.0.1:9"  # nothing listens there
    for environment, words in (
        ({"HF_HUB_OFFLINE": "1"}, ("HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE", str(home))),
        ({}, (f"the hub ({nowhere}) does not answer", "check the network")),
    ):
        main, other, absent = resolved(asked, home, nowhere, **environment)
        assert main["files"] == other["files"] == sorted(FILES) and other["config"] == '{"version": 1}'
        assert (absent["error"], absent["param"]) == ("ModelNotFoundError", "model")
        assert all(word in absent["message"] for word in ("'owner/other'", *words)), absent["message"]


@pytest.mark.parametrize("error", [OSError("no room"), OSError(), ValueError("odd")])
def test_anything_else_is_one_error_too(monkeypatch, error):
    def fetch(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(ModelNotFoundError, match=r"someone/model.*(no room|OSError|odd)") as caught:
        resolve("someone/model")
    assert caught.value.param == "model"


@pytest.mark.parametrize("name", ["./nowhere", "~/nowhere", "/nowhere/at/all", "a/b/c"])
def test_what_can_only_be_a_folder_is_never_asked_of_the_hub(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        resolve(name)


@pytest.mark.parametrize("field", ["revision", "token"])
def test_a_revision_or_a_token_of_what_is_no_repository_is_an_error(tmp_path, field):
    assert resolve(tmp_path) == (tmp_path.name, tmp_path)
    for name, words in (("demo", "the embedded model"), (tmp_path, f"the folder {tmp_path}")):
        with pytest.raises(RequestError, match=words) as caught:
            resolve(name, **{field: "secret"})
        assert caught.value.param == field and ("secret" in caught.value.message) == (field == "revision")
    with pytest.raises(RequestError, match=f"{field} must be a text"):
        resolve("someone/model", **{field: ""})
