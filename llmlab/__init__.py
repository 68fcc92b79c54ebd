"""A chat-completion engine in JAX, and a lab that shows what its sampler did.

    import llmlab

    lab = llmlab.load("demo")
    result = lab.chat("Tell me a story.", temperature=0.8, top_p=0.95, seed=7)
    result.logprobs_frame()

To begin:
    load            loads a model into this process and returns a `Lab`
    connect         returns a `Lab` on an endpoint that speaks the chat-completion API

What they return, and what that returns:
    Lab             chat, stream, complete, score, next_token, sweep, answers, beam_search, compare_orders, playground
    Result          the answer to a request: text, frames, plots, rerun, branch, diff; `Result.load` reads a saved one
    Answers         the distribution of whole answers, with bounds for any event, under any sampling parameters
    NextToken       the exact distribution of the next token, under any sampling parameters
    Sweep           the answers to a grid of requests, with intervals; `Sweep.load` reads a saved one

Requests, which `Lab.request` also builds:
    ChatRequest     messages and every field of the API, validated
    PromptRequest   the same for a raw prompt without a chat template

Modules:
    certainty       how certain a model is of its answers, and whether it is right to be
    metrics         functions from a frame to a number: perplexity, diversity, calibration, distances
    plots           the figures, as functions of frames
    testing         a tiny model and a byte tokenizer for anybody's tests

Errors, all of them `LLMLabError`s: `RequestError`, `ContextLengthError`, `ModelNotFoundError`, `CheckpointError`,
`EngineError`.

Importing this package is cheap: JAX and everything else is imported with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llmlab.errors import (
    CheckpointError,
    ContextLengthError,
    EngineError,
    LLMLabError,
    ModelNotFoundError,
    RequestError,
)
from llmlab.version import __version__ as __version__

if TYPE_CHECKING:
    from llmlab import certainty, metrics, plots, testing
    from llmlab.lab.lab import Lab
    from llmlab.lab.loading import connect, load
    from llmlab.protocol.request import ChatRequest, PromptRequest
    from llmlab.results.next_token import NextToken
    from llmlab.results.result import Result
    from llmlab.sweeps.sweep import Sweep

__all__ = [
    "ChatRequest",
    "CheckpointError",
    "ContextLengthError",
    "EngineError",
    "LLMLabError",
    "Lab",
    "ModelNotFoundError",
    "NextToken",
    "PromptRequest",
    "RequestError",
    "Result",
    "Sweep",
    "certainty",
    "connect",
    "load",
    "metrics",
    "plots",
    "testing",
]

#: The modules of the names that are imported when they are first used (PEP 562).
_LATE = {
    "ChatRequest": "llmlab.protocol.request",
    "Lab": "llmlab.lab.lab",
    "NextToken": "llmlab.results.next_token",
    "PromptRequest": "llmlab.protocol.request",
    "Result": "llmlab.results.result",
    "Sweep": "llmlab.sweeps.sweep",
    "connect": "llmlab.lab.loading",
    "load": "llmlab.lab.loading",
}
_MODULES = ("certainty", "metrics", "plots", "testing")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LATE:
        raise AttributeError(f"module 'llmlab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # Leaves out what this file imports for itself.
    parts = (name for name, value in globals().items() if getattr(value, "__name__", "") == f"{__name__}.{name}")
    return sorted({*__all__, *parts, *(name for name in globals() if name.startswith("__"))})
