"""A model's vocabulary as llguidance reads it: bytes, control tokens, the ends. Built once, when first needed."""

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

__all__ = ["GrammarError", "Vocabulary", "reason"]

#: Compiled grammars that are kept: the rounds of a chat tend to have the same tools and the same schema.
KEPT = 16


class GrammarError(ValueError):
    """A grammar that cannot be compiled.

    Args:
        message: what was wrong, with the keyword to blame.
        path: where, as a JSON pointer into the schema ("#/properties/a"); empty where no place is to blame.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        # Either may hold a pattern or a name of any length.
        super().__init__(f"{cut(path)}: {cut(message)}" if path else cut(message))
        self.path = path


def reason(told: str) -> str:
    """Why llguidance refuses a grammar, in its words; where it gave up, without the places in its own code."""
    first = told.strip().partition("\n")[0]
    if first.startswith("panic"):
        return f"it is too large, or llguidance gives it up ({first.removeprefix('panic:').strip()})"
    return told.strip()


class Vocabulary:
    """The tokens that masks are over. The first use of `view` takes 0.5 to 1.8 s where the vocabulary is large.

    Args:
        token_bytes: the exact bytes of every token, None for control tokens.
        size: V, the width of the model's logits; ids past the tokens are never allowed.
        ends: the tokens that end a generation.
        controls: ids of control tokens by name, for grammars that need them.
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
        #: Tokens that spell what another token spells (SentencePiece's byte tokens), and which one.
        self._aliases = {
            token: first.setdefault(data, token)
            for token, data in enumerate(self._bytes)
            if data and token not in self.ends and first.setdefault(data, token) != token
        }

    @property
    def words(self) -> int:
        """W = ceil(V / 32), the words of a packed mask."""
        return -(-self.size // 32)

    @cached_property
    def end_mask(self) -> UInt32[np.ndarray, " W"]:
        """The ends as a packed mask."""
        mask = np.zeros(self.words, np.uint32)
        for token in self.ends:
            mask[token // 32] |= np.uint32(1 << (token % 32))
        return mask

    @cached_property
    def alias_bits(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that share their bytes with an earlier one, and those earlier ones."""
        return np.array(list(self._aliases), np.int64), np.array(list(self._aliases.values()), np.int64)

    def canonical(self, token: int) -> int:
        """The first token that has the bytes of this one."""
        return self._aliases.get(token, token)

    def view(self) -> LLTokenizer:
        """llguidance's view of the vocabulary."""
        with self._lock:
            return self._view

    @cached_property
    def _view(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        # llguidance wants an end. Where the model has none there is one past the vocabulary, which nobody can draw.
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
        """A matcher at the start of a grammar in llguidance's dialect of Lark; to be copied, not advanced.

        Raises:
            GrammarError: it does not compile.
        """
        from llguidance import LLMatcher, LLParserLimits

        view = self.view()
        with self._lock:
            found = self._kept.pop(grammar, None)
        if found is None:
            limits = LLParserLimits(verbose_errors=False)
            found = LLMatcher(view, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
            if found.is_error():
                raise GrammarError(reason(found.get_error()))
        with self._lock:
            self._kept[grammar] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found


class _Tokens:
    """What llguidance asks of a tokenizer. It tokenizes only where text is forced, which is never used here."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end

    def __call__(self, text: Any) -> list[int]:
        return []
