"""A model in memory, and how it reads a request: prompt tokens, sampling parameters, grammar, token budget."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from functools import cached_property, partial

import jax
import numpy as np

from llmlab.backends.local.choice_writer import ChoiceWriter, call_id
from llmlab.backends.local.request_grammar import request_grammar
from llmlab.engine.engine import Engine
from llmlab.errors import ContextLengthError, ModelNotFoundError, RequestError, short
from llmlab.grammar.matcher import Grammar
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.protocol.completion import Header
from llmlab.protocol.request import ChatRequest, PromptRequest, Request
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.pipeline import ORDERS
from llmlab.text.segments import Segmenter, prompt_tail
from llmlab.text.stops import StopMatcher
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer
from llmlab.version import __version__

__all__ = ["LoadedModel"]


class LoadedModel:
    """A tokenizer, a chat template and an engine: everything needed to turn a request into rows of the engine's batch.

    This is the only place where a request becomes token ids.

    Attributes:
        name: the model's name, as `request.model` spells it.
        token_bytes: the bytes of every token of the model's vocabulary; None for control tokens, and for ids that the
            tokenizer does not know (a vocabulary is often padded to a round number).
        token_names: the names of the control tokens, such as `<|im_end|>`, by id.
        delimiters: the spelling of each control token that the chat format uses as a delimiter, such as `<tool_call>`.
        end_ids: the tokens that end a choice.
        unsupported: parameters that a user interface should not offer for this model.
    """

    def __init__(self, name: str, *, tokenizer: Tokenizer, template: ChatTemplate, engine: Engine) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.template = template
        self.engine = engine
        size, known = engine.config.vocab_size, tokenizer.token_bytes
        self.token_bytes = (*known[:size], *[None] * (size - len(known)))
        unspelled = [i for i, raw in enumerate(known[:size]) if raw is None]
        self.token_names: Mapping[int, str] = {i: tokenizer.name(i) for i in unspelled}
        self.delimiters = template.format.controls(self.token_names)
        self.end_ids = engine.ends
        self.unsupported = frozenset({"enable_thinking"} if not template.has_switch("enable_thinking") else ())

    @property
    def system_fingerprint(self) -> str:
        """What results depend on besides the request: versions, device, dtype, matmul precision and batch width."""
        engine = self.engine
        width = f"slots{engine.widths[0]}" if len(engine.widths) == 1 else "slots-auto"
        kind = jax.devices()[0].device_kind.replace(" ", "-").lower()
        kind += f"-x{engine.mesh.size}" if engine.mesh else ""
        return f"llmlab-{__version__}/jax-{jax.__version__}/{kind}/{engine.programs.dtype}/highest/{width}"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, prepared for grammars."""
        controls = {name: token for token, name in self.token_names.items()}
        return Vocabulary(self.token_bytes, size=self.engine.config.vocab_size, ends=self.end_ids, controls=controls)

    def render(self, request: Request) -> np.ndarray:
        """Returns the prompt's token ids [L].

        Raises:
            ModelNotFoundError: the request names another model.
            RequestError: the chat template refuses the messages, a token id is not in the vocabulary, or the prompt is
                empty.
        """
        if request.model is not None and request.model != self.name:
            raise ModelNotFoundError(
                f"the model {short(request.model)} does not exist; loaded is {self.name!r}", param="model"
            )
        ids = self._given_ids(request) if isinstance(request, PromptRequest) else self._template_ids(request)
        if not ids:
            raise RequestError(f"{request.subject} is empty: it must hold at least one token", param=request.subject)
        return np.array(self._embedded(ids, request.subject), np.int32)

    def _template_ids(self, request: ChatRequest) -> list[int]:
        tools = None if request.tool_choice == "none" else request.tools
        return self.template.prompt(
            request.messages,
            tools=tools,
            enable_thinking=request.enable_thinking,
            continue_final_message=request.continue_final_message,
            extra=request.chat_template_kwargs,
        ).ids

    def _given_ids(self, request: PromptRequest) -> list[int]:
        if isinstance(request.prompt, str):
            return self.tokenizer.encode(request.prompt, special=True)
        self._check_vocabulary("prompt", max(request.prompt))
        return list(request.prompt)

    def _check_vocabulary(self, field: str, token: int) -> None:
        size = self.engine.config.vocab_size
        if token >= size:
            raise RequestError(f"{field}: token id {token} is not in the vocabulary (0..{size - 1})", param=field)

    def _embedded(self, ids: list[int], field: str | None) -> list[int]:
        """Returns the ids, or raises RequestError for one that only the tokenizer has."""
        size = self.engine.config.vocab_size
        for token in ids:
            if token >= size:
                raise RequestError(
                    f"{field or 'the text'} holds {self.tokenizer.name(token)!r}, token id {token}, for which the "
                    f"model has no embedding (its ids are 0..{size - 1}); leave it out",
                    param=field,
                )
        return ids

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text that continues another one: no begin-of-sequence token."""
        return self._embedded(self.tokenizer.encode(text), None)

    def sampling_params(self, request: Request, *, seed: int, choice: int = 0) -> SamplingParams:
        """Returns the request's sampling fields, as the sampler takes them.

        Raises:
            RequestError: `logit_bias` names a token that is not in the vocabulary.
        """
        for token in request.logit_bias:
            self._check_vocabulary("logit_bias", token)
        return SamplingParams.of(request, seed=seed, choice=choice)

    def grammar(self, request: Request, prompt: np.ndarray) -> Grammar | None:
        """Returns the grammar that answers to the request must follow; None where they are free.

        Raises:
            RequestError: see `request_grammar`.
        """
        return request_grammar(
            request, format=self.template.format, vocabulary=self.vocabulary, prompt=self._prompt_tail(prompt)
        )

    def allowed_tokens(self, request: Request, *, prompt: np.ndarray, made: np.ndarray) -> np.ndarray | None:
        """Returns which tokens [V] the request's grammar allows after `made`; None where it has no grammar."""
        grammar = self.grammar(request, prompt)
        return None if grammar is None else grammar.allowed(made.tolist())

    def token_budget(self, request: Request, prompt: int) -> int:
        """Returns how many tokens an answer may have after a prompt of `prompt` tokens.

        Raises:
            ContextLengthError: the prompt fills the context, or `max_tokens` does not fit and the request wants an
                error then.
        """
        left = self.engine.max_context - prompt
        if left < 1:
            raise self.too_long(prompt, param=request.subject)
        wanted = request.token_limit
        if wanted is None:
            return left
        if wanted > left and request.context_length_exceeded_behavior == "error":
            raise ContextLengthError(
                f"the prompt's {prompt} tokens and max_tokens {wanted} exceed the context of "
                f"{self.engine.max_context}; ask for at most {left}",
                param="max_tokens",
            )
        return min(wanted, left)

    def too_long(self, prompt: int, *, param: str | None) -> ContextLengthError:
        """The error for a prompt of so many tokens that leaves no room for an answer; `param` is the field to blame."""
        return ContextLengthError(
            f"the prompt has {prompt} tokens, which leaves no room in the context of {self.engine.max_context}; "
            "shorten it",
            param=param,
        )

    def check_order(self, order: str) -> None:
        """Raises RequestError where the sampler has no order of stages with this name."""
        if not isinstance(order, str) or order not in ORDERS:
            raise RequestError(f"order must be one of {', '.join(ORDERS)}, got {order!r}", param="order")

    def header(self, request: Request, prompt: np.ndarray, *, seed: int, order: str) -> Header:
        """Returns what is known of an answer before its first token, with a new id."""
        return Header(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            request=request,
            seed=seed,
            prompt_ids=prompt,
            system_fingerprint=self.system_fingerprint,
            control_tokens=self.token_names,
            order=order,
        )

    def writer(
        self, request: Request, prompt: np.ndarray, *, index: int, seed: int, stops: StopMatcher | None = None
    ) -> ChoiceWriter:
        """Returns a new writer that turns one choice's tokens into text, reasoning and tool calls.

        Args:
            request: the request.
            prompt: the prompt's token ids.
            index: the choice's index.
            seed: the request's seed, or the one drawn for it; the ids of tool calls depend on it.
            stops: watches for stop sequences; by default for those of the request.
        """
        tools = (request.tools or ()) if request.tool_choice != "none" else ()
        format = self.template.format
        segmenter = Segmenter(
            format,
            prompt=self._prompt_tail(prompt),
            tools=tools,
            parallel=request.parallel_tool_calls,
        )
        length = format.calls.id_length if format.calls else 0
        return ChoiceWriter(
            index,
            token_bytes=self.token_bytes,
            segmenter=segmenter,
            stops=stops or StopMatcher(request.stops, include=request.include_stop),
            end_ids=() if request.ignore_eos else self.end_ids,
            delimiters=self.delimiters,
            separate_reasoning=request.separate_reasoning,
            parallel_tool_calls=request.parallel_tool_calls,
            min_tokens=request.min_tokens,
            name_call=partial(call_id, seed=seed, choice=index, prompt=prompt, length=length),
        )

    def _prompt_tail(self, prompt: np.ndarray) -> bytes:
        """The bytes of the prompt after its last control token: the part of the assistant's turn that it holds."""
        return prompt_tail(prompt.tolist(), token_bytes=self.token_bytes, controls=self.delimiters)
