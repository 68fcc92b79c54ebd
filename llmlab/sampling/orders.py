"""Orders as values: which stages run, in which order, under a key that programs, results and messages hold.

The key of an order of `ORDERS` is its name. Any other order is a list of stages; its key lists their labels, such as
`mask > temperature > my_stage`, or `llmlab > my_stage` where it begins with a named order. A request that asks for a
stage which a named order lacks runs that order with the stage at its place: `llmlab + typical_p`. So a stage that
nobody asks for costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.sampling.guidance import GUIDANCE
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.registry import (
    further_fields_of,
    further_stages,
    is_known,
    label_of,
    owner_of,
    stage_labelled,
    stage_named,
)
from llmlab.sampling.stage import FIRST, Order, Stage, reads_negative
from llmlab.sampling.stages import MASK, ORDERS, STAGES
from llmlab.sampling.states import stateful

__all__ = ["GUIDED", "asks", "compares_prompts", "is_order", "is_stage", "layout_of", "order_key", "order_of", "placed"]

_NEXT, _WITH = " > ", " + "
#: The key of an order with a stage that reads the logits after a negative prompt.
GUIDED = _WITH.join(["llmlab", GUIDANCE.name])
_OWN = frozenset(stage.name for stage in STAGES)


def is_order(value: Any) -> bool:
    """Whether a value is the name or the key of an order, rather than something that lists several."""
    return isinstance(value, str) and (value in ORDERS or _NEXT in value or _WITH in value)


def is_stage(value: Any) -> bool:
    """Whether a value is a stage, or the name of one that is there."""
    return isinstance(value, Stage) or (
        isinstance(value, str) and (value in {stage.name for stage in further_stages()} or value in _OWN)
    )


def order_key(value: str | Sequence[Any]) -> str:
    """The key of an order: of its name, of its key, or of a list of stages, their names, and names of orders.

    The name of an order inside a list stands for all of its stages: `["llmlab", my_stage]`. Where a list leaves out
    `mask`, it runs first, because grammars and `min_tokens` need it.

    Raises:
        RequestError: it is none of these, a stage is named twice, or a stage is not known.
    """
    if isinstance(value, str):
        if not is_order(value):
            raise _no_order(value)
        order_of(value)
        return value
    names_only = isinstance(value, Sequence) and any(value) and all(is_order(item) for item in value)
    if not isinstance(value, Sequence) or isinstance(value, Stage) or names_only:
        raise _no_order(value)
    stages = [stage for item in value for stage in _expanded(item)]
    if not any(stage.name == MASK.name for stage in stages):
        stages.insert(0, MASK)
    names = [stage.name for stage in stages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"order names the stage {twice!r} twice", param="order")
    begun = next((name for name, order in ORDERS.items() if order == tuple(stages[: len(order)])), None)
    rest = stages if begun is None else stages[len(ORDERS[begun]) :]
    labels = [*([begun] if begun else []), *map(label_of, rest)]
    return _NEXT.join(labels) + (_NEXT if len(labels) == 1 and not begun else "")


def _no_order(value: Any) -> RequestError:
    names = ", ".join(ORDERS)
    return RequestError(f"order must be one of {names}, or a list of stages, got {short(value)}", param="order")


def _expanded(item: Any) -> Order:
    if isinstance(item, Stage):
        if not is_known(item):  # made by hand
            from llmlab.sampling.trial import try_out

            try_out(item, item.apply, own_active=True)
        label_of(item)
        return (item,)
    if isinstance(item, str):
        return ORDERS[item] if item in ORDERS else (stage_named(item),)
    raise RequestError(
        f"order lists stages, by name or by value, and names of orders; got {short(item)}", param="order"
    )


@lru_cache(maxsize=1024)
def _stages(key: str, _: tuple[Stage, ...]) -> Order:
    if _WITH in key:
        base, *labels = key.split(_WITH)
        if base not in ORDERS:
            raise _no_order(key)
        return _with(base, [stage_labelled(label) for label in labels])
    parts = [ORDERS.get(label) or (stage_labelled(label),) for label in key.split(_NEXT) if label]
    return tuple(stage for part in parts for stage in part)


def order_of(key: str) -> Order:
    """The stages of an order, by its key.

    Raises:
        RequestError: a stage is not known here.
    """
    # What a label means can change where it is not known, so that the stages in use are part of what is remembered.
    return ORDERS[key] if key in ORDERS else _stages(key, further_stages())


def layout_of(key: str) -> str:
    """An order in which rows have the same arrays as in this one; the same name for all that have the built-in ones.

    Programs that move rows and do not sample are compiled for a layout.
    """
    order = order_of(key)
    return key if further_fields_of(order) or stateful(order) or reads_negative(order) else "llmlab"


def _with(base: str, added: Sequence[Stage]) -> Order:
    """A named order with further stages, each at its place."""
    stages = list(ORDERS[base])
    following: dict[str, int] = {}  # how many stages were put after this one
    for stage in added:
        after = dict(stage.after).get(base) or dict(stage.after).get("")
        names = [one.name for one in stages]
        if after == FIRST:
            stages.insert(following.get(FIRST, 0), stage)
            following[FIRST] = following.get(FIRST, 0) + 1
        elif after is None and stage.kind == "temperature":
            stages.insert(names.index("temperature"), stage)
        elif after is None and stage.kind in ("logits", "mask"):
            first = next(at for at, one in enumerate(stages) if one.kind in ("temperature", "truncation"))
            stages.insert(first, stage)
        elif after is None or after not in names:
            stages.append(stage)
        else:
            stages.insert(names.index(after) + 1 + following.get(after, 0), stage)
            following[after] = following.get(after, 0) + 1
    return tuple(stages)


def asks(stage: Stage, params: SamplingParams) -> bool:
    """Whether a row asks for a stage beyond the built-in ones."""
    values = {one.name: np.array([params.value_of(one)]) for one in stage.fields if one.is_scalar}
    return bool(np.asarray(stage.active(SimpleNamespace(**values)))[0])


def placed(key: str, rows: Iterable[SamplingParams]) -> str:
    """The key of the order in which rows run: that of a named order gains the stages that they ask for and it lacks.

    Raises:
        RequestError: the order is a list of stages, and a row sets a field of a stage that is not in it.
    """
    rows = list(rows)
    stages = order_of(key)
    names = {stage.name.removesuffix("_joint") for stage in stages}
    wanted = {name for row in rows for name in row.extra}
    missing = [stage for stage in further_stages() if stage.name not in names]
    missing = [stage for stage in missing if any(one.name in wanted for one in stage.fields)]
    missing = [stage for stage in missing if any(asks(stage, row) for row in rows)]
    if _NEXT not in key:
        base, *labels = key.split(_WITH)
        if not missing:
            return key
        known = {stage_labelled(label).name: label for label in labels} | {one.name: label_of(one) for one in missing}
        added = [known.pop(stage.name) for stage in further_stages() if stage.name in known]
        return _WITH.join([base, *added, *known.values()])
    own = {one.name: one for stage in STAGES if stage.name not in names for one in stage.fields}
    lost = [name for name, one in own.items() if any(row.value_of(one) != one.neutral for row in rows)]
    lost += [one.name for stage in missing for one in stage.fields]
    if lost:
        owner = owner_of(lost[0])
        assert owner is not None
        raise RequestError(
            f"{lost[0]} would have no effect: order lacks its stage {owner.name!r}; add it to the list", param=lost[0]
        )
    return key


def compares_prompts(key: str, params: SamplingParams) -> bool:
    """Whether a stage of the order in which a row runs reads the logits after its negative prompt."""
    return reads_negative(order_of(placed(key, [params])))
