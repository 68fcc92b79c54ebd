"""The OpenAPI document: FastAPI writes the paths, pydantic the schemas of requests and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from llmlab.serve import sse
from llmlab.serve.answers import Error
from llmlab.serve.body import MAX_BYTES
from llmlab.serve.route import ANYWHERE, JSON, Generation, Lookup, Route

DESCRIPTION = (
    "The chat-completion API over one model. Every field works or is refused with an error that names it; "
    "`logprobs` come with statistics of what the sampler did."
)

_REASONS = {
    400: "The request cannot be honoured; `param` names the field.",
    401: "The API key is missing or wrong.",
    403: "Without a key: the request names another host than this server's.",
    404: "The model is not the one that is loaded.",
    408: "The body was announced and did not arrive.",
    413: f"The body has more than {MAX_BYTES} bytes.",
    429: "The queue is full; `Retry-After` says when to try again.",
    500: "The server failed.",
    503: "The server is shutting down.",
}

_PREFIX = "#/components/schemas/"

#: A key is wanted where the server was started with one.
_KEY: dict[str, Any] = {"security": [{"key": []}, {}]}


def operation(route: Route) -> dict[str, Any]:
    """Returns the keyword arguments with which FastAPI describes a route."""
    answer = {"type": "string"} if route.answer is None else _ref(route.answer)
    media_type = route.media_type if isinstance(route, Lookup) else JSON
    content: dict[str, Any] = {media_type.partition(";")[0]: {"schema": answer}}
    if isinstance(route, Generation):
        content[sse.MEDIA_TYPE] = {"schema": _ref(route.event)}
    statuses = sorted({*route.errors, *(status for status in ANYWHERE if status != 401 or not route.is_open)})
    extra: dict[str, Any] = {} if route.is_open else dict(_KEY)
    if route.parameters:
        schema = {"in": "path", "required": True, "schema": {"type": "string"}}
        extra["parameters"] = [{"name": name, **schema} for name in route.parameters]
    if route.request is not None:
        body = {"schema": _ref(route.request), "example": dict(route.example)}
        extra["requestBody"] = {"required": True, "content": {"application/json": body}}
    return {
        "summary": route.summary,
        "description": route.description,
        "operation_id": route.name,
        "responses": {
            200: {"description": (route.answer.__doc__ or "").strip() if route.answer else "Text.", "content": content},
            **_errors(statuses),
        },
        "openapi_extra": extra,
    }


def complete(document: dict[str, Any], routes: tuple[Route, ...]) -> dict[str, Any]:
    """Returns FastAPI's document with the schemas that its paths refer to and without responses that cannot occur."""
    parts = document.setdefault("components", {})
    parts["schemas"] = schemas(routes)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in document["paths"].values():
        for described in path.values():
            described["responses"].pop("422", None)  # FastAPI's own validation, which no route uses
    return document


def schemas(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Returns the schema of every request, answer and event by name; their parts are written out inside them."""
    models: dict[type[BaseModel], None] = {}
    for route in routes:
        event = route.event if isinstance(route, Generation) else None
        named = (route.request, route.answer, event, *route.parts)
        models |= dict.fromkeys(model for model in named if model is not None)
    models[Error] = None
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in models]
    _, found = models_json_schema(wanted, ref_template=_PREFIX + "{model}", schema_generator=_Plain)
    names = [model.__name__ for model in models]
    return {name: _inlined(found["$defs"][name], found["$defs"], kept=names) for name in names}


def _inlined(schema: Any, definitions: Mapping[str, Any], *, kept: Sequence[str]) -> Any:
    """Returns a schema with the definitions that it refers to in place of the references, except those in `kept`."""
    if isinstance(schema, list):
        return [_inlined(inner, definitions, kept=kept) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).removeprefix(_PREFIX)
    if name in definitions and name not in kept:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _inlined({**definitions[name], **rest}, definitions, kept=kept)
    return {key: _inlined(inner, definitions, kept=kept) for key, inner in schema.items() if key != "title"}


class _Plain(GenerateJsonSchema):
    """Leaves out what readers of the document know anyway: titles, and that an optional field is null by default."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        if schema.get("default", ...) is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"{_PREFIX}{model.__name__}"}


def _errors(statuses: list[int]) -> Mapping[int, dict[str, Any]]:
    content = {"application/json": {"schema": _ref(Error)}}
    errors: dict[int, dict[str, Any]] = {
        status: {"description": _REASONS[status], "content": content} for status in statuses
    }
    if 429 in errors:
        errors[429]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return errors
