"""The grid of a sweep: the request of each cell, made from lists of parameter values and prompts, and its seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmlab.errors import ModelNotFoundError, RequestError, short
from llmlab.frames.schema import column_kind, plain
from llmlab.protocol.conversations import several_conversations, several_prompts
from llmlab.protocol.request import ChatRequest, PromptRequest, Request
from llmlab.sweeps.labels import prompt_labels

#: Completions per cell, if neither the caller nor the request gives a number.
COMPLETIONS = 16

#: Random and derived seeds are smaller than this, because some endpoints take only signed 32-bit integers. Two cells of
#: 300 independent ones get the same seed in about one sweep of 50,000; they would then only share their noise.
SEEDS = 2**31

#: Fields whose value is itself a list, and the type of its items. A list of anything else is a list of values to sweep.
_LISTS: dict[str, type | tuple[type, ...]] = {
    "stop": str, "tools": Mapping, "dry_sequence_breakers": str, "negative_prompt": (int, Mapping)
}  # fmt: skip
#: Fields that cannot be given to a sweep, and why.
_REFUSED = {"stream": "a sweep waits for its answers", "stream_options": "a sweep waits for its answers"}


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a request for n completions.

    Attributes:
        point: name of a swept parameter -> its value in this cell, in the order of the axes.
        request: the request, with its seed and its number of completions.
        order: the order of the sampler's stages.
    """

    point: Mapping[str, Any]
    request: Request
    order: str

    @property
    def key(self) -> str:
        """The request as text: equal for equal cells, also of another process."""
        return json.dumps([type(self.request).__name__, self.request.to_dict(), self.order], sort_keys=True)


