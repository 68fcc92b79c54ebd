"""The cells of a sweep: which requests a grid of parameters and prompts stands for, and the seed of each."""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.errors import RequestError
from llmlab.frames.schema import column_kind, plain
from llmlab.protocol.request import ChatRequest, PromptRequest, Request

#: Completions a cell, unless the caller or the request says otherwise.
COMPLETIONS = 16

#: Drawn and derived seeds lie below this: an endpoint may take signed 32 bits and no more. A few hundred cells seldom
#: meet (300 independent ones: about once in 50,000 sweeps), and two that did would share their noise, nothing worse.
_SEEDS = 2**31

#: Fields whose own value is a list: only a list that holds something else than these is one value after the other.
_LISTS: dict[str, type | tuple[type, ...]] = {"stop": str, "tools": Mapping}
#: Fields that a sweep gives each request itself.
_OWN = {"stream": "a sweep waits for its answers", "stream_options": "a sweep waits for its answers"}


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a request for n completions.

    Attributes:
        point: axis -> this cell's value, in the order of the axes.
        request: with its seed and its n.
        order: of the sampler's stages.
    """

    point: Mapping[str, Any]
    request: Request
    order: str

    @property
    def key(self) -> str:
        """What the cell asks, as text: equal for equal cells, in whatever process they were made."""
        return json.dumps([type(self.request).__name__, self.request.to_dict(), self.order], sort_keys=True)


@dataclass(frozen=True)
class Grid:
    """All cells, the last axis fastest.

    Attributes:
        axes: what is swept -> its values; "prompt" comes first where a list of prompts was given, by their numbers.
        cells: one for each combination.
        seed: that every cell's seed is derived from.
        independent: whether each cell has noise of its own.
        model: who is asked.
    """

    axes: Mapping[str, tuple[Any, ...]]
    cells: tuple[Cell, ...]
    seed: int
    independent: bool
    model: str

    @property
    def columns(self) -> dict[str, str]:
        """Axis -> the kind of its column in a frame."""
        return {axis: "index" if axis == "prompt" else column_kind(axis) for axis in self.axes}


def build(
    request: Callable[..., Request],
    messages: Any,
    *,
    model: str,
    order: str | Sequence[str],
    n: int | None,
    seed: int | None,
    independent: bool,
    fields: Mapping[str, Any],
) -> Grid:
    """The grid of a call of `lab.sweep`.

    Args:
        request: makes one validated request of messages and fields, as `Lab.request` does.
        messages: one prompt, or a list of prompts.
        model: who is asked.
        order: one, or several to sweep.
        n: completions a cell.
        seed: None draws one.
        independent: separate the cells' noise.
        fields: of the request; a list of values is an axis.

    Raises:
        RequestError: naming the first thing that is wrong, before anything runs.
    """
    for name, why in _OWN.items():
        if fields.get(name):
            raise RequestError(f"{name}: {why}; lab.stream gives one answer as it is made", param=name)
    swept = {name: _values(name, value) for name, value in fields.items() if name != "prompt" and _is_axis(name, value)}
    swept |= {"order": _values("order", order)} if not isinstance(order, str) else {}
    _check_orders(swept.get("order", (order,)))
    fixed = {name: value for name, value in fields.items() if name not in swept and name != "prompt"}
    subject, prompts, several = _prompts(messages, fields.get("prompt"))
    whole = [_ask(request, subject, prompt, fixed) for prompt in prompts]
    given = next((asked.seed for asked in whole if asked.seed is not None), None) if seed is None else seed
    base = whole[0].replace(seed=secrets.randbelow(_SEEDS) if given is None else given).seed
    assert base is not None
    cells: list[Cell] = []
    for number, asked in enumerate(whole):
        count = n if n is not None else asked.n if "n" in asked.model_fields_set else COMPLETIONS
        for values in itertools.product(*swept.values()):
            changes = dict(zip(swept, values, strict=True))
            which = changes.pop("order", order)
            cell = asked.replace(**changes, n=count, seed=_seed(base, number))
            point = {name: getattr(cell, name) for name in changes} | {"order": which}
            if independent:
                told = json.dumps([cell.to_dict(), which], sort_keys=True)
                cell = cell.replace(seed=_derived(base, number, told))
            here = {"prompt": number} if several else {}
            cells.append(Cell(here | {name: plain(point[name]) for name in swept}, cell, which))
    axes = {"prompt": tuple(range(len(whole)))} if several else {}
    axes |= {name: tuple(dict.fromkeys(cell.point[name] for cell in cells)) for name in swept}
    _check_apart(axes, swept)
    return Grid(axes, tuple(cells), base, independent, model)


def _is_axis(name: str, value: Any) -> bool:
    column = hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1  # an array, a frame's column
    if not column and (isinstance(value, str | bytes) or not isinstance(value, Sequence)):
        return False
    own = _LISTS.get(name)
    return own is None or not all(isinstance(item, own) for item in value)


def _values(name: str, value: Any) -> tuple[Any, ...]:
    if name == "model":
        raise RequestError("model cannot be swept: a lab holds one; ask each model's own", param=name)
    values = tuple(value.tolist() if hasattr(value, "tolist") else value)
    if not values:
        raise RequestError(f"{name} is an empty list: give at least one value to sweep", param=name)
    return values


def _check_orders(orders: Sequence[Any]) -> None:
    if list(orders) == ["llmlab"]:
        return  # no need to load what knows the others
    from llmlab.sampling.pipeline import ORDERS

    for order in orders:
        if order not in ORDERS:
            raise RequestError(f"order must be one of {', '.join(ORDERS)}, got {order!r}", param="order")


def _check_apart(axes: Mapping[str, tuple[Any, ...]], swept: Mapping[str, tuple[Any, ...]]) -> None:
    for name, given in swept.items():
        if len(axes[name]) < len(given):
            raise RequestError(f"{name} has a value twice among {list(given)}: each is one column of cells", param=name)


def _prompts(messages: Any, prompt: Any) -> tuple[str, list[Any], bool]:
    """What is asked about: the field, the prompts, and whether a list of prompts was given."""
    if prompt is not None:
        if messages is not None:
            raise RequestError("give messages or a prompt, not both", param="prompt")
        # A list of numbers is one prompt, as token ids.
        several = _is_list(prompt) and not all(isinstance(item, int | np.integer) for item in prompt)
        return "prompt", list(prompt) if several else [prompt], several
    if messages is None:
        raise RequestError("messages is missing: give a text, a list of messages, or a list of those", param="messages")
    if not _is_list(messages):
        return "messages", [messages], False
    if not len(messages):
        raise RequestError("messages is an empty list: give at least one prompt", param="messages")
    whole = [isinstance(item, str | ChatRequest | PromptRequest) or _is_list(item) for item in messages]
    if any(whole) and not all(whole):
        raise RequestError(
            "messages holds prompts and single messages side by side; give one list of messages, or a list of prompts",
            param="messages",
        )
    return "messages", list(messages) if whole[0] else [messages], whole[0]


def _ask(request: Callable[..., Request], subject: str, prompt: Any, fields: Mapping[str, Any]) -> Request:
    made = request(None, prompt=prompt, **fields) if subject == "prompt" else request(prompt, **fields)
    if made.stream:
        raise RequestError("stream = True: a sweep waits for its answers", param="stream")
    return made


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def _seed(base: int, prompt: int) -> int:
    """The seed of a prompt's cells: the sweep's own for the first prompt, so that a lone one is what `chat` gives."""
    return base if prompt == 0 else _derived(base, prompt)


def _derived(*parts: int | str) -> int:
    """A seed in [0, 2^31) from a hash."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % _SEEDS
