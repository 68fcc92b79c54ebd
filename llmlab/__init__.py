"""A chat-completion engine in JAX, and a laboratory that shows what its sampler did.

    import llmlab

    lab = llmlab.load("demo")
    result = lab.chat("Tell me a story.", temperature=0.8, top_p=0.95, seed=7)
    result.logprobs_frame()

What was kept with `save` is read by `llmlab.Result.load(path)` and `llmlab.Sweep.load(path)`.

Importing this costs next to nothing: JAX and all else come with the first thing that needs them.
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
    from llmlab.lab.lab import Lab
    from llmlab.lab.loading import connect, load
    from llmlab.protocol.request import ChatRequest, PromptRequest
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
    "PromptRequest",
    "RequestError",
    "Result",
    "Sweep",
    "connect",
    "load",
]

#: Where the names live that are imported when they are first asked for (PEP 562).
_LATE = {
    "ChatRequest": "llmlab.protocol.request",
    "Lab": "llmlab.lab.lab",
    "PromptRequest": "llmlab.protocol.request",
    "Result": "llmlab.results.result",
    "Sweep": "llmlab.sweeps.sweep",
    "connect": "llmlab.lab.loading",
    "load": "llmlab.lab.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'llmlab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # What there is to use: not what this file itself imports.
    parts = (name for name, value in globals().items() if getattr(value, "__name__", "") == f"{__name__}.{name}")
    return sorted({*__all__, *parts, *(name for name in globals() if name.startswith("__"))})
