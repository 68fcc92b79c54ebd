"""Somebody else's engine: any endpoint that speaks the chat-completion API, by the `openai` package's client.

It never trusts silence. Choices that were not sent are asked for again, what was not said is unknown, a refused field
is an error that names it, and what the endpoint is seen to do otherwise is noted in the answer.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmlab.backends.remote.errors import translated, unreadable
from llmlab.backends.remote.event_loop import EventLoop
from llmlab.backends.remote.stream import RemoteStream
from llmlab.errors import EngineError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.protocol.backend import Backend
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import PromptRequest, Request

if TYPE_CHECKING:
    import openai

#: What is said although nobody asked, because the frames want it, or because the endpoint's own default may be another
#: one than the request's: generation_config.json's at vLLM's, top_k 40 at llama.cpp's. -1 is off for all of them.
UNASKED: Mapping[str, Any] = {
    "seed": None,  # drawn
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
#: Seeds are drawn below this: there are endpoints that take 32 bits, and endpoints that take no sign.
_SEEDS = 2**31


class RemoteBackend(Backend):
    """An endpoint and one of its models.

    Args:
        client: the `openai` client that asks; its `max_retries` are the retries.
        name: the model's name there.
        concurrency: how many requests may be under way at once; more wait their turn.
        where: the endpoint's address, as messages name it.
    """

    def __init__(self, client: openai.AsyncOpenAI, *, name: str, concurrency: int = 8, where: str = "") -> None:
        self.name = name
        self.client = client
        self.concurrency = concurrency
        self.unsupported = frozenset({"order", "prompt"})
        self.where = where or _address(str(client.base_url))
        self.owner: str | None = None  #: who serves the model, as the endpoint's list says
        self.turn = asyncio.Semaphore(concurrency)
        self.unwanted: dict[str, str] = {}  #: field that nobody asked for -> why this endpoint is not sent it
        self._loop = EventLoop("llmlab-remote", on_close=client.close)
        self._looking = asyncio.Lock()
        self._looked = False
        self._processed: bool | None = None
        # A lab that is dropped leaves no thread and no connection behind.
        weakref.finalize(self, self._loop.close, wait=False).atexit = False

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        concurrency: int = 8,
        retries: int = 4,
        timeout: float = 600.0,
        **options: Any,
    ) -> RemoteBackend:
        """Find the endpoint and its model.

        Raises:
            ModelNotFoundError: it has several models, or none, and none was named.
            LLMLabError: it cannot be reached, or refuses the key.
        """
        import openai

        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise RequestError(f"concurrency must be a positive integer, got {concurrency!r}", param="concurrency")
        if urlsplit(url).scheme not in ("http", "https"):
            raise RequestError(f"an endpoint's address begins with http:// or https://, got {url!r}", param="url")
        client = openai.AsyncOpenAI(
            base_url=url, api_key=api_key or "none", max_retries=retries, timeout=timeout, **options
        )
        backend = cls(client, name=model or "", concurrency=concurrency, where=_address(url))
        try:
            models = backend._loop.submit(backend._models()).result()
            if model is None:
                if len(models) != 1:
                    raise ModelNotFoundError(
                        f"{backend.where} lists {len(models) or 'no'} models; name one: model= "
                        f"{', '.join(list(models)[:20])}",
                        param="model",
                    )
                [backend.name] = models
            backend.owner = models.get(backend.name)
        except BaseException:
            backend.close()
            raise
        return backend

    async def _models(self) -> dict[str, str | None]:
        """Name -> owner. An endpoint need not have a list where the caller has a name."""
        import openai

        client = self.client.with_options(max_retries=0) if self.name else self.client
        try:
            found: Any = await client.get("/models", cast_to=object)
        except openai.OpenAIError as error:
            silent = isinstance(error, openai.APIStatusError) and error.status_code not in (401, 403)
            if self.name and silent:
                return {}
            raise translated(error, where=self.where) from error
        except ValueError as error:  # no JSON
            if self.name:
                return {}
            raise unreadable(self.where, error) from error
        listed = found.get("data") if isinstance(found, Mapping) else None
        rows = [row for row in listed or () if isinstance(row, Mapping) and isinstance(row.get("id"), str)]
        return {row["id"]: row["owned_by"] if isinstance(row.get("owned_by"), str) else None for row in rows}

    def describe(self) -> dict[str, Any]:
        """What the banner shows."""
        server = f"served by {self.owner} at" if self.owner else "at"
        return {
            "model": self.name,
            "notes": [f"{server} {self.where}, up to {self.concurrency} requests at once"],
        }

    def close(self) -> None:
        """Drop what is under way or waiting, and the connections."""
        self._loop.close()

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a request to its end; see `stream`."""
        return self.stream(request, order=order).result()

    def stream(self, request: Request, *, order: str = "llmlab") -> RemoteStream:
        """Send a request, or put it in line.

        Raises:
            RequestError: what no endpoint takes: another `order`, a raw prompt, another model.
        """
        if order != "llmlab":
            raise RequestError(
                f"order = {order!r}: an endpoint has its own; llmlab.load a model for that", param="order"
            )
        if isinstance(request, PromptRequest):
            raise RequestError(
                f"{self.name} is an endpoint that takes messages and no raw prompt; llmlab.load a model for that",
                param="prompt",
            )
        if request.model not in (None, self.name):
            raise ModelNotFoundError(
                f"the model {request.model!r} is not the one connected to, {self.name!r}", param="model"
            )
        seed = secrets.randbelow(_SEEDS) if request.seed is None else request.seed
        return RemoteStream(self, request, seed=seed, submit=self._loop.submit)

    def body(self, request: Request, *, seed: int, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The request as API JSON: what was asked, and apart from that what this endpoint is sent unasked."""
        asked = {**request.to_dict(), "model": self.name}
        for name in ("n", "stream", "stream_options"):  # how an answer travels is no part of the question
            asked.pop(name, None)
        if n > 1:
            asked["n"] = n  # some endpoints refuse the field and know no other number
        if "seed" in asked:
            asked["seed"] = seed
        if not request.logprobs:
            asked.pop("logprobs", None)
        spare = {**UNASKED, "seed": seed}
        for first, second in (("logprobs", "top_logprobs"), ("stream", "stream_options")):
            if first in self.unwanted:
                spare.pop(second)
        return asked, {k: v for k, v in spare.items() if k not in asked and k not in self.unwanted}

    async def processed(self, ask: Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]) -> bool | None:
        """Whether the logprobs of this endpoint are those of the law after the temperature; None: it cannot be seen.

        Looked at once, with two requests of one token each: a raw law does not depend on the temperature.
        """
        async with self._looking:
            if not self._looked:
                laws = []
                try:
                    for temperature in (1.0, 0.5):
                        laws.append(_law(await ask(self._probe(temperature))))
                    self._processed, self._looked = _is_processed(*laws), True
                except EngineError:
                    return None  # it was busy, or out of reach: there will be another time
                except LLMLabError:
                    self._looked = True  # it answered what was asked; this look was our own idea
            return self._processed

    def _probe(self, temperature: float) -> dict[str, Any]:
        said = {name: UNASKED[name] for name in ("logprobs", "top_logprobs") if name not in self.unwanted}
        messages = [{"role": "user", "content": "Name an animal."}]
        return {"model": self.name, "messages": messages, **said, "temperature": temperature, "max_tokens": 1}


def _address(url: str) -> str:
    """An address without the password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


def _law(answer: Mapping[str, Any]) -> dict[Any, float]:
    """Token -> logprob, as the first step of an answer lists them."""
    choices = answer.get("choices") or [{}]
    entries = ((choices[0].get("logprobs") or {}).get("content")) or [{}]
    best = [(each.get("token"), each.get("logprob")) for each in entries[0].get("top_logprobs") or ()]
    return {token: float(value) for token, value in best if value is not None and value > -99}


def _is_processed(whole: dict[Any, float], half: dict[Any, float]) -> bool | None:
    """From the laws at temperatures 1 and 0.5: the second one's differences are twice as large if it is processed."""
    shared = sorted(whole.keys() & half.keys(), key=whole.__getitem__)
    if len(shared) < 2:
        return None
    before, after = (sum(abs(law[token] - law[shared[-1]]) for token in shared) for law in (whole, half))
    return None if before < 0.1 else after / before > 1.5
