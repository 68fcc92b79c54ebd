from __future__ import annotations

import pickle

import numpy as np
import pytest

from llmlab.errors import RequestError
from llmlab.text.token_names import TokenNames

TABLE = (b"a", b" a", b"\n", b"\xf0\x9f", b"same", b"same", None, None)
NAMES = {6: "<end>"}


@pytest.fixture
def names() -> TokenNames:
    return TokenNames(TABLE, NAMES, vocab_size=10)


@pytest.mark.parametrize(
    ("token_id", "raw", "text", "label"),
    [
        (0, b"a", "a", "a"),
        (1, b" a", " a", "␣a"),
        (2, b"\n", "\n", "⏎"),
        (3, b"\xf0\x9f", "\ufffd", "<F0><9F>"),
        (6, None, "<end>", "<end>"),
        (7, None, "<id 7>", "<id 7>"),
        (9, None, "<id 9>", "<id 9>"),
    ],
)
def test_an_id_has_bytes_a_text_and_a_label(names, token_id, raw, text, label) -> None:
    """Ids 8 and 9 are padding: valid, and unknown to the tokenizer."""
    assert (names.bytes_of(token_id), names.text(token_id), names.label(token_id)) == (raw, text, label)
    if raw is None:
        assert names.name(token_id) == text


def test_the_columns_of_a_frame(names) -> None:
    assert names.columns([1, 6, 9]) == {
        "token": [" a", "<end>", "<id 9>"], "token_id": [1, 6, 9], "bytes": [b" a", None, None],
    }  # fmt: skip
    assert names.label(6, limit=4) == "<en…"


@pytest.mark.parametrize(
    ("token", "found"), [(3, 3), (np.int64(9), 9), ("a", 0), (" a", 1), (b"\xf0\x9f", 3), ("<end>", 6)]
)
def test_a_token_has_one_id(names, token, found) -> None:
    assert names.id_of(token) == found and type(names.id_of(token)) is int


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (10, r"0\.\.9"),
        (-1, r"0\.\.9"),
        (True, "must be an id, a text or bytes, got True"),
        ("same", "several tokens: give an id, 4, 5"),
        ("a ", "there is b'a', id 0"),
        ("b", "give the id of one of its tokens"),
        (b"<end>", "not a single token"),
        ("\udc80", "half of a surrogate pair"),
    ],
)
def test_a_token_that_is_not_there_or_not_alone(names, token, words) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        names.id_of(token)
    assert caught.value.param == "token"


def test_without_a_size_the_tokenizers_ids_are_the_vocabulary() -> None:
    names = pickle.loads(pickle.dumps(TokenNames(TABLE, NAMES)))
    assert names.vocab_size == 8 and names.id_of("<end>") == 6
    with pytest.raises(RequestError, match=r"0\.\.7"):
        names.id_of(8)
    for wrong, words in ((8, r"0\.\.7"), ("", "token is empty"), (False, "got False")):
        with pytest.raises(RequestError, match=words):
            names.spell(wrong, lambda text: [])
