"""An endpoint and one of its models: where requests go, what their bodies hold, and how its logprobs are computed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmlab.backends.remote.entries import entries_of
from llmlab.backends.remote.errors import error_from_event, translate_error, unreadable_answer
from llmlab.backends.remote.events import read_events
from llmlab.backends.remote.omissions import Omissions, without
from llmlab.backends.remote.said import is_error
from llmlab.errors import EngineError, LLMLabError, ModelNotFoundError
from llmlab.protocol.request import ChatRequest, Request

if TYPE_CHECKING:
    import openai

#: Fields that are sent although the caller left them out: the frames need them, or the endpoint's own default may
#: differ from the request's (vLLM takes defaults from generation_config.json, llama.cpp has top_k 40). -1 and 0 turn
#: top_k and min_p off at all of them.
DEFAULTS: Mapping[str, Any] = {
    "seed": None,  # replaced by a drawn one
    "logprobs": True,
    "top_logprobs": 5,  # the frames and the strip show five
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stream": True,
    "stream_options": {"include_usage": True},
}
#: What lists of models call the most tokens of a prompt and its answer together.
_CONTEXTS = ("max_model_len", "context_length")
#: Seconds to wait for the end of a stream after its `[DONE]`; without the end, its connection is closed.
_DRAIN_SECONDS = 0.1


class Endpoint:
    """An endpoint and one of its models. Its coroutines run on the backend's event loop.

    Args:
        client: the `openai` client that sends; its `max_retries` is the number of retries.
        model: the model's name there; "" until `find_model` has found it.
        concurrency: how many requests may be in progress at once; more wait.
        where: the endpoint's address, as messages name it; by default the client's.

    Attributes:
        owner: who serves the model, according to the endpoint's list of models.
        context: the most tokens of a prompt and its answer together, if that list says it (vLLM, SGLang, llmlab).
        listed: the names in that list; none where there is no list.
        slots: the semaphore that limits the requests in progress.
        omissions: which of the `DEFAULTS` are left out of which requests.
    """

    def __init__(self, client: openai.AsyncOpenAI, *, model: str, concurrency: int, where: str = "") -> None:
        self.client = client
        self.model = model
        self.concurrency = concurrency
        self.where = without_password(where or str(client.base_url))
        self.owner: str | None = None
        self.context: int | None = None
        self.listed: tuple[str, ...] = ()
        self.slots = asyncio.Semaphore(concurrency)
        self.omissions = Omissions()
        self._probing = asyncio.Lock()
        self._probed = False
        self._processed: bool | None = None

    async def find_model(self) -> None:
        """Look the model up in the endpoint's list, or take the only model where none was named.

        Raises:
            ModelNotFoundError: none was named, and there are several models, or none.
            LLMLabError: the endpoint cannot be reached, or refuses the key.
        """
        models = await self._list_models()
        if not self.model:
            if len(models) != 1:
                raise ModelNotFoundError(
                    f"{self.where} lists {len(models) or 'no'} models; name one: model= {', '.join(list(models)[:20])}",
                    param="model",
                )
            [self.model] = models
        self.listed = tuple(models)
        about = models.get(self.model, {})
        owner, contexts = about.get("owned_by"), [about.get(name) for name in _CONTEXTS]
        self.owner = owner if isinstance(owner, str) else None
        self.context = next((each for each in contexts if type(each) is int), None)

    async def _list_models(self) -> dict[str, Mapping[str, Any]]:
        """Name -> what the list says about the model. If the caller named one, an endpoint without a list is fine."""
        import openai

        client = self.client.with_options(max_retries=0) if self.model else self.client
        try:
            found: Any = await client.get("/models", cast_to=object)
        except openai.OpenAIError as error:
            has_no_list = isinstance(error, openai.APIStatusError) and error.status_code not in (401, 403)
            if self.model and has_no_list:
                return {}
            raise translate_error(error, where=self.where) from error
        except ValueError as error:  # not JSON
            if self.model:
                return {}
            raise unreadable_answer(self.where, error) from error
        listed = found.get("data") if isinstance(found, Mapping) else found
        listed = listed if isinstance(listed, list) else []
        rows = [row for row in listed if isinstance(row, Mapping) and isinstance(row.get("id"), str)]
        return {row["id"]: row for row in rows}

    def body(self, request: Request, *, seed: int, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the request as API JSON, in two parts: what the caller asked for, and the defaults added to it."""
        asked = {**request.to_dict(), "model": self.model}
        for name in ("n", "stream", "stream_options"):  # decided here: they say how the answer is sent, not what it is
            asked.pop(name, None)
        if n > 1:
            asked["n"] = n  # left out for one choice, because some endpoints refuse the field
        if "seed" in asked:
            asked["seed"] = seed
        if not request.logprobs:
            asked.pop("logprobs", None)
        return asked, {name: value for name, value in {**DEFAULTS, "seed": seed}.items() if name not in asked}

    async def send(self, body: dict[str, Any], take: Callable[[Mapping[str, Any], bool], None]) -> bool:
        """Send a body once, and pass what is answered to `take`; returns whether anything came.

        Args:
            body: with `stream` true, the answer may come in chunks.
            take: is called with (JSON object, whether it is a whole answer).

        Raises:
            openai.OpenAIError: the request failed; EngineError: the answer is not JSON, or an error.
        """
        import openai

        if not body.get("stream"):
            take(await self._post(body), True)
            return True
        # Not `chat.completions.create`, which would convert the answer into its own types, and not the client's own
        # reading of the stream, which drops lines that it does not know: what an endpoint sends in a shape of its own
        # must be seen as it is.
        stream = await self.client.post(
            "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )
        response, came, done = stream.response, False, False
        async with stream:
            if "json" in response.headers.get("content-type", ""):
                take(self._read(json.loads(await response.aread())), True)
                return True
            try:
                async with asyncio.timeout(None) as limit:
                    async for event in read_events(response.aiter_bytes()):
                        if event.name == "done":
                            done = True
                            limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_SECONDS)
                        elif event.name != "text" or not came:
                            take(self._read(event.json(), is_failure=event.name == "error"), event.name == "text")
                            came = True
            except Exception as error:
                if not (done and isinstance(error, TimeoutError)):
                    translated = _connection_error(error, response.request)
                    if translated is None:
                        raise
                    raise translated from error
        return came

    def _read(self, found: Any, *, is_failure: bool = False) -> Mapping[str, Any]:
        """Returns an answer or a chunk.

        Raises:
            LLMLabError: it is an error, or no JSON object.
        """
        if is_failure or is_error(found):
            raise error_from_event(found, where=self.where, sent=ChatRequest.model_fields)
        if not isinstance(found, Mapping):
            raise EngineError(f"{self.where} answers no JSON object: {str(found)[:80]!r}", status=502)
        return found

    async def _post(self, body: dict[str, Any]) -> Mapping[str, Any]:
        return self._read(await self.client.post("/chat/completions", cast_to=object, body=body))

    async def answer(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a body as it is, when it is its turn; returns what answers it.

        Raises:
            LLMLabError: the endpoint refuses it, fails, or answers no JSON object.
        """
        import openai

        try:
            async with self.slots:
                return await self._post(dict(body))
        except openai.OpenAIError as error:
            raise translate_error(error, where=self.where, sent=body) from error

    async def logprobs_are_processed(self, omitted: Mapping[str, str]) -> bool | None:
        """Returns whether the endpoint's logprobs are computed after the temperature; None where that cannot be seen.

        Found out once, by two requests of one token at two temperatures: raw logprobs do not depend on the temperature.

        Args:
            omitted: the fields that were left out of the request that asks.
        """
        async with self._probing:
            if not self._probed:
                try:
                    first, second = [await self._first_logprobs(temperature, omitted) for temperature in (1.0, 0.5)]
                    self._processed, self._probed = _differ_by_temperature(first, second), True
                except EngineError:
                    return None  # it was busy, or could not be reached: try again another time
                except LLMLabError:
                    self._probed = True  # it refuses these requests, which the caller did not ask for
            return self._processed

    async def _first_logprobs(self, temperature: float, omitted: Mapping[str, str]) -> dict[Any, float]:
        """Token -> logprob of the most likely first tokens of an answer."""
        import openai

        fields = without({name: DEFAULTS[name] for name in ("logprobs", "top_logprobs")}, omitted)
        messages = [{"role": "user", "content": "Name an animal."}]
        body = {"model": self.model, "messages": messages, **fields, "temperature": temperature, "max_tokens": 1}
        try:
            async with self.slots:
                answer = await self._post(body)
        except openai.OpenAIError as error:
            raise translate_error(error, where=self.where) from error
        choices = answer.get("choices") or [{}]
        entries = entries_of(choices[0].get("logprobs")).get("content") or [{}]
        best = [(each.get("token"), each.get("logprob")) for each in entries[0].get("top_logprobs") or ()]
        return {token: value for token, value in best if value is not None and value > -99}


def without_password(url: str) -> str:
    """Returns an address without the user, the password and the query that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


def _connection_error(error: Exception, request: Any) -> Exception | None:
    """The client's own error for one of its HTTP library, whose name depends on the client's version."""
    import openai

    if not type(error).__module__.startswith("httpx"):
        return None
    if "Timeout" in type(error).__name__:
        return openai.APITimeoutError(request=request)
    return openai.APIConnectionError(request=request)


def _differ_by_temperature(one: dict[Any, float], half: dict[Any, float]) -> bool | None:
    """Whether logprobs at temperature 0.5 differ twice as much from each other as those at temperature 1."""
    shared = sorted(one.keys() & half.keys(), key=one.__getitem__)
    if len(shared) < 2:
        return None
    before, after = (sum(abs(logprobs[token] - logprobs[shared[-1]]) for token in shared) for logprobs in (one, half))
    return None if before < 0.1 else after / before > 1.5
