"""Whom an audit asks: an endpoint as it is, or a model in this process through the code of the HTTP server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from llmlab.audit.asking import Ask
from llmlab.audit.audit import audit
from llmlab.audit.report import Audit
from llmlab.audit.weights import Reference
from llmlab.display.progress import progress_bar
from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.lab.client import client
from llmlab.protocol.backend import Backend, BodyBackend, LogitsBackend, Reloadable


def audit_backend(
    backend: Backend,
    *,
    reference: Backend | None,
    max_requests: int,
    max_tokens: int,
    false_alarms: float,
    seed: int | None,
    only: Sequence[str] | None,
) -> Audit:
    """Audits a backend; see `Lab.audit`."""
    description = f"audit, at most {max_requests:,} requests and {max_tokens:,} tokens"
    with progress_bar(total=None, unit="test", description=description) as bar:

        def tell(done: int, everything: int) -> None:
            bar.total = everything
            bar.update(done - bar.n)

        return audit(
            asks(backend),
            model=backend.name,
            reference=None if reference is None else _reference(reference),
            max_requests=max_requests,
            max_tokens=max_tokens,
            false_alarms=false_alarms,
            seed=seed,
            only=only,
            parallel=backend.concurrency or 8,
            tell=tell,
        )


def _reference(backend: Backend) -> Reference:
    """A backend whose weights an endpoint should serve, with copies of it in other dtypes where it is in this process.

    A copy is loaded only where a divergence is to be explained, and freed after that.
    """
    if not isinstance(backend, LogitsBackend):
        return Reference(asks(backend), backend.name)

    @contextmanager
    def copy(dtype: str) -> Iterator[Ask | None]:
        loaded = None
        # Without it a divergence is named by its size alone.
        with suppress(RequestError):
            loaded = backend.reloaded(dtype=dtype) if isinstance(backend, Reloadable) else None
        if loaded is None:
            yield None
            return
        try:
            yield asks(loaded)
        finally:
            loaded.close()

    weights, arithmetic = backend.dtypes
    return Reference(asks(backend), backend.name, weights, arithmetic, copy)


def asks(backend: Backend) -> Ask:
    """Returns what sends the body of a chat completion to a backend."""
    if isinstance(backend, BodyBackend):
        return backend.post
    import openai

    inside = client(backend)

    def send(body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return cast(Mapping[str, Any], inside.post("/chat/completions", cast_to=object, body=body))
        except openai.APIStatusError as error:
            raise _refusal(error) from None

    return send


def _refusal(error: Any) -> LLMLabError:
    said = error.body if isinstance(error.body, Mapping) else {}
    message = str(said.get("message") or error.message)
    kind = RequestError if error.status_code < 500 else EngineError
    return kind(message, param=said.get("param"), status=error.status_code)
