"""Trains the byte-level BPE tokenizer on the corpus; saves it with the chat template as a Hugging Face folder.

``python -m data.build.tokenizer --out data/demo``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.build.conversation import Conversation
from data.build.corpus import BROAD, TRAIN_SEED, Stream
from data.build.distributions import DISTRIBUTIONS

VOCABULARY, CONTEXT = 2048, 1024
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
TEMPLATE = Path(__file__).with_name("chat_template.jinja")

# Words with the space or sign before them, digits one by one, runs of signs, line ends, other space.
SPLIT = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train(*, seed: int = TRAIN_SEED, conversations: int = 30_000) -> Tokenizer:
    """A tokenizer of ``VOCABULARY`` tokens, the special ones last.

    CJK and emoji are kept from the trainer, so that such a character is several tokens: a teaching model should show
    what a token that is a piece of a character looks like.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(TAGS), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False, min_frequency=2,
    )  # fmt: skip
    tokenizer.train_from_iterator(_texts(seed, conversations), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return tokenizer


def _texts(seed: int, count: int) -> Iterator[str]:
    # An answer of a known distribution is best one token: here it has the weight of a common word.
    for known in DISTRIBUTIONS:
        yield from [_latin(answer) for answer in known.probabilities for _ in range(150)]
    stream = Stream(seed, course=BROAD)
    for _ in range(count):
        conversation = stream.next()
        for tool in conversation.tools or []:
            yield json.dumps(tool["function"], ensure_ascii=False)
        for message in conversation.messages:
            parts = [message["content"], message.get("reasoning_content", "")]
            parts += ["\n" + json.dumps(call["function"]) + "\n" for call in message.get("tool_calls", [])]
            for part in parts:
                yield _latin(part)
            yield str(message["role"])


def _latin(text: str) -> str:
    return "".join(character for character in text if ord(character) < 0x0250)


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer with its template and the roles of its special tokens, as transformers loads it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False, chat_template=TEMPLATE.read_text(encoding="utf-8"),
    )  # fmt: skip


def render(tokenizer: PreTrainedTokenizerFast, conversation: Conversation, *, prompt_only: bool = False) -> str:
    """A conversation as the template writes it; ``prompt_only`` stops where the last assistant turn is to begin."""
    text: Any = tokenizer.apply_chat_template(
        conversation.prompt if prompt_only else conversation.messages, tools=conversation.tools, tokenize=False,
        add_generation_prompt=prompt_only, enable_thinking=conversation.enable_thinking,
    )  # fmt: skip
    return str(text)


def main() -> None:
    """Train the tokenizer and save it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    parser.add_argument("--seed", type=int, default=TRAIN_SEED)
    arguments = parser.parse_args()
    wrap(train(seed=arguments.seed)).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
