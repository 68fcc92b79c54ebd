"""Completions in parquet files: one row per choice, its tokens as lists, and the requests in the metadata.

Any reader of parquet sees the texts and the values of the tokens. The file's metadata has, as JSON under "llmlab", the
requests, the model, the seeds, the fingerprints and the versions of the packages, so that a loaded completion equals
the saved one to the bit. Nothing in a file is ever executed: it holds numbers and text.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmlab.errors import RequestError
from llmlab.protocol.arguments import file_path
from llmlab.protocol.completion import Choice, Completion, Timing, Tokens, ToolCall
from llmlab.protocol.request import ChatRequest, PromptRequest, Request
from llmlab.version import __version__

if TYPE_CHECKING:
    import pandas as pd


#: The format that is written; files of a later one are refused.
FORMAT = 1
_KEY = b"llmlab"
_PACKAGES = ("llmlab", "jax", "flax", "numpy", "transformers", "pandas", "pyarrow")

#: Field of `Tokens` -> its column, with one value per token, or one list of alternatives per token.
TOKEN_COLUMNS = {"ids": "token_id"} | {
    name: name
    for name in (
        "bytes", "segment", "lead", "overhang", "logprob", "sampling_logprob", "rank", "entropy", "sampling_entropy",
        "margin", "kept",
    )
}  # fmt: skip
TOP_COLUMNS = {name: name for name in ("top_ids", "top_bytes", "top_logprob", "top_sampling_logprob")}
_INTEGERS = frozenset({"ids", "lead", "overhang", "rank", "kept", "top_ids"})
#: Fields of `Completion` that are written in a form of their own; the others are JSON's plain values.
_APART = frozenset({"request", "prompt_ids", "prompt_tokens", "control_tokens", "choices", "timing"})


class Contents(NamedTuple):
    """The contents of a file: its completions, and what else `save` was given."""

    kind: str  #: "result" or "sweep"
    completions: tuple[Completion, ...]
    about: Mapping[str, Any]
    pool: Pool  #: the values that `about` refers to by number


class Pool:
    """Values that recur in a file, such as a prompt: each is written once, and referred to by its number.

    Args:
        values: the values of a file that is read.
    """

    def __init__(self, values: Sequence[Any] = ()) -> None:
        self.values = list(values)
        self._index: dict[str, int] = {}

    def put(self, value: Any) -> int:
        """The number of a value that JSON can hold; it is added where it is not there yet."""
        text = json.dumps(value)
        if text not in self._index:
            self._index[text] = len(self.values)
            self.values.append(value)
        return self._index[text]

    def put_request(self, request: Request) -> int:
        """The number of a request. Its messages or its prompt are a value of their own, which requests may share."""
        given = request.to_dict()
        subject = self.put(given.pop(request.subject))
        return self.put({"type": type(request).__name__, "subject": subject, "fields": given})

    def request(self, number: int) -> Request:
        """The request with a number."""
        told = self.values[number]
        if told["type"] == ChatRequest.__name__:
            return ChatRequest(**told["fields"], messages=self.values[told["subject"]])
        return PromptRequest(**told["fields"], prompt=self.values[told["subject"]])


def check_target(path: str | os.PathLike[str]) -> Path:
    """The path as `save` will write to it; checked before any model is asked.

    Raises:
        RequestError: it does not end in .parquet, its folder does not exist, or pyarrow cannot be imported.
    """
    path = file_path(path, name="save")
    if path.suffix != ".parquet":
        raise RequestError(f"a file to save to ends in .parquet, got {str(path)!r}; to_csv writes CSV", param="save")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"there is no folder {path.absolute().parent} to save {path.name} in", param="save")
    _pyarrow()
    return path


def save(
    path: str | os.PathLike[str],
    completions: Sequence[Completion],
    *,
    kind: str,
    about: Mapping[str, Any] | None = None,
    pool: Pool | None = None,
    columns: pd.DataFrame | None = None,
) -> Path:
    """Write completions to a file and return its path; the file appears complete or not at all.

    Args:
        path: ends in .parquet.
        completions: the completions.
        kind: what they make up: "result" or "sweep".
        about: more to keep, of values that JSON can hold.
        pool: the pool whose numbers `about` refers to.
        columns: more columns for other readers of the file, one row per choice; they are not read back.

    Raises:
        RequestError: as in `check_target`.
        OSError: the file cannot be written.
    """
    target, pool = check_target(path), pool or Pool()
    arrow, parquet = _pyarrow()
    told = {
        "format": FORMAT,
        "kind": kind,
        "versions": _versions(),
        "completions": [_header(completion, pool) for completion in completions],
        "about": dict(about or {}),
        "pool": pool.values,
    }
    table = arrow.table(_columns(completions, arrow))
    if columns is not None:
        for at, name in enumerate(columns.columns):
            table = table.add_column(at, name, arrow.array(columns[name], from_pandas=True))
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with parquet.ParquetWriter(draft, table.schema, compression="zstd") as file:
            file.write_table(table)
            file.add_key_value_metadata({_KEY: json.dumps(told, ensure_ascii=False)})
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def load(path: str | os.PathLike[str], *, kind: str) -> Contents:
    """Read a file that `save` wrote.

    Args:
        path: the file.
        kind: what it is to hold: "result" or "sweep".

    Raises:
        FileNotFoundError: there is no such file.
        RequestError: llmlab did not write the file, or wrote it in a later format; it holds the other kind; it is
            damaged; or pyarrow cannot be imported.
    """
    arrow, parquet = _pyarrow()
    path = file_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder" if path.exists() else f"there is no file {path}")
    try:
        # Not read_table, which would make a column of a folder's name such as "temperature=1".
        with parquet.ParquetFile(path) as file:
            table, noted = file.read(), file.metadata.metadata or {}
    except (arrow.ArrowInvalid, OSError) as error:
        raise RequestError(
            f"{path} holds neither a result nor a sweep: it is not a parquet file ({error})", param="path"
        ) from None
    if _KEY not in noted:
        raise RequestError(
            f"{path} holds neither a result nor a sweep: it was not written by llmlab (result.save and sweep.save "
            "write what can be loaded; a frame that pandas wrote, pandas reads)",
            param="path",
        )
    with damage_named(path):
        return _unpacked(json.loads(noted[_KEY]), table, path=path, kind=kind)


def _unpacked(told: Mapping[str, Any], table: Any, *, path: Path, kind: str) -> Contents:
    if told["format"] > FORMAT:
        version = told["versions"]["llmlab"]
        raise RequestError(f"{path} was written by llmlab {version}, in a later format; update llmlab", param="path")
    if told["kind"] != kind:
        reader = f"llmlab.{told['kind'].title()}.load"
        raise RequestError(f"{path} holds a {told['kind']}: {reader} reads it", param="path")
    pool = Pool(told["pool"])
    choices: list[list[Choice]] = [[] for _ in told["completions"]]
    for row in table.to_batches(max_chunksize=1) if table.num_rows else ():
        choices[row["completion"][0].as_py()].append(_choice(row))
    found = [_completion(one, pool, own) for one, own in zip(told["completions"], choices, strict=True)]
    return Contents(kind, tuple(found), told["about"], pool)


@contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error caused by a damaged file into one `RequestError` that names the file."""
    try:
        yield
    except RequestError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            f"{path} was written by llmlab and is damaged: {type(error).__name__}: {error}", param="path"
        ) from error


