"""What the OpenAPI page says of each path: bodies, answers, and every error with its reason."""

from __future__ import annotations

from typing import Any

from llmlab.serve import schema, sse
from llmlab.serve.body import MAX_BYTES

DESCRIPTION = (
    "The chat-completion API over one model. Every field works or is refused with an error that names it; "
    "`logprobs` come with the figures of what the sampler did."
)

#: The schemas by the names that the page gives them.
SCHEMAS = {
    "ChatCompletionRequest": schema.request,
    "ChatCompletion": schema.completion,
    "ChatCompletionChunk": schema.chunk,
    "Event": schema.event,
    "Error": schema.error,
    "Model": schema.model,
    "ModelList": schema.models,
    "Health": schema.health,
}

_REASONS = {
    400: "The request cannot be honoured; `param` names the field.",
    401: "No API key, or a wrong one.",
    404: "Another model than the one that is loaded.",
    408: "The body does not come.",
    413: f"The body has more than {MAX_BYTES} bytes.",
    429: "As many answers wait as may; `Retry-After` says when to come back.",
    500: "The server failed.",
    503: "The server is shutting down.",
}

_EXAMPLE = {"messages": [{"role": "user", "content": "Tell me a short story."}], "temperature": 0.8, "seed": 7}


def chat_completions() -> dict[str, Any]:
    """`POST /v1/chat/completions`."""
    return {
        "summary": "Answer a conversation",
        "description": "A whole answer, or with `stream` its chunks as server-sent events, which end with `[DONE]`.",
        "operation_id": "createChatCompletion",
        "responses": {
            200: {
                "description": "The answer.",
                "content": {
                    "application/json": {"schema": _ref("ChatCompletion")},
                    sse.MEDIA_TYPE: {"schema": _ref("Event")},
                },
            },
            **_errors(400, 401, 404, 408, 413, 429, 500, 503),
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ref("ChatCompletionRequest"), "example": _EXAMPLE}},
            },
            **_KEY,
        },
    }


def models() -> dict[str, Any]:
    """`GET /v1/models`."""
    answer = {200: _json("The model that is loaded.", "ModelList")}
    return {
        "summary": "List the models",
        "operation_id": "listModels",
        "responses": answer | _errors(401, 503),
        "openapi_extra": dict(_KEY),
    }


def model() -> dict[str, Any]:
    """`GET /v1/models/{model}`."""
    answer = {200: _json("The model.", "Model")}
    return {
        "summary": "Describe a model",
        "operation_id": "retrieveModel",
        "responses": answer | _errors(401, 404, 503),
        "openapi_extra": dict(_KEY),
    }


def health() -> dict[str, Any]:
    """`GET /health`."""
    answer = {200: _json("The server takes requests.", "Health")}
    return {"summary": "Whether it is there", "operation_id": "health", "responses": answer | _errors(503)}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The framework's document of the paths, with the schemas that they refer to and without what no path answers."""
    parts = document.setdefault("components", {})
    parts["schemas"] = {name: made() for name, made in SCHEMAS.items()}
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in document["paths"].values():
        for operation in path.values():
            # The framework's own errors of validation, which cannot happen here.
            operation["responses"].pop("422", None)
    return document


#: A key where the server was started with one.
_KEY: dict[str, Any] = {"security": [{"key": []}, {}]}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(text: str, name: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ref(name)}}}


def _errors(*statuses: int) -> dict[int, dict[str, Any]]:
    errors = {status: _json(_REASONS[status], "Error") for status in statuses}
    if 429 in errors:
        errors[429]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return errors
