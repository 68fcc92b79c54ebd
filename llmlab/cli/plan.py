"""`llmlab plan`: what a model takes, from its config.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmlab.errors import RequestError

if TYPE_CHECKING:
    from jax.sharding import AbstractMesh
    from rich.table import Table

    from llmlab.models.config import ModelConfig
    from llmlab.models.plan import Devices

#: The kinds of devices that are listed where none is asked for.
KINDS = ("T4", "L4", "RTX4090", "A100-80GB", "H100-80GB", "H200", "v5e", "v6e")
#: The dtypes that a plan has lines for; float16 takes what bfloat16 does. The cache beside int8 has 16 bits.
DTYPES = ("float32", "bfloat16", "int8")
#: The numbers of rows that a plan says the longest context for.
ROWS = (1, 8, 64)


def config_of(model: str, *, revision: str | None = None) -> dict[str, Any]:
    """The config.json of a folder, of a file, or of a hub repository, of which nothing else is downloaded.

    Of a GGUF file that is here, what config.json would say.
    """
    from llmlab.checkpoints.files import read_json
    from llmlab.checkpoints.hub import resolve
    from llmlab.checkpoints.opened import open_checkpoint

    path = Path(model).expanduser()
    if path.suffix == ".gguf" and not path.is_file():
        raise RequestError(
            f"{model}: a plan is made of a GGUF file that is here already; download it, or name the repository of the "
            "model's safetensors",
            param="model",
        )
    if path.suffix == ".gguf" or (path.is_dir() and not (path / "config.json").exists()):
        return dict(open_checkpoint(path).config)
    if path.is_file():
        return read_json(path.parent, path.name)
    return read_json(resolve(model, revision=revision, only=("config.json",))[1], "config.json")


def summary(config: ModelConfig, raw: dict[str, Any]) -> list[str]:
    """What the model is, in a few lines; the bytes of its checkpoint, and of one token in the cache."""
    from llmlab.models.families import parameter_count
    from llmlab.models.plan import abstract_mesh, footprint

    alone = abstract_mesh()
    whole = footprint(config, alone, dtype="bfloat16")
    count = parameter_count(config)
    lines = [f"{config.family}, {amount(count)} parameters, {config.context:,} tokens of context"]
    if whole.active < 0.9 * whole.weights:
        lines.append(f"one token reads {amount(whole.active / 2)} of them (a mixture of experts)")
    quantized = (raw.get("quantization_config") or {}).get("quant_method")
    if quantized == "fp8":
        stored = footprint(config, alone, dtype="fp8").weights
        lines.append(f"stored in FP8 it is {size(stored)}; it is dequantized as it is read: see the lines below")
    elif quantized:
        lines.append(f"stored in {quantized}, and dequantized as it is read: see the lines below")
    return lines


def table(config: ModelConfig, *, devices: Devices | None, context: int | None, rows: int) -> Table:
    """One line for each dtype: the devices and the mesh, what each device holds, and what then fits beside it.

    Args:
        config: the decoder.
        devices: some of one kind; their number may be 0, which is the least that do. None for each kind of `KINDS`.
        context: the positions that each row must have room for; None for the model's own, up to 8,192.
        rows: how many rows at a time.
    """
    from rich import box
    from rich.table import Table

    from llmlab.models.plan import best_mesh, decode_speed, footprint, least_devices, parse_devices

    asked = context or min(config.context, 8192)
    found = Table(
        title=f"for {rows} {'row' if rows == 1 else 'rows'} of {asked:,} tokens",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
        caption=(
            "weights, cache a token: bytes on each device; context x N: the longest that fits for N rows at a time;\n"
            "tokens/s: the most that reading the memory allows one row, before any computation"
        ),
    )
    for name in ("dtype", "devices", "mesh", "weights", "cache a token", *map("context x {}".format, ROWS), "tokens/s"):
        found.add_column(name, justify="left" if name in ("dtype", "devices", "mesh") else "right")
    kinds = [devices] if devices else [parse_devices(kind) for kind in KINDS]
    for dtype in DTYPES:
        for kind in kinds:
            mesh = (
                best_mesh(config, kind.count, memory=kind.memory, dtype=dtype, positions=asked * rows)
                if kind.count
                else least_devices(config, memory=kind.memory, dtype=dtype, positions=asked * rows)
            )
            if mesh is None:
                found.add_row(dtype, *_missing(config, kind, dtype=dtype, positions=asked * rows))
                continue
            held = footprint(config, mesh, dtype=dtype)
            speed = "-"
            if kind.bandwidth:
                speed = f"{decode_speed(config, mesh, bandwidth=kind.bandwidth, dtype=dtype, context=asked):,.0f}"
            found.add_row(
                dtype,
                f"{mesh.size} x {kind.name}",
                spelled(mesh),
                size(held.weights),
                size(held.token),
                *(f"{longest(config, mesh, kind, dtype=dtype, rows=n):,}" for n in ROWS),
                speed,
            )
    return found


def _missing(config: ModelConfig, kind: Devices, *, dtype: str, positions: int) -> list[str]:
    """The cells of a line that does not fit: how many devices would do."""
    from llmlab.models.plan import least_devices

    needed = least_devices(config, memory=kind.memory, dtype=dtype, positions=positions) if kind.count else None
    how = f"does not fit; {needed.size} would do" if needed else "does not fit on any number of them"
    return [f"{kind.count} x {kind.name}" if kind.count else kind.name, how]


def longest(config: ModelConfig, mesh: AbstractMesh, kind: Devices, *, dtype: str, rows: int) -> int:
    """The longest context that so many rows can have at a time; 0 if there is no room for one token each."""
    from llmlab.models.plan import USABLE, footprint

    held = footprint(config, mesh, dtype=dtype)
    on_one = -(-rows // mesh.shape["data"])
    return max(0, min(config.longest_context, int((USABLE * kind.memory - held.weights) // (held.token * on_one))))


def checked(config: ModelConfig, *, context: int | None, rows: int) -> None:
    """Refuses a context or a number of rows that no plan can be made for.

    Raises:
        RequestError: it is out of range.
    """
    if context is not None and not 1 <= context <= config.longest_context:
        raise RequestError(
            f"context must be from 1 to {config.longest_context}, the model's own, got {context}", param="context"
        )
    if rows < 1:
        raise RequestError(f"rows must be a positive integer, got {rows}", param="rows")


def spelled(mesh: AbstractMesh) -> str:
    """A mesh by those of its axes that divide something."""
    return " ".join(f"{axis}={count}" for axis, count in mesh.shape.items() if count > 1) or "-"


def size(count: float) -> str:
    """Bytes, in the unit that leaves one to three digits before the point."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 100 * factor else f"{count / factor:.0f} {unit}"
    return f"{count:.0f} B"


def amount(count: float) -> str:
    """A number of parameters."""
    return f"{count / 1e9:,.1f} B" if count >= 1e9 else f"{count / 1e6:,.1f} M"
