"""A run of the benchmark as lines for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmlab.cli.bench.figures import Figure
from llmlab.cli.bench.subject import Options

__all__ = ["facts", "line", "to_json"]

_VERSIONS = ("llmlab", "jax", "jaxlib", "flax", "transformers", "torch", "numba", "xllamacpp")


def line(figure: Figure) -> str:
    """One figure on one line: the work, its setting, the value, and its share of the ceiling."""
    if figure.value is None:
        return f"{figure.work:11} {figure.setting:56} not measured: {figure.note}"
    digits = 0 if abs(figure.value) >= 1000 else 1 if abs(figure.value) >= 100 else 2 if abs(figure.value) >= 1 else 3
    shown = f"{figure.work:11} {figure.setting:56} {figure.value:10,.{digits}f} {figure.unit}"
    if figure.share is not None:
        shown += f"  {figure.share:.2f} of {figure.ceiling}"
    return shown + (f"  ({figure.note})" if figure.note else "")


def facts() -> dict[str, Any]:
    """When and on what a run was made: the date, the device, the versions of what takes part in it."""
    import jax

    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    first = jax.devices()[0]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{jax.device_count()} x {first.device_kind}",
        "platform": first.platform,
        "versions": found,
    }


def to_json(options: Options, figures: Sequence[Figure]) -> str:
    """Everything about a run; `figures` are objects with the fields of `Figure`."""
    # Of a model's folder or file its name alone: where it lies is nobody else's concern.
    model = Path(options.model).name if Path(options.model).exists() else options.model
    asked = options._replace(ceilings={}, model=model)._asdict()
    return json.dumps({**facts(), "options": asked, "figures": [one._asdict() for one in figures]}, indent=1)
