"""Finds the folder of a model by its name: the embedded model, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from llmlab.embedded import demo_folder
from llmlab.errors import ModelNotFoundError

#: Weights as safetensors, configuration and tokenizer. Pickles are not downloaded.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


def resolve(name: str | Path, *, revision: str | None = None) -> tuple[str, Path]:
    """The name and the folder of a model; a hub repository is downloaded into the hub's own cache.

    Raises:
        ModelNotFoundError: there is no such folder, and the hub has no such repository or cannot be reached.
    """
    if name == "demo":
        return "demo", demo_folder()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve().name, folder
    text = str(name)
    if folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise ModelNotFoundError(f"there is no folder {text}", param="model")
    return text, _fetch(text, revision=revision)


def _fetch(repo: str, *, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=_PATTERNS))
    except HFValidationError:
        raise ModelNotFoundError(
            f"{repo!r} is neither a folder nor a hub repository's name; use 'demo', a folder, or 'owner/name'",
            param="model",
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFoundError(
            f"{repo!r} is not a folder, and the hub did not give it: {reason}", param="model"
        ) from None
