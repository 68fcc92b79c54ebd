"""Somebody else's engine: any endpoint that speaks the chat-completion API, by the `openai` package's client.

It never trusts silence. Choices that were not sent are asked for again, what was not said is unknown, a refused field
is an error that names it, and what the endpoint is seen to do otherwise is noted in the answer.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from llmlab.backends.protocol import Completion
from llmlab.backends.refusal import translated
from llmlab.backends.remote_stream import RemoteStream
from llmlab.errors import LLMLabError, ModelNotFoundError, RequestError
from llmlab.exports import EXTENSIONS
from llmlab.request import PromptRequest, Request

if TYPE_CHECKING:
    import openai

#: Alternatives asked for where the request does not say: the frames and the strip show five.
ALTERNATIVES = 5


class RemoteBackend:
    """An endpoint and one of its models.

    Args:
        client: the `openai` client that asks; its `max_retries` are the retries.
        name: the model's name there.
        concurrency: how many requests may be under way at once; more wait their turn.
    """

    def __init__(self, client: openai.OpenAI, *, name: str, concurrency: int = 8) -> None:
        self.name = name
        self.client = client
        self.concurrency = concurrency
        self.unwanted: set[str] = set()  #: what this endpoint refuses of the fields that nobody asked for
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="llmlab-remote")
        self._habits = threading.Lock()
        self._looked = False
        self._processed: bool | None = None

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
            ModelNotFoundError: it does not have the model, or has several and none was named.
            LLMLabError: it cannot be reached, or refuses the key.
        """
        import openai

        if not isinstance(concurrency, int) or concurrency < 1:
            raise ValueError(f"concurrency must be a positive integer, got {concurrency!r}")
        client = openai.OpenAI(base_url=url, api_key=api_key or "none", max_retries=retries, timeout=timeout, **options)
        return cls(client, name=model or _only_model(client, url), concurrency=concurrency)

    def describe(self) -> dict[str, Any]:
        """What the banner shows."""
        return {"model": self.name, "device": str(self.client.base_url), "notes": ["somebody else's engine"]}

    def close(self) -> None:
        """Drop what is waiting and the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.client.close()

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
        seed = secrets.randbelow(2**53) if request.seed is None else request.seed
        return RemoteStream(self, request, seed=seed, submit=self._pool.submit)

    def body(self, request: Request, *, seed: int, n: int) -> dict[str, Any]:
        """The request as arguments of `client.chat.completions.create`: what was given, and what the frames want."""
        given = request.to_dict()
        given |= {"model": self.name, "n": n}
        if "seed" in given or "seed" not in self.unwanted:
            given["seed"] = seed
        if not request.logprobs and "logprobs" not in self.unwanted:
            given["logprobs"] = True
        if given.get("logprobs") and "top_logprobs" not in self.unwanted:
            given.setdefault("top_logprobs", ALTERNATIVES)
        if n == 1:
            given.pop("n")  # some endpoints refuse the field and know no other number
        extra = {name: given.pop(name) for name in EXTENSIONS & given.keys()}
        return {**given, **({"extra_body": extra} if extra else {})}

    def processed(self, ask: Callable[[dict[str, Any]], Any], request: Request) -> bool | None:
        """Whether the logprobs of this endpoint are those of the law after the temperature; None: it cannot be seen.

        Asked once, with two requests of one token each: a raw law does not depend on the temperature.
        """
        import openai

        with self._habits:
            if not self._looked:
                self._looked = True
                try:
                    self._processed = _depends_on_temperature(ask, self.body(request, seed=0, n=1))
                except (LLMLabError, openai.OpenAIError):  # it answered what was asked; this look was our own idea
                    self._processed = None
            return self._processed


def _only_model(client: openai.OpenAI, url: str) -> str:
    import openai

    try:
        names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise translated(error, where=url) from error
    if len(names) != 1:
        raise ModelNotFoundError(
            f"{url} has {len(names) or 'no'} models; name one: model= {', '.join(names[:20])}", param="model"
        )
    return names[0]


def _depends_on_temperature(ask: Callable[[dict[str, Any]], Any], body: dict[str, Any]) -> bool | None:
    kept: dict[str, Any] = {
        name: body[name] for name in ("model", "messages", "logprobs", "top_logprobs") if name in body
    }
    laws = []
    for temperature in (1.0, 0.5):
        answer = ask({**kept, "temperature": temperature, "max_tokens": 1, "seed": 0})
        choices = answer.get("choices") or [{}]
        entries = ((choices[0].get("logprobs") or {}).get("content")) or ()
        if not entries:
            return None
        best = entries[0].get("top_logprobs") or ()
        laws.append({each.get("token"): each.get("logprob") for each in best})
    shared = laws[0].keys() & laws[1].keys()
    gaps = [abs(laws[0][token] - laws[1][token]) for token in shared if None not in (laws[0][token], laws[1][token])]
    return None if not gaps else max(gaps) > 0.05
