"""One step of a generation as the sampler meets it: the logits, what came before, and any settings asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from llmlab.errors import RequestError
from llmlab.protocol.arguments import listed, order_name
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.request import Request
from llmlab.sampling.params import History, SamplerInputs
from llmlab.text.spelling import name_of
from llmlab.text.token_names import Token, token_id

if TYPE_CHECKING:
    from llmlab.sampling.params import SamplingParams
    from llmlab.sampling.pipeline import Order

#: The stages that take tokens away by their place in the law; the others reshape it.
CUTS = ("top_k", "top_p", "min_p")
#: What leaves every token to the law.
NO_CUTS: dict[str, float] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
#: The stages before the temperature and the cuts, in every order.
FIXED = ("logit_bias", "repetition", "frequency", "presence", "mask")

#: Fields that the prompt or the logits depend on: another value of theirs is another step.
_ELSEWHERE = frozenset(
    {"messages", "prompt", "model", "tools", "tool_choice", "enable_thinking", "chat_template_kwargs"}
    | {"continue_final_message"}
)


class Step:
    """Logits of V tokens, and everything else that the law of the next one depends on.

    Args:
        logits: the model's, float32 [V], before every stage.
        backend: who gave them.
        request: the request that was asked; its sampling fields are the defaults of every method.
        prompt_ids: the prompt's token ids [L].
        made: the tokens generated since [T]; penalties count them, and the noise is that of the place behind them.
        order: the order of the sampler's stages.
        seed: of the noise; None where nothing is to be drawn.
        choice: which of the request's choices the noise is that of.
    """

    def __init__(
        self,
        logits: Float32[np.ndarray, " V"],
        *,
        backend: LogitsBackend,
        request: Request,
        prompt_ids: Int32[np.ndarray, " L"],
        made: Int32[np.ndarray, " T"] | None = None,
        order: str = "llmlab",
        seed: int | None = None,
        choice: int = 0,
    ) -> None:
        self.logits = logits
        self.request = request
        self.prompt_ids = prompt_ids
        self.made = np.zeros(0, np.int32) if made is None else made
        self.order = order
        self.seed = request.seed if seed is None else seed
        self.choice = choice
        self._backend = backend
        self._allowed: tuple[str, Bool[np.ndarray, " V"] | None] | None = None

    @cached_property
    def logprobs(self) -> Float64[np.ndarray, " V"]:
        """The raw law's log-probabilities."""
        return log_softmax(self.logits)

    @cached_property
    def ranking(self) -> Int64[np.ndarray, " V"]:
        """The token ids, most likely first by the raw law, ties to the lower id."""
        return np.argsort(-self.logits, kind="stable")

    def changed(self, fields: Mapping[str, Any]) -> Request:
        """The request with some of its sampling fields changed.

        Raises:
            RequestError: a field is unknown or out of range, or one that the logits depend on.
        """
        for name in fields:
            if name in _ELSEWHERE:
                raise RequestError(f"{name} makes another prompt: ask lab.next_token for its law", param=name)
        return self.request.replace(**fields) if fields else self.request

    def sampler(self, order: str | None) -> Order:
        """The stages of an order, of the step's own where there is none."""
        from llmlab.sampling.pipeline import ORDERS

        return ORDERS[self.order_name(order)]

    def order_name(self, order: str | None) -> str:
        """The name of an order that is there."""
        return order_name(self.order if order is None else order)

    def rows(self, settings: Sequence[Mapping[str, Any] | Request]) -> Rows:
        """The sampler's arguments, a row for each settings, padded to a bucket; the history leads with 1."""
        from llmlab.sampling.params import History, stack

        requests = [self.changed(one) if isinstance(one, Mapping) else one for one in settings]
        requests += requests[-1:] * (bucket(len(requests)) - len(requests))
        V = len(self.logits)
        inputs = stack(self.params(requests), vocab_size=V, ends=self._backend.end_ids)
        masks = [self.allowed(request) for request in requests]
        if any(mask is not None for mask in masks):
            bits = np.zeros((len(masks), -(-V // 32) * 32), bool)
            for row, mask in enumerate(masks):
                bits[row, :V] = True if mask is None else mask
            packed = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
            inputs = inputs._replace(mask=packed, masked=np.array([mask is not None for mask in masks]))
        seen = np.zeros((1, V), bool)
        seen[0, self.prompt_ids] = True
        counts = np.bincount(self.made, minlength=V).astype(np.int32)[None, :]
        return Rows(self.logits, inputs, History(seen, counts, np.array([len(self.made)], np.int32)))

    def params(self, requests: Sequence[Request]) -> list[SamplingParams]:
        """The sampling fields of requests, as the engine takes them."""
        seed = self.seed or 0
        return [self._backend.sampling_params(request, seed=seed, choice=self.choice) for request in requests]

    def trace(
        self, settings: Sequence[Mapping[str, Any] | Request], *, order: str | None = None
    ) -> dict[str, Float32[np.ndarray, "B V"]]:
        """What each stage left, a row for each settings, "raw" first."""
        import jax
        import jax.numpy as jnp

        from llmlab.sampling.pipeline import trace

        logits, inputs, history = self.rows(settings)
        B = len(inputs.temperature)
        spread = jax.tree.map(lambda x: np.repeat(x, B, axis=0), history)
        lefts = trace(jnp.asarray(np.tile(logits, (B, 1))), inputs, spread, order=self.sampler(order))
        return {stage: np.asarray(left)[: len(settings)] for stage, left in lefts.items()}

    def uncut(self, requests: Sequence[Request], *, order: str | None = None) -> Float32[np.ndarray, "B V"]:
        """The logits of the laws with every stage but the cuts behind them: what the cuts act on, or would."""
        # Asked of the same program with the cuts off, so that nothing else need be compiled.
        return last(self.trace([request.replace(**NO_CUTS) for request in requests], order=order))

    def shaped(self, request: Request, *, order: str | None = None) -> Float32[np.ndarray, " V"]:
        """The logits that the temperature and the cuts find: biased, penalised, masked."""
        return self.uncut([request.replace(temperature=1.0)], order=order)[0]

    def allowed(self, request: Request) -> Bool[np.ndarray, " V"] | None:
        """The tokens that the request's grammar allows here; None where it has none."""
        key = repr(request.response_format)
        if self._allowed is None or self._allowed[0] != key:
            mask = self._backend.allowed_tokens(request, prompt=self.prompt_ids, made=self.made)
            self._allowed = (key, mask)
        return self._allowed[1]

    def spelled(self, ids: Sequence[int]) -> dict[str, Sequence[Any]]:
        """The columns token, token_id and bytes of these tokens."""
        from llmlab.text.spelling import token_text

        names, raw = self.names(ids), [self.bytes_of(i) for i in ids]
        texts = [token_text(b, token_id=i, names=names) for b, i in zip(raw, ids, strict=True)]
        return {"token": texts, "token_id": ids, "bytes": raw}

    def labels(self, ids: Sequence[int]) -> tuple[str, ...]:
        """These tokens as an axis spells them."""
        from llmlab.plots.labels import token_labels

        return token_labels([self.bytes_of(i) for i in ids], ids, self.names(ids))

    def token_id(self, token: Token) -> int:
        """The token that is meant: an id, or the exact text or bytes of one."""
        # Names are looked for among all control tokens, which takes a while; an id needs none.
        names = self._control if isinstance(token, str) else {}
        return token_id(token, token_bytes=self._backend.token_bytes, names=names, vocab_size=len(self.logits))

    def token_ids(self, tokens: Any) -> list[int]:
        """The tokens that are meant, each by its id, or by the exact text or bytes of one; a single one is one."""
        if isinstance(tokens, str | bytes | int | np.integer):
            tokens = [tokens]
        return [self.token_id(token) for token in listed("tokens", tokens, of="tokens")]

    @cached_property
    def _control(self) -> Mapping[int, str]:
        """The names of all control tokens."""
        return self.names(range(len(self._backend.token_bytes)))

    def bytes_of(self, token_id: int) -> bytes | None:
        """A token's bytes; a model's logits may be padded beyond its tokenizer."""
        known = self._backend.token_bytes
        return known[token_id] if token_id < len(known) else None

    def names(self, ids: Sequence[int]) -> Mapping[int, str]:
        """The names of those of these tokens that have no bytes."""
        return {i: name_of(i, self._backend.token_names) for i in ids if self.bytes_of(i) is None}


def kind(stage: str) -> str:
    """Which parameter a stage belongs to: SGLang's order has two stages for top_p."""
    return stage.removesuffix("_joint")


def cut_settings(request: Request) -> dict[str, float]:
    """The cuts that a request asks for."""
    settings = {cut: float(getattr(request, cut)) for cut in CUTS}
    return {cut: value for cut, value in settings.items() if value != NO_CUTS[cut]}


def last(traced: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the last stage left."""
    return list(traced.values())[-1]


def quotients(traced: Mapping[str, np.ndarray], temperature: float) -> dict[str, np.ndarray]:
    """The same laws in float64, the logits behind the temperature being what a reader expects: logits over temperature.

    The sampler measures them from their largest before it divides, for the sake of float32.
    """
    from llmlab.sampling.params import GREEDY

    wide: dict[str, np.ndarray] = {}
    shift = np.zeros(())
    for name, rows in traced.items():
        if kind(name) == "temperature" and temperature >= GREEDY and temperature != 1.0:
            before = last(wide)
            shift = before.max(-1, keepdims=True) / temperature
        wide[name] = rows + np.where(np.isfinite(shift), shift, 0.0)
    return wide


def killers(traced: Mapping[str, np.ndarray]) -> np.ndarray:
    """[B, V]: the name of the stage that removed a token, "" where none did."""
    alive = np.isfinite(traced["raw"])
    found = np.where(alive, "", "raw").astype(object)
    for name, rows in traced.items():
        found[alive & ~np.isfinite(rows)] = name
        alive &= np.isfinite(rows)
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis, in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)) + 0.0  # no -0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64."""
    return np.exp(log_softmax(logits))


#: Rows of the vocabulary's size that are worked on at once: as many as make so many numbers (each row is held about ten
#: times on the way), and no more than the last bucket. A block is padded to its bucket, so that few shapes compile.
NUMBERS, BUCKETS = 2**22, (1, 8, 64)


class Rows(NamedTuple):
    """The sampler's arguments for B rows that share one step."""

    logits: Float32[np.ndarray, " V"]
    inputs: SamplerInputs
    history: History


def bucket(count: int) -> int:
    """The number of rows that a block of `count` is padded to."""
    return next((size for size in BUCKETS if size >= count), count)
