"""The adapters that a model is loaded with: one that is merged into it, or several beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llmlab.checkpoints.hub import resolve
from llmlab.checkpoints.lora.adapter import Adapter, open_adapter
from llmlab.errors import RequestError, short

__all__ = ["Adapters", "open_adapters", "untied"]

#: What is wanted of a hub repository with an adapter.
_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Adapters(NamedTuple):
    """Open adapters: the one to merge, those that lie beside the model, by name, and a note on them for the banner."""

    merged: Adapter | None = None
    beside: Mapping[str, Adapter] = {}
    notes: tuple[str, ...] = ()


@contextmanager
def open_adapters(adapter: Any, adapters: Any, *, base: str, token: str | None) -> Iterator[Adapters]:
    """Opens the adapters that `llmlab.load` is given, while a model is loaded.

    Args:
        adapter: a folder or hub repository; None for none.
        adapters: name -> a folder or hub repository; None for none.
        base: the model's own name.
        token: an access token of the hub.

    Raises:
        RequestError: an argument makes no sense.
        ModelNotFoundError: there is no such folder or repository.
        CheckpointError: what is there is no adapter that can be read.
    """
    if adapter is not None and adapters is not None:
        raise RequestError(
            "give adapter= to merge one adapter into the model, or adapters= to have some beside it; an adapter that "
            "lies beside a merged one would change another model than it was trained on",
            param="adapters",
        )
    if adapters is not None and (not isinstance(adapters, Mapping) or not adapters):
        raise RequestError(
            f"adapters must map names to folders, such as {{'mine': 'folder'}}; got {short(adapters)}", param="adapters"
        )
    for name in adapters or ():
        if not isinstance(name, str) or not name or name == base:
            why = "is the model's own name" if name == base else "must be a text that is not empty"
            raise RequestError(f"adapters: the name {short(name)} {why}; choose another", param="adapters")
    with ExitStack() as stack:

        def opened(place: Any, field: str) -> Adapter:
            if not isinstance(place, str | os.PathLike) or not str(place):
                raise RequestError(f"{field} must be a folder or a hub repository, got {short(place)}", param=field)
            there = Path(place).expanduser().is_dir()
            folder = resolve(Path(place) if there else str(place), token=None if there else token, only=_FILES)[1]
            return stack.enter_context(closing(open_adapter(folder)))

        if adapter is not None:
            one = opened(adapter, "adapter")
            yield Adapters(one, notes=(f"merged with the adapter {_described(one)}",))
        else:
            several = {name: opened(place, "adapters") for name, place in (adapters or {}).items()}
            notes = [f"model={name!r} answers with the adapter {_described(one)}" for name, one in several.items()]
            yield Adapters(None, several, tuple(notes))


def _described(adapter: Adapter) -> str:
    trained = f" of {adapter.config.base}" if adapter.config.base else ""
    return f"{adapter.folder.resolve().name} (rank {adapter.rank}){trained}"


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model whose output matrix is no longer its embedding."""
    own = {**config, "tie_word_embeddings": False}
    text = config.get("text_config")
    return {**own, "text_config": {**text, "tie_word_embeddings": False}} if isinstance(text, Mapping) else own
