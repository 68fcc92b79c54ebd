"""`GET /v1/models` and `GET /v1/models/{model}`: the one model that is loaded."""

from __future__ import annotations

import time
from typing import Any

from llmlab.errors import ModelNotFoundError
from llmlab.protocol.backend import Backend
from llmlab.serve.answers import Model, ModelList
from llmlab.serve.route import Lookup, Query

#: The API asks when a model was made; what is known is when it was loaded.
_STARTED = int(time.time())


def _models(query: Query) -> dict[str, Any]:
    return {"object": "list", "data": [_model(query.backend)]}


def _named(query: Query) -> dict[str, Any]:
    name, backend = query.parameters["model"], query.backend
    if name != backend.name:
        raise ModelNotFoundError(f"the model {name!r} does not exist; loaded is {backend.name!r}", param="model")
    return _model(backend)


def _model(backend: Backend) -> dict[str, Any]:
    described = backend.describe()
    facts = {"context_length": described.get("context"), "dtype": described.get("dtype")}
    return {"id": backend.name, "object": "model", "created": _STARTED, "owned_by": "llmlab", **facts}


MODELS = Lookup(
    path="/v1/models",
    name="listModels",
    summary="List the models",
    description="The model that is loaded.",
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
