"""The tensors of a LoRA adapter, by the modules that they change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from llmlab.checkpoints.lora.config import ADAPTER_CONFIG, LoraConfig, read_lora_config
from llmlab.checkpoints.sources.safetensors import SafetensorsSource
from llmlab.errors import CheckpointError

__all__ = ["WEIGHTS", "Adapter", "Update", "listed", "open_adapter"]

#: The name of the file with the weights.
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
#: What peft puts before the name of every tensor.
_PREFIX = "base_model.model."
_MOST_PROBLEMS = 5

_DOWN, _UP, _UP_BIAS = ".lora_A.weight", ".lora_B.weight", ".lora_B.bias"
_TABLE_DOWN, _TABLE_UP = ".lora_embedding_A", ".lora_embedding_B"
_MAGNITUDE = ".lora_magnitude_vector"
_PARTS = (_DOWN, _UP, _UP_BIAS, _TABLE_DOWN, _TABLE_UP, _MAGNITUDE)
_FORMATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Update:
    """What LoRA adds to a module's matrix: `up` @ `down` for a linear layer [out, in], its transpose for a table.

    Args:
        down: A.
        up: B times the factor.
        table: the module is an embedding; its matrix is [V, D].
        bias: what is added to a linear layer's bias, times the factor.
        magnitude: of each output, for DoRA.
    """

    down: Float32[np.ndarray, "R I"]
    up: Float32[np.ndarray, "O R"]
    table: bool = False
    bias: Float32[np.ndarray, " O"] | None = None
    magnitude: Float32[np.ndarray, " O"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of a linear layer; (D, V) of a table."""
        return self.up.shape[0], self.down.shape[1]


@dataclass(frozen=True)
class Adapter:
    """An adapter that is open: matrices of low rank are in memory, whole tensors are read when they are wanted.

    Args:
        folder: that it lies in.
        config: what its configuration says.
        updates: of each module, by the module's name in the model that was trained.
        saved: tensors that the model has in place of its own, as `modules_to_save` says -> their names in the file.
        stored: tensors of the model as it was trained, such as its biases -> their names in the file.
        source: the file.
    """

    folder: Path
    config: LoraConfig
    updates: Mapping[str, Update]
    saved: Mapping[str, str]
    stored: Mapping[str, str]
    source: SafetensorsSource

    @property
    def names(self) -> set[str]:
        """The tensors that are changed or replaced, by their names in the model that was trained."""
        biases = {f"{module}.bias" for module, update in self.updates.items() if update.bias is not None}
        return {f"{module}.weight" for module in self.updates} | biases | {*self.saved, *self.stored}

    @property
    def rank(self) -> int:
        """The largest rank of an update."""
        return max((update.down.shape[0] for update in self.updates.values()), default=0)

    def close(self) -> None:
        """Closes the file."""
        self.source.close()


def open_adapter(folder: Path) -> Adapter:
    """Opens a folder that peft saved a LoRA adapter in.

    Raises:
        CheckpointError: the folder is none, its weights are missing or a pickle, or configuration and weights do not
            fit each other. The message says what to do.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        what = "is a model, which is loaded by itself" if (folder / "config.json").exists() else "is no adapter"
        raise CheckpointError(f"{folder} {what}: it has no {ADAPTER_CONFIG}, which peft saves with an adapter")
    config = read_lora_config(folder)
    if not (folder / WEIGHTS).is_file():
        if (folder / _PICKLE).exists():
            raise CheckpointError(
                f"{folder} holds its weights as a pickle ({_PICKLE}), which can run code when read; it is refused: "
                "load it with peft and save it anew (model.save_pretrained(folder, safe_serialization=True))"
            )
        raise CheckpointError(f"{folder} has no {WEIGHTS}; fetch the adapter again")
    source = SafetensorsSource([folder / WEIGHTS])
    try:
        return _read(folder, config, source)
    except BaseException:
        source.close()
        raise


def _read(folder: Path, config: LoraConfig, source: SafetensorsSource) -> Adapter:
    parts: dict[str, dict[str, str]] = {}
    saved: dict[str, str] = {}
    stored: dict[str, str] = {}
    problems: list[str] = []
    for key in source.names():
        name = key.removeprefix(_PREFIX)
        kind = next((part for part in _PARTS if name.removesuffix(".weight").endswith(part) or name.endswith(part)), "")
        if source.stored_as(key) not in _FORMATS:
            problems.append(f"{key} is stored as {source.stored_as(key)}; only floating-point weights are read")
        elif kind:
            module = name[: name.rindex(kind)].replace(".base_layer", "")
            parts.setdefault(module, {})[kind] = key
        elif ".lora_" in name:
            problems.append(f"{key} is a kind of tensor that is not known")
        else:
            plain = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            (saved if config.saves(plain.rpartition(".")[0]) else stored)[plain] = key
    updates = {}
    for module, keys in parts.items():
        try:
            updates[module] = _update(config, source, module, keys)
        except ValueError as error:
            problems.append(str(error))
    if not (updates or saved):
        problems.append("it changes nothing")
    if problems:
        raise CheckpointError(
            f"{folder / WEIGHTS} does not hold what its {ADAPTER_CONFIG} says: {listed(problems)}; "
            "fetch or save the adapter again"
        )
    return Adapter(folder, config, updates, saved, stored, source)


def _update(config: LoraConfig, source: SafetensorsSource, module: str, keys: Mapping[str, str]) -> Update:
    """The update of a module. Raises ValueError, with what is wrong, where its tensors do not fit the configuration."""
    table = _TABLE_DOWN in keys or _TABLE_UP in keys
    down, up = (_TABLE_DOWN, _TABLE_UP) if table else (_DOWN, _UP)
    for part in (down, up):
        if part not in keys:
            raise ValueError(f"{module} has no {part[1:]}")
        if len(source.shape(keys[part])) != 2:
            shape = list(source.shape(keys[part]))
            raise ValueError(f"{keys[part]} is {shape}, not a matrix (it was saved from a shard of the model)")
    if not config.changes(module) and not config.keeps_ties:  # peft ties modules that the targets do not name
        raise ValueError(f"{module} is none of target_modules")
    rank, held = config.rank_of(module), (source.shape(keys[down])[0], source.shape(keys[up])[1])
    if held != (rank, rank):
        raise ValueError(f"{module} has rank {held[0]} and {held[1]}, not {rank}")
    if config.dora != (_MAGNITUDE in keys):
        raise ValueError(f"{module} has {'no' if config.dora else 'a'} magnitude, and use_dora is {config.dora}")
    if config.dora and table:
        raise ValueError(f"{module} is an embedding with a magnitude, which is not read")

    def of(part: str) -> np.ndarray | None:
        return source.read(keys[part]).astype(np.float32) if part in keys else None

    factor = np.float32(config.factor_of(module))
    lower, upper, bias, magnitude = (of(part) for part in (down, up, _UP_BIAS, _MAGNITUDE))
    assert lower is not None and upper is not None
    return Update(
        lower,
        upper * factor,
        table,
        None if bias is None else bias * factor,
        None if magnitude is None else magnitude.reshape(-1),
    )


def listed(problems: list[str]) -> str:
    """Several problems in one line; of many, the first few."""

    def shown() -> Iterator[str]:
        yield from problems[:_MOST_PROBLEMS]
        if len(problems) > _MOST_PROBLEMS:
            yield f"and {len(problems) - _MOST_PROBLEMS} more"

    return "; ".join(shown())
