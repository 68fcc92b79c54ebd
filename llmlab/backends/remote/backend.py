"""An endpoint elsewhere as a backend: any that speaks the chat-completion API, by the `openai` package's client.

Every request states its parameters explicitly, and every deviation that can be seen is recorded in the answer's
`notes`. Choices that were not sent are requested again, values that were not sent are unknown, and a refused field that
the caller set is an error that names it.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from llmlab.backends.remote.endpoint import Endpoint
from llmlab.backends.remote.event_loop import EventLoop
from llmlab.backends.remote.stream import RemoteStream
from llmlab.errors import ModelNotFoundError, RequestError, short
from llmlab.protocol.arguments import number
from llmlab.protocol.backend import BodyBackend
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import PromptRequest, Request

#: Drawn seeds are below this: some endpoints take 32 bits, and some take no sign.
_SEEDS = 2**31
#: What no endpoint takes.
UNSUPPORTED = frozenset({"order", "prompt"})
#: The most seconds until a connection is made: a machine that is gone refuses none, it is silent.
_CONNECT_SECONDS = 20.0
#: The largest `timeout`.
_TIMEOUT_SECONDS = 1e7


def endpoint_at(
    url: str, *, api_key: str | None, model: str | None, concurrency: int, retries: int, timeout: float, **options: Any
) -> Endpoint:
    """Returns the endpoint at an address, which has not been asked anything yet; see `RemoteBackend.connect`.

    Raises:
        RequestError: the address is none, `concurrency` is not a positive integer, or `timeout` no number of seconds.
    """
    import openai

    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise RequestError(f"concurrency must be a positive integer, got {concurrency!r}", param="concurrency")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
        raise RequestError(f"an endpoint's address begins with http:// or https://, got {short(url)}", param="url")
    timeout = number("timeout", timeout, 0, _TIMEOUT_SECONDS)
    client = openai.AsyncOpenAI(
        base_url=url,
        api_key=api_key or "none",
        max_retries=retries,
        timeout=openai.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
        **options,
    )
    return Endpoint(client, model=model or "", concurrency=concurrency, where=url)


def seed_for(request: Request) -> int:
    """Returns the request's seed, or one that is drawn for it."""
    return secrets.randbelow(_SEEDS) if request.seed is None else request.seed


class RemoteBackend(BodyBackend):
    """An endpoint's model. `RemoteBackend.connect` makes one from an address.

    Args:
        endpoint: the endpoint, with its model.
        loop: the event loop that runs the endpoint's coroutines; closed with the backend.
    """

    def __init__(self, endpoint: Endpoint, loop: EventLoop) -> None:
        self.name = endpoint.model
        self.unsupported = UNSUPPORTED
        self.endpoint = endpoint
        self._loop = loop
        # A dropped backend must leave neither its thread nor a connection. Its streams hold it, so that they can be
        # read to their end although nobody else does.
        weakref.finalize(self, loop.close, wait=False).atexit = False

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
        """Find an endpoint and its model.

        Args:
            url: the API's base address.
            api_key: sent as the bearer token.
            model: the model's name there; not needed where there is only one.
            concurrency: how many requests may be in progress at once.
            retries: how often a request is sent again after a failure that may pass.
            timeout: seconds without a byte from the endpoint.
            options: options of `openai.AsyncOpenAI`.

        Raises:
            ModelNotFoundError: no model was named, and the endpoint has several, or none.
            LLMLabError: the endpoint cannot be reached, or refuses the key.
        """
        endpoint = endpoint_at(
            url, api_key=api_key, model=model, concurrency=concurrency, retries=retries, timeout=timeout, **options
        )
        loop = EventLoop("llmlab-remote", on_close=endpoint.client.close)
        try:
            loop.submit(endpoint.find_model()).result()
        except BaseException:
            loop.close()
            raise
        return cls(endpoint, loop)

    @property
    def concurrency(self) -> int:
        """How many requests are in progress at once."""
        return self.endpoint.concurrency

    def describe(self) -> dict[str, Any]:
        """Returns the facts that the banner shows: the model's name, and where it is served."""
        endpoint = self.endpoint
        server = f"served by {endpoint.owner} at" if endpoint.owner else "at"
        return {
            "model": self.name,
            "notes": [f"{server} {endpoint.where}, up to {self.concurrency} requests at once"],
        }

    def warmup(
        self,
        *,
        orders: tuple[str, ...] = ("llmlab",),
        progress: Callable[[int, int], None] | None = None,
        wait: bool = True,
    ) -> None:
        """An endpoint has nothing to compile."""

    def close(self) -> None:
        """Cancel the requests in progress and those that wait, and close the connections."""
        self._loop.close()

    def complete(self, request: Request, *, order: str = "llmlab") -> Completion:
        """Run a request to its end; returns the whole answer. Raises what `stream` does."""
        return self.stream(request, order=order).result()

    def stream(self, request: Request, *, order: str = "llmlab") -> RemoteStream:
        """Send a request, or let it wait for its turn; returns its deltas as they come.

        Raises:
            RequestError: an order of the sampler's stages, a raw prompt, or the logprobs of the prompt.
            ModelNotFoundError: the request names another model.
        """
        self.check(request, order=order)
        return self.start(request, seed=seed_for(request))

    def post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send the body of a chat completion as it is; see `BodyBackend.post`."""
        return self._loop.submit(self.endpoint.answer(body)).result()

    def check(self, request: Request, *, order: str) -> None:
        """Raise what `stream` does for a request that no endpoint takes, or that names another model."""
        if order != "llmlab":
            raise RequestError(
                f"order = {order!r}: an endpoint has its own; llmlab.load a model for that", param="order"
            )
        if isinstance(request, PromptRequest):
            raise RequestError(
                f"{self.name} is an endpoint that takes messages and no raw prompt; llmlab.load a model for that",
                param="prompt",
            )
        if request.prompt_logprobs is not None:
            raise RequestError(
                "prompt_logprobs: only a model in this process can read its prompt's tokens; llmlab.load one, and "
                "lab.score gives the logprobs of any text",
                param="prompt_logprobs",
            )
        if request.model not in (None, self.name):
            raise ModelNotFoundError(
                f"the model {request.model!r} is not the one connected to, {self.name!r}", param="model"
            )

    def start(self, request: Request, *, seed: int) -> RemoteStream:
        """Send a request that `check` has passed.

        Args:
            request: the request.
            seed: the request's seed, or the one drawn for it.
        """
        return RemoteStream(self.endpoint, request, seed=seed, submit=self._loop.submit, owner=self)
