"""The exact law of the token that comes next: what each sampling parameter does to it, before any token is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from llmlab.errors import RequestError
from llmlab.request import Request

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.lab.temperatures import TemperatureLaws
    from llmlab.sampling.params import SamplingParams

#: The stages that take tokens away by their place in the law; the others reshape it.
CUTS = ("top_k", "top_p", "min_p")


@runtime_checkable
class LogitsBackend(Protocol):
    """A backend that can say what it thinks of every token of its vocabulary."""

    token_bytes: tuple[bytes | None, ...]
    ends: tuple[int, ...]

    def render(self, request: Request) -> Int32[np.ndarray, " L"]:
        """The prompt's token ids."""

    def next_logits(self, prompt: Int32[np.ndarray, " L"]) -> Float32[np.ndarray, " V"]:
        """The raw logits of the token that follows."""

    def sampling_params(self, request: Request, *, seed: int, choice: int = 0) -> SamplingParams:
        """The request's sampling fields."""


class NextToken:
    """The law of the next token after a prompt, over the whole vocabulary of V tokens.

    Sampling fields, spelled as the API spells them, can be given to each method; the request's own are the default.

    Attributes:
        logits: the model's, float32 [V], before every stage.
        prompt_ids: the prompt's token ids [L].
        request: the request that was asked.
        order: the order of the sampler's stages.
    """

    def __init__(
        self,
        logits: Float32[np.ndarray, " V"],
        *,
        backend: LogitsBackend,
        request: Request,
        prompt_ids: Int32[np.ndarray, " L"],
        order: str = "llmlab",
    ) -> None:
        self.logits = logits
        self.request = request
        self.prompt_ids = prompt_ids
        self.order = order
        self._backend = backend

    @classmethod
    def of(cls, backend: LogitsBackend, request: Request, *, order: str = "llmlab") -> NextToken:
        """Ask the model once; everything after that is arithmetic."""
        prompt = backend.render(request)
        return cls(backend.next_logits(prompt), backend=backend, request=request, prompt_ids=prompt, order=order)

    @cached_property
    def logprobs(self) -> np.ndarray:
        """The raw law's log-probabilities, float64 [V]."""
        return _log_softmax(self.logits)

    @cached_property
    def ranking(self) -> np.ndarray:
        """The token ids [V], most likely first by the raw law, ties to the lower id."""
        return np.argsort(-self.logits, kind="stable")

    def frame(self, *, top: int | None = 20, order: str | None = None, **fields: Any) -> pd.DataFrame:
        """The `top` tokens by raw probability (None: all V), one a row.

        Columns: token, token_id, bytes, logprob (raw), sampling_logprob (of the law that these fields would have
        drawn from; -inf where it cannot be drawn), rank (1-based, raw), kept.

        Raises:
            RequestError: a field is unknown or out of range.
        """
        from llmlab.lab.frames import NEXT_TOKEN_COLUMNS, build

        ids = self._top(top)
        final = _log_softmax(_last(self._trace([self._changed(fields)], order))[0])
        return build(
            {
                **self._spelled(ids),
                "logprob": self.logprobs[ids],
                "sampling_logprob": final[ids],
                "rank": np.arange(1, len(ids) + 1),
                "kept": np.isfinite(final[ids]),
            },
            NEXT_TOKEN_COLUMNS,
        )

    def stages(self, *, top: int | None = 20, order: str | None = None, **fields: Any) -> pd.DataFrame:
        """How the law changes on its way to the draw: log-probabilities after each stage, -inf once a token is out.

        Columns: token, token_id, bytes, raw, then one for each stage in its order, for the `top` tokens by raw
        probability. A stage that these fields do not ask for repeats the column before it.
        """
        from llmlab.lab.frames import NEXT_TOKEN_COLUMNS, build

        ids = self._top(top)
        laws = {name: _log_softmax(rows[0]) for name, rows in self._trace([self._changed(fields)], order).items()}
        kinds = {name: NEXT_TOKEN_COLUMNS[name] for name in ("token", "token_id", "bytes")}
        return build(
            self._spelled(ids) | {name: law[ids] for name, law in laws.items()}, kinds | dict.fromkeys(laws, "number")
        )

    def temperatures(
        self,
        temperatures: Sequence[float] = (0.3, 0.7, 1.0, 1.5),
        *,
        top: int = 12,
        order: str | None = None,
        **fields: Any,
    ) -> TemperatureLaws:
        """The law under several temperatures, and what top_k, top_p and min_p take from each: what the plot draws."""
        from llmlab.lab.plots import token_labels
        from llmlab.lab.temperatures import TemperatureLaws

        if not len(temperatures):
            raise ValueError("temperatures is empty: give at least one")
        requests = [self._changed(fields | {"temperature": float(t)}) for t in temperatures]
        settings = _settings(requests[0])
        # What the cuts act on has every other stage behind it, whatever the order.
        uncut = _softmax(_last(self._trace(requests, order, without=CUTS)))
        shaped = _last(self._trace(requests[:1], order, without=(*CUTS, "temperature")))[0]
        shown = [int(i) for i in np.argsort(-shaped, kind="stable")[:top]]
        traced = self._trace(requests, order)
        gone = _removals(traced)
        left = np.isfinite(_last(traced))
        final = _softmax(_last(traced))
        names = list(traced)
        level = np.full(len(requests), np.nan)
        if "min_p" in settings and names.index("temperature") < names.index("min_p"):
            level = settings["min_p"] * uncut.max(-1)
        return TemperatureLaws(
            labels=token_labels([self._bytes(i) for i in shown], shown, self._names(shown)),
            token_ids=tuple(shown),
            temperatures=tuple(float(t) for t in temperatures),
            prob=uncut[:, shown],
            final=final[:, shown],
            removed_by=tuple(
                tuple(next((cut for cut in CUTS if gone[cut][row, i]), "") for i in shown)
                for row in range(len(requests))
            ),
            settings=settings,
            min_p_level=level,
            removed={cut: gone[cut].sum(-1) for cut in settings},
            removed_mass={cut: np.where(gone[cut], uncut, 0).sum(-1) for cut in settings},
            kept=left.sum(-1),
        )

    def plot_temperatures(
        self,
        temperatures: Sequence[float] = (0.3, 0.7, 1.0, 1.5),
        *,
        top: int = 12,
        order: str | None = None,
        ax: Axes | None = None,
        **fields: Any,
    ) -> Axes:
        """The law under several temperatures with the cuts of `top_k`, `top_p` and `min_p` drawn on it.

        See `llmlab.lab.temperatures.plot_temperatures`; its data are those of `temperatures`.
        """
        from llmlab.lab.temperatures import plot_temperatures

        return plot_temperatures(self.temperatures(temperatures, top=top, order=order, **fields), ax=ax)

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}</div>{self.frame(top=10).to_html()}"

    def __repr__(self) -> str:
        return f"<the token after a prompt of {len(self.prompt_ids)}, over a vocabulary of {len(self.logits):,}>"

    def _changed(self, fields: Mapping[str, Any]) -> Request:
        return self.request.replace(**fields) if fields else self.request

    def _top(self, top: int | None) -> list[int]:
        if top is not None and top < 1:
            raise ValueError(f"top must be at least 1, or None for the whole vocabulary, not {top}")
        return [int(i) for i in self.ranking[:top]]

    def _trace(
        self, requests: Sequence[Request], order: str | None, *, without: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """What each stage left, [B, V], a row a request, "raw" first; `without` some of the stages."""
        import jax.numpy as jnp

        from llmlab.sampling.params import History, stack
        from llmlab.sampling.pipeline import ORDERS, trace

        name = self.order if order is None else order
        if name not in ORDERS:
            raise RequestError(f"order must be one of {', '.join(ORDERS)}, got {name!r}", param="order")
        stages = tuple(stage for stage in ORDERS[name] if _kind(stage.name) not in without)
        V, B = len(self.logits), len(requests)
        rows = [self._backend.sampling_params(request, seed=0) for request in requests]
        inputs = stack(rows, vocab_size=V, ends=self._backend.ends)
        prompt = np.zeros((B, V), bool)
        prompt[:, self.prompt_ids] = True
        history = History(jnp.asarray(prompt), counts=jnp.zeros((B, V), jnp.int32), position=jnp.zeros(B, jnp.int32))
        laws = trace(jnp.asarray(np.tile(self.logits, (B, 1))), inputs, history, order=stages)
        return {stage: np.asarray(left) for stage, left in laws.items()}

    def _spelled(self, ids: Sequence[int]) -> dict[str, object]:
        from llmlab.lab.spelling import token_text

        names, raw = self._names(ids), [self._bytes(i) for i in ids]
        texts = [token_text(b, token_id=i, names=names) for b, i in zip(raw, ids, strict=True)]
        return {"token": texts, "token_id": ids, "bytes": raw}

    def _bytes(self, token_id: int) -> bytes | None:
        # A model's logits may be padded beyond its tokenizer.
        known = self._backend.token_bytes
        return known[token_id] if token_id < len(known) else None

    def _names(self, ids: Sequence[int]) -> Mapping[int, str]:
        tokenizer = getattr(self._backend, "tokenizer", None)
        if tokenizer is None:
            return {}
        return {i: tokenizer.name(i) for i in ids if self._bytes(i) is None}


def _settings(request: Request) -> dict[str, float]:
    """The cuts that a request asks for."""
    settings = {"top_k": float(request.top_k), "top_p": request.top_p, "min_p": request.min_p}
    off = {"top_k": 0.0, "top_p": 1.0, "min_p": 0.0}
    return {cut: value for cut, value in settings.items() if value != off[cut]}


def _kind(stage: str) -> str:
    """Which parameter a stage belongs to: SGLang's order has two stages for top_p."""
    return stage.removesuffix("_joint")


def _removals(traced: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut -> [B, V]: the tokens that it, and no stage before it, removed."""
    gone = {cut: np.zeros_like(traced["raw"], dtype=bool) for cut in CUTS}
    before = np.isfinite(traced["raw"])
    for name, rows in traced.items():
        if _kind(name) in CUTS:
            gone[_kind(name)] |= before & ~np.isfinite(rows)
        before = np.isfinite(rows)
    return gone


def _last(traced: Mapping[str, np.ndarray]) -> np.ndarray:
    return list(traced.values())[-1]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(_log_softmax(logits))
