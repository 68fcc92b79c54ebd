"""What is fetched from the hub, and what is said where it is not to be had."""

from fnmatch import fnmatch

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from llmlab.checkpoints.hub import resolve
from llmlab.errors import ModelNotFoundError


def test_a_repository_is_fetched_without_its_pickles(tmp_path, monkeypatch):
    asked = {}

    def fetch(repo, *, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve("someone/model", revision="v1") == ("someone/model", tmp_path)
    assert (asked["repo"], asked["revision"]) == ("someone/model", "v1")

    def wanted(name):
        return any(fnmatch(name, pattern) for pattern in asked["patterns"])

    for name in ("config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert wanted(name), name
    for name in (
        "pytorch_model.bin",
        "original/consolidated.00.pth",
        "model.gguf",
        "modeling_custom.py",
        "tf_model.h5",
    ):
        assert not wanted(name), name


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no network"), OSError("no room"), OSError()])
def test_a_hub_that_does_not_give_it_is_one_error(monkeypatch, error):
    def fetch(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(ModelNotFoundError, match="someone/model.*(no network|no room|OSError)") as caught:
        resolve("someone/model")
    assert caught.value.param == "model"


@pytest.mark.parametrize("name", ["./nowhere", "~/nowhere", "/nowhere/at/all", "a/b/c"])
def test_what_can_only_be_a_folder_is_never_asked_of_the_hub(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        resolve(name)
