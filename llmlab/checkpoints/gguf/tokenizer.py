"""Builds a tokenizer from the metadata of a GGUF file, which holds a vocabulary and the name of a pre-tokenizer.

transformers' own conversion needs torch to read a file, and splits text by GPT-2's rule wherever it does not know a
pre-tokenizer's name, such as SmolLM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmlab.checkpoints.gguf.header import Header
from llmlab.checkpoints.gguf.splits import split_of
from llmlab.errors import CheckpointError, short
from llmlab.text.tokenizer import Tokenizer

__all__ = ["read_tokenizer"]

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

#: Metadata with ids of tokens that end an answer.
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
#: Control tokens that end a turn, whether or not a file says so. As in llama.cpp.
_END_NAMES = frozenset(
    {
        *("</s>", "<eos>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"),
        *("<|end_of_text|>", "<EOT>"),
    }
)
_SPECIALS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def read_tokenizer(header: Header) -> Tokenizer:
    """The tokenizer and the chat template of a GGUF file.

    Raises:
        CheckpointError: the file has none, one of another kind, or one that contradicts itself.
    """
    from transformers import PreTrainedTokenizerFast

    kind = header.value(_key("model"), str)
    pieces = _list(header, "tokens", str)
    kinds = _list(header, "token_type", int) or [1] * len(pieces)
    if len(kinds) != len(pieces):
        raise _wrong(header, f"{len(pieces)} tokens and {len(kinds)} kinds of token")
    if kind == "gpt2":
        backend = _byte_level(header, pieces)
    elif kind == "llama":
        backend = _sentencepiece(header, pieces, kinds)
    else:
        raise CheckpointError(
            f"{header.path} has a tokenizer of the kind {short(kind)}; read are gpt2 (byte-level BPE) and llama "
            "(SentencePiece BPE)"
        )
    _add(backend, pieces, kinds, byte_level=kind == "gpt2")
    named = {name: _token(header, f"{key}_token_id", pieces) for name, key in _SPECIALS.items()}
    _add_around(header, backend, pieces, default=kind == "llama" or _splits_as(header).add_bos)
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in named.items() if token is not None},
    )
    hf.chat_template = _templates(header)
    ends = {header.value(_key(key), int) for key in _ENDS} - {None}
    ends |= {i for i, piece in enumerate(pieces) if kinds[i] == _CONTROL and piece in _END_NAMES}
    return Tokenizer(hf, eos_ids=sorted(ends))


def _key(name: str) -> str:
    return f"tokenizer.ggml.{name}"


def _wrong(header: Header, what: str) -> CheckpointError:
    return CheckpointError(f"{header.path}: its tokenizer has {what}; fetch the file again")


def _list(header: Header, name: str, kind: type) -> list[Any]:
    """A list of the metadata; [] where there is none."""
    found = header.value(_key(name), list, [])
    if not all(isinstance(one, kind) for one in found[:1]):
        raise _wrong(header, f"{name} that begin with {short(found[0])}")
    if name == "tokens" and not found:
        raise CheckpointError(f"{header.path} has no tokenizer: {_key(name)} is missing")
    return list(found)


def _token(header: Header, name: str, pieces: Sequence[str]) -> str | None:
    index = header.value(_key(name), int)
    if index is None:
        return None
    if not 0 <= index < len(pieces):
        raise _wrong(header, f"{name} {index} and {len(pieces)} tokens")
    return pieces[index]


def _vocabulary(pieces: Sequence[str]) -> dict[str, int]:
    """Token -> its first id."""
    found: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        found.setdefault(piece, index)
    return found


def _splits_as(header: Header) -> Any:
    return split_of(header.value(_key("pre"), str, "default"), header.path)


def _byte_level(header: Header, pieces: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    how = _splits_as(header)
    merges = []
    vocabulary = _vocabulary(pieces)
    for merge in _list(header, "merges", str):
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise _wrong(header, f"a merge {short(merge)} of what are no tokens")
        merges.append((left, right))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=how.ignore_merges))
    if how.nfc:
        backend.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if how.digits else []
    if how.pattern:
        steps.append(pre_tokenizers.Split(Regex(how.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not how.pattern))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(header: Header, pieces: Sequence[str], kinds: Sequence[int]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = _list(header, "scores", float)
    if len(scores) != len(pieces):
        raise _wrong(header, f"{len(pieces)} tokens and {len(scores)} scores")
    unknown = _token(header, "unknown_token_id", pieces)
    if unknown is None:
        unknown = next((piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _UNKNOWN), None)
    backend = Tokenizer(
        models.BPE(
            vocab=_vocabulary(pieces),
            merges=_merges(pieces, scores, kinds),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=_BYTE in kinds,
        )
    )
    prefix = bool(header.value(_key("add_space_prefix"), bool, True))
    # Not Metaspace: llama.cpp and the tokenizers that models were trained with put the space after special tokens too.
    first = [normalizers.Prepend(_SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", _SPACE)])
    last = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    )
    return backend


def _merges(pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> list[tuple[str, str]]:
    """The merges that scores come to: two tokens that make a third one, those with the best score first.

    Source: Kudo & Richardson, "SentencePiece" (2018), arXiv:1808.06226.
    """
    ids = {piece: i for i, piece in enumerate(pieces) if kinds[i] not in (_CONTROL, _BYTE, _UNKNOWN)}
    found = []
    for piece, index in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-scores[index], index, ids[left], ids[right], (left, right)))
    return [pair for *_, pair in sorted(found)]


def _add(backend: Any, pieces: Sequence[str], kinds: Sequence[int], *, byte_level: bool) -> None:
    """Marks the tokens that are found as a whole in a text."""
    from tokenizers import AddedToken

    known = _vocabulary(pieces)
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        chosen = [piece for i, piece in enumerate(pieces) if kinds[i] == kind and known[piece] == i and piece]
        found = [AddedToken(piece, special=special, normalized=False) for piece in chosen]
        (backend.add_special_tokens if special else backend.add_tokens)(found)


def _add_around(header: Header, backend: Any, pieces: Sequence[str], *, default: bool) -> None:
    """Lets the tokenizer write the tokens that stand around a whole text."""
    from tokenizers import processors

    parts, used = ["$A"], []
    for name, before, unless in (("bos", True, default), ("eos", False, False)):
        token = _token(header, f"{name}_token_id", pieces)
        if token is None or not header.value(_key(f"add_{name}_token"), bool, unless):
            continue
        parts = [token, *parts] if before else [*parts, token]
        used.append((token, _vocabulary(pieces)[token]))
    if used:
        backend.post_processor = processors.TemplateProcessing(single=parts, special_tokens=used)


def _templates(header: Header) -> str | dict[str, str] | None:
    """The chat template, or several by their names."""
    prefix = "tokenizer.chat_template."
    named = {key.removeprefix(prefix): one for key, one in header.metadata.items() if key.startswith(prefix)}
    default: str | None = header.value("tokenizer.chat_template", str)
    if not named:
        return default
    return named | ({} if default is None else {"default": default})
