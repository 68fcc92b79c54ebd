"""The tokens of a text or of a prompt: their ids, with the text of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32

from llmlab.errors import RequestError
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.checks import FieldError, check_text
from llmlab.protocol.request import Request
from llmlab.text import numbers
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TokenList", "tokenize"]

#: How many tokens a terminal shows.
_SHOWN = 64


class TokenList(tuple[int, ...]):
    """Token ids, with the text of each; `lab.tokenize` returns one.

    It is a tuple of integers, so that it can be given wherever token ids are taken: `lab.complete(lab.tokenize("a"))`.

    Args:
        ids: the token ids.
        names: what the tokens are called.
    """

    _names: TokenNames

    def __new__(cls, ids: Iterable[int], names: TokenNames) -> TokenList:
        """A tuple is made here, because it cannot be changed later."""
        made = super().__new__(cls, (int(i) for i in ids))
        made._names = names
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        names = self._names
        return TokenList, (tuple(self), TokenNames(names.token_bytes, names.names, vocab_size=names.vocab_size))

    @property
    def ids(self) -> Int32[np.ndarray, " T"]:
        """The token ids as an array."""
        return np.array(self, np.int32)

    @property
    def tokens(self) -> list[str]:
        """The text of each token, with U+FFFD for a part of a character; the name of a control token."""
        return [self._names.text(i) for i in self]

    def frame(self) -> pd.DataFrame:
        """One row per token. Columns: position, token, token_id, bytes."""
        from llmlab.frames.schema import build

        columns = {"position": range(len(self)), **self._names.columns(list(self))}
        return build(columns, {"position": "index", "token": "token", "token_id": "count", "bytes": "bytes"})

    def __repr__(self) -> str:
        shown = " ".join(self._names.label(i) for i in self[:_SHOWN])
        more = f" … and {len(self) - _SHOWN:,} more" if len(self) > _SHOWN else ""
        return f"{numbers.count(len(self), 'token')}: {shown}{more}" if self else "0 tokens"


def tokenize(backend: LogitsBackend, text: str | Request) -> TokenList:
    """The tokens of a text by itself, or those of the prompt that the model reads for a request.

    Raises:
        RequestError: the text has half of a surrogate pair, the template refuses the messages, or the model has no
            embedding for a token.
    """
    try:
        ids = backend.encode(check_text(text)) if isinstance(text, str) else backend.render(text).tolist()
    except FieldError as bad:
        raise RequestError(f"text {bad}", param="text") from None
    return TokenList(ids, TokenNames(backend.token_bytes, backend.token_names))
