"""Compiled functions whose stages are static, without a program for every order that was ever tried."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any

import jax

from llmlab.sampling.stages import ORDERS

__all__ = ["PerOrder"]

#: How many orders besides those of `ORDERS` keep their programs, for each function. Someone who works on a stage
#: defines it anew again and again, and each definition is compiled.
KEPT = 32


class PerOrder:
    """`jax.jit` with a static argument that says which stages run, an order or several.

    The programs of the orders in `ORDERS` are kept for ever; of all others, those of the `KEPT` used last.

    Args:
        function: what is compiled.
        static: the name of the argument, which is given by keyword.
        more: the names of further static arguments.
        options: those of `jax.jit`.
    """

    def __init__(
        self, function: Callable[..., Any], *, static: str = "order", more: tuple[str, ...] = (), **options: Any
    ) -> None:
        self._function, self._static = function, static
        self._options = {**options, "static_argnames": (static, *more)}
        self._named = jax.jit(function, **self._options)
        self._others: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **others: Any) -> Any:
        """Calls the program of the order that `others` name."""
        return self.compiled(others[self._static])(*args, **others)

    def _cache_size(self) -> int:
        """How many programs there are, as a function that `jax.jit` returns tells it."""
        return sum(int(one._cache_size()) for one in (self._named, *self._others.values()))

    def lower(self, *args: Any, **others: Any) -> Any:
        """As `jax.jit(...).lower`."""
        return self.compiled(others[self._static]).lower(*args, **others)

    def compiled(self, key: Any) -> Any:
        """The jitted function that runs an order; JAX drops its programs together with it."""
        if _is_named(key):
            return self._named
        with self._lock:
            found = self._others.pop(key, None)
            if found is None:
                # A function of its own, because that is what JAX holds programs by.
                @wraps(self._function)
                def own(*args: Any, **others: Any) -> Any:
                    return self._function(*args, **others)

                found = jax.jit(own, **self._options)
            self._others[key] = found
            gone = [self._others.popitem(last=False)[1] for _ in range(len(self._others) - KEPT)]
        for one in gone:
            one.clear_cache()
        return found


def _is_named(key: Any) -> bool:
    if isinstance(key, str):
        return key in ORDERS
    return key in ORDERS.values() or all(isinstance(one, str) and one in ORDERS for one in key)
