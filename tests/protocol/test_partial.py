"""An answer while it grows: always the beginning of the whole, and the whole at the end."""

from __future__ import annotations

import numpy as np

from llmlab.display.strip import strip
from llmlab.lab.lab import Lab
from llmlab.protocol.partial import UNFINISHED, concatenate
from tests.backends.endpoint import Endpoint, chunk, entry, piece, spoken


def test_an_answer_grows_into_the_whole(demo) -> None:
    stream = demo.stream("Tell me a short story.", n=3, seed=4, temperature=1.2, max_tokens=60)
    seen = list(stream.partial_results(every=0.0))
    whole = demo.chat("Tell me a short story.", n=3, seed=4, temperature=1.2, max_tokens=60)
    assert seen[-1] is stream.result() and seen[-1].texts == whole.texts
    assert len(seen) > 3
    for earlier, later in zip(seen[:-1], seen[1:], strict=True):
        for a, b, c in zip(earlier.choices, later.choices, whole.choices, strict=True):
            size = len(a.tokens)
            assert size <= len(b.tokens)
            assert c.text.startswith(a.text)
            np.testing.assert_array_equal(a.tokens.ids, c.tokens.ids[:size])
            np.testing.assert_array_equal(a.tokens.top_logprob.ravel(), c.tokens.top_logprob[:size].ravel())
            assert a.tokens.segment == c.tokens.segment[:size]
            assert a.tokens.top_bytes == c.tokens.top_bytes[:size]
            assert a.finish_reason in (UNFINISHED, c.finish_reason)
    assert "so far" in strip(seen[0].data) and "so far" not in strip(seen[-1].data)
    assert list(stream.partial_results()) == [stream.result()], "there is no more of it"


def test_who_takes_long_is_shown_less(demo) -> None:
    ask = {"messages": "Tell me a short story.", "seed": 4, "max_tokens": 30}
    assert len(list(demo.stream(**ask).partial_results(every=3600))) <= 2


def test_a_stream_that_is_closed_ends_with_what_there_is(demo) -> None:
    stream = demo.stream("Tell me a short story.", seed=4, ignore_eos=True)
    *_, last = (result for at, result in enumerate(stream.partial_results(every=0.0)) if at != 2 or not stream.close())
    assert last.finish_reasons == ["interrupted"] and len(last.choices[0].tokens) > 0


def test_an_endpoint_that_sends_no_bytes_is_read_as_it_writes() -> None:
    tokens = [entry(text, -0.5, raw=False) for text in ("Hel", "lo ", "you")]
    lab = Lab(Endpoint(lambda body: spoken(*tokens)).backend())
    seen = list(lab.stream("hi").partial_results(every=0.0))
    assert [result.text for result in seen][-1] == "Hello you"
    assert any(result.choices[0].tokens.bytes == (b"Hel", b"lo ") for result in seen)


def test_an_endpoint_without_logprobs_grows_as_text() -> None:
    chunks = [chunk(piece("Hel")), chunk(piece("lo")), chunk(piece(finish="stop"))]
    lab = Lab(Endpoint(lambda body: chunks).backend())
    assert "Hel" in {result.text for result in lab.stream("hi").partial_results(every=0.0)}


def test_tokens_with_fewer_alternatives_are_filled_up(make_tokens) -> None:
    few, many = make_tokens((0, 1), alternatives=2), make_tokens((2, 3, 4), alternatives=5)
    both = concatenate([few, many])
    assert both.ids.tolist() == [0, 1, 2, 3, 4] and both.top_ids.shape == (5, 5)
    assert (both.top_ids[:2, 2:] == -1).all() and np.isnan(both.top_logprob[:2, 2:]).all()
    assert [len(row) for row in both.top_bytes] == [5] * 5 and both.top_bytes[0][2:] == (None,) * 3
    np.testing.assert_array_equal(both.top_logprob[2:], many.top_logprob)
    assert {name: column.dtype for name, column in vars(both).items() if hasattr(column, "dtype")} == {
        name: column.dtype for name, column in vars(few).items() if hasattr(column, "dtype")
    }
    assert len(concatenate([])) == 0
