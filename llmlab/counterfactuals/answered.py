"""What a comparison needs to know of an answer: a `Completion` has it, and so has a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.completion import Choice
from llmlab.protocol.request import Request

__all__ = ["Answered", "logits_backend"]


@runtime_checkable
class Answered(Protocol):
    """The answer to one request, with the tokens of its choices and everything that they depended on."""

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The choices, in the order of their indices."""

    @property
    def request(self) -> Request:
        """The request that was answered."""

    @property
    def seed(self) -> int:
        """The request's seed, or the one that was drawn for it."""

    @property
    def order(self) -> str:
        """The order of the sampler's stages."""

    @property
    def model(self) -> str:
        """The name of the model that answered."""

    @property
    def prompt_ids(self) -> Int32[np.ndarray, " L"]:
        """The prompt's token ids."""

    @property
    def control_tokens(self) -> Mapping[int, str]:
        """Token id -> name, for the tokens without bytes."""


def logits_backend(backend: Backend) -> LogitsBackend:
    """Returns the backend as one that takes token ids and gives logits.

    Raises:
        RequestError: it is an endpoint, which takes text only.
    """
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{backend.name} is an endpoint that does not take token ids; llmlab.load a model for that")
    return backend
