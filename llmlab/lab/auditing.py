"""Whom an audit asks: an endpoint as it is, or a model in this process through the code of the HTTP server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from llmlab.audit.asking import Ask
from llmlab.audit.audit import audit
from llmlab.audit.report import Audit
from llmlab.display.progress import progress_bar
from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.lab.client import client
from llmlab.protocol.backend import Backend, BodyBackend


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
            reference=None if reference is None else asks(reference),
            reference_model="" if reference is None else reference.name,
            max_requests=max_requests,
            max_tokens=max_tokens,
            false_alarms=false_alarms,
            seed=seed,
            only=only,
            parallel=backend.concurrency or 8,
            tell=tell,
        )


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
