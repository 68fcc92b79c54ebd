"""One request's way to an endpoint: sent, sent again without what is refused, asked again for choices that are missing.

This runs on the backend's event loop. What comes is passed on as it is, and read by `remote_stream` on its reader's
thread: nothing is shared but a queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llmlab.backends.remote.errors import of_event, refused, translated, unreadable
from llmlab.errors import EngineError, LLMLabError, RequestError
from llmlab.protocol.fields import EXTENSIONS
from llmlab.protocol.request import Request
from llmlab.sampling.stages import STAGES

if TYPE_CHECKING:
    from llmlab.backends.remote.backend import RemoteBackend

#: A note, and what makes `remote_stream` move the figures to where they belong.
PROCESSED = "logprobs: those of the law after the temperature, and so under sampling_logprob"
#: Fields that nobody asked for, and whose absence changes the answer or the frames.
_NOTED = ("seed", "logprobs", "top_logprobs", "temperature", "top_p", "stream")


class Said(NamedTuple):
    """A chunk of an answer, or a whole one."""

    ask: int  #: which of the request's asks it belongs to
    places: Sequence[int]  #: the request's choices that were asked for
    body: Mapping[str, Any]
    whole: bool
    at: float  #: when it came, on `time.perf_counter`


class Asking:
    """Ask for all choices of a request.

    Args:
        endpoint: whom.
        request: what.
        seed: of the first ask.
        put: is handed `Said`s, notes (text), and an error where it ends with one.
    """

    def __init__(self, endpoint: RemoteBackend, request: Request, *, seed: int, put: Callable[[Any], None]) -> None:
        self._endpoint = endpoint
        self._request = request
        self._seed = seed
        self._put = put
        self._asks = 0
        self._plain = False  # whether there are logprobs that do not say which law they are of

    async def run(self) -> None:
        """Until every choice is there, or an error is."""
        import openai

        where = self._endpoint.where
        try:
            await self._choices()
            if self._plain and _reshapes(self._request) and await self._endpoint.processed(self._probe):
                self._put(PROCESSED)
            given = self._request.to_dict()
            for name in _NOTED:
                if name in self._endpoint.unwanted and not given.get(name):
                    self._put(f"{name}: {self._endpoint.unwanted[name]}")
        except LLMLabError as error:
            self._put(error)
        except openai.OpenAIError as error:
            self._put(translated(error, where=where, sent=self._request.to_dict()))
        except Exception as error:
            self._put(unreadable(where, error))

    async def _choices(self) -> None:
        """All at once, and then those that did not come one by one, with seeds of their own.

        A choice's seed depends on its place alone: of an endpoint that knows no n, the first ones are the same
        whatever n is.
        """
        n, unwanted = self._request.n, self._endpoint.unwanted
        left = list(range(n))
        if n > 1 and "n" not in unwanted:
            try:
                came = await self._ask(left, seed=self._seed)
            except RequestError as error:
                if error.param != "n":
                    raise
                came, unwanted["n"] = set(), "refused, and so the choices were asked for one by one"
            if len(came) == 1:
                unwanted["n"] = "one choice is sent at a time, and so they were asked for one by one"
            elif came and len(came) < n:
                self._put(f"n: {n} choices were asked for and {len(came)} sent; the others were asked for one by one")
            left = [place for place in left if place not in came]
        if n > 1 and "n" in unwanted:
            self._put(f"n: {unwanted['n']}")
        tasks = [asyncio.create_task(self._ask([place], seed=_seed(self._seed, place))) for place in left]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, places: Sequence[int], *, seed: int) -> set[int]:
        """Ask for these choices; those of them that came, which is at least one."""
        begun, ended = set[int](), set[int]()
        number, self._asks = self._asks, self._asks + 1

        def take(body: Mapping[str, Any], whole: bool) -> None:
            if body.get("error"):
                raise of_event(body["error"], where=self._endpoint.where, sent=self._request.to_dict())
            for place, choice in placed(body, places):
                begun.update([place] if whole or _says_something(choice) else [])
                ended.update([place] if whole or choice.get("finish_reason") else [])
                listed = (choice.get("logprobs") or {}).get("content") or [{}]
                self._plain |= "logprob" in listed[0] and "sampling_logprob" not in listed[0]
            self._put(Said(number, places, body, whole, time.perf_counter()))

        async with self._endpoint.turn:
            await self._send(len(places), seed=seed, take=take)
        if not ended or begun - ended:
            what = "without a finish_reason" if begun else "before it says anything"
            raise EngineError(f"{self._endpoint.where} ends its answer {what}", status=502)
        return ended

    async def _send(self, n: int, *, seed: int, take: Callable[[Mapping[str, Any], bool], None]) -> None:
        """Send; what is refused and was not asked for is left out from then on, and the rest is an error.

        A refusal that names no field may mean any: then what fewest endpoints know is left out first.
        """
        import openai

        endpoint = self._endpoint
        hidden = set[str]()
        while True:
            asked, spare = endpoint.body(self._request, seed=seed, n=n)
            spare = {name: value for name, value in spare.items() if name not in hidden}
            try:
                came = await self._exchange({**asked, **spare}, take)
            except openai.APIStatusError as error:
                told = translated(error, where=endpoint.where, sent=[*asked, *spare])
                found = refused(error, sent=[*asked, *spare])
                if found is None or (found and not found & spare.keys()):
                    raise told from error
                if found:
                    endpoint.unwanted |= dict.fromkeys(found & spare.keys(), "refused, and so left out")
                    continue
                more = next((tier for tier in _tiers(spare) if tier), None)
                if more is None:
                    raise told from error
                hidden |= more
            else:
                endpoint.unwanted |= dict.fromkeys(hidden, "refused, and so left out")
                if came:
                    return
                if "stream" not in spare:
                    raise EngineError(f"{endpoint.where} answers nothing", status=502)
                endpoint.unwanted["stream"] = "nothing came, and so the answer was asked for whole"

    async def _exchange(self, body: dict[str, Any], take: Callable[[Mapping[str, Any], bool], None]) -> bool:
        """Send a body once; whether anything came."""
        import openai

        client = self._endpoint.client
        if not body.get("stream"):
            take(await self._whole(body), True)
            return True
        # Not `chat.completions.create`, which would turn the answer into its own types: what an endpoint says in a
        # shape of its own shall be seen as it is.
        stream = await client.post(
            "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )
        came = False
        async with stream:
            if "json" in stream.response.headers.get("content-type", ""):
                take(_mapping(json.loads(await stream.response.aread()), self._endpoint.where), True)
                return True
            async for chunk in stream:
                take(_mapping(chunk, self._endpoint.where), False)
                came = True
        return came

    async def _whole(self, body: dict[str, Any]) -> Mapping[str, Any]:
        found = await self._endpoint.client.post("/chat/completions", cast_to=object, body=body)
        return _mapping(found, self._endpoint.where)

    async def _probe(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """A whole answer to a question of the lab's own."""
        import openai

        try:
            async with self._endpoint.turn:
                return await self._whole(body)
        except openai.OpenAIError as error:
            raise translated(error, where=self._endpoint.where) from error


