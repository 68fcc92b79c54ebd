"""Quantized blocks of GGUF files, dequantized value by value as ggml's own C code describes them.

Written apart from the gguf package, which llmlab dequantizes with. Source: github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Block:
    """A format: so many values in so many bytes, with float16 factors at some places of a block."""

    count: int
    size: int
    factors: tuple[int, ...]
    read: Callable[[bytes], list[float]]

    def values(self, data: np.ndarray) -> np.ndarray:
        """The values of whole blocks, in float32."""
        raw = data.tobytes()
        blocks = [self.read(raw[start : start + self.size]) for start in range(0, len(raw), self.size)]
        return np.array(blocks, np.float32)


def random_blocks(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A matrix of any bits, [rows, bytes], with factors that make weights of an ordinary size."""
    block = BLOCKS[kind]
    data = rng.integers(0, 256, (int(np.prod(shape)) // block.count, block.size), dtype=np.uint8)
    for place in block.factors:
        factor = (rng.uniform(0.5, 1.0, len(data)) * _SCALE[kind]).astype(np.float16)
        data[:, place : place + 2] = factor.view(np.uint8).reshape(-1, 2)
    return data.reshape(shape[0], -1)


def _half(raw: bytes, place: int = 0) -> float:
    return float(np.frombuffer(raw[place : place + 2], "<f2")[0])


def _q8_0(raw: bytes) -> list[float]:
    return [_half(raw) * (byte - 256 if byte > 127 else byte) for byte in raw[2:]]


def _q4_0(raw: bytes) -> list[float]:
    return [_half(raw) * (byte % 16 - 8) for byte in raw[2:]] + [_half(raw) * (byte // 16 - 8) for byte in raw[2:]]


def _q4_1(raw: bytes) -> list[float]:
    factor, least = _half(raw), _half(raw, 2)
    return [factor * (byte % 16) + least for byte in raw[4:]] + [factor * (byte // 16) + least for byte in raw[4:]]


def _q5_0(raw: bytes) -> list[float]:
    fifth = int.from_bytes(raw[2:6], "little")
    low = [(byte % 16 + 16 * (fifth >> i & 1)) - 16 for i, byte in enumerate(raw[6:])]
    high = [(byte // 16 + 16 * (fifth >> (i + 16) & 1)) - 16 for i, byte in enumerate(raw[6:])]
    return [_half(raw) * value for value in (*low, *high)]


def _q4_k(raw: bytes) -> list[float]:
    factor, least, packed, nibbles = _half(raw), _half(raw, 2), raw[4:16], raw[16:]
    found = []
    for group in range(8):
        scale, minimum = _six_bits(packed, group)
        half = nibbles[group // 2 * 32 : group // 2 * 32 + 32]
        found += [factor * scale * (b // 16 if group % 2 else b % 16) - least * minimum for b in half]
    return found


def _six_bits(packed: bytes, group: int) -> tuple[int, int]:
    """The scale and the minimum of a group of 32 values."""
    if group < 4:
        return packed[group] % 64, packed[group + 4] % 64
    return (
        packed[group + 4] % 16 + packed[group - 4] // 64 * 16,
        packed[group + 4] // 16 + packed[group] // 64 * 16,
    )


def _q6_k(raw: bytes) -> list[float]:
    low, high, scales, factor = raw[:128], raw[128:192], np.frombuffer(raw[192:208], np.int8), _half(raw, 208)
    found = []
    for i in range(256):
        half, place = divmod(i, 128)
        quarter, at = divmod(place, 32)
        byte = low[half * 64 + (quarter % 2) * 32 + at]
        four = byte // 16 if quarter > 1 else byte % 16
        two = high[half * 32 + at] >> (2 * quarter) & 3
        found.append(factor * float(scales[half * 8 + quarter * 2 + at // 16]) * (four + 16 * two - 32))
    return found


BLOCKS = {
    "Q8_0": Block(32, 34, (0,), _q8_0),
    "Q4_0": Block(32, 18, (0,), _q4_0),
    "Q4_1": Block(32, 20, (0, 2), _q4_1),
    "Q5_0": Block(32, 22, (0,), _q5_0),
    "Q4_K": Block(256, 144, (0, 2), _q4_k),
    "Q6_K": Block(256, 210, (208,), _q6_k),
}
_SCALE = {"Q8_0": 1e-3, "Q4_0": 1e-2, "Q4_1": 1e-2, "Q5_0": 5e-3, "Q4_K": 2e-4, "Q6_K": 5e-5}