def _header(completion: Completion, pool: Pool) -> dict[str, Any]:
    """The JSON of a completion without its choices."""
    plain = {field.name: getattr(completion, field.name) for field in fields(completion) if field.name not in _APART}
    return {
        **plain,
        "timing": vars(completion.timing),
        "request": pool.put_request(completion.request),
        "prompt_ids": pool.put(completion.prompt_ids.tolist()),
        "names": pool.put(list(completion.control_tokens.items())),
    }


def _completion(told: Mapping[str, Any], pool: Pool, choices: Sequence[Choice]) -> Completion:
    known = {field.name for field in fields(Completion)} - _APART
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items() if name in known
    }
    return Completion(
        **plain,
        request=pool.request(told["request"]),
        prompt_ids=np.array(pool.values[told["prompt_ids"]], np.int32),
        control_tokens={int(token): name for token, name in pool.values[told["names"]]},
        timing=Timing(**told["timing"]),
        choices=tuple(choices),
    )


def _columns(completions: Sequence[Completion], arrow: Any) -> dict[str, Any]:
    """Column -> Arrow array, one row per choice."""
    rows = [(at, choice) for at, completion in enumerate(completions) for choice in completion.choices]
    choices = [choice for _, choice in rows]
    call = arrow.struct([(name, arrow.string()) for name in ("id", "name", "arguments")])
    texts = {name: [getattr(choice, name) for choice in choices] for name in ("text", "finish_reason", "reasoning")}
    columns = {
        "completion": arrow.array([at for at, _ in rows], arrow.int32()),
        "choice": arrow.array([choice.index for choice in choices], arrow.int32()),
        "given": arrow.array([choice.given for choice in choices], arrow.int32()),
        **{name: arrow.array(column, arrow.string()) for name, column in texts.items()},
        "tool_calls": arrow.array([[vars(c) for c in choice.tool_calls] for choice in choices], arrow.list_(call)),
        "alternatives": arrow.array([choice.tokens.top_ids.shape[1] for choice in choices], arrow.int32()),
    }
    if any(choice.guessed is not None for choice in choices):
        columns["guessed"] = arrow.array([choice.guessed for choice in choices], arrow.list_(arrow.int32()))
    tokens = [choice.tokens for choice in choices]
    borders = _borders([len(one) for one in tokens])
    for name, column in TOKEN_COLUMNS.items():
        flat = _flat([getattr(one, name) for one in tokens], name, arrow)
        columns[column] = arrow.ListArray.from_arrays(borders, flat)
    inner = _borders([one.top_ids.shape[1] for one in tokens for _ in range(len(one))])
    for name, column in TOP_COLUMNS.items():
        parts = [getattr(one, name) for one in tokens]
        if name == "top_bytes":
            flat = _flat([[piece for row in part for piece in row] for part in parts], name, arrow)
        else:
            flat = _flat([part.reshape(-1) for part in parts], name, arrow)
        columns[column] = arrow.ListArray.from_arrays(borders, arrow.ListArray.from_arrays(inner, flat))
    return columns


