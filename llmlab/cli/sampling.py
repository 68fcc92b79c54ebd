"""The sampler on the command line: an option for each of its parameters, and stages of one's own by name."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Annotated

import typer

from llmlab.errors import RequestError
from llmlab.sampling.library import LIBRARY_FIELDS
from llmlab.sampling.registry import label_of
from llmlab.sampling.stage import Stage
from llmlab.sampling.stages import FIELDS

__all__ = ["define_named", "sampling_options"]


def define_named(names: Iterable[str]) -> None:
    """Makes stages known, each by the module that it is in and its name there; the current folder has modules too.

    Raises:
        RequestError: there is no such module, or it has no such stage.
    """
    for name in names:
        module, _, attribute = name.partition(":")
        if not module or not attribute:
            raise RequestError(f"stages: {name!r} must be MODULE:NAME, such as my_stages:least")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RequestError(f"stages: {name!r} cannot be imported: {error}") from error
        if not isinstance(found, Stage):
            raise RequestError(
                f"stages: {name!r} is a {type(found).__name__}; llmlab.sampling.define_stage makes stages"
            )
        label_of(found)


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command one option for each number that a stage of the sampler reads, in place of its `**sampling`."""
    own = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[(float if field.kind == "number" else int) | None, typer.Option(help=field.text)],
        )
        for field in (*FIELDS.values(), *LIBRARY_FIELDS.values())
        if field.is_scalar
    ]
    kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    vars(command)["__signature__"] = own.replace(parameters=[*kept, *options])
    command.__annotations__ = {one.name: one.annotation for one in (*kept, *options)} | {"return": None}
    return command
