"""One request under several engines' orders of the sampler's stages: what changes, and how far distributions differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.counterfactuals.alignment import first_difference
from llmlab.counterfactuals.answered import Answered
from llmlab.counterfactuals.rerun import changed_request, start
from llmlab.display.html import Markup, fragment
from llmlab.distributions.statistics import POSITIONS, OrderStatistics, States, order_statistics
from llmlab.errors import RequestError
from llmlab.frames.schema import build
from llmlab.protocol.arguments import OrderLike, choice_at, orders_of
from llmlab.protocol.backend import Backend, LogitsBackend, Stream
from llmlab.protocol.completion import Choice
from llmlab.sampling.history import history_of
from llmlab.sampling.orders import order_of, placed
from llmlab.sampling.params import stack
from llmlab.sampling.stage import reads_negative
from llmlab.sampling.states import no_states
from llmlab.sampling.trail import Pieces
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Orders", "comparable", "start_orders"]

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
    """One request under several orders of the sampler's stages; `lab.compare_orders` returns one.

    The distributions are compared along the tokens of `base`, so that each position is the same step for every order.
    What each order goes on to generate by itself, with the same noise, is in `results`.

    Attributes:
        base: the answer along whose tokens the distributions are compared.
        results: order -> the answer it gives; the base is among them.
    """

    def __init__(self, base: Answered, results: Mapping[str, Answered], *, backend: LogitsBackend) -> None:
        self.base = base
        self.results = dict(results)
        self._backend = backend

    def frame(self) -> pd.DataFrame:
        """One row per position and order, along the base's tokens.

        Columns: choice, position, token, token_id, bytes, order, sampling_logprob (of that token under the order), kept
        (the number of tokens that the order can draw), sampling_entropy (nats), total_variation (between the order's
        distribution and the base's, 0..1), drawn and drawn_id (the token that the order draws with the same noise).
        """
        columns: dict[str, list[Any]] = {name: [] for name in ORDERS_COLUMNS}
        orders = list(self.results)
        for choice, statistics in zip(self.base.choices, self._statistics, strict=True):
            T = len(choice.tokens)
            for at, order in itertools.product(range(T), range(len(orders))):
                columns["order"].append(orders[order])
                columns["position"].append(at)
                for name in ("kept", "drawn"):
                    columns["drawn_id" if name == "drawn" else name].append(int(getattr(statistics, name)[order, at]))
                columns["sampling_logprob"].append(float(statistics.logprob[order, at]))
                columns["sampling_entropy"].append(float(statistics.entropy[order, at]))
                columns["total_variation"].append(float(statistics.distance[order, self._base_at, at]))
            columns["choice"] += [choice.index] * T * len(orders)
            columns["token_id"] += np.repeat(choice.tokens.ids, len(orders)).tolist()
        names = TokenNames(self._backend.token_bytes, self.base.control_tokens)
        columns["bytes"] = [names.bytes_of(i) for i in columns["token_id"]]
        columns["token"] = [names.text(i) for i in columns["token_id"]]
        columns["drawn"] = [names.text(i) for i in columns["drawn_id"]]
        return build(columns, ORDERS_COLUMNS)

    def pairs_frame(self) -> pd.DataFrame:
        """One row per position and pair of orders.

        Columns: choice, position, order, other, total_variation (between their distributions, 0..1).
        """
        columns: dict[str, list[Any]] = {name: [] for name in PAIRS_COLUMNS}
        orders = list(self.results)
        for choice, statistics in zip(self.base.choices, self._statistics, strict=True):
            for at in range(len(choice.tokens)):
                for one, other in itertools.combinations(range(len(orders)), 2):
                    row = (choice.index, at, orders[one], orders[other], float(statistics.distance[one, other, at]))
                    for name, value in zip(PAIRS_COLUMNS, row, strict=True):
                        columns[name].append(value)
        return build(columns, PAIRS_COLUMNS)

    def summary_frame(self) -> pd.DataFrame:
        """One row per order, without the base.

        Columns: order, mean_total_variation and max_total_variation (distance from the base's distribution, over all
        steps), steps, other_draws (the number of steps at which the same noise draws another token),
        choices_that_differ (the number of choices whose own answer differs from the base's).
        """
        rows: dict[str, list[Any]] = {name: [] for name in SUMMARY_COLUMNS}
        for at, (order, result) in enumerate(self.results.items()):
            if at == self._base_at:
                continue
            distance = np.concatenate([one.distance[at, self._base_at] for one in self._statistics])
            other = sum(int((one.drawn[at] != one.drawn[self._base_at]).sum()) for one in self._statistics)
            theirs = {choice.index: choice for choice in result.choices}
            pairs = [(choice, theirs[choice.index]) for choice in self.base.choices if choice.index in theirs]
            differ = [first_difference(one.tokens, another.tokens) is not None for one, another in pairs]
            rows["order"].append(order)
            rows["mean_total_variation"].append(distance.mean() if len(distance) else np.nan)
            rows["max_total_variation"].append(distance.max(initial=0.0) if len(distance) else np.nan)
            rows["steps"].append(len(distance))
            rows["other_draws"].append(other)
            rows["choices_that_differ"].append(sum(differ))
        return build(rows, SUMMARY_COLUMNS)

    def plot(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """Plots each order's distance from the base along a choice; see `llmlab.plots.counterfactual.plot_orders`."""
        from llmlab.plots.counterfactual import plot_orders

        return plot_orders(
            self.frame(),
            choice=self.base.choices[choice_at(choice, among=self.base.choices)].index,
            base=self.base.order,
            ax=ax,
        )

    def __repr__(self) -> str:
        return f"{self._head()}\n{self.summary_frame().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return str(fragment("<div>{}</div>{}", self._head(), Markup(self.summary_frame().to_html(index=False))))

    def _head(self) -> str:
        others = [name for name in self.results if name != self.base.order]
        return f"Orders: {', '.join(others)} against {self.base.order}, along the tokens of {self.base.order}"

    @property
    def _base_at(self) -> int:
        return list(self.results).index(self.base.order)

    @cached_property
    def _statistics(self) -> list[OrderStatistics]:
        return [self._along(choice) for choice in self.base.choices]

    def _along(self, choice: Choice) -> OrderStatistics:
        """The statistics of every order at each position of a choice, in pieces that one program serves."""
        backend, request, prompt = self._backend, self.base.request, self.base.prompt_ids
        ids = choice.tokens.ids
        params = backend.sampling_params(request, seed=self.base.seed, choice=choice.index)
        masks = backend.grammar_masks(request, prompt=prompt, made=ids)
        orders = tuple(placed(name, [params]) for name in self.results)
        every = tuple(dict.fromkeys(stage for name in orders for stage in order_of(name)))
        # Each order's own, along the same tokens.
        states: States = tuple(no_states(order_of(name), rows=1) for name in orders)
        parts, at = [], 0
        negative = None
        if reads_negative(every):
            negative = Pieces(backend.logits(backend.negative_prompt(request, prompt), ids, model=request.model))
        for raw in backend.logits(prompt, ids, model=request.model):
            C, V = raw.shape
            room = POSITIONS - C
            inputs = stack([params], vocab_size=V, ends=backend.end_ids, order=every)
            if masks is not None:
                piece = np.concatenate([masks[at : at + C], np.zeros((room, masks.shape[1]), np.uint32)])
                inputs = inputs._replace(mask=piece, masked=np.arange(POSITIONS) < C)
            if negative is not None:
                inputs = inputs._replace(negative=np.pad(negative.take(C), ((0, room), (0, 0))))
            history = history_of(prompt, ids[:at], vocab_size=V, order=every, states={})
            padded = np.pad(raw, ((0, room), (0, 0))), np.pad(ids[at : at + C], (0, room))
            found, states = order_statistics(*padded, inputs, history, states, np.int32(C), orders=orders)
            parts.append(OrderStatistics(*(np.asarray(x)[..., :C] for x in found)))
            at += C
        count = len(self.results)
        if not parts:
            none, nobody = np.zeros((count, 0), np.float32), np.zeros((count, 0), np.int32)
            return OrderStatistics(none, none, nobody, nobody, np.zeros((count, count, 0), np.float32))
        return OrderStatistics(*(np.concatenate(x, axis=-1) for x in zip(*parts, strict=True)))


def comparable(backend: Backend, orders: OrderLike) -> tuple[LogitsBackend, list[str]]:
    """The backend as one that has several orders, and the names of the orders to compare with.

    Raises:
        RequestError: the backend is an endpoint, or there is no such order.
    """
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{backend.name} is an endpoint with an order of its own; llmlab.load a model for that")
    return backend, orders_of("orders", orders)


def start_orders(base: Answered, backend: Backend, orders: Sequence[str]) -> dict[str, Stream]:
    """Starts an answer's request under other orders, with the same noise: order -> stream, without the base's own."""
    request = changed_request(base, {})
    others = dict.fromkeys(name for name in orders if name != base.order)
    return {name: start(base, backend, request=request, order=name) for name in others}
