"""Notes about files of a checkpoint folder that are not used: suggested sampling values, and an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["adapter_base", "folder_notes"]

#: The configuration of an adapter, as peft saves it.
ADAPTER = "adapter_config.json"

#: The sampling values of generation_config.json, each with the values that change nothing.
_SAMPLING: dict[str, tuple[Any, ...]] = {
    "do_sample": (True,),
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
}


def folder_notes(folder: Path) -> tuple[str, ...]:
    """Returns what a folder holds that a request does not use by itself, one line each; a broken file gives none."""
    notes = []
    suggested = _object(folder / "generation_config.json")
    values = [
        f"{name} {suggested[name]!r}"
        for name, neutral in _SAMPLING.items()
        if suggested.get(name) is not None and suggested[name] not in neutral
    ]
    if values:
        notes.append(
            f"generation_config.json suggests {', '.join(values)}; requests do not use these values unless they give "
            "them themselves"
        )
    if (folder / ADAPTER).is_file():
        notes.append(f"{ADAPTER} lies beside the weights; the adapter is not applied")
    return tuple(notes)


def adapter_base(folder: Path) -> str | None:
    """Returns the name of the model that an adapter in this folder belongs to; None if there is no adapter."""
    if not (folder / ADAPTER).is_file():
        return None
    return str(_object(folder / ADAPTER).get("base_model_name_or_path") or "a model that it does not name")


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
