"""The requests of `/tokenize`, `/detokenize` and `/apply_template`, as vLLM spells them: texts, and no generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel

from llmlab.errors import RequestError
from llmlab.protocol.checks import check_token_ids
from llmlab.protocol.fields import ChatFields, Fieldspec
from llmlab.protocol.own_fields import OwnFields, with_fields_of
from llmlab.protocol.request import ChatRequest
from llmlab.protocol.schemas import TOKEN_IDS

__all__ = ["DetokenizeFields", "DetokenizeRequest", "TemplateFields", "TokenizeFields", "TokenizeRequest"]


def check_tokens(value: Any) -> tuple[int, ...]:
    """Token ids; there may be none."""
    if isinstance(value, list | tuple) and not value:
        return ()
    return check_token_ids(value)


class _Template(OwnFields):
    """What is asked about a rendered conversation, besides the conversation."""

    add_generation_prompt: Annotated[
        bool, Fieldspec("flag", "Whether the prompt ends with the header of the assistant's turn.")
    ] = True


class _Tokenize(_Template):
    """What is asked about a text, besides the text."""

    prompt: Annotated[str | None, Fieldspec("text", "The text, if there are no messages.")] = None
    add_special_tokens: Annotated[
        bool | None,
        Fieldspec(
            "flag", "Whether to put the tokenizer's special tokens around the text, such as a begin-of-sequence token; "
            "by default around a prompt, not around messages, whose template has them.",
        ),
    ] = None  # fmt: skip
    return_token_strs: Annotated[
        bool, Fieldspec("flag", "Whether to return the text of each token; a control token's is its name.")
    ] = False


class _Detokenize(OwnFields):
    """Token ids whose text is asked for."""

    model: Annotated[str | None, Fieldspec("text", "The model's name; the loaded model is the default.")] = None
    tokens: Annotated[
        Any, Fieldspec("value", "Token ids.", check=check_tokens, schema={**TOKEN_IDS, "minItems": 0}, required=True)
    ]


#: All fields of the requests, for their JSON schemas.
TokenizeFields: type[BaseModel] = with_fields_of(_Tokenize, ChatFields, name="TokenizeRequest")
DetokenizeFields: type[BaseModel] = with_fields_of(_Detokenize, OwnFields, name="DetokenizeRequest")
TemplateFields: type[BaseModel] = with_fields_of(_Template, ChatFields, name="TemplateRequest")


_ANY = ({"role": "user", "content": ""},)


class _Text:
    """A request that generates nothing."""

    n: ClassVar[int] = 0
    stream: ClassVar[bool] = False


@dataclass(frozen=True)
class TokenizeRequest(_Text):
    """A text, or a conversation that is rendered as one.

    Attributes:
        prompt: the text; None where there is a `chat`.
        chat: the conversation, as the request that would answer it: all of its fields are taken, and those that do not
            change the prompt have no effect.
        model: the model's name; None for the loaded one.
        generation_prompt: whether the rendered conversation ends with the header of the assistant's turn.
        special: whether special tokens are put around the text.
        strings: whether the text of each token is asked for.
    """

    prompt: str | None
    chat: ChatRequest | None
    model: str | None
    generation_prompt: bool = True
    special: bool = False
    strings: bool = False

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> TokenizeRequest:
        """Returns the request of `/tokenize` with these fields.

        Raises:
            RequestError: a field is wrong or unknown, or there is not exactly one of prompt and messages.
        """
        own, rest = _Tokenize.take(fields)
        prompt, special = own["prompt"], own["add_special_tokens"]
        if prompt is None:
            if rest.get("messages") is None:
                raise RequestError("prompt is missing: give a text, or messages", param="prompt")
            request = cls.of_template(rest | {"add_generation_prompt": fields.get("add_generation_prompt")})
            return cls(
                None, request.chat, request.model, request.generation_prompt, bool(special), own["return_token_strs"]
            )
        if fields.get("add_generation_prompt") is not None:
            raise RequestError("add_generation_prompt needs messages", param="add_generation_prompt")
        for name, value in rest.items():
            if name in ChatRequest.model_fields and name != "model" and value is not None:
                raise RequestError(f"{name} makes no sense with a prompt: it belongs to messages", param=name)
        chat = ChatRequest(**{**rest, "messages": _ANY})  # checks the model's name, and refuses unknown ones
        return cls(prompt, None, chat.model, special=special is not False, strings=own["return_token_strs"])

    @classmethod
    def of_template(cls, fields: Mapping[str, Any]) -> TokenizeRequest:
        """Returns the request of `/apply_template` with these fields.

        Raises:
            RequestError: a field is wrong or unknown.
        """
        own, rest = _Template.take(fields)
        chat = ChatRequest(**rest)
        if chat.continue_final_message and fields.get("add_generation_prompt"):
            raise RequestError(
                "add_generation_prompt and continue_final_message exclude each other", param="add_generation_prompt"
            )
        return cls(None, chat, chat.model, own["add_generation_prompt"])


@dataclass(frozen=True)
class DetokenizeRequest(_Text):
    """Token ids whose text is asked for; `model` is None for the loaded one."""

    tokens: tuple[int, ...]
    model: str | None

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> DetokenizeRequest:
        """Returns the request with these fields.

        Raises:
            RequestError: a field is wrong, unknown or missing.
        """
        own, rest = _Detokenize.take(fields)
        for name in rest:
            raise RequestError(f"unknown field {name!r}; the fields are tokens, model", param=name)
        if fields.get("tokens") is None:
            raise RequestError("tokens is missing: give token ids", param="tokens")
        return cls(own["tokens"], own["model"])
