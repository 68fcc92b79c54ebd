"""Tells other processes which programs an engine runs, so that each of them runs the same ones on its own devices.

A program over a mesh that spans several processes runs only if every one of them starts it, in the same order. One
process, the leader, has the engine: it takes the requests and decides what runs. Before each call of a program it sends
the program's name and arguments, and the followers make the same call. They need no request, tokenizer or grammar.

Arrays of the host travel by value. Arrays on the devices are not sent: every process counts the arrays that its
programs return, in the same order, and an argument is named by its number. A message is JSON with the bytes of the
arrays after it, so that nothing that is received can be run as code.
"""

from __future__ import annotations

import json
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial, wraps
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from llmlab.errors import EngineError

#: The bytes of a message's first part: the length of its JSON.
_HEAD = 8
#: Stands for the weights, which every process has.
_WEIGHTS = {"weights": 0}


@runtime_checkable
class Relay(Protocol):
    """What an engine asks of the connection to its followers."""

    @property
    def lost(self) -> EngineError | None:
        """Why nothing can run any more; None while every follower is there."""
        ...

    def told(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the program `name` with its calls made by all processes."""
        ...

    def failed(self, error: BaseException) -> EngineError:
        """Notes that a call failed here, after which the processes no longer agree; returns the reason of all that."""
        ...

    def close(self) -> None:
        """Lets the followers free what they hold for this engine."""
        ...


class Calls:
    """The leader's half: turns each call into a message, and numbers the arrays that it returns.

    Args:
        send: sends a message to all followers.
        lock: is held from a message to the start of its call; all engines with the same followers share it, so that
            every process starts their programs in one order.
    """

    def __init__(self, send: Callable[[bytes], None], *, lock: AbstractContextManager[Any]) -> None:
        self._send = send
        self._lock = lock
        self._count = 0
        self._held: dict[int, tuple[int, weakref.ref[jax.Array]]] = {}  # id of an array -> its number
        self._gone: deque[int] = deque()

    def told(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the program with each call sent before it is made; its weights are the first argument, or none."""

        @wraps(function)
        def call(*args: Any, **others: Any) -> Any:
            with self._lock:
                gone = [self._gone.popleft() for _ in range(len(self._gone))]
                self._send(pack({"call": name, "gone": gone, "args": args, "others": others}, number=self._number))
                out = function(*args, **others)
                for array in jax.tree.leaves(out):
                    self._keep(array)
            return out

        return call

    def _number(self, array: jax.Array) -> int:
        try:
            return self._held[id(array)][0]
        except KeyError:
            raise AssertionError(f"an array of shape {array.shape} is not of a program that was told") from None

    def _keep(self, array: jax.Array) -> None:
        key = id(array)
        if key in self._held:  # a program may return an argument as it is
            self._gone.append(self._held[key][0])
        self._held[key] = self._count, weakref.ref(array, partial(self._forget, key))
        self._count += 1

    def _forget(self, key: int, _: object) -> None:
        # This may run inside a garbage collection on any thread.
        self._gone.append(self._held.pop(key)[0])


class Replay:
    """A follower's half: makes the calls that the leader makes.

    Args:
        call: calls a program by its name with arguments and keyword arguments.
        weights: what programs get in place of the leader's weights.
    """

    def __init__(self, call: Callable[..., Any], weights: Any) -> None:
        self._call = call
        self._weights = weights
        self._count = 0
        self._held: dict[int, jax.Array] = {}

    def run(self, message: bytes) -> None:
        """Makes one call."""
        told = unpack(message, held=self._held.__getitem__, weights=self._weights)
        # Before the call, which may need the memory.
        for number in told["gone"]:
            del self._held[number]
        out = self._call(told["call"], told["args"], told["others"])
        for array in jax.tree.leaves(out):
            self._held[self._count] = array
            self._count += 1


def pack(message: Any, *, number: Callable[[jax.Array], int]) -> bytes:
    """Returns a message as bytes.

    Args:
        message: numbers, texts, NumPy's arrays, JAX's arrays, and lists, dicts and named tuples of them. A list of
            JAX's arrays alone stands for the weights.
        number: of a JAX array.
    """
    blobs: list[bytes] = []

    def plain(x: Any) -> Any:
        if isinstance(x, np.ndarray | np.generic):
            blobs.append(x.tobytes())
            return {"array": [x.dtype.name, list(x.shape)]}
        if x is None or isinstance(x, bool | int | float | str):
            return x
        if isinstance(x, jax.Array):
            return {"held": number(x)}
        if isinstance(x, Mapping):
            return {"dict": {name: plain(value) for name, value in x.items()}}
        if isinstance(x, list) and x and all(isinstance(each, jax.Array) for each in x):
            return _WEIGHTS
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            return {"named": [type(x).__module__, type(x).__qualname__, *map(plain, x)]}
        if isinstance(x, list | tuple):
            return {"list": [plain(each) for each in x]}
        raise TypeError(f"a message holds no {type(x).__name__}")

    head = json.dumps(plain(message)).encode()
    return b"".join([len(head).to_bytes(_HEAD, "little"), head, *blobs])


def unpack(message: bytes, *, held: Callable[[int], jax.Array], weights: Any = None) -> Any:
    """Returns what `pack` was given; tuples without names come back as tuples, as do lists.

    Args:
        message: the bytes.
        held: the array on this process's devices that has a number.
        weights: what stands in place of the weights.
    """
    at = _HEAD + int.from_bytes(message[:_HEAD], "little")

    def whole(x: Any) -> Any:
        nonlocal at
        if not isinstance(x, dict):
            return x
        [(kind, of)] = x.items()
        if kind == "array":
            dtype, shape = np.dtype(of[0]), tuple(of[1])
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(message, dtype, count, at).reshape(shape)
            at += count * dtype.itemsize
            return array
        if kind == "held":
            return held(of)
        if kind == "dict":
            return {name: whole(value) for name, value in of.items()}
        if kind == "weights":
            return weights
        if kind == "named":
            return _named(of[0], of[1])(*map(whole, of[2:]))
        return tuple(whole(each) for each in of)

    return whole(json.loads(message[_HEAD:at]))


def _named(module: str, name: str) -> type:
    """A named tuple of this package."""
    found = getattr(import_module(module), name) if module.partition(".")[0] == __name__.partition(".")[0] else None
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise TypeError(f"{module}.{name} is no named tuple of this package")
    return found
