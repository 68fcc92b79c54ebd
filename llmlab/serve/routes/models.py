"""`GET /v1/models` and `GET /v1/models/{model}`: the model that is loaded, and the adapters beside it."""

from __future__ import annotations

import time
from typing import Any

from llmlab.errors import ModelNotFoundError, short
from llmlab.protocol.backend import Backend
from llmlab.serve.answers import Model, ModelList
from llmlab.serve.route import Lookup, Query

#: The API asks when a model was made; what is known is when it was loaded.
_STARTED = int(time.time())


def _models(query: Query) -> dict[str, Any]:
    return {"object": "list", "data": [_model(query.backend, name) for name in query.backend.models]}


def _named(query: Query) -> dict[str, Any]:
    check_model(query.backend, query.parameters["model"])
    return _model(query.backend, query.parameters["model"])


def check_model(backend: Backend, name: str | None) -> None:
    """Raises `ModelNotFoundError` where a model is named that is none of the loaded ones."""
    if name is not None and name not in backend.models:
        names = ", ".join(map(repr, backend.models))
        raise ModelNotFoundError(f"the model {short(name)} does not exist; loaded is {names}", param="model")


def _model(backend: Backend, name: str) -> dict[str, Any]:
    described = backend.describe()
    facts = {"context_length": described.get("context"), "dtype": described.get("dtype")}
    if name != backend.name:
        facts["parent"] = backend.name
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "llmlab", **facts}


MODELS = Lookup(
    path="/v1/models",
    name="listModels",
    summary="List the models",
    description="The model that is loaded, and the adapters beside it.",
    answer=ModelList,
    look=_models,
)
MODEL = Lookup(
    path="/v1/models/{model:path}",
    name="retrieveModel",
    summary="Describe a model",
    answer=Model,
    errors=(404,),
    look=_named,
)
