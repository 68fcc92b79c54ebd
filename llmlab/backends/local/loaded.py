"""A model in memory, and how it reads a request: prompt tokens, sampling parameters, grammar, token budget."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from llmlab.backends.local.choice_writer import ChoiceWriter, call_id
from llmlab.backends.local.dtypes import coarser
from llmlab.backends.local.prompt_tokens import prompt_tokens
from llmlab.backends.local.request_grammar import request_grammar
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Piece
from llmlab.errors import ContextLengthError, ModelNotFoundError, RequestError, short
from llmlab.grammar.matcher import Grammar
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.protocol.completion import Choice, Header
from llmlab.protocol.request import ChatRequest, PromptRequest, Request
from llmlab.sampling.logprobs import unknown_statistics
from llmlab.sampling.orders import asks, order_key, placed
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.repetition import BREAKERS, DRY
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

    config_json: Mapping[str, Any] | None = None  #: what the model was loaded from; None if it was made in memory

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
        self._broken: tuple[tuple[str, ...], tuple[int, ...]] | None = None
        switches = {"enable_thinking": False, "reasoning_effort": template.has_switch("reasoning_effort")}
        self.unsupported = frozenset(n for n, has in switches.items() if not has and template.thinking_switch is None)

    @property
    def system_fingerprint(self) -> str:
        """What results depend on besides the request: versions, device, dtype, precision, batch width and kernel."""
        engine = self.engine
        width = f"slots{engine.widths[0]}" if len(engine.widths) == 1 else "slots-auto"
        kind = jax.devices()[0].device_kind.replace(" ", "-").lower()
        kind += f"-x{engine.mesh.size}" if engine.mesh else ""
        width += "/kernel" if engine.config.attention_kernel else ""
        return f"llmlab-{__version__}/jax-{jax.__version__}/{kind}/{engine.programs.weights_dtype}/highest/{width}"

    @property
    def dtypes(self) -> tuple[str, str]:
        """The dtype of the weights, and the coarser one of the checkpoint's and the activations'."""
        return self.engine.programs.weights_dtype, coarser(self.config_json, str(self.engine.programs.dtype))

    @property
    def models(self) -> tuple[str, ...]:
        """The names that `request.model` can have: the model's own, and those of the adapters beside it."""
        return (self.name, *self.engine.programs.adapters)

    def adapter(self, model: str | None) -> int:
        """Returns the number of the adapter that a request's `model` means; 0 for the model itself.

        Raises:
            ModelNotFoundError: it is the name of neither.
        """
        if model is None:
            return 0
        if model not in self.models:
            names = ", ".join(map(repr, self.models))
            raise ModelNotFoundError(f"the model {short(model)} does not exist; loaded is {names}", param="model")
        return self.models.index(model)

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
        self.adapter(request.model)
        ids = self._given_ids(request) if isinstance(request, PromptRequest) else self._template_ids(request)
        if not ids:
            raise RequestError(f"{request.subject} is empty: it must hold at least one token", param=request.subject)
        return np.array(self._embedded(ids, request.subject), np.int32)

    def _template_ids(self, request: ChatRequest) -> list[int]:
        return self.template.prompt(request.messages, **_template_options(request)).ids

    def negative_prompt(self, request: Request, prompt: np.ndarray) -> np.ndarray:
        """Returns the token ids [L] of a request's negative prompt; without one, the prompt's last token.

        A text is read as the request's own prompt would be: of a chat as a user's message, by the chat template.

        Raises:
            RequestError: as in `render`; ContextLengthError: it fills the context.
        """
        given = request.negative_prompt
        if given is None:
            return prompt[-1:]
        try:
            ids = self._negative_ids(request, given)
        except RequestError as error:
            raise RequestError(f"negative_prompt: {error.message}", param="negative_prompt") from None
        if not ids:
            raise RequestError("negative_prompt is empty: it must hold at least one token", param="negative_prompt")
        if len(ids) >= self.engine.max_context:
            raise ContextLengthError(
                f"negative_prompt has {len(ids)} tokens, which leaves no room in the context of "
                f"{self.engine.max_context}; shorten it",
                param="negative_prompt",
            )
        return np.array(self._embedded(ids, "negative_prompt"), np.int32)

    def _negative_ids(self, request: Request, given: str | tuple[Any, ...]) -> list[int]:
        if not isinstance(given, str) and not isinstance(given[0], dict):
            self._check_vocabulary("negative_prompt", max(given))
            return list(given)
        if isinstance(request, PromptRequest):
            assert isinstance(given, str), "a raw prompt has no messages"
            return self.tokenizer.encode(given, special=True)
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        options = _template_options(request)
        options["continue_final_message"] &= messages[-1]["role"] == "assistant"
        return self.template.prompt(messages, **options).ids

    def rendered(self, request: ChatRequest, *, add_generation_prompt: bool = True) -> str:
        """Returns the text of a chat's prompt, special tokens spelled out.

        Raises:
            RequestError: the chat template refuses the messages.
        """
        options = _template_options(request)
        return self.template.render(request.messages, add_generation_prompt=add_generation_prompt, **options)

    def prompt_notes(self, request: Request, prompt: np.ndarray) -> tuple[str, ...]:
        """Returns notes about a request's prompt, one line each: texts it lacks, a second BOS token, unknown calls."""
        notes = self.tokenizer.prompt_notes(prompt[:2].tolist())
        if isinstance(request, ChatRequest):
            notes += self.template.notes(request.messages, **_template_options(request))
            if request.tools and request.tool_choice != "none" and self.template.format.calls is None:
                notes += ("tools: how this model writes calls is not known, so its calls stay in the text",)
        return notes

    def _given_ids(self, request: PromptRequest) -> list[int]:
        if isinstance(request.prompt, str):
            return self.tokenizer.encode(request.prompt, special=True)
        self._check_vocabulary("prompt", max(request.prompt))
        return list(request.prompt)

    def _check_tokens(self, request: Request) -> None:
        """Raises RequestError if a field names a token that is not in the vocabulary."""
        for field in ("logit_bias", "stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
            for token in getattr(request, field) or ():
                self._check_vocabulary(field, token)

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

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Returns the token ids of a text that continues another one: no begin-of-sequence token, unless `special`."""
        return self._embedded(self.tokenizer.encode(text, special=special), None)

    def sampling_params(self, request: Request, *, seed: int, choice: int = 0) -> SamplingParams:
        """Returns the request's sampling fields, as the sampler takes them.

        Raises:
            RequestError: a field names a token that is not in the vocabulary.
        """
        self._check_tokens(request)
        params = SamplingParams.of(request, seed=seed, choice=choice)
        if not asks(DRY, params):
            return params
        texts = params.extra.get("dry_sequence_breakers", BREAKERS)
        return params.changed(dry_sequence_breakers=self._breakers(texts))

    def _breakers(self, texts: tuple[str, ...]) -> tuple[int, ...]:
        """The tokens that hold one of the texts; those of the last texts are kept, because every choice asks again."""
        if self._broken is not None and self._broken[0] == texts:
            return self._broken[1]
        wanted = [text.encode() for text in texts]
        found = tuple(i for i, raw in enumerate(self.token_bytes) if raw and any(text in raw for text in wanted))
        self._broken = texts, found
        return found

    def grammar(self, request: Request, prompt: np.ndarray) -> Grammar | None:
        """Returns the grammar that answers to the request must follow; None where they are free.

        Raises:
            RequestError: see `request_grammar`.
        """
        self._check_tokens(request)
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

    def check_order(self, order: str, params: SamplingParams) -> None:
        """Raises RequestError where the sampler has no such order, or it lacks a stage that a row asks for."""
        placed(order_key(order), [params])

    def header(self, request: Request, prompt: np.ndarray, *, seed: int, order: str) -> Header:
        """Returns what is known of an answer before its first token, with a new id."""
        watched = request.logprob_token_ids or ()
        of_prompt = None
        if request.prompt_logprobs is not None:
            which = self.adapter(request.model)
            of_prompt = prompt_tokens(self.engine, prompt, token_bytes=self.token_bytes, watched=watched, adapter=which)
        return Header(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model or self.name,
            request=request,
            seed=seed,
            prompt_ids=prompt,
            system_fingerprint=self.system_fingerprint,
            control_tokens=self.token_names,
            order=order,
            prompt_tokens=of_prompt,
            notes=self.prompt_notes(request, prompt),
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
            end_ids=[t for t in self.ends_of(request) if not (self._is_stop_text(t, request))],
            delimiters=self.delimiters,
            separate_reasoning=request.separate_reasoning,
            parallel_tool_calls=request.parallel_tool_calls,
            min_tokens=request.min_tokens,
            watched=request.logprob_token_ids or (),
            name_call=partial(call_id, seed=seed, choice=index, prompt=prompt, length=length),
        )

    def written(self, request: Request, ids: np.ndarray, *, prompt: np.ndarray, finish_reason: str | None) -> Choice:
        """Returns the answer that given tokens make, without a pass of the model; see `LogitsBackend.written`."""
        writer = self.writer(request, prompt, index=0, seed=0)
        writer.feed(Piece(0, ids, unknown_statistics(len(ids)), finish_reason))
        writer.interrupt()
        return writer.choice()

    def ends_of(self, request: Request) -> tuple[int, ...]:
        """Returns the tokens that end an answer to the request."""
        return (*(() if request.ignore_eos else self.end_ids), *(request.stop_token_ids or ()))

    def _is_stop_text(self, token: int, request: Request) -> bool:
        """Whether a token that ends the answer is part of its text, as a stop sequence is."""
        return request.include_stop and token not in self.end_ids and self.token_bytes[token] is not None

    def _prompt_tail(self, prompt: np.ndarray) -> bytes:
        """The bytes of the prompt after its last control token: the part of the assistant's turn that it holds."""
        begin = self.template.format.begin
        return prompt_tail(prompt.tolist(), token_bytes=self.token_bytes, controls=self.delimiters, begin=begin)


def draw_seed() -> int:
    """Returns a random seed for a request that has none; below 2^53, so that every JSON reader keeps all its digits."""
    return secrets.randbelow(2**53)


def _template_options(request: ChatRequest) -> dict[str, Any]:
    return {
        "tools": None if request.tool_choice == "none" else request.tools,
        "enable_thinking": request.enable_thinking,
        "reasoning_effort": request.reasoning_effort,
        "continue_final_message": request.continue_final_message,
        "extra": request.chat_template_kwargs,
    }
