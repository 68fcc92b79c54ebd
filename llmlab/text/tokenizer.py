"""A tokenizer that knows the exact bytes of each of its tokens.

transformers reads the folder, but it does not say which bytes a token stands for if the token is only a part of a
character. These bytes are read here from the tokenizer's decoder. So logprobs can show exact bytes, and a text can be
assembled from tokens without the tokenizer's own decoding, which strips, cleans up and replaces.

A generation continues a prompt, so all of its bytes count. A SentencePiece tokenizer that decodes a whole text drops
the one space that it added in front during encoding. A generated first token such as "▁Hello" stands for the bytes
b" Hello", and its space stays in the content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmlab.errors import CheckpointError
from llmlab.text.call_syntax import markers
from llmlab.text.formats import REASONING_TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Tokenizer"]

#: What reads a SentencePiece file: packages, with the modules that they bring.
_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}

#: A folder with a tokenizer has at least one of these files.
_ONE_OF = ("tokenizer.json", "tokenizer.model", "vocab.json")
#: Families for which AutoTokenizer takes the class that a folder names; for some others it knows better.
_AS_DECLARED = ("llama", "qwen3")
_FILES = (*_ONE_OF, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class Tokenizer:
    """The tokenizer of a checkpoint folder, made by `load`. It is immutable.

    Attributes:
        hf: the transformers tokenizer that it wraps, which also renders the chat template.
        folder: the checkpoint folder; None for a tokenizer that was not loaded from one.
        token_bytes: the exact bytes of every token id; None for a special token without text and for an unused id.
            Joined and decoded as UTF-8, the bytes of generated tokens are the generated text.
        eos_ids: every id that ends a generation, from the tokenizer and the folder's generation_config.json.
        special_ids: the ids of the special tokens.
    """

    def __init__(self, hf: PreTrainedTokenizerBase, *, eos_ids: Iterable[int] = (), folder: Path | None = None) -> None:
        self.hf = hf
        self.folder = folder
        added = {int(i): token for i, token in hf.added_tokens_decoder.items()}
        self.special_ids: frozenset[int] = frozenset(i for i, t in added.items() if t.special) | frozenset(
            hf.all_special_ids
        )
        self.token_bytes: tuple[bytes | None, ...] = _all_bytes(hf, added, self.special_ids)
        own = () if hf.eos_token_id is None else (hf.eos_token_id,)
        self.eos_ids: tuple[int, ...] = tuple(sorted({*eos_ids, *own}))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder. Nothing is downloaded and no code in the folder is run.

        Raises:
            CheckpointError: the folder has no tokenizer, or one that cannot be read or whose token bytes are unknown.
        """
        folder = Path(folder)
        if not any((folder / name).is_file() for name in _ONE_OF):
            raise CheckpointError(f"{folder} holds no tokenizer: none of {', '.join(_ONE_OF)} is there")
        _check_sentencepiece(folder)
        reads = _transformers("PreTrainedTokenizerFast" if _is_general(folder) else "AutoTokenizer")
        try:
            hf = reads.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise anything here, from KeyError to a bare Exception
            raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}") from error
        return cls(hf, eos_ids=_eos_ids(folder), folder=folder)

    @property
    def vocab_size(self) -> int:
        """The highest token id plus one, added tokens included. A model's logits may be wider, because of padding."""
        return len(self.token_bytes)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The token ids of a text.

        A part of the text that is spelled like a special token ("<|im_end|>") becomes that token, because a rendered
        chat template depends on it. As in transformers, this also holds for text that a user wrote: a caller that
        passes on untrusted text must remove such spellings first.

        Args:
            text: any text.
            special: whether the tokenizer adds the special tokens that it puts around a whole text, such as a
                begin-of-sequence token. A rendered chat already contains them; a raw prompt needs them.
        """
        # verbose=False suppresses the warning about texts longer than the context, which llmlab reports as an error.
        return list(self.hf.encode(text, add_special_tokens=special, verbose=False))

    def prompt_notes(self, first: Sequence[int]) -> tuple[str, ...]:
        """What is unusual about the first two tokens of a prompt, one line each: two begin-of-sequence tokens."""
        begin = self.hf.bos_token_id
        if begin is None or list(first) != [begin, begin]:
            return ()
        return (
            f"the prompt begins with {self.name(begin)!r} twice, and models are trained on one: the tokenizer or the "
            "chat template writes it before every text, so leave it out of yours",
        )

    def decode(self, ids: Iterable[int]) -> str:
        """The text of generated tokens: their bytes joined and decoded as UTF-8, with U+FFFD for invalid bytes."""
        return b"".join(self.bytes_of(i) or b"" for i in ids).decode("utf-8", "replace")

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes of a token id; None for a control token, and for an id that only a padded vocabulary has."""
        return self.token_bytes[token_id] if 0 <= token_id < len(self.token_bytes) else None

    def name(self, token_id: int) -> str:
        """A token's name for display: its text (U+FFFD for invalid bytes), a control token's name, or "<id 7>"."""
        raw = self.bytes_of(token_id)
        if raw is not None:
            return raw.decode("utf-8", "replace")
        piece = self.hf.convert_ids_to_tokens(token_id) if 0 <= token_id < self.vocab_size else None
        return str(piece) if piece else f"<id {token_id}>"

    def id_of(self, token: str) -> int | None:
        """The id of the token with exactly this spelling in the vocabulary ("</think>"); None if there is none."""
        found: int | None = self.hf.backend_tokenizer.token_to_id(token)
        return found

    @cached_property
    def content_hash(self) -> str:
        """The SHA-256 of the tokenizer's files, in hexadecimal; of its state if it was not loaded from a folder."""
        digest = hashlib.sha256()
        if self.folder is None:
            digest.update(self.hf.backend_tokenizer.to_str().encode())
            return digest.hexdigest()
        for name in _FILES:
            path = self.folder / name
            if path.is_file():
                digest.update(name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()


def _is_general(folder: Path) -> bool:
    """Whether AutoTokenizer would take transformers' general class for the folder, as for what transformers 5 saves.

    To find that out by itself AutoTokenizer imports torch wherever that is installed, which takes longer than all else
    about a small model.
    """
    told, config = (_json_object(folder / name) for name in ("tokenizer_config.json", "config.json"))
    return (
        told.get("tokenizer_class") == "TokenizersBackend"
        and "auto_map" not in told
        and config.get("model_type") in _AS_DECLARED
        and (folder / "tokenizer.json").is_file()
    )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # the caller's next reader says what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}


def _transformers(name: str) -> Any:
    """A class of transformers, imported late and without the warning that models need torch."""
    variable = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        return getattr(import_module("transformers"), name)
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _check_sentencepiece(folder: Path) -> None:
    """Raises CheckpointError if the folder's only tokenizer is SentencePiece's file and what reads it is missing."""
    model = folder / "tokenizer.model"
    if not model.is_file() or any((folder / name).is_file() for name in _ONE_OF if name != model.name):
        return
    with model.open("rb") as file:
        is_protobuf = file.read(1) == b"\n"  # other files of this name are lines of text (tiktoken's)
    missing = [name for name, module in _SENTENCEPIECE.items() if not _is_there(module)]
    if is_protobuf and missing:
        raise CheckpointError(
            f"{folder} has its tokenizer as tokenizer.model alone, and {' and '.join(missing)}, which reads it, is not "
            "installed: pip install 'llmlab[sentencepiece]'"
        )


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # its parent is missing, or it is marked as absent
        return False


def _eos_ids(folder: Path) -> list[int]:
    """The end-of-generation ids in generation_config.json; those in config.json if the former has none."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text("utf-8")).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a JSON object: {error}") from error
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            if not all(isinstance(i, int) for i in ids):
                raise CheckpointError(f"{path}: eos_token_id must be a token id, or a list of them, found {found!r}")
            return ids
    return []


def _all_bytes(hf: PreTrainedTokenizerBase, added: dict[int, Any], special: frozenset[int]) -> tuple[bytes | None, ...]:
    """The bytes of every token id (`Tokenizer.token_bytes`)."""
    vocab: dict[str, int] = hf.get_vocab()
    visible = _visible(piece for piece, index in vocab.items() if index in special)
    decoder = hf.backend_tokenizer.decoder
    # The decoder's pickled state is JSON. The JSON of the whole tokenizer would take half a second for 150k tokens.
    read = _bytes_reader(None if decoder is None else json.loads(decoder.__getstate__()))
    table: list[bytes | None] = [None] * (max(vocab.values()) + 1)
    for piece, index in vocab.items():
        if index in special and piece not in visible:
            continue
        table[index] = piece.encode() if index in added else read(piece)
    return tuple(table)


def _visible(specials: Iterable[str]) -> frozenset[str]:
    """The special tokens that keep their text because they delimit the reasoning.

    A delimiter may consist of several tokens and words. Its tokens count only where the vocabulary has the first of
    them: Phi ends its turns with the token that ends gpt-oss' reasoning.
    """
    known = frozenset(specials)
    found: set[str] = set()
    for tags in REASONING_TAGS:
        if len(markers(tags.open)) == 1 or any(tags.open.startswith(name) for name in known):
            found.update(name for name in known if name in f"{tags.open} {tags.close} {tags.separator}")
    return frozenset(found)


def _bytes_reader(decoder: dict[str, Any] | None) -> Callable[[str], bytes]:
    """A function from a vocabulary entry to its bytes, made from the JSON description of a `tokenizers` decoder.

    Raises:
        CheckpointError: the decoder is neither byte-level nor like SentencePiece's.
    """
    parts = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds:
        inverse = _byte_of_character()

        def byte_level(piece: str) -> bytes:
            try:
                return bytes(inverse[c] for c in piece)
            except KeyError:  # a character outside the byte alphabet: `tokenizers` treats the entry as plain text
                return piece.encode()

        return byte_level
    if kinds & {"ByteFallback", "Metaspace"} and kinds <= {"ByteFallback", "Metaspace", "Replace", "Fuse", "Strip"}:
        fallback = "ByteFallback" in kinds
        # Newer files have Replace("▁" -> " "), older ones Metaspace(replacement="▁").
        swaps = [(p["pattern"]["String"], p["content"]) for p in parts if p["type"] == "Replace"]
        swaps += [(p["replacement"], " ") for p in parts if p["type"] == "Metaspace"]

        def sentencepiece(piece: str) -> bytes:
            if fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                try:
                    return bytes([int(piece[3:5], 16)])
                except ValueError:
                    pass
            for old, new in swaps:
                piece = piece.replace(old, new)
            return piece.encode()

        return sentencepiece
    raise CheckpointError(
        "the bytes of this tokenizer's tokens cannot be determined: it is neither a byte-level BPE nor like "
        f"SentencePiece (its decoder is {', '.join(sorted(kinds)) or 'absent'})"
    )


def _byte_of_character() -> dict[str, int]:
    """The byte for each character of GPT-2's byte alphabet.

    A printable byte of Latin-1 is written as itself, the others as the characters 256, 257, ... in order.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), byte-level BPE.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    table = {chr(b): b for b in printable}
    table.update({chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in printable)})
    return table
