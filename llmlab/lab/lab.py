"""The lab: a loaded model, and what a researcher asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer

from llmlab.display import banner
from llmlab.display.progress import progress_bar
from llmlab.errors import RequestError
from llmlab.lab.studies import Studies
from llmlab.protocol.arguments import listed, order_name
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.backend import Stream as Source
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import ChatRequest, PromptRequest, Request
from llmlab.protocol.signatures import PROMPT_FIELDS, STREAMING, shows_fields
from llmlab.results.result import Result
from llmlab.results.stream import Stream

if TYPE_CHECKING:
    import openai

    from llmlab.counterfactuals.orders import Orders
    from llmlab.counterfactuals.score import Scored
    from llmlab.playground.playground import Playground
    from llmlab.results.next_token import NextToken


class Lab(Studies):
    """A model that answers: `chat` for whole answers, `stream` for answers as they are made, `complete` to continue a
    raw text, `next_token` for the law of the one token that comes next.

    Args:
        backend: who answers; `load` makes one of a checkpoint.

    Attributes:
        last: the last result that was made here, also what there was of one when it was interrupted; None at first.
        last_sweep: likewise, of sweeps.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.last: Result | None = None
        super().__init__()

    @shows_fields()
    def request(self, messages: str | Sequence[Any] | Request | None = None, **fields: Any) -> Request:
        """The validated request that `chat` would run, without running it.

        Args:
            messages: what the user says, or a list of messages as the API has them, or a request to change.
            fields: the request's fields, spelled as the API spells them; `prompt`, a raw text or token ids, takes the
                place of the messages.

        Raises:
            RequestError: a field is unknown, of the wrong type or out of range; the message names it.
        """
        if isinstance(messages, ChatRequest | PromptRequest):
            return messages.replace(**fields) if fields else messages
        if fields.get("prompt") is None:
            fields.pop("prompt", None)
            if messages is None and fields.get("messages") is None:
                raise RequestError(
                    "messages is missing: give a text or a list of messages, or a prompt=, a raw text", param="messages"
                )
            return ChatRequest(**fields) if messages is None else ChatRequest.build(messages, **fields)
        if messages is not None:
            raise RequestError("give messages or a prompt, not both", param="prompt")
        return PromptRequest(**fields)

    @shows_fields(without=("prompt", *STREAMING))
    def chat(self, messages: str | Sequence[Any] | Request, *, order: str = "llmlab", **fields: Any) -> Result:
        """Ask, and wait for the answer. An interrupt stops this run and no other, and leaves its part in `last`.

        Args:
            messages: as in `request`.
            order: the order of the sampler's stages: llmlab, or that of vllm, sglang or llama.cpp.
            fields: temperature, top_p, top_k, min_p, n, seed, stop, logit_bias, max_tokens and all others of the API.

        Raises:
            RequestError: as in `request`; also what this model cannot honour.
        """
        return self._whole(self.request(messages, **fields), order=order)

    @shows_fields(only=PROMPT_FIELDS, without=STREAMING)
    def complete(
        self,
        prompt: str | Sequence[int] | Integer[np.ndarray, " L"] | PromptRequest,
        *,
        order: str = "llmlab",
        **fields: Any,
    ) -> Result:
        """Continue a raw text, without a chat template: what a base model can do.

        Args:
            prompt: a text, as the tokenizer encodes a whole one (with its begin-of-sequence token, if it has one), or
                the token ids themselves.
            order: as in `chat`.
            fields: as in `chat`, but for those that speak of messages.

        Raises:
            RequestError: as in `chat`.
        """
        if isinstance(prompt, PromptRequest):
            return self._whole(self.request(prompt, **fields), order=order)
        return self._whole(PromptRequest.build(prompt, **fields), order=order)

    @shows_fields(without=("stream",))
    def stream(
        self, messages: str | Sequence[Any] | Request | None = None, *, order: str = "llmlab", **fields: Any
    ) -> Stream:
        """Ask, and read the answer as it is made, in the API's chunks; `.result()` of it is what `chat` gives.

            with lab.stream("Tell me a story.", temperature=0.8) as stream:
                for chunk in stream:
                    print(chunk.choices[0].delta.content or "", end="")
            stream.result()

        Args:
            messages: as in `request`; None where there is a `prompt`.
            order: as in `chat`.
            fields: as in `chat`; and `stream_options`, `prompt`.

        Raises:
            RequestError: as in `chat`.
        """
        request = self.request(messages, **{**fields, "stream": True})
        options = request.stream_options
        # How an answer travels is no part of the question: the result's request is the one that chat would have.
        source = self.backend.stream(request.replace(stream=None, stream_options=None), order=order)
        usage = None if options is None else options.get("include_usage", False)
        return Stream(source, include_usage=usage, finish=self.keep)

    def _whole(self, request: Request, *, order: str) -> Result:
        if request.stream:
            raise RequestError("stream = True: lab.stream gives an answer as it is made", param="stream")
        return self.read(self.backend.stream(request, order=order))

    def read(self, source: Source, *, parent: Result | None = None) -> Result:
        """Wait for a backend's stream; an interrupt leaves what there is in `last`.

        Args:
            source: not read from yet.
            parent: the result that this one is made from.
        """
        return Stream(source, include_usage=None, finish=partial(self.keep, parent=parent)).result()

    def keep(self, completion: Completion, *, parent: Result | None = None) -> Result:
        """What a backend answered as a result of this lab, which is now its `last`."""
        self.last = Result(completion, self, parent)
        return self.last

    @shows_fields(without=STREAMING)
    def next_token(
        self, messages: str | Sequence[Any] | Request | None = None, *, order: str = "llmlab", **fields: Any
    ) -> NextToken:
        """The exact law of the token that would come next; sampling fields given here are its defaults.

        Args:
            messages: as in `request`; None where there is a `prompt`, a raw text or token ids.
            order: as in `chat`.
            fields: as in `chat`; and `prompt`.

        Raises:
            RequestError: as in `chat`; also where the backend cannot give logits.
        """
        from llmlab.results.next_token import NextToken

        if not isinstance(self.backend, LogitsBackend):
            raise RequestError(f"{self.backend.name} is an endpoint that gives no logits; llmlab.load a model for that")
        return NextToken.of(self.backend, self.request(messages, **fields), order=order)

    @shows_fields(without=STREAMING)
    def score(
        self,
        messages: str | Sequence[Any] | Request | Result | None = None,
        given: Scored | None = None,
        *,
        order: str | None = None,
        **fields: Any,
    ) -> Result:
        """What the model thinks of tokens that are given to it, by teacher forcing: a result of them alone.

            lab.score("Name a colour.", ["Blue.", "Green."]).perplexities
            lab.score(r)                        # a result's own tokens: the figures reported when they were generated
            lab.score(prompt="Once upon a time")                 # a raw text, from its second token on

        A text is tokenized by itself, which need not give the tokens that the model would have drawn; special tokens
        may be spelled in it, such as the end token (`"Blue.<|im_end|>"`).

        Args:
            messages: what comes before, as in `request`; or a result, with nothing given; None where there is a
                `prompt`, and for a result's own.
            given: a text, token ids, or a result; a list of texts or of lists of ids makes a choice of each.
            order: of the sampler's stages that the processed law goes through; by default llmlab's, or the result's.
            fields: as in `chat`, but for those that end an answer; the processed figures are those under them. Of a
                result its own fields count where no others are given.

        Raises:
            RequestError: as in `chat`; there is nothing to score; a token that the request's grammar forbids; also
                where the backend takes no tokens as they are.
        """
        from llmlab.counterfactuals.score import score

        return score(self, messages, given, order=order, fields=fields)

    @shows_fields(without=("prompt", *STREAMING))
    def compare_orders(
        self,
        messages: str | Sequence[Any] | Request | Result | None = None,
        *,
        orders: str | Sequence[str] = ("vllm", "sglang", "llama.cpp"),
        order: str | None = None,
        **fields: Any,
    ) -> Orders:
        """The same request and noise under other engines' orders of the sampler's stages, and how far the laws differ.

        Args:
            messages: as in `request`, or a result, which is compared as it is.
            orders: those to compare with, or one of them.
            order: of the completion along which the laws are compared; by default llmlab's, or the result's.
            fields: as in `chat`.

        Raises:
            RequestError: as in `chat`; there is no such order; the backend gives no logits.
        """
        from llmlab.counterfactuals.orders import compare_orders

        return compare_orders(self, messages, orders=orders, order=order, fields=fields)

    @shows_fields(without=STREAMING)
    def playground(
        self, messages: str | Sequence[Any] | Request | None = None, *, order: str = "llmlab", **fields: Any
    ) -> Playground:
        """A prompt, every sampling parameter and two settings side by side, as widgets; a picture where there are none.

            lab.playground("Tell me a story.", temperature=0.8, top_p=0.95)

        Args:
            messages: what it opens with, as in `request`; None for an example (or where there is a `prompt`).
            order: as in `chat`.
            fields: as in `chat`: where the controls stand at first.

        Raises:
            RequestError: as in `request`; also a field that cannot be set by hand.
        """
        from llmlab.playground.playground import Playground

        if messages is None and fields.get("prompt") is None and fields.get("messages") is None:
            messages = "Tell me a short story."
        return Playground(self, self.request(messages, **fields), order=order)

    def client(self, **options: Any) -> openai.OpenAI:
        """A real `openai.OpenAI` wired to this lab, in-process: code written for the hosted API runs unchanged.

        Args:
            options: of `openai.OpenAI`, such as `max_retries`.
        """
        from llmlab.lab.client import client

        return client(self.backend, **options)

    def warmup(self, *, orders: str | Sequence[str] = ("llmlab",)) -> None:
        """Compile every program beforehand, so that no request waits for one; nothing where there are none.

        Args:
            orders: of the sampler's stages, those that are going to be asked for.

        Raises:
            RequestError: there is no such order.
        """
        names = [order_name(name) for name in ([orders] if isinstance(orders, str) else listed("orders", orders))]
        with progress_bar(total=None, unit="program", description="compiling") as bar:

            def tell(done: int, everything: int) -> None:
                bar.total = everything
                bar.update(done - bar.n)

            self.backend.warmup(orders=tuple(names), progress=tell)

    def describe(self) -> dict[str, Any]:
        """Model, device, dtype, memory, context: what the banner shows."""
        return self.backend.describe()

    def close(self) -> None:
        """Stop the engine and free its memory, where there is one."""
        self.backend.close()

    def __repr__(self) -> str:
        return banner.as_text(self.describe())

    def _repr_html_(self) -> str:
        return banner.as_html(self.describe())
