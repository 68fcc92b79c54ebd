"""Two small tokenizers, of the two kinds that real checkpoints have."""

from __future__ import annotations

import pytest

from llmlab.text.tokenizer import Tokenizer
from tests.text import folders


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory):
    return folders.byte_level_folder(tmp_path_factory.mktemp("byte-level"))


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory):
    return folders.sentencepiece_folder(tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="session")
def byte_level(byte_level_folder):
    return Tokenizer.load(byte_level_folder)


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_folder):
    return Tokenizer.load(sentencepiece_folder)
