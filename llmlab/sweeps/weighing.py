"""The probability of given answers under other settings of the sampler, from one pass of the model over each answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from llmlab.distributions.processed import Processed
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import Request

__all__ = ["Paths", "paths"]


class Paths(NamedTuple):
    """One answer under several settings: those that answers were drawn with, and those that are asked about."""

    sources: Float64[np.ndarray, " J"]  #: log-probabilities of the answer
    targets: Float64[np.ndarray, " G"]
    #: Of each target: the sum over the positions of (log-probability up to there, probability that no source can draw).
    strays: tuple[tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]], ...]
    before: Float64[np.ndarray, "J T"]  #: log-probabilities of the tokens before each position under the sources


def paths(
    completion: Completion,
    choice: int,
    backend: LogitsBackend,
    *,
    sources: Sequence[tuple[Request, str]],
    targets: Sequence[tuple[Request, str]],
) -> Paths:
    """Reads an answer once, and returns its probabilities.

    Args:
        completion: what the backend's model answered.
        choice: the index of the choice.
        backend: the model.
        sources: requests, each with the order of its stages, that differ from the completion's in sampler fields.
        targets: the same.

    Raises:
        RequestError: a setting has a stage with a state of its own, or one that its order lacks.
    """
    [found] = [one for one in completion.choices if one.index == choice]
    ids, prompt = found.tokens.ids, completion.prompt_ids
    T = len(ids)
    if not T:
        zeros = np.zeros(0)
        return Paths(
            np.zeros(len(sources)), np.zeros(len(targets)), tuple((zeros, zeros) for _ in targets),
            np.zeros((len(sources), 0)),
        )  # fmt: skip
    raw = np.concatenate(list(backend.logits(prompt, ids, model=completion.request.model)))
    made = [ids[:at].tolist() for at in range(T)]
    allowed = _allowed(backend, completion, ids, raw.shape[1])

    def distributions(request: Request, order: str) -> Float64[np.ndarray, "T V"]:
        params = backend.sampling_params(request, seed=0)
        setting = Processed(params, prompt_ids=prompt, end_ids=backend.ends_of(request), most=T, order=order)
        return setting.logprobs(raw, made, allowed=allowed)

    reachable: Bool[np.ndarray, "T V"] = np.zeros(raw.shape, bool)
    own, before = [], []
    for request, order in sources:
        logprobs = distributions(request, order)
        tokens = logprobs[np.arange(T), ids]
        own.append(tokens.sum())
        before.append(np.concatenate([[0.0], np.cumsum(tokens[:-1])]))
        reachable |= np.isfinite(logprobs) & np.isfinite(before[-1])[:, None]
    asked, strays = [], []
    for request, order in targets:
        logprobs = distributions(request, order)
        tokens = logprobs[np.arange(T), ids]
        asked.append(tokens.sum())
        stray = np.where(reachable, 0.0, np.exp(logprobs)).sum(axis=1)
        strays.append((np.concatenate([[0.0], np.cumsum(tokens[:-1])]), stray))
    return Paths(np.array(own), np.array(asked), tuple(strays), np.array(before))


def _allowed(backend: LogitsBackend, completion: Completion, ids: np.ndarray, V: int) -> Bool[np.ndarray, "T V"] | None:
    masks = backend.grammar_masks(completion.request, prompt=completion.prompt_ids, made=ids)
    if masks is None:
        return None
    bits = np.unpackbits(np.ascontiguousarray(masks[: len(ids)]).view(np.uint8), axis=1, bitorder="little")
    return bits[:, :V].astype(bool)
