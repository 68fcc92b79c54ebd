"""Gets all choices of a request from an endpoint: sends again without refused fields, asks for missing choices.

This runs on the backend's event loop. What comes is passed on as it is, and read by `stream` on the reader's thread:
the two share nothing except a queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llmlab.backends.remote.endpoint import Endpoint
from llmlab.backends.remote.errors import error_from_event, refused_fields, translate_error, unreadable_answer
from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.protocol.fields import EXTENSIONS
from llmlab.protocol.request import Request
from llmlab.sampling.stages import STAGES

#: A note; it also makes `stream` move the logprobs to the columns they belong to.
PROCESSED = "logprobs: those of the distribution after the temperature, so they are under sampling_logprob"
#: Fields that are noted where they were left out, because their absence changes the answer or the frames.
_NOTED = ("seed", "logprobs", "top_logprobs", "temperature", "top_p", "stream")


class Received(NamedTuple):
    """A chunk of an answer, or a whole one, as it came.

    Attributes:
        attempt: the number of the attempt that it answers.
        indices: the indices of the choices that this attempt asked for.
        body: the JSON object.
        whole: whether it is a whole answer, not a chunk.
        time: when it came, by `time.perf_counter`.
    """

    attempt: int
    indices: Sequence[int]
    body: Mapping[str, Any]
    whole: bool
    time: float


class Attempts:
    """All attempts to get the choices of one request.

    Args:
        endpoint: the endpoint.
        request: the request.
        seed: the seed of the first attempt.
        put: is called with every `Received`, with notes (str), and at the end with an error if there is one.
    """

    def __init__(self, endpoint: Endpoint, request: Request, *, seed: int, put: Callable[[Any], None]) -> None:
        self._endpoint = endpoint
        self._request = request
        self._seed = seed
        self._put = put
        self._count = 0
        self._unmarked = False  # whether logprobs came that do not say whether they are raw or processed

    async def run(self) -> None:
        """Returns when every choice has come, or an error has been put."""
        import openai

        where = self._endpoint.where
        try:
            await self._get_choices()
            unclear = self._unmarked and _changes_distribution(self._request)
            if unclear and await self._endpoint.logprobs_are_processed():
                self._put(PROCESSED)
            given = self._request.to_dict()
            for name in _NOTED:
                if name in self._endpoint.left_out and not given.get(name):
                    self._put(f"{name}: {self._endpoint.left_out[name]}")
        except LLMLabError as error:
            self._put(error)
        except openai.OpenAIError as error:
            self._put(translate_error(error, where=where, sent=self._request.to_dict()))
        except Exception as error:
            self._put(unreadable_answer(where, error))

    async def _get_choices(self) -> None:
        """Ask for all choices at once, then for the missing ones one by one, each with a seed of its own.

        The seed of a choice depends on its index alone. So, if an endpoint does not know `n`, the first choices are the
        same whatever n is.
        """
        n, left_out = self._request.n, self._endpoint.left_out
        missing = list(range(n))
        if n > 1 and "n" not in left_out:
            try:
                came = await self._attempt(missing, seed=self._seed)
            except RequestError as error:
                if error.param != "n":
                    raise
                came, left_out["n"] = set(), "refused, and so the choices were asked for one by one"
            if len(came) == 1:
                left_out["n"] = "one choice is sent at a time, and so they were asked for one by one"
            elif came and len(came) < n:
                self._put(f"n: {n} choices were asked for and {len(came)} sent; the others were asked for one by one")
            missing = [index for index in missing if index not in came]
        if n > 1 and "n" in left_out:
            self._put(f"n: {left_out['n']}")
        tasks = [asyncio.create_task(self._attempt([index], seed=_seed_of(self._seed, index))) for index in missing]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _attempt(self, indices: Sequence[int], *, seed: int) -> set[int]:
        """Ask for these choices; returns the indices of those that came, at least one.

        Raises:
            EngineError: none came, or one broke off.
        """
        begun, ended = set[int](), set[int]()
        number, self._count = self._count, self._count + 1

        def take(body: Mapping[str, Any], whole: bool) -> None:
            if body.get("error"):
                raise error_from_event(body["error"], where=self._endpoint.where, sent=self._request.to_dict())
            for index, choice in choices_of(body, indices):
                begun.update([index] if whole or _has_content(choice) else [])
                ended.update([index] if whole or choice.get("finish_reason") else [])
                listed = (choice.get("logprobs") or {}).get("content") or [{}]
                self._unmarked |= "logprob" in listed[0] and "sampling_logprob" not in listed[0]
            self._put(Received(number, indices, body, whole, time.perf_counter()))

        async with self._endpoint.slots:
            await self._send(len(indices), seed=seed, take=take)
        if not ended or begun - ended:
            what = "without a finish_reason" if begun else "before it says anything"
            raise EngineError(f"{self._endpoint.where} ends its answer {what}", status=502)
        return ended

    async def _send(self, n: int, *, seed: int, take: Callable[[Mapping[str, Any], bool], None]) -> None:
        """Send the request, without the defaults that are refused; a refused field that the caller set is an error.

        A refusal that names no field may mean any of them. Then the defaults are left out in groups, those that the
        fewest endpoints know first.
        """
        import openai

        endpoint = self._endpoint
        hidden = set[str]()
        while True:
            asked, added = endpoint.body(self._request, seed=seed, n=n)
            added = {name: value for name, value in added.items() if name not in hidden}
            try:
                came = await endpoint.send({**asked, **added}, take)
            except openai.APIStatusError as error:
                sent = [*asked, *added]
                translated = translate_error(error, where=endpoint.where, sent=sent)
                named = refused_fields(error, sent=sent)
                if named is None or (named and not named & added.keys()):
                    raise translated from error
                if named:
                    endpoint.left_out |= dict.fromkeys(named & added.keys(), "refused, and so left out")
                    continue
                more = next((group for group in _groups(added) if group), None)
                if more is None:
                    raise translated from error
                hidden |= more
            else:
                endpoint.left_out |= dict.fromkeys(hidden, "refused, and so left out")
                if came:
                    return
                if "stream" not in added:
                    raise EngineError(f"{endpoint.where} answers nothing", status=502)
                endpoint.left_out["stream"] = "nothing came, and so the answer was asked for whole"


def choices_of(body: Mapping[str, Any], indices: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields the choices of a chunk or an answer, each with its index in the request.

    A choice that has no index of its own goes by its position in the list.

    Args:
        body: the JSON object.
        indices: the indices of the choices that were asked for.
    """
    for at, choice in enumerate(body.get("choices") or ()):
        index = choice.get("index")
        index = at if index is None else int(index)
        if 0 <= index < len(indices):
            yield indices[index], choice


def _has_content(choice: Mapping[str, Any]) -> bool:
    delta, logprobs = choice.get("delta") or {}, choice.get("logprobs") or {}
    return any(value for name, value in delta.items() if name != "role") or any(logprobs.values())


def _groups(added: Mapping[str, Any]) -> Iterator[set[str]]:
    """Yields what to leave out after a refusal that names no field: first fields not of OpenAI's API, last `stream`."""
    yield added.keys() & EXTENSIONS
    yield added.keys() - {"stream"}
    yield set(added)


def _seed_of(seed: int, index: int) -> int:
    """Returns the seed of a choice that is asked for by itself: the request's for the first, else one of 31 bits.

    Every endpoint takes 31 bits.
    """
    if not index:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:4], "big") >> 1


def _changes_distribution(request: Request) -> bool:
    """Whether the request's sampling fields make the processed distribution differ from the model's own."""
    return any(
        getattr(request, field.name) != field.neutral
        for stage in STAGES
        if stage.kind != "mask"
        for field in stage.fields
    )
