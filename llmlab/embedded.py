"""Where the files of the embedded model "demo" are."""

from __future__ import annotations

from pathlib import Path

from llmlab.errors import ModelNotFoundError


def demo_folder() -> Path:
    """The folder of the embedded model: in the installed package, or in the checkout that it is imported from.

    Raises:
        ModelNotFoundError: the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data" / "demo", package.parent / "data" / "demo"):
        if (folder / "config.json").exists():
            return folder
    raise ModelNotFoundError("the embedded model is not installed beside llmlab; reinstall llmlab", param="model")


def demo_truth() -> Path:
    """The file with the prompts of the embedded model whose answers have a known distribution, as JSON lines."""
    return demo_folder() / "truth.jsonl"
