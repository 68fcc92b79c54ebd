"""The stages by name: the built-in ones, those of the library, and those that a user has defined.

A definition under the name of an earlier one takes its place: from then on the name means the new stage. Answers and
orders that were made with the old one keep it, under a label of its own such as `my_stage#2`.

Nothing here imports JAX: requests are checked by the fields of these stages.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from llmlab.errors import RequestError
from llmlab.sampling.fields import Field
from llmlab.sampling.library import LIBRARY
from llmlab.sampling.stage import Order, Stage
from llmlab.sampling.stages import FIELDS, ORDERS, STAGES

__all__ = [
    *("define", "forget", "further_fields", "further_fields_of", "further_stages", "is_known", "label_of"),
    *("owner_of", "reserve", "stage_labelled", "stage_named", "user_fields", "user_stages"),
]

#: How many definitions are kept, so that a notebook that defines a stage a thousand times does not grow without bound.
_KEPT = 256


def _built_in() -> dict[str, Stage]:
    found = {stage.name: stage for stage in (*STAGES, *LIBRARY)}
    for order, stages in ORDERS.items():
        for stage in stages:
            if stage not in found.values():
                found[f"{stage.name}@{order}" if stage.name in found else stage.name] = stage
    return found


#: By label: a variant of a stage that one order alone has is called `top_p@sglang`.
_BUILT_IN: Mapping[str, Stage] = _built_in()
_LOCK = threading.RLock()
#: The user's stages by label, the latest definitions last.
_DEFINED: OrderedDict[str, Stage] = OrderedDict()
#: The label that a user's name means now.
_CURRENT: dict[str, str] = {}
#: How often a name was defined.
_COUNTS: dict[str, int] = {}


#: Names that no parameter may have: attributes of the sampler's inputs, and arguments of the lab's methods.
_RESERVED = {
    "bias",
    "biased",
    "mask",
    "masked",
    "negative",
    "ends",
    "seed",
    "choice",
    "watched",
    "statistics",
    "extra",
    "order",
}


def reserve(names: Iterable[str]) -> None:
    """Notes the names of a request's own fields, which no parameter of a stage may have."""
    _RESERVED.update(names)


def define(stage: Stage) -> str:
    """Makes a user's stage known by its name and its fields, in the place of an earlier one; returns its label.

    Raises:
        RequestError: its name or the name of a field is taken, or is no name.
    """
    with _LOCK:
        current = _CURRENT.get(stage.name)
        if current is not None and _DEFINED[current] == stage:
            return current
        _check_names(stage)
        count = _COUNTS[stage.name] = _COUNTS.get(stage.name, 0) + 1
        label = stage.name if count == 1 else f"{stage.name}#{count}"
        _DEFINED[label], _CURRENT[stage.name] = stage, label
        replaced = [one for one in _DEFINED if one not in _CURRENT.values()]
        for one in replaced[: max(len(_DEFINED) - _KEPT, 0)]:
            del _DEFINED[one]
        return label


def forget(name: str) -> None:
    """Takes a user's stage out of use: its name and its fields are free again. What was made with it stays as it is."""
    with _LOCK:
        _CURRENT.pop(name, None)


def _check_names(stage: Stage) -> None:
    if not stage.name.isidentifier():
        raise RequestError(f"a stage's name must be an identifier such as my_stage, got {stage.name!r}")
    if stage.name in _BUILT_IN or stage.name == "raw":
        raise RequestError(f"there is a stage {stage.name!r} already: give yours another name")
    for one in stage.fields:
        if not one.is_scalar:
            raise RequestError(f"stage {stage.name}: the parameter {one.name} must be a number or an integer")
        if not one.name.isidentifier():
            raise RequestError(f"stage {stage.name}: a parameter's name must be an identifier, got {one.name!r}")
        owner = owner_of(one.name)
        if owner is None and one.name in _RESERVED:
            raise RequestError(
                f"stage {stage.name}: {one.name!r} is a field of every request; call the parameter "
                f"{stage.name}_{one.name}"
            )
        if owner is not None and owner.name != stage.name:
            raise RequestError(
                f"stage {stage.name}: the parameter {one.name} is that of the stage {owner.name}; call yours "
                f"{stage.name}_{one.name}"
            )


def user_stages() -> tuple[Stage, ...]:
    """The stages that a user has defined, in their latest definitions."""
    with _LOCK:
        return tuple(_DEFINED[label] for label in _CURRENT.values())


def further_stages() -> tuple[Stage, ...]:
    """All stages beyond the built-in ones: the library's, then the user's."""
    return (*LIBRARY, *user_stages())


def further_fields() -> dict[str, Field]:
    """The fields of all stages beyond the built-in ones, by name."""
    return {one.name: one for stage in further_stages() for one in stage.fields}


def user_fields() -> dict[str, Field]:
    """The fields of the stages that a user has defined, by name."""
    return {one.name: one for stage in user_stages() for one in stage.fields}


def further_fields_of(order: Order) -> tuple[Field, ...]:
    """The fields of those stages of an order that are not built in."""
    return tuple(one for stage in order for one in stage.fields if one.name not in FIELDS)


def owner_of(field: str) -> Stage | None:
    """The stage that a field belongs to; None where no stage has it."""
    every = (*STAGES, *further_stages())
    return next((stage for stage in every if any(field == one.name for one in stage.fields)), None)


def is_known(stage: Stage) -> bool:
    """Whether a stage is built in, one of the library, or one that a user has defined."""
    with _LOCK:
        return stage in _BUILT_IN.values() or stage in _DEFINED.values()


def label_of(stage: Stage) -> str:
    """What stands for the stage in the key of an order; a user's stage that is not known yet is defined."""
    for known in (_BUILT_IN, _DEFINED):
        with _LOCK:
            found = next((label for label, one in known.items() if one == stage), None)
        if found is not None:
            return found
    return define(stage)


def stage_named(name: str) -> Stage:
    """The stage that a name means now.

    Raises:
        RequestError: there is none.
    """
    with _LOCK:
        found = _BUILT_IN.get(name) or _DEFINED.get(_CURRENT.get(name, ""))
    if found is None:
        known = ", ".join([*_BUILT_IN, *_CURRENT])
        raise RequestError(f"there is no stage {name!r} here; there are {known}; llmlab.sampling.define_stage adds one")
    return found


def stage_labelled(label: str) -> Stage:
    """The stage with a label; where that is not known here, as after a restart, the one that its name means now.

    Raises:
        RequestError: there is none.
    """
    with _LOCK:
        found = _DEFINED.get(label)
    return found or stage_named(label.partition("#")[0])
