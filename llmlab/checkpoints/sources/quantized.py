"""Reads the quantization_config of a config.json, and puts the source over a checkpoint that undoes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.checkpoints.sources.fp8 import Fp8Source, stray_scale
from llmlab.checkpoints.sources.mxfp4 import Mxfp4Source
from llmlab.checkpoints.sources.protocol import TensorSource
from llmlab.errors import CheckpointError

__all__ = ["check_quantization", "dequantized", "quantization_note"]

_FIELD = "quantization_config"
#: The block of "fp8" where the configuration says none, as in transformers.
_BLOCK = (128, 128)
_COMPRESSED = "compressed-tensors"
_COMPRESSED_FORMATS = ("float-quantized", "naive-quantized")
_MXFP4 = "mxfp4"


def check_quantization(config: Mapping[str, Any]) -> None:
    """Refuses a quantization that is not read.

    Raises:
        CheckpointError: names it, those that are read, and the way out.
    """
    found = _found(config)
    if found is not None:
        _block(found)


def dequantized(source: TensorSource, config: Mapping[str, Any]) -> TensorSource:
    """The source with its tensors as floating-point numbers, by the quantization_config of a config.json.

    Raises:
        CheckpointError: the quantization is not read, or the tensors do not fit it.
    """
    found = _found(config)
    if found is None:
        if scale := stray_scale(source):
            raise CheckpointError(
                f"{scale} is the scale of quantized weights, and config.json has no {_FIELD} that says of which kind: "
                "fetch the checkpoint's own config.json again",
                param=_FIELD,
            )
        return source
    block = _block(found)
    return Mxfp4Source(source) if found["quant_method"] == _MXFP4 else Fp8Source(source, block=block)


def quantization_note(config: Mapping[str, Any]) -> tuple[str, ...]:
    """One line about a checkpoint that is stored quantized; () about any other."""
    found = _found(config)
    if found is None:
        return ()
    method = found.get("quant_method")
    what = "MXFP4" if method == _MXFP4 else "FP8"
    return (f"the weights are stored in {what} and were dequantized at load; activations are not quantized",)


def _found(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The quantization_config, wherever a config.json has it; None if there is none."""
    inner = config.get("text_config")
    for one in (config, inner if isinstance(inner, Mapping) else {}):
        found = one.get(_FIELD) or one.get("compression_config")
        if found:
            if not isinstance(found, Mapping):
                raise CheckpointError(f"config.json: {_FIELD} must be an object, found {found!r}", param=_FIELD)
            return found
    return None


def _block(found: Mapping[str, Any]) -> tuple[int, int] | None:
    """The rows and columns that share a scale; None where no blocks do.

    Raises:
        CheckpointError: the method is not read.
    """
    method = found.get("quant_method")
    if method == "fp8":
        size = found.get("weight_block_size", _BLOCK)
        return None if size is None else _pair(size)
    if method in (_MXFP4, "fbgemm_fp8") or (method == "modelopt" and found.get("quant_algo") == "FP8"):
        return None
    if method == _COMPRESSED:
        return _compressed(found)
    algorithm = f" with quant_algo {found['quant_algo']!r}" if "quant_algo" in found else ""
    raise _refused("names no quant_method" if method is None else f"quant_method {method!r}{algorithm} is not read")


def _compressed(found: Mapping[str, Any]) -> tuple[int, int] | None:
    """The block of a checkpoint of compressed-tensors, whose groups say how their weights are stored."""
    groups = found.get("config_groups") or {}
    weights = [
        one.get("weights") if isinstance(one, Mapping) else None
        for one in (groups.values() if isinstance(groups, Mapping) else ())
    ]
    known = [
        one for one in weights if isinstance(one, Mapping) and (one.get("type"), one.get("num_bits")) == ("float", 8)
    ]
    if found.get("format") not in _COMPRESSED_FORMATS or not weights or len(known) < len(weights):
        raise _refused(f"quant_method {_COMPRESSED!r} in the format {found.get('format')!r} is not read")
    sizes = {_group_block(one) for one in known}
    if len(sizes) > 1:
        raise _refused(f"quant_method {_COMPRESSED!r} with several block sizes is not read")
    return sizes.pop()


def _group_block(weights: Mapping[str, Any]) -> tuple[int, int] | None:
    if weights.get("strategy") == "block" and weights.get("block_structure"):
        return _pair(weights["block_structure"])
    if weights.get("strategy") == "group" and weights.get("group_size"):
        return _pair([1, weights["group_size"]])
    return None


def _pair(block: Any) -> tuple[int, int]:
    if (
        not isinstance(block, list | tuple)
        or len(block) != 2
        or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in block)
    ):
        raise _refused(f"the block size must be two positive integers, found {block!r}")
    return block[0], block[1]


def _refused(what: str) -> CheckpointError:
    return CheckpointError(
        f"config.json: {_FIELD}: {what}; read are fp8, fbgemm_fp8, modelopt with FP8, compressed-tensors with 8-bit "
        "floats (float-quantized), and mxfp4. Load the model that this one was quantized from, or dequantize it once "
        "(transformers: model.dequantize(), then save_pretrained) and load that folder",
        param=_FIELD,
    )
