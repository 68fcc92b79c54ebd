"""`POST /tokenize`, `/detokenize` and `/apply_template`: texts as the model sees them."""

from __future__ import annotations

from typing import Any

from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.legacy_logprobs import echo_of
from llmlab.protocol.token_requests import (
    DetokenizeFields,
    DetokenizeRequest,
    TemplateFields,
    TokenizeFields,
    TokenizeRequest,
)
from llmlab.serve.answers import Rendered, Tokenized
from llmlab.serve.route import Conversion
from llmlab.serve.routes.models import check_model

_ERRORS = (400, 404, 408, 413, 429, 500)
_ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


def _here(backend: Backend, model: str | None) -> LogitsBackend:
    check_model(backend, model)
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{backend.name} is an endpoint elsewhere, whose tokenizer is not known here", param="model")
    return backend


def _rendered(backend: LogitsBackend, request: TokenizeRequest) -> str:
    assert request.chat is not None
    return backend.rendered(request.chat, add_generation_prompt=request.generation_prompt)


def _tokenize(backend: Backend, request: TokenizeRequest) -> dict[str, Any]:
    model = _here(backend, request.model)
    text = _rendered(model, request) if request.prompt is None else request.prompt
    tokens = model.encode(text, special=request.special)
    strings = echo_of(tokens, tokens, model.token_bytes, model.token_names).tokens if request.strings else None
    context = model.describe().get("context")
    return {"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": strings}


def _detokenize(backend: Backend, request: DetokenizeRequest) -> dict[str, Any]:
    model = _here(backend, request.model)
    for token in request.tokens:
        if token >= len(model.token_bytes):
            size = len(model.token_bytes)
            raise RequestError(f"tokens: token id {token} is not in the vocabulary (0..{size - 1})", param="tokens")
    return {"prompt": echo_of(request.tokens, request.tokens, model.token_bytes, model.token_names).text}


TOKENIZE = Conversion(
    path="/tokenize",
    name="tokenize",
    summary="Tell the tokens of a text",
    description="Of a `prompt`, or of `messages` as the chat template renders them. Every field of a chat request is "
    "taken; those that do not change its prompt have no effect.",
    answer=Tokenized,
    request=TokenizeFields,
    example={"prompt": "Once upon a time", "return_token_strs": True},
    errors=_ERRORS,
    read=TokenizeRequest.read,
    convert=_tokenize,
)
DETOKENIZE = Conversion(
    path="/detokenize",
    name="detokenize",
    summary="Tell the text of tokens",
    description="A control token is spelled as its name.",
    answer=Rendered,
    request=DetokenizeFields,
    example={"tokens": [9707, 11, 1879]},
    errors=_ERRORS,
    read=DetokenizeRequest.read,
    convert=_detokenize,
)
APPLY_TEMPLATE = Conversion(
    path="/apply_template",
    name="applyTemplate",
    summary="Tell the prompt of a conversation",
    description="The text that the chat template makes of a chat request, special tokens spelled out. Fields that do "
    "not change the prompt have no effect.",
    answer=Rendered,
    request=TemplateFields,
    example=_ASK,
    errors=_ERRORS,
    read=TokenizeRequest.of_template,
    convert=lambda backend, request: {"prompt": _rendered(_here(backend, request.model), request)},
)
