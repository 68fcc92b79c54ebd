"""How the byte-level tokenizers of GGUF files split a text into words, by the names that llama.cpp gives to that.

The patterns are those of the models' own tokenizer.json.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from llmlab.errors import CheckpointError, short

__all__ = ["Split", "split_of"]


@dataclass(frozen=True)
class Split:
    """How a text is split.

    Args:
        pattern: of a word; "" for GPT-2's.
        digits: every digit is a word, before the pattern is looked for.
        nfc: the text is normalised to NFC first.
        ignore_merges: a word that is a token is that token, whatever the merges say.
        add_bos: a text begins with the begin-of-sequence token where a file does not say whether it does.
    """

    pattern: str = ""
    digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}|" + _REST
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_GPT2 = Split()
_DIGITS = Split(digits=True)
_LLAMA = Split(_WORDS % "1,3", ignore_merges=True, add_bos=True)
_QWEN = Split(_WORDS % "1", nfc=True)

_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("default", "gpt-2", "gpt2", "olmo", "mpt"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _LLAMA),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Split(_WORDS % "1,3")),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN),
    **dict.fromkeys(("gpt-4o",), Split(_CASED)),
}


def split_of(name: str, path: Path) -> Split:
    """How a pre-tokenizer splits.

    Raises:
        CheckpointError: the name is not known; another pattern in its place would give wrong tokens.
    """
    if name not in _SPLITS:
        near = difflib.get_close_matches(name, _SPLITS, n=1, cutoff=0)
        raise CheckpointError(
            f"{path}: the pre-tokenizer {short(name)} is not known; known are {', '.join(sorted(_SPLITS))}"
            f"{f', of which the nearest by name is {near[0]}' if near else ''}. Load the model from its folder of "
            "safetensors"
        )
    return _SPLITS[name]
