"""A model, and the questions that can be asked of it directly: an answer, a distribution, the logprobs of a text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from jaxtyping import Integer

from llmlab.errors import RequestError
from llmlab.protocol.arguments import OrderLike, order_name
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.conversations import MessageObject, several_conversations, several_prompts
from llmlab.protocol.request import ChatRequest, PromptRequest, Request, build_request
from llmlab.protocol.signatures import PROMPT_FIELDS, STREAMING, shows_fields
from llmlab.results.reading import read
from llmlab.results.result import Result, keep
from llmlab.results.stream import Stream

if TYPE_CHECKING:
    from llmlab.counterfactuals.score import Scored
    from llmlab.results.answers import Answers
    from llmlab.results.next_token import NextToken
    from llmlab.results.token_list import TokenList
    from llmlab.sweeps.sweep import Sweep

#: One conversation, and a list of conversations.
Message: TypeAlias = Mapping[str, Any] | MessageObject
One: TypeAlias = str | Request | Sequence[Message]
Several: TypeAlias = Sequence[str] | Sequence[Request] | Sequence[Sequence[Message]]

_REQUESTS = (ChatRequest, PromptRequest)


class Model:
    """A model that answers; a `Lab` is one, and does studies with it.

    Args:
        backend: what runs the model.

    Attributes:
        last: the latest Result, also the unfinished one of a run that was interrupted; None at first.
        last_sweep: the latest Sweep, also one that was interrupted; None at first.
        last_answers: the latest Answers, also of a search that was interrupted; None at first.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.last: Result | None = None
        self.last_sweep: Sweep | None = None
        self.last_answers: Answers | None = None

    @overload
    def chat(self, messages: One, *, order: OrderLike = ..., **fields: Any) -> Result: ...

    @overload
    def chat(self, messages: Several, *, order: OrderLike = ..., **fields: Any) -> list[Result]: ...

    @shows_fields(without=("prompt", *STREAMING))
    def chat(self, messages: One | Several, *, order: OrderLike = "llmlab", **fields: Any) -> Result | list[Result]:
        """Asks the model and waits for the answer.

            lab.chat("Tell me a story.", temperature=0.8, top_p=0.95, n=4, seed=7)
            lab.chat(["Name a cat.", "Name a dog."], system="Be brief.")        # a list of two Results, in one batch

        A list of messages (dicts with a role) is one conversation; a list of texts, requests or lists of messages is
        several prompts, and the answer is a list of Results. Each prompt has a seed of its own, derived from `seed`;
        the first one's is `seed`. The answers are in `last_sweep` too, also those that were there at an interrupt.

        An interrupt stops this run and no other, and leaves the unfinished answer in `last`.

        Args:
            messages: the user's text, or a list of messages as the API has them, or a request; or a list of these.
            order: the order of the sampler's stages: llmlab, or that of vllm, sglang or llama.cpp; or a list of stages,
                such as `["llmlab", my_stage]` (see `llmlab.sampling.define_stage`).
            fields: temperature, top_p, top_k, min_p, n, seed, stop, logit_bias, max_tokens and all others of the API;
                also `system`, the text of a system message in front of the messages.

        Raises:
            RequestError: a field is unknown or out of range, or one that this model does not support.
        """
        order = order_name(order)
        several = several_conversations(messages, also=_REQUESTS)
        if several is not None:
            return self._each([self.request(one, **fields) for one in several], order=order, fields=fields)
        return self._whole(self.request(messages, **fields), order=order)

    @overload
    def complete(
        self, prompt: str | Sequence[int] | np.ndarray | PromptRequest, *, order: OrderLike = ..., **fields: Any
    ) -> Result: ...

    @overload
    def complete(
        self, prompt: Sequence[str] | Sequence[Sequence[int]], *, order: OrderLike = ..., **fields: Any
    ) -> list[Result]: ...

    @shows_fields(only=PROMPT_FIELDS, without=STREAMING)
    def complete(
        self,
        prompt: str | Sequence[int] | Integer[np.ndarray, " L"] | PromptRequest | Sequence[str | Sequence[int]],
        *,
        order: OrderLike = "llmlab",
        **fields: Any,
    ) -> Result | list[Result]:
        """Continues a raw text, without a chat template: the way to ask a base model.

        Args:
            prompt: a text, to be encoded as a whole one (with a begin-of-sequence token if the tokenizer has one), or
                token ids; or a list of texts or of lists of ids, whose answers are a list of Results, as in `chat`.
            order: as in `chat`.
            fields: as in `chat`, except those about messages.

        Raises:
            RequestError: as in `chat`.
        """
        order = order_name(order)
        if isinstance(prompt, PromptRequest):
            return self._whole(self.request(prompt, **fields), order=order)
        several = several_prompts(prompt)
        if several is not None:
            return self._each([PromptRequest.build(one, **fields) for one in several], order=order, fields=fields)
        return self._whole(PromptRequest.build(prompt, **fields), order=order)

    @shows_fields(without=("stream",))
    def stream(
        self, messages: str | Sequence[Any] | Request | None = None, *, order: OrderLike = "llmlab", **fields: Any
    ) -> Stream:
        """Asks the model and yields the answer in the API's chunks; `.result()` then returns what `chat` returns.

            with lab.stream("Tell me a story.", temperature=0.8) as stream:
                for chunk in stream:
                    print(chunk.choices[0].delta.content or "", end="")
            stream.result()

        Args:
            messages: as in `chat`; None where there is a `prompt`.
            order: as in `chat`.
            fields: as in `chat`; also `stream_options`, and `prompt` in place of messages.

        Raises:
            RequestError: as in `chat`.
        """
        order = order_name(order)
        request = self.request(messages, **{**fields, "stream": True})
        # The result's request is the one that `chat` would have.
        source = self.backend.stream(request.replace(stream=None, stream_options=None), order=order)
        return Stream(source, options=request.stream_options, finish=partial(keep, self))

    @shows_fields()
    def request(self, messages: str | Sequence[Any] | Request | None = None, **fields: Any) -> Request:
        """Returns the validated request that `chat` would run, without running it.

        Args:
            messages: the user's text, or a list of messages as the API has them, or a request to change.
            fields: as in `chat`; also `prompt` (a raw text or token ids) in place of messages.

        Raises:
            RequestError: a field is unknown, of the wrong type or out of range; the message names it.
        """
        return build_request(messages, **fields)

    def _whole(self, request: Request, *, order: str) -> Result:
        if request.stream:
            raise RequestError("stream = True: lab.stream gives an answer as it is made", param="stream")
        return read(self.backend.stream(request, order=order), partial(keep, self))

    def _each(self, requests: Sequence[Request], *, order: str, fields: Mapping[str, Any]) -> list[Result]:
        from llmlab.sweeps.prompts import ask_each

        seed = None if fields.get("seed") is None else requests[0].seed
        return ask_each(self, requests, seed=seed, order=order)

    @shows_fields(without=STREAMING)
    def next_token(
        self, messages: str | Sequence[Any] | Request | None = None, *, order: OrderLike = "llmlab", **fields: Any
    ) -> NextToken:
        """Returns the exact distribution of the next token after a prompt.

        Args:
            messages: as in `chat`; None where there is a `prompt`.
            order: as in `chat`.
            fields: as in `chat`, and `prompt`; they are the defaults of the methods of what is returned.

        Raises:
            RequestError: as in `chat`; also where the backend gives no logits.
        """
        from llmlab.results.next_token_at import first_token

        order = order_name(order)
        return first_token(self._local("gives no logits"), self.request(messages, **fields), order=order)

    @overload
    def score(
        self,
        messages: One | Result | None = ...,
        given: Scored | None = ...,
        *,
        order: OrderLike | None = ...,
        **fields: Any,
    ) -> Result: ...

    @overload
    def score(
        self, messages: Several | Sequence[Result], given: Any = ..., *, order: OrderLike | None = ..., **fields: Any
    ) -> list[Result]: ...

    @shows_fields(without=STREAMING)
    def score(
        self,
        messages: One | Result | Several | Sequence[Result] | None = None,
        given: Scored | Sequence[Any] | None = None,
        *,
        order: OrderLike | None = None,
        **fields: Any,
    ) -> Result | list[Result]:
        """Returns the logprobs of given tokens (teacher forcing), as a Result whose choices are these tokens.

            lab.score("Name a colour.", ["Blue.", "Green."]).perplexities
            lab.score(r)                        # a result's own tokens: the logprobs reported when they were generated
            lab.score(prompt="Once upon a time")                 # a raw text, from its second token on
            lab.score(["Name a cat.", "Name a dog."], ["Tom.", "Rex."])          # a list of two Results

        A text is tokenized by itself; these need not be the tokens that the model would have generated. It may contain
        control tokens, such as the end token (`"Blue.<|im_end|>"`).

        Args:
            messages: what comes before, as in `chat`; or a result, with nothing given; None where there is a `prompt`,
                and for a result after its own prompt. A list of prompts or of results (or `prompt`, a list) makes a
                list of Results.
            given: a text, token ids, or a result; a list of texts or of lists of ids makes one choice of each. After a
                list of prompts, a list has one of these for each of them, and anything else is given after every one.
            order: the order of the sampler's stages for the sampling logprobs; by default llmlab's, or the result's.
            fields: as in `chat`, except those that end an answer. The sampling logprobs are those under these fields;
                a result's own fields are the defaults.

        Raises:
            RequestError: as in `chat`; there is nothing to score; the request's grammar forbids a token; the backend
                does not take token ids.
        """
        from llmlab.lab.scoring import score_each, score_one

        order = None if order is None else order_name(order)
        several = several_conversations(messages, also=(*_REQUESTS, Result))
        raw = several_prompts(fields.get("prompt"))
        if several is None and raw is None:
            return score_one(self, messages, given, order=order, fields=fields)
        return score_each(self, messages, several, raw, given, order=order, fields=fields)

    @shows_fields()
    def tokenize(self, text: str | Sequence[Any] | Request | None = None, **fields: Any) -> TokenList:
        """Returns the token ids of a text, with the text of each token; or those that the model reads for a prompt.

            lab.tokenize("Once upon")                    # the tokens of this text, and nothing else
            lab.tokenize(lab.request("Hi", system="Be brief."))          # the whole prompt, by the chat template

        Args:
            text: a text by itself, without a begin-of-sequence token; or a list of messages or a request, which the
                chat template turns into a prompt; None where there is a `prompt`.
            fields: as in `request`, except with a text by itself.

        Raises:
            RequestError: as in `request`; the backend is an endpoint, whose tokenizer is not known here.
        """
        from llmlab.results.token_list import tokenize

        backend = self._local("does not take token ids")
        if not isinstance(text, str):
            return tokenize(backend, self.request(text, **fields))
        for name in fields:
            raise RequestError(f"{name}: a text is tokenized by itself; give lab.request(text, {name}=...)", param=name)
        return tokenize(backend, text)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, as the transformers package has it.

        Raises:
            RequestError: the backend is an endpoint, whose tokenizer is not known here.
        """
        return self._local("does not give its tokenizer").tokenizer.hf

    def save_model(self, folder: str | os.PathLike[str], *, dtype: str | None = None) -> Path:
        """Writes the model as a checkpoint folder that transformers and llmlab load; returns the folder.

            llmlab.load("model.gguf").save_model("model")       # safetensors, config.json and the tokenizer

        The weights are those that the model computes with: a quantized checkpoint is saved as what it was dequantized
        to. Weights that are in the folder already are replaced.

        Args:
            folder: created if it does not exist.
            dtype: float32, bfloat16 or float16; by default that of the loaded model.

        Raises:
            RequestError: an unknown dtype; the folder is the one that the model was loaded from; the backend is an
                endpoint.
            CheckpointError: a weight is larger than the dtype's largest number.
        """
        return self._local("does not give its weights").save_model(Path(folder), dtype=dtype)

    def _local(self, lacks: str) -> LogitsBackend:
        """The backend, if it runs in this process."""
        if not isinstance(self.backend, LogitsBackend):
            raise RequestError(f"{self.backend.name} is an endpoint that {lacks}; llmlab.load a model for that")
        return self.backend