def placed(body: Mapping[str, Any], places: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The choices of a chunk, each with its place in the request; one without an index is where it stands."""
    for at, choice in enumerate(body.get("choices") or ()):
        index = choice.get("index")
        index = at if index is None else int(index)
        if 0 <= index < len(places):
            yield places[index], choice


def _says_something(choice: Mapping[str, Any]) -> bool:
    delta, logprobs = choice.get("delta") or {}, choice.get("logprobs") or {}
    return any(value for name, value in delta.items() if name != "role") or any(logprobs.values())


def _tiers(spare: Mapping[str, Any]) -> Iterator[set[str]]:
    """What to leave out where a refusal does not say what it is about: first other engines' fields, `stream` last."""
    yield spare.keys() & EXTENSIONS
    yield spare.keys() - {"stream"}
    yield set(spare)


def _seed(seed: int, place: int) -> int:
    """The seed of a choice that is asked for by itself; in 31 bits, which every endpoint takes, but for the first's."""
    if not place:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:4], "big") >> 1


def _mapping(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise EngineError(f"{where} answers no JSON object: {str(found)[:80]!r}", status=502)
    return found


def _reshapes(request: Request) -> bool:
    """Whether the distribution that is sampled from differs from the model's own at every step."""
    return any(
        getattr(request, field.name) != field.neutral
        for stage in STAGES
        if stage.kind != "mask"
        for field in stage.fields
    )
