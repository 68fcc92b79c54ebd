"""A model with random weights for any tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmlab.backends.local.backend import LocalBackend
from llmlab.testing import tiny_checkpoint
from llmlab.text.tokenizer import Tokenizer


def random_model(folder: Path, *, slots: int = 8, max_context: int = 256, **changes: Any) -> LocalBackend:
    """Write random weights beside the tokenizer that lies in the folder, and load both.

    Args:
        folder: with a tokenizer's files.
        slots: of the engine.
        max_context: of the engine.
        changes: what `tiny_checkpoint` takes.
    """
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    tokenizer = Tokenizer.load(folder)
    tiny_checkpoint(folder, vocab_size=tokenizer.vocab_size, eos_token_id=list(tokenizer.eos_ids), **changes)
    for name, data in kept.items():  # the checkpoint came with a tokenizer of its own
        (folder / name).write_bytes(data)
    return LocalBackend.load(folder, slots=slots, max_context=max_context)
