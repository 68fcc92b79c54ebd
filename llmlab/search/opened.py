"""A space of answers as long as it holds the model's memory."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

import numpy as np

from llmlab.protocol.backend import Frontier, LogitsBackend

__all__ = ["OpenedSpace"]

Space = TypeVar("Space", bound="OpenedSpace")


class OpenedSpace:
    """The continuations of one prompt; a context, which reads the prompt on entering and frees its rows at the end.

    Args:
        backend: the model.
        prompt: the prompt's token ids.
        rows: the most rows of a pass.
        max_tokens: the most tokens of an answer.
        model: the name by which the model is asked.
    """

    def __init__(
        self, backend: LogitsBackend, prompt: np.ndarray, *, rows: int, max_tokens: int, model: str | None
    ) -> None:
        self._backend, self.prompt, self._rows, self.max_tokens = backend, prompt, rows, max_tokens
        self._model = model
        self._frontier: Frontier | None = None

    def __enter__(self: Space) -> Space:
        self._frontier = self._backend.search(
            self.prompt, rows=self._rows, max_tokens=self.max_tokens, model=self._model
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def _held(self) -> Frontier:
        assert self._frontier is not None, "a space is used in a with statement"
        return self._frontier