@dataclass(frozen=True)
class Grid:
    """All cells of a sweep, in the order of their axes; the last axis varies fastest.

    Attributes:
        axes: name of a swept parameter -> its values. A list of prompts is the first axis, "prompt"; its values are
            texts, the prompts themselves or their labels.
        cells: one for each combination of values.
        seed: the seed that the seed of every cell is derived from.
        independent: whether each cell has noise of its own.
        model: the model's name.
    """

    axes: Mapping[str, tuple[Any, ...]]
    cells: tuple[Cell, ...]
    seed: int
    independent: bool
    model: str

    @property
    def columns(self) -> dict[str, str]:
        """Name of a swept parameter -> the kind of its column in a frame."""
        # Sweeps that older versions saved have the numbers of the prompts.
        numbered = all(isinstance(value, int) for value in self.axes.get("prompt", ()))
        own = {"prompt": "index" if numbered else "text", "sweep": "text"}
        return {axis: own.get(axis) or column_kind(axis) for axis in self.axes}

    def values_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The values of some axes that a caller means; a prompt may be meant by its number, from 0.

        Raises:
            RequestError: there is no such axis.
        """
        for name in point:
            if name not in self.axes:
                raise RequestError(
                    f"{name} is not swept here; the axes are {', '.join(self.axes) or 'none'}", param=name
                )
        prompts, number = self.axes.get("prompt", ()), point.get("prompt")
        if isinstance(number, int) and number not in prompts and 0 <= number < len(prompts):
            return {**point, "prompt": prompts[number]}
        return dict(point)


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
    label: Any = None,
    models: Sequence[str] = (),
) -> Grid:
    """The grid for the arguments of `lab.sweep`.

    Args:
        request: makes one validated request of messages and fields, as `Lab.request` does.
        messages: one prompt, or a list of prompts.
        model: the model's name.
        order: one order of the sampler's stages, or several to sweep.
        n: completions per cell; None takes the request's own number, otherwise `COMPLETIONS`.
        seed: None takes the request's own seed, otherwise a random one.
        independent: give each cell noise of its own.
        fields: the request's fields; a list of values is swept.
        label: what the prompts of a list are called; None for their texts.
        models: the names that `model` can have, where it can have several.

    Raises:
        RequestError: the first argument that is wrong; nothing has run yet.
    """
    if _is_axis("system", fields.get("system")):
        raise RequestError(
            "system is one text; sweep a list of conversations, with label= to name them", param="system"
        )
    for name, why in _REFUSED.items():
        if fields.get(name):
            raise RequestError(f"{name}: {why}; lab.stream returns one answer while it is generated", param=name)
    if _is_axis("model", fields.get("model")):
        _check_models(fields["model"], models)
    swept = {name: _values(name, value) for name, value in fields.items() if name != "prompt" and _is_axis(name, value)}
    swept |= {"order": _values("order", order)} if not isinstance(order, str) else {}
    _check_orders(swept.get("order", (order,)))
    fixed = {name: value for name, value in fields.items() if name not in swept and name != "prompt"}
    subject, prompts, several = _prompts(messages, fields.get("prompt"))
    # With a value of each swept field, because some fields are allowed only beside others.
    first = {name: values[0] for name, values in swept.items() if name != "order"}
    whole = [_ask(request, subject, prompt, fixed | first) for prompt in prompts]
    names = prompt_labels(whole, label, several=several)
    given = next((asked.seed for asked in whole if asked.seed is not None), None) if seed is None else seed
    base = whole[0].replace(seed=secrets.randbelow(SEEDS) if given is None else given).seed
    assert base is not None
    cells: list[Cell] = []
    for number, asked in enumerate(whole):
        count = n if n is not None else asked.n if "n" in asked.model_fields_set else COMPLETIONS
        for values in itertools.product(*swept.values()):
            changes = dict(zip(swept, values, strict=True))
            which = changes.pop("order", order)
            cell = asked.replace(**changes, n=count, seed=prompt_seed(base, number))
            point = {name: getattr(cell, name) for name in changes} | {"order": which}
            if independent:
                told = json.dumps([cell.to_dict(), which], sort_keys=True)
                cell = cell.replace(seed=_derived(base, number, told))
            here = {"prompt": names[number]} if several else {}
            cells.append(Cell(here | {name: plain(point[name]) for name in swept}, cell, which))
    axes = {"prompt": tuple(names)} if several else {}
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
    values = tuple(value.tolist() if hasattr(value, "tolist") else value)
    if not values:
        raise RequestError(f"{name} is an empty list: give at least one value to sweep", param=name)
    return values


def _check_models(names: Sequence[Any], models: Sequence[str]) -> None:
    if len(models) < 2:
        raise RequestError(
            "model cannot be swept: a lab has one model; load it with adapters= beside it, or sweep with the lab of "
            "each model",
            param="model",
        )
    for name in names:
        if name not in models:
            raise ModelNotFoundError(f"the model {short(name)} does not exist; loaded is {models}", param="model")


def _check_orders(orders: Sequence[Any]) -> None:
    if list(orders) == ["llmlab"]:
        return  # the usual case, which need not import the sampler


def _check_apart(axes: Mapping[str, tuple[Any, ...]], swept: Mapping[str, tuple[Any, ...]]) -> None:
    for name, given in swept.items():
        if len(axes[name]) < len(given):
            raise RequestError(f"{name} has a value twice among {list(given)}; give each value once", param=name)


def _prompts(messages: Any, prompt: Any) -> tuple[str, list[Any], bool]:
    """The name of the field, the prompts, and whether a list of prompts was given."""
    if prompt is not None:
        if messages is not None:
            raise RequestError("give messages or a prompt, not both", param="prompt")
        raw = several_prompts(prompt)
        return "prompt", [prompt] if raw is None else raw, raw is not None
    if messages is None:
        raise RequestError("messages is missing: give a text, a list of messages, or a list of those", param="messages")
    found = several_conversations(messages, also=(ChatRequest, PromptRequest))
    return "messages", [messages] if found is None else found, found is not None


def _ask(request: Callable[..., Request], subject: str, prompt: Any, fields: Mapping[str, Any]) -> Request:
    made = request(None, prompt=prompt, **fields) if subject == "prompt" else request(prompt, **fields)
    if made.stream:
        raise RequestError("stream = True: a sweep waits for its answers", param="stream")
    return made


def prompt_seed(base: int, prompt: int) -> int:
    """The seed of a prompt's cells: the sweep's own for the first prompt, so that `chat` gives the same answers."""
    return base if prompt == 0 else _derived(base, prompt)


def _derived(*parts: int | str) -> int:
    """A seed in [0, 2^31), from a hash of the parts."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % SEEDS
