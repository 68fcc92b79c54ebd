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

from llmlab.backends.remote.choice_parser import has_content
from llmlab.backends.remote.endpoint import Endpoint
from llmlab.backends.remote.entries import entries_of
from llmlab.backends.remote.errors import is_context, said_by, translate_error, unreadable_answer
from llmlab.backends.remote.omissions import EMPTY, REFUSALS, Search, shape_of, without
from llmlab.backends.remote.said import named_fields
from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.protocol.request import ChatRequest, Request
from llmlab.sampling.registry import further_stages
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
        self._omitted: dict[str, str] = {}  # field -> why it was left out
        self._unmarked = False  # whether logprobs came that do not say whether they are raw or processed

    async def run(self) -> None:
        """Returns when every choice has come, or an error has been put."""
        import openai

        where = self._endpoint.where
        try:
            await self._get_choices()
            unclear = self._unmarked and _changes_distribution(self._request)
            if unclear and await self._endpoint.logprobs_are_processed(self._omitted):
                self._put(PROCESSED)
            given = self._request.to_dict()
            for name in _NOTED:
                if name in self._omitted and not given.get(name):
                    self._put(f"{name}: {self._omitted[name]}")
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
        n, omissions = self._request.n, self._endpoint.omissions
        asked, added = self._endpoint.body(self._request, seed=self._seed, n=n)
        shape = shape_of({**asked, **added})
        missing, reason = list(range(n)), omissions.of(shape).get("n")
        if n > 1 and reason is None:
            try:
                came = await self._attempt(missing, seed=self._seed)
            except RequestError as error:
                if not _refuses_n(error):
                    raise
                came, reason = set(), "refused, and so the choices were asked for one by one"
            if len(came) == 1:
                reason = "one choice is sent at a time, and so they were asked for one by one"
            elif came and len(came) < n:
                self._put(f"n: {n} choices were asked for and {len(came)} sent; the others were asked for one by one")
            missing = [index for index in missing if index not in came]
        tasks = [asyncio.create_task(self._attempt([index], seed=_seed_of(self._seed, index))) for index in missing]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if reason is not None:
            self._put(f"n: {reason}")
            omissions.keep(shape, {"n": reason})

    async def _attempt(self, indices: Sequence[int], *, seed: int) -> set[int]:
        """Ask for these choices; returns the indices of those that came, at least one.

        Raises:
            EngineError: none came.
        """
        came = set[int]()
        number, self._count = self._count, self._count + 1

        def take(body: Mapping[str, Any], whole: bool) -> None:
            for index, choice in choices_of(body, indices):
                came.update([index] if whole or has_content(choice) else [])
                self._unmarked |= _is_unmarked(choice)
            self._put(Received(number, indices, body, whole, time.perf_counter()))

        async with self._endpoint.slots:
            await self._send(len(indices), seed=seed, take=take)
        if not came:
            raise EngineError(f"{self._endpoint.where} ends its answer before it says anything", status=502)
        return came

    async def _send(self, n: int, *, seed: int, take: Callable[[Mapping[str, Any], bool], None]) -> None:
        """Send the request, without the defaults that are refused; a refused field that the caller set is an error."""
        import openai

        endpoint = self._endpoint
        asked, defaults = endpoint.body(self._request, seed=seed, n=n)
        shape = shape_of({**asked, **defaults})
        search = Search(endpoint.omissions.of(shape))
        while True:
            added = without(defaults, search.omitted)
            try:
                came = await endpoint.send({**asked, **added}, take)
            except openai.APIStatusError as error:
                said, status = said_by(error), error.status_code
                if is_context(said, status) or not search.refuse(status, said, asked=asked, added=added):
                    raise translate_error(error, where=endpoint.where, sent=[*asked, *added]) from error
                continue
            omitted = search.omitted
            if not came:
                if "stream" not in added:
                    raise EngineError(f"{endpoint.where} answers nothing", status=502)
                await endpoint.send({**asked, **without(added, {"stream"})}, take)
                self._omitted["stream"] = EMPTY
            if "stream" in added:
                endpoint.omissions.keep_stream(shape, empty=not came)
            self._omitted |= omitted
            endpoint.omissions.keep(shape, omitted)
            return


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


def _is_unmarked(choice: Mapping[str, Any]) -> bool:
    """Whether a choice has logprobs that do not say of which distribution they are."""
    listed = entries_of(choice.get("logprobs")).get("content") or [{}]
    return "logprob" in listed[0] and "sampling_logprob" not in listed[0]


def _refuses_n(error: RequestError) -> bool:
    """Whether an endpoint's refusal may be one of `n`: it blames it, or names it and blames nothing else."""
    import openai

    cause = error.__cause__
    if not isinstance(cause, openai.APIStatusError) or cause.status_code not in REFUSALS:
        return False
    said = said_by(cause)
    blamed = [name for name in said.fields if name in ChatRequest.model_fields]
    return "n" in (blamed or named_fields(said.message, ["n"]))


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
        for stage in (*STAGES, *further_stages())
        if stage.kind != "mask"
        for field in stage.fields
    )
