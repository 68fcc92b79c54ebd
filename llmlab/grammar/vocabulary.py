"""A model's vocabulary in the form that llguidance reads, and the grammars compiled for it. Built on first use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt32

from llmlab.errors import cut

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarError", "Vocabulary", "error_text"]

#: How many compiled grammars are cached: the turns of a chat tend to use the same tools and the same schema.
KEPT = 16


class GrammarError(ValueError):
    """A grammar that cannot be compiled.

    Args:
        message: what was wrong, with the keyword to blame.
        path: the place in the schema as a JSON pointer ("#/properties/a"); empty if no single place is to blame.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        # Both may contain a pattern or a name of any length.
        super().__init__(f"{cut(path)}: {cut(message)}" if path else cut(message))
        self.path = path


def error_text(message: str) -> str:
    """llguidance's message about a grammar, as shown to users: the message itself, or one line of it after a panic."""
    first = message.strip().partition("\n")[0]
    if first.startswith("panic"):
        return f"the grammar is too large, or llguidance failed on it ({first.removeprefix('panic:').strip()})"
    return message.strip()


class Vocabulary:
    """The tokens over which masks are computed. With a large vocabulary the first call of `view` takes 0.5 to 1.8 s.

    Args:
        token_bytes: the exact bytes of every token, None for control tokens.
        size: V, the width of the model's logits. Ids that are no token are never allowed.
        ends: the tokens that end a generation.
        controls: the ids of the control tokens that grammars may name, by name.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        *,
        size: int,
        ends: Sequence[int] = (),
        controls: Mapping[str, int] | None = None,
    ) -> None:
        self.size = size
        self.ends = tuple(ends)
        self.controls = dict(controls or {})
        self._bytes = list(token_bytes[:size])
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        first: dict[bytes, int] = {}
        #: Tokens with the same bytes as an earlier token (as SentencePiece's byte tokens), mapped to that token.
        self._aliases = {
            token: first.setdefault(data, token)
            for token, data in enumerate(self._bytes)
            if data and token not in self.ends and first.setdefault(data, token) != token
        }

    @property
    def words(self) -> int:
        """W = ceil(V / 32), the number of words of a packed mask."""
        return -(-self.size // 32)

    @cached_property
    def end_mask(self) -> UInt32[np.ndarray, " W"]:
        """The end tokens as a packed mask."""
        mask = np.zeros(self.words, np.uint32)
        for token in self.ends:
            mask[token // 32] |= np.uint32(1 << (token % 32))
        return mask

    @cached_property
    def alias_bits(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids of tokens with the same bytes as an earlier token, and the ids of those earlier tokens."""
        return np.array(list(self._aliases), np.int64), np.array(list(self._aliases.values()), np.int64)

    def canonical(self, token: int) -> int:
        """The first token with the same bytes as this one."""
        return self._aliases.get(token, token)

    def view(self) -> LLTokenizer:
        """The vocabulary as an llguidance tokenizer, built on the first call; safe to call from several threads."""
        with self._lock:
            return self._view

    @cached_property
    def _view(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        # llguidance needs an end token. A model without one gets an id past the vocabulary, which is never sampled.
        ends = self.ends or (self.size,)
        tokens, special = [], []
        for token in range(max(self.size, max(ends) + 1)):
            data = self._bytes[token] if token < len(self._bytes) else None
            if not data or token in ends or token in self._aliases:
                data = f"<|id {token}|>".encode()
                special.append(token)
            tokens.append(data)
        wrapper = TokenizerWrapper(_Tokens(tokens, special, ends[0]))
        return LLTokenizer(wrapper, n_vocab=len(tokens), eos_token=list(ends))

    def compiled(self, grammar: str) -> LLMatcher:
        """llguidance's matcher at the start of a grammar, from a cache; copy it, do not advance it.

        Args:
            grammar: the grammar in llguidance's dialect of Lark.

        Raises:
            GrammarError: the grammar does not compile.
        """
        from llguidance import LLMatcher, LLParserLimits

        view = self.view()
        with self._lock:
            found = self._kept.pop(grammar, None)
        if found is None:
            limits = LLParserLimits(verbose_errors=False)
            found = LLMatcher(view, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
            if found.is_error():
                raise GrammarError(error_text(found.get_error()))
        with self._lock:
            self._kept[grammar] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found


class _Tokens:
    """The tokenizer interface that llguidance requires. It tokenizes only forced text, which grammars here turn off."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end

    def __call__(self, text: Any) -> list[int]:
        return []