def _flat(parts: Sequence[Any], name: str, arrow: Any) -> Any:
    """The values of all choices one after the other, with their type; NaN stays NaN."""
    if name in ("bytes", "top_bytes", "segment"):
        kind = arrow.string() if name == "segment" else arrow.binary()
        return arrow.array([piece for part in parts for piece in part], kind)
    dtype = np.int32 if name in _INTEGERS else np.float32
    return arrow.array(np.concatenate([np.zeros(0, dtype), *parts]), from_pandas=False)


def _borders(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int32)


def _choice(row: Any) -> Choice:
    """The choice in a table of one row."""
    count, wide = len(row["token_id"][0]), row["alternatives"][0].as_py()
    found: dict[str, Any] = {}
    for name, column in TOKEN_COLUMNS.items():
        values = row[column][0].values
        found[name] = tuple(values.to_pylist()) if name in ("bytes", "segment") else values.to_numpy()
    for name, column in TOP_COLUMNS.items():
        values = row[column][0].values.flatten()
        if name == "top_bytes":
            flat = values.to_pylist()
            found[name] = tuple(tuple(flat[at * wide : (at + 1) * wide]) for at in range(count))
        else:
            found[name] = values.to_numpy().reshape(count, wide)
    return Choice(
        index=row["choice"][0].as_py(),
        text=row["text"][0].as_py(),
        tokens=Tokens(**found),
        finish_reason=row["finish_reason"][0].as_py(),
        reasoning=row["reasoning"][0].as_py(),
        given=row["given"][0].as_py(),
        tool_calls=tuple(ToolCall(**call) for call in row["tool_calls"][0].as_py()),
        guessed=_guessed(row),
    )


def _guessed(row: Any) -> np.ndarray | None:
    """What a table has in addition where tokens were guessed."""
    found = row["guessed"][0].as_py() if "guessed" in row.column_names else None
    return None if found is None else np.array(found, np.int32)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            found[name] = __version__ if name == "llmlab" else "unknown"
    return found


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise RequestError(
            f"saving and loading need pyarrow, which cannot be imported ({error}): pip install pyarrow", param="save"
        ) from error
    return pyarrow, parquet
