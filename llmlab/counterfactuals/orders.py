"""One request under the orders of several engines: what each would say, and how far their laws lie apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.counterfactuals.rerun import changed_request, start
from llmlab.distributions.statistics import POSITIONS, OrderStatistics, order_statistics
from llmlab.errors import RequestError
from llmlab.frames.schema import build
from llmlab.protocol.arguments import choice_at, listed, one_of, order_name
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Choice
from llmlab.results.result import Result, read_all
from llmlab.sampling.history import history_of
from llmlab.sampling.params import stack
from llmlab.sampling.pipeline import ORDERS
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.lab.lab import Lab

__all__ = ["Orders", "compare_orders"]

ORDERS_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "order": "text",
    "sampling_logprob": "number",
    "kept": "count",
    "sampling_entropy": "number",
    "total_variation": "number",
    "drawn": "token",
    "drawn_id": "count",
}
PAIRS_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "order": "text",
    "other": "text",
    "total_variation": "number",
}
SUMMARY_COLUMNS: dict[str, str] = {
    "order": "text",
    "mean_total_variation": "number",
    "max_total_variation": "number",
    "steps": "index",
    "other_draws": "index",
    "choices_that_differ": "index",
}


class Orders:
    """The same request under several orders; `lab.compare_orders` makes one.

    The laws are compared along the tokens of `base`, so that each position is the same step for every order; what each
    order goes on to say by itself, under the same noise, is in `results`.

    Attributes:
        base: our own completion.
        results: order -> its completion, the base's own among them.
    """

    def __init__(self, base: Result, results: Mapping[str, Result], *, backend: LogitsBackend) -> None:
        self.base = base
        self.results = dict(results)
        self._backend = backend

    def frame(self) -> pd.DataFrame:
        """One row a position and order, along the base's tokens.

        Columns: choice, position, token, token_id, bytes, order, sampling_logprob (of that token in the order's law),
        kept (tokens that the law has), sampling_entropy (nats), total_variation (from the base's law, 0..1), drawn and
        drawn_id (the token that this order draws here from the same noise).
        """
        columns: dict[str, list[Any]] = {name: [] for name in ORDERS_COLUMNS}
        orders = list(self.results)
        for choice, laws in zip(self.base.choices, self._laws, strict=True):
            T = len(choice.tokens)
            for at, order in itertools.product(range(T), range(len(orders))):
                columns["order"].append(orders[order])
                columns["position"].append(at)
                for name in ("kept", "drawn"):
                    columns["drawn_id" if name == "drawn" else name].append(int(getattr(laws, name)[order, at]))
                columns["sampling_logprob"].append(float(laws.logprob[order, at]))
                columns["sampling_entropy"].append(float(laws.entropy[order, at]))
                columns["total_variation"].append(float(laws.distance[order, self._base_at, at]))
            columns["choice"] += [choice.index] * T * len(orders)
            columns["token_id"] += np.repeat(choice.tokens.ids, len(orders)).tolist()
        names = TokenNames(self._backend.token_bytes, self.base.names)
        columns["bytes"] = [names.bytes_of(i) for i in columns["token_id"]]
        columns["token"] = [names.text(i) for i in columns["token_id"]]
        columns["drawn"] = [names.text(i) for i in columns["drawn_id"]]
        return build(columns, ORDERS_COLUMNS)

    def pairs_frame(self) -> pd.DataFrame:
        """One row a position and pair of orders: choice, position, order, other, total_variation between their laws."""
        columns: dict[str, list[Any]] = {name: [] for name in PAIRS_COLUMNS}
        orders = list(self.results)
        for choice, laws in zip(self.base.choices, self._laws, strict=True):
            for at in range(len(choice.tokens)):
                for one, other in itertools.combinations(range(len(orders)), 2):
                    row = (choice.index, at, orders[one], orders[other], float(laws.distance[one, other, at]))
                    for name, value in zip(PAIRS_COLUMNS, row, strict=True):
                        columns[name].append(value)
        return build(columns, PAIRS_COLUMNS)

    def summary(self) -> pd.DataFrame:
        """One row an order but the base's.

        Columns: order, mean_total_variation and max_total_variation (from the base's law, over all steps), steps,
        other_draws (steps at which the same noise draws another token), choices_that_differ (of its own completion).
        """
        rows: dict[str, list[Any]] = {name: [] for name in SUMMARY_COLUMNS}
        for at, (order, result) in enumerate(self.results.items()):
            if at == self._base_at:
                continue
            distance = np.concatenate([laws.distance[at, self._base_at] for laws in self._laws])
            other = sum(int((laws.drawn[at] != laws.drawn[self._base_at]).sum()) for laws in self._laws)
            same = [found is None for found in result.diff(self.base).divergences.values()]
            rows["order"].append(order)
            rows["mean_total_variation"].append(distance.mean() if len(distance) else np.nan)
            rows["max_total_variation"].append(distance.max(initial=0.0) if len(distance) else np.nan)
            rows["steps"].append(len(distance))
            rows["other_draws"].append(other)
            rows["choices_that_differ"].append(len(same) - sum(same))
        return build(rows, SUMMARY_COLUMNS)

    def plot(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """How far each order's law lies from the base's, step by step; `llmlab.plots.counterfactual.plot_orders`."""
        from llmlab.plots.counterfactual import plot_orders

        return plot_orders(
            self.frame(),
            choice=self.base.choices[choice_at(choice, among=self.base)].index,
            base=self.base.order,
            ax=ax,
        )

    def __repr__(self) -> str:
        return f"{self._head()}\n{self.summary().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<div>{escape(self._head())}</div>{self.summary().to_html(index=False)}"

    def _head(self) -> str:
        others = [name for name in self.results if name != self.base.order]
        return f"Orders: {', '.join(others)} against {self.base.order}, along the tokens of {self.base.order}"

    @property
    def _base_at(self) -> int:
        return list(self.results).index(self.base.order)

    @cached_property
    def _laws(self) -> list[OrderStatistics]:
        return [self._along(choice) for choice in self.base.choices]

    def _along(self, choice: Choice) -> OrderStatistics:
        backend, request, prompt = self._backend, self.base.request, self.base.prompt_ids
        ids = choice.tokens.ids
        params = backend.sampling_params(request, seed=self.base.seed, choice=choice.index)
        masks = backend.grammar_masks(request, prompt=prompt, made=ids)
        parts, at = [], 0
        for raw in backend.logits(prompt, ids):
            C, V = raw.shape
            room = POSITIONS - C
            inputs = stack([params], vocab_size=V, ends=backend.end_ids)
            if masks is not None:
                piece = np.concatenate([masks[at : at + C], np.zeros((room, masks.shape[1]), np.uint32)])
                inputs = inputs._replace(mask=piece, masked=np.arange(POSITIONS) < C)
            history = history_of(prompt, ids[:at], vocab_size=V)
            padded = np.pad(raw, ((0, room), (0, 0))), np.pad(ids[at : at + C], (0, room))
            found = order_statistics(*padded, inputs, history, orders=tuple(self.results))
            parts.append(OrderStatistics(*(np.asarray(x)[..., :C] for x in found)))
            at += C
        count = len(self.results)
        if not parts:
            none, nobody = np.zeros((count, 0), np.float32), np.zeros((count, 0), np.int32)
            return OrderStatistics(none, none, nobody, nobody, np.zeros((count, count, 0), np.float32))
        return OrderStatistics(*(np.concatenate(x, axis=-1) for x in zip(*parts, strict=True)))


def compare_orders(
    lab: Lab, messages: Any, *, orders: str | Sequence[str], order: str | None, fields: Mapping[str, Any]
) -> Orders:
    """See `Lab.compare_orders`."""
    backend = lab.backend
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{backend.name} is an endpoint with an order of its own; llmlab.load a model for that")
    asked = [orders] if isinstance(orders, str) else listed("orders", orders, of="orders")
    for name in asked:
        one_of("orders", name, ORDERS)
    if order is not None:
        order_name(order)
    if isinstance(messages, Result):
        if fields or order not in (None, messages.order):
            raise RequestError("a result is compared as it is: rerun it first with what is to be changed")
        base = messages
    else:
        base = lab.chat(lab.request(messages, **fields), order=order or "llmlab")
    request = changed_request(base, {})
    others = [name for name in dict.fromkeys(asked) if name != base.order]
    found = read_all(lab, [start(lab, base, request=request, order=name) for name in others], parent=base)
    return Orders(base, {base.order: base, **dict(zip(others, found, strict=True))}, backend=backend)
