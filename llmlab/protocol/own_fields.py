"""Requests of paths that have fields of their own: their checks and their documentation, from one declaration.

A path declares its fields as a pydantic model whose annotations are `Fieldspec`s, like those of a chat request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, create_model

from llmlab.protocol.checks import checked
from llmlab.protocol.fields import Fieldspec
from llmlab.sampling.fields import Field

__all__ = ["OwnFields", "specs", "with_fields_of"]


class OwnFields(BaseModel):
    """The base of such a declaration."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @classmethod
    def take(cls, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the checked values of these fields, defaults where there are none, and all other fields as they are.

        None stands for the default, as in the API.

        Raises:
            RequestError: a value is wrong; the error names the field.
        """
        declared = specs(cls)
        own = {name: cls.model_fields[name].get_default() for name in declared}
        for name, value in fields.items():
            if name in declared and value is not None:
                own[name] = checked(declared[name], name, value)
        return own, {name: value for name, value in fields.items() if name not in declared}


def specs(model: type[BaseModel]) -> dict[str, Field]:
    """Returns the fields that a model declares, by name."""
    return {
        name: spec.field
        for name, info in model.model_fields.items()
        for spec in info.metadata
        if isinstance(spec, Fieldspec)
    }


def with_fields_of(
    own: type[BaseModel], other: type[BaseModel], *, name: str, without: frozenset[str] = frozenset()
) -> type[BaseModel]:
    """Returns a model that has the fields of both, for the JSON schema of a request; none of the others is required.

    Args:
        own: the fields of a path.
        other: the fields of another request that it takes too.
        name: the name of the model.
        without: fields of `other` that it does not take.
    """
    more = {}
    for field, spec in specs(other).items():
        if field not in without and field not in own.model_fields:
            info = other.model_fields[field]
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            more[field] = (Annotated[Any, Fieldspec.of(spec)], None if default == {} else default)
    return create_model(name, __base__=own, **cast(Any, more))
