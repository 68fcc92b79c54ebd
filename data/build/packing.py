"""Turns conversations into rows of token ids for training: rendered by the chat template, packed, weighted and seeded.

A shard is a function of (seed, number) alone, so that a resumed run sees exactly the rows that an uninterrupted run would see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.build.conversation import Conversation
from data.build.corpus import CURRICULUM, TRAIN_SEED, Stream
from data.build.tokenizer import render

LENGTHS = (128, 256, 384, 1024)  # a conversation goes to the shortest rows that hold it
SHARD_CONVERSATIONS = 8000
SHORTEST = 24  # tokens: a row with less room than this is full
OTHER_WEIGHT = 0.05  # of a system's, a user's or a tool's token in the loss, beside 1 for an assistant's
DOMAIN_WEIGHT = {"distributions": 2.0}  # two or three tokens a conversation; the rest have dozens


class Batch(NamedTuple):
    """Rows of one length: all are int32 [B, L], except ``weights``, which is float32.

    ``segments`` number the conversations of a row from 1 (0 is padding). ``targets[t]`` is the token after
    ``tokens[t]``, ``weights[t]`` what predicting it counts; ``domains`` index :data:`DOMAINS`.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    domains: np.ndarray


DOMAINS = ("distributions", "arithmetic", "arithmetic (no thinking)", "facts", "tools", "records", "words", "stories",
           "talk", "several")  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """The tokenizer with the ids that mark an assistant's turn."""

    tokenizer: PreTrainedTokenizerFast
    header: tuple[int, ...]  # <|im_start|> assistant \n
    empty_think: tuple[int, ...]  # the empty think block with its line ends
    end: int

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """From a folder with the tokenizer's files."""
        tokenizer = AutoTokenizer.from_pretrained(folder)

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        return cls(tokenizer, ids("<|im_start|>assistant\n"), ids("<think>\n\n</think>\n\n"), ids("<|im_end|>")[0])

    def encode(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids of whole conversations."""
        texts = [render(self.tokenizer, conversation) for conversation in conversations]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def weights(self, ids: Sequence[int]) -> np.ndarray:
        """Loss weights [L]: 1 on what an assistant writes, its end token included; 0 on its header and an empty think
        block, which stand in the prompt; ``OTHER_WEIGHT`` on everything else.
        """
        weights = np.full(len(ids), OTHER_WEIGHT, np.float32)
        place, size = 0, len(self.header)
        while place < len(ids):
            if tuple(ids[place : place + size]) != self.header:
                place += 1
                continue
            start = place + size
            end = next((i for i in range(start, len(ids)) if ids[i] == self.end), len(ids) - 1) + 1
            weights[place:start], weights[start:end] = 0, 1
            if tuple(ids[start : start + len(self.empty_think)]) == self.empty_think:
                weights[start : start + len(self.empty_think)] = 0
            place = end
        return weights


def shard(encoder: Encoder, *, seed: int, number: int, tokens_per_batch: int) -> list[Batch]:
    """The batches of one shard, each of about ``tokens_per_batch`` tokens, in the order of training."""
    course = CURRICULUM[max(first for first in CURRICULUM if first <= number)]
    stream = Stream(TRAIN_SEED + 100_003 * seed + number, course=course)
    conversations = [stream.next() for _ in range(SHARD_CONVERSATIONS)]
    encoded = encoder.encode(conversations)
    batches = []
    for length, rows in _rows(encoded).items():
        size = max(1, tokens_per_batch // length)
        rows = stream.rng.sample(rows, len(rows))
        for start in range(0, len(rows) - size + 1, size):
            batches.append(_batch(rows[start : start + size], length, encoder, conversations, encoded))
    stream.rng.shuffle(batches)
    return batches


def _rows(encoded: list[list[int]]) -> dict[int, list[list[int]]]:
    """Which conversations share a row: the longest first, each into the first row with room for it."""
    bins: dict[int, list[list[int]]] = {length: [] for length in LENGTHS}
    room: list[tuple[int, int, list[int]]] = []  # room left, the row's length, its members
    for index in sorted(range(len(encoded)), key=lambda i: -len(encoded[i])):
        need = len(encoded[index])
        if need > LENGTHS[-1]:
            continue
        for place, (left, length, members) in enumerate(room):
            if left >= need:
                members.append(index)
                room[place] = (left - need, length, members)
                break
        else:
            length = next(length for length in LENGTHS if need <= length)
            bins[length].append([index])
            room.append((length - need, length, bins[length][-1]))
        room = [entry for entry in room if entry[0] >= SHORTEST]
    return bins


def _batch(
    rows: list[list[int]], length: int, encoder: Encoder, conversations: list[Conversation], encoded: list[list[int]]
) -> Batch:
    batch = Batch(*(np.zeros((len(rows), length), kind) for kind in (np.int32,) * 4 + (np.float32, np.int32)))
    for row, members in enumerate(rows):
        place = 0
        for segment, index in enumerate(members, start=1):
            ids, domain = encoded[index], conversations[index].domain
            span = slice(place, place + len(ids))
            batch.tokens[row, span] = ids
            batch.positions[row, span] = np.arange(len(ids))
            batch.segments[row, span] = segment
            before = slice(place, place + len(ids) - 1)
            batch.targets[row, before] = ids[1:]
            batch.weights[row, before] = encoder.weights(ids)[1:] * DOMAIN_WEIGHT.get(domain, 1.0)
            batch.domains[row, span] = DOMAINS.index(domain)
            place += len(ids)
    return batch
