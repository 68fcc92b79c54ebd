"""The playground's controls: for each field of a request, how it is set by hand and what a setting means.

No widgets here. A `Control` says which kind of control a field needs, `fields_of` turns what the controls hold into a
request's fields, `values_of` does the opposite. A field at its default is left out of the request.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llmlab.errors import RequestError, short
from llmlab.protocol.backend import Backend
from llmlab.protocol.fields import FIELDS
from llmlab.protocol.request import Request
from llmlab.sampling.fields import Effect, Field
from llmlab.sampling.library import LIBRARY, LIBRARY_FIELDS
from llmlab.sampling.registry import further_stages, user_fields, user_stages
from llmlab.sampling.stages import ORDERS

#: Fields of a request that have no control, and why.
WITHOUT_CONTROL: Mapping[str, str] = {
    name: field.control for name, field in FIELDS.items() if isinstance(field.control, str) and name != "prompt"
}


class Control(NamedTuple):
    """One field of a request as something to be set by hand.

    `kind` says what the control holds: "number" and "count" a number, or a text that was typed in its place; "whole" an
    integer as text, empty for none; "text" a text, empty for none, that may also be JSON; "json" JSON, empty for none;
    "flag" a bool; "choice" one of `choices`. `effect` says what a change moves first (see
    `llmlab.sampling.fields.Effect`). `low`, `high`, `step` and `scale` are the slider's; a number may lie between its
    steps and beyond its ends. `empty` is what an empty box shows: what that means, or an example.
    """

    name: str
    kind: Literal["number", "count", "whole", "text", "json", "flag", "choice"]
    group: Literal["sampling", "answer", "more"]
    effect: Effect
    hint: str
    default: Any = ""
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    choices: tuple[str, ...] = ()
    empty: str = ""
    scale: Literal["linear", "log"] = "linear"


_ON, _OFF, _TEMPLATES = "on", "off", "the template’s default"
_SWITCH = {_ON: True, _OFF: False}
#: What the controls with a slider hold.
_WORDS = {"number": "a number", "count": "an integer"}
#: The widget for a field of each kind, where the field does not say another.
_WIDGETS = {"number": "number", "integer": "count", "by_token": "json", "flag": "flag", "choice": "choice"}


def control_of(field: Field) -> Control:
    """The control of a field that has one."""
    said = field.control
    assert not isinstance(said, str), f"{field.name} has no control: {said}"
    kind: Any = said.widget or _WIDGETS[field.kind]
    found = Control(field.name, kind, said.group, field.effect, field.text, empty=said.empty)
    if kind in ("number", "count"):
        low, high = said.low if said.low is not None else field.low, said.high if said.high is not None else field.high
        assert low is not None, f"{field.name}: a slider needs both ends"
        high = low + 100 if high is None else high
        step = said.step if said.step is not None else 1 if kind == "count" else 0.01
        return found._replace(default=field.default, low=low, high=high, step=step, scale=said.scale)
    if kind == "switch":
        return found._replace(kind="choice", default=_TEMPLATES, choices=(_TEMPLATES, _ON, _OFF))
    if kind in ("flag", "choice"):
        return found._replace(default=field.default, choices=field.choices)
    return found


#: The order of the sampler's stages: a parameter of a call, not a field of the request.
_ORDER = Control(
    "order", "choice", "sampling", "distribution", "The order of the sampler’s stages: ours, or another engine’s.",
    "llmlab", choices=tuple(ORDERS),
)  # fmt: skip

CONTROLS: tuple[Control, ...] = (
    *(control_of(field) for field in FIELDS.values() if not isinstance(field.control, str)),
    _ORDER,
)


def controls_for(
    backend: Backend, *, order: str = "llmlab", given: Collection[str] = LIBRARY_FIELDS
) -> tuple[Control, ...]:
    """The controls that have an effect with this backend: no switch that its chat template lacks, for example.

    Those of a user's stages are among them, and those of the library's stages of which a field is among `given`: all of
    them would be as many again as a page takes. `order` is one of the orders to choose from.
    """
    unasked = [stage for stage in LIBRARY if not any(field.name in given for field in stage.fields)]
    left_out = {*backend.unsupported, *(field.name for stage in unasked for field in stage.fields)}
    if not any(stage.reads_negative for stage in {*LIBRARY, *user_stages()} - {*unasked}):
        left_out.add("negative_prompt")
    users = (control_of(field) for field in user_fields().values() if not isinstance(field.control, str))
    orders = _ORDER._replace(choices=tuple(dict.fromkeys([*ORDERS, order])))
    own = [orders if control is _ORDER else control for control in CONTROLS]
    return tuple(control for control in (*own, *users) if control.name not in left_out)


def fields_of(values: Mapping[str, Any], controls: Sequence[Control] = CONTROLS) -> dict[str, Any]:
    """Returns the fields of a request (and `order`) that the controls hold; those at their defaults are left out.

    Raises:
        RequestError: a text should be a number or JSON and is not. Ranges are checked by the request.
    """
    touched = {control.name for control in controls if not _left_alone(control, values[control.name])}
    if "negative_prompt" in touched:  # which stands beside the fields of a stage that reads it, whatever their values
        touched |= {field.name for stage in further_stages() if stage.reads_negative for field in stage.fields}
    return {control.name: _read(control, values[control.name]) for control in controls if control.name in touched}


def values_of(request: Request, *, order: str = "llmlab", controls: Sequence[Control] = CONTROLS) -> dict[str, Any]:
    """Returns what the controls hold to stand for a request.

    Raises:
        RequestError: the request has a field that no control can set.
    """
    given = {**request.to_dict(), "order": order}
    given.setdefault("max_tokens", given.pop("max_completion_tokens", None))
    names = {control.name for control in controls} | {"order"}
    for name, value in given.items():
        if name not in names and name not in WITHOUT_CONTROL and name != "prompt" and value is not None:
            raise RequestError(f"{name} cannot be set here: this model has no use for it", param=name)
    return {control.name: _written(control, given.get(control.name)) for control in controls}


def _left_alone(control: Control, value: Any) -> bool:
    if control.kind in ("whole", "json"):
        return not value.strip()
    return bool(value == control.default)


def _read(control: Control, value: Any) -> Any:
    name = control.name
    if control.kind in _WORDS and isinstance(value, str):
        raise RequestError(f"{name} must be {_WORDS[control.kind]}, got {short(value)}", param=name)
    if control.kind == "whole":
        text = value.strip().replace("−", "-")
        if not text.removeprefix("-").isdecimal():
            raise RequestError(f"{name} must be an integer, got {value!r}", param=name)
        return int(text)
    if control.kind == "json" or (control.kind == "text" and value.lstrip()[:1] in ("[", "{", '"')):
        try:
            return json.loads(value)
        except ValueError as error:
            raise RequestError(f"{name} must be JSON, such as {control.empty}: {error}", param=name) from None
    if name == "enable_thinking":
        return _SWITCH[value]
    return value


def _written(control: Control, value: Any) -> Any:
    if value is None:
        return control.default
    if control.kind == "whole":
        return str(value)
    if control.kind in ("text", "json"):
        # A browser's line of text has no line breaks: such a text is spelled in JSON, where they are escaped.
        plain = isinstance(value, str) and value.lstrip()[:1] not in ("[", "{", '"') and value.isprintable()
        return value if control.kind == "text" and plain else json.dumps(value, ensure_ascii=False)
    if control.name == "enable_thinking":
        return _ON if value else _OFF
    return value
