"""Several endpoints as one lab: they are checked, share the work, and take over that of one that dies."""

from __future__ import annotations

import functools
import gc
import threading
import weakref

import pandas as pd
import pytest

import llmlab
from llmlab.errors import EngineError, LLMLabError, ModelNotFoundError, RequestError
from llmlab.sweeps.sweep import Sweep
from tests.backends.endpoint import entry, refusal, spoken
from tests.backends.fleet import BrokenError, Place, broken, connect, is_look, steady, url
from tests.serve.puppet import wait

GRID = {"temperature": [0.2, 0.4, 0.6, 0.8], "top_p": [0.5, 0.9, 1.0], "n": 2, "seed": 7}


def three(**scripts):
    return {name: Place(scripts.get(name, steady)) for name in "abc"}


def failing(after, failure, *, tell=lambda: None):
    """A script that fails from its request number `after` on; a look at it is no such request."""
    count, lock = [0], threading.Lock()

    def script(body):
        if is_look(body):
            return steady(body)
        with lock:
            count[0] += 1
            number = count[0]
        if number <= after:
            return steady(body)
        tell()
        if isinstance(failure, Exception):
            raise failure
        return failure

    return script


@functools.cache
def of_one():
    """The frame of the sweep over `GRID` that one endpoint gives."""
    lab = connect({"a": Place()})
    try:
        return lab.sweep("Name an animal.", **GRID).frame()
    finally:
        lab.close()


@pytest.fixture
def _looked_at_once(monkeypatch):
    """A lost endpoint is looked at again with the next request, not after a second."""
    monkeypatch.setattr("llmlab.backends.remote.members._PAUSE_SECONDS", (0.0, 0.0))


# --- a sweep ---------------------------------------------------------------------------------------------------------


def test_a_sweep_is_shared_and_is_that_of_one_endpoint():
    met, first = threading.Barrier(3), {}

    def meeting(name):
        def script(body):
            if not is_look(body) and first.setdefault(name, body) is body:
                met.wait(timeout=60)  # each of the three is asked
            return steady(body)

        return script

    places = three(**{name: meeting(name) for name in "abc"})
    lab = connect(places, concurrency=2)
    swept = lab.sweep("Name an animal.", **GRID)
    pd.testing.assert_frame_equal(swept.frame(), of_one())
    shares = [len(place.asked) for place in places.values()]
    assert sum(shares) == 12 and min(shares) > 0
    assert all(place.most <= 2 for place in places.values())
    assert not any("endpoint:" in note for result in swept.results for note in result.notes)
    lab.close()


def test_a_fast_endpoint_gets_more():
    """One endpoint answers its first request only once the others have answered all the rest."""
    others = threading.Semaphore(0)

    def slow(body):
        for _ in range(0 if is_look(body) else 11):
            assert others.acquire(timeout=60)
        return steady(body)

    def fast(body):
        if not is_look(body):
            others.release()
        return steady(body)

    places = three(a=slow, b=fast, c=fast)
    lab = connect(places, concurrency=1)
    lab.sweep("Name an animal.", **GRID)
    assert len(places["a"].asked) == 1
    lab.close()


@pytest.mark.parametrize(
    "failure",
    [
        BrokenError(),
        broken(spoken(entry("half", -1.0))[:2]),
        refusal("the engine is dead", status=500),
        refusal("full", status=429),
        refusal("The model `somebody` does not exist", status=404),
        refusal("who are you?", status=401),
    ],
    ids=["lost", "lost half-way", "dead engine", "full", "another model", "another key"],
)
def test_the_work_of_one_that_fails_goes_to_the_others(failure):
    has_failed = threading.Event()

    def patient(body):
        assert is_look(body) or has_failed.wait(timeout=60)
        return steady(body)

    places = three(a=patient, b=failing(1, failure, tell=has_failed.set), c=patient)
    lab = connect(places, concurrency=2)
    swept = lab.sweep("Name an animal.", **GRID)
    assert swept.is_complete
    frame = swept.frame()
    assert not frame.duplicated(["temperature", "top_p", "choice"]).any()
    pd.testing.assert_frame_equal(frame, of_one())
    moved = [note for result in swept.results for note in result.notes if note.startswith("endpoint:")]
    assert moved and all("b.invalid" in note and "was asked instead" in note for note in moved)
    lab.close()


def test_a_request_that_moves_is_counted_once(monkeypatch):
    """The progress bar goes back by what the lost answer had counted."""
    from llmlab.sweeps import gather

    half = steady({"temperature": 1.0, "seed": 1, "n": 2, "stream": True})[:4]
    assert half[-1]["choices"][0]["finish_reason"] == "stop"
    lab = connect(three(a=failing(0, broken(half))), concurrency=1)
    counts, end = [], gather._Count.end
    monkeypatch.setattr(gather._Count, "end", lambda self, more=1: (counts.append(more), end(self, more))[1])
    assert lab.sweep("Name an animal.", **GRID).is_complete
    assert -1 in counts and sum(counts) == 24
    lab.close()


def test_all_are_gone_and_what_was_done_is_kept(tmp_path):
    path = tmp_path / "sweep.parquet"
    places = {name: Place(failing(3, BrokenError())) for name in "ab"}
    lab = connect(places, concurrency=1)
    for place in places.values():
        place.about = {"max_model_len": 7}  # no endpoint comes back: it is another one
    with pytest.raises(EngineError, match=r"none of the 2 endpoints answers: .*a\.invalid.*b\.invalid") as caught:
        lab.sweep("Name an animal.", save=path, **GRID)
    assert any("lab.last_sweep" in note for note in caught.value.__notes__)
    kept = lab.last_sweep
    assert 0 < len(kept.completions) <= 6 and kept.completions.keys() == Sweep.load(path).completions.keys()
    # It goes on elsewhere, without asking again for what it has.
    others = {"c": Place(), "d": Place()}
    there = connect(others)
    whole = there.sweep("Name an animal.", save=path, **GRID)
    assert whole.is_complete and sum(len(place.asked) for place in others.values()) == 12 - len(kept.completions)
    pd.testing.assert_frame_equal(whole.frame(), of_one())
    lab.close()
    there.close()


def test_a_request_that_no_endpoint_survives_ends():
    """Each endpoint is asked it once, also where all of them seem to be up again at once."""
    places = three(**dict.fromkeys("abc", failing(0, BrokenError())))
    lab = connect(places)
    with pytest.raises(EngineError, match="none of the 3"):
        lab.chat("hello")
    assert [len(place.asked) for place in places.values()] == [1, 1, 1]
    lab.close()


def test_a_wrong_request_is_an_error_at_once():
    places = three(a=failing(0, refusal("nope", param="temperature")))
    lab = connect(places)
    with pytest.raises(RequestError, match=r"a\.invalid") as caught:
        lab.chat("hello", temperature=0.5)
    assert caught.value.param == "temperature"
    assert not places["b"].asked and not places["c"].asked
    assert "3 up" in repr(lab)
    lab.close()


def test_refusals_are_each_endpoints_own():
    def strict(body):
        return refusal("Unrecognized request argument: min_p", param="min_p") if "min_p" in body else steady(body)

    places = three(a=strict)
    lab = connect(places, concurrency=1)
    lab.sweep("Name an animal.", **GRID)
    assert all("min_p" in body for name in "bc" for body in places[name].asked)
    assert sum("min_p" in body for body in places["a"].asked) == 1  # one shape of request, refused once
    lab.close()


# --- one answer ------------------------------------------------------------------------------------------------------


def test_chat_and_its_seed_move_together():
    places = three(a=failing(0, broken(spoken(entry("half", -1.0))[:2])))
    lab = connect(places)
    result = lab.chat("hello", n=3)
    assert places["a"].asked[0]["seed"] == places["b"].asked[0]["seed"] == result.seed
    assert result.texts == [f"{result.seed}/1.0/{index}" for index in range(3)]
    assert result.notes[0].startswith(f"endpoint: {url('a')}") and url("b") in result.notes[0]
    lab.close()


def test_a_stream_moves_before_its_first_token_and_not_after():
    lab = connect(three(a=failing(0, BrokenError())))
    chunks = list(lab.stream("hello", seed=3))
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "3/1.0/0"
    lab.close()
    places = three(a=failing(0, broken(spoken(entry("half", -1.0))[:2])))
    lab = connect(places)
    stream, said = lab.stream("hello", seed=3), []
    with pytest.raises(EngineError, match="ask again"):
        for each in stream:
            said.append(each.choices[0].delta.content or "")
    assert "".join(said) == "half" and not places["b"].asked
    lab.close()


def test_partial_results_begin_anew():
    lab = connect(three(a=failing(0, broken(spoken(entry("half", -1.0))[:2]))))
    texts = [result.text for result in lab.stream("hello", seed=3).partial_results(every=0)]
    assert texts[0] == "half" and "half" not in "".join(texts[1:]) and texts[-1] == "3/1.0/0"
    lab.close()


def test_what_was_read_before_close_is_kept():
    gate = threading.Event()

    def script(body):
        gate.wait(timeout=0 if is_look(body) else 30)
        return steady(body)

    lab = connect({"a": Place(script)})
    stream = lab.stream("hello")
    stream.close()
    gate.set()
    assert stream.result().finish_reasons == ["interrupted"]
    assert "1 up" in repr(lab)
    lab.close()


def test_what_no_endpoint_gives_is_the_same_error_as_with_one():
    lab = connect(three())
    for ask, word in (
        (lambda: lab.next_token("hello"), "logits"),
        (lambda: lab.score("hello", "you"), "token ids"),
        (lambda: lab.chat("hello", order="vllm"), "order"),
        (lambda: lab.complete("hello"), "prompt"),
        (lambda: lab.chat("hello", model="another"), "another"),
    ):
        with pytest.raises(LLMLabError, match=word):
            ask()
    lab.close()
    with pytest.raises(LLMLabError, match="closed"):
        lab.chat("hello")


# --- up and down -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_looked_at_once")
def test_one_that_is_down_at_first_is_a_warning_and_comes_later():
    places = three()
    places["c"].down = True
    lab = connect(places)
    assert "*** 1 of 3 endpoints is down ***" in repr(lab) and "down: http://c.invalid" in repr(lab)
    assert lab.backend.concurrency == 16
    places["c"].down = False

    def came():
        lab.chat("hello")
        return lab.backend.concurrency == 24

    wait(came, every=0.01)
    assert "3 up" in repr(lab) and "***" not in repr(lab)
    lab.close()


@pytest.mark.usefixtures("_looked_at_once")
def test_one_that_comes_back_as_another_model_is_not_used():
    places = three(a=failing(1, BrokenError()))
    lab = connect(places)
    lab.chat("hello")
    places["a"].models = ("another",)
    lab.chat("hello")
    wait(lambda: lab.chat("hello") and "'another'" in repr(lab), every=0.01)
    assert len(places["a"].asked) == 2 and lab.backend.concurrency == 16
    lab.close()


def test_all_were_away_for_a_moment():
    """They are looked at again before it is an error."""
    places = {name: Place() for name in "ab"}
    lab = connect(places)
    for place in places.values():
        place.down = True
    with pytest.raises(EngineError, match="none of the 2"):
        lab.chat("hello")
    for place in places.values():
        place.down = False
    assert lab.chat("hello", seed=1).text == "1/1.0/0"
    lab.close()


def test_a_dropped_lab_leaves_nothing():
    lab = connect(three())
    lab.chat("hello")
    there = weakref.ref(lab.backend.members)
    del lab
    gc.collect()
    wait(lambda: gc.collect() is not None and there() is None)
    wait(lambda: not [each for each in threading.enumerate() if each.name == "llmlab-fleet"])


# --- are they one model? ---------------------------------------------------------------------------------------------


def test_other_models():
    for named in (None, "somebody"):
        places = three()
        places["b"] = Place(lambda body: refusal("The model does not exist", status=404), models=("another",))
        with pytest.raises((RequestError, ModelNotFoundError), match=r"b\.invalid"):
            connect(places, model=named)
    places = three()
    places["b"].models = ("another",)
    with pytest.raises(RequestError, match=r"1 of 3 .*b\.invalid/v1 serves 'another'.*'somebody'") as caught:
        connect(places)
    assert caught.value.param == "url"
    # The first one is the odd one.
    places = three()
    places["a"].models = ("another",)
    with pytest.raises(RequestError, match=r"1 of 3 .*a\.invalid/v1 serves 'another'"):
        connect(places)
    places["a"].models = ("one", "two")
    with pytest.raises(ModelNotFoundError, match=r"a\.invalid.*one, two"):
        connect(places)


def test_another_context():
    places = {name: Place(max_model_len=length) for name, length in (("a", 4096), ("b", 2048), ("c", 4096))}
    with pytest.raises(RequestError, match=r"b\.invalid/v1 has a context of 2,048 tokens, .* 4,096"):
        connect(places)
    places = {"a": Place(max_model_len=4096), "b": Place(context_length=4096), "c": Place()}
    connect(places).close()


def test_another_answer_under_the_same_name():
    def other(body):
        return spoken(entry("No", -0.1, ("Once", -4.0)), entry("!", -0.1)) if body["temperature"] == 0 else steady(body)

    with pytest.raises(RequestError, match=r"c\.invalid/v1 answers 'No!' .*'Once upon a time'"):
        connect(three(c=other))


def test_a_tie_and_a_missing_logprob_are_no_other_model():
    def tie(body):
        if body["temperature"] or not body.get("stream"):
            return steady(body)
        return spoken(entry("Once", -0.1, ("other", -3.0)), entry(" in", -0.7, (" upon", -0.8)))

    def silent(body):
        return [{"choices": [{"index": 0, "delta": {"content": "Hm"}, "finish_reason": "stop"}]}]

    connect(three(b=tie)).close()
    lab = connect(three(b=silent))
    assert "b.invalid/v1, unlike http://a.invalid/v1: logprobs: none were sent" in repr(lab)
    lab.close()


@pytest.mark.parametrize(("shift", "outcome"), [(0.02, "same"), (0.3, "warning"), (0.9, "error")])
def test_other_logprobs_of_the_same_answer(shift, outcome):
    def shifted(body):
        if body["temperature"] or not body.get("stream"):
            return steady(body)
        return spoken(*(entry(token, -0.1 - shift, ("other", -3.0)) for token in ("Once", " upon", " a", " time")))

    if outcome == "error":
        with pytest.raises(RequestError, match=r"c\.invalid/v1 gives .* other logprobs .*0\.90 nats"):
            connect(three(c=shifted))
        return
    lab = connect(three(c=shifted))
    assert ("by 0.30 nats" in repr(lab)) == (outcome == "warning")
    lab.close()


def test_fingerprints_and_kinds():
    def printed(name):
        def script(body):
            said = steady(body)
            marked = [{**each, "system_fingerprint": name} for each in (said if isinstance(said, list) else [said])]
            return marked if isinstance(said, list) else marked[0]

        return script

    lab = connect({name: Place(printed(name[0]), owned_by="llmlab") for name in ("a", "b", "a2")})
    assert "*** their system_fingerprints differ (a, b): a seed may give other tokens at each" in repr(lab)
    lab.close()
    lab = connect({"a": Place(owned_by="vllm"), "b": Place(owned_by="sglang")})
    assert "*** they are of 2 kinds (vllm, sglang)" in repr(lab)
    lab.close()


def test_bad_addresses():
    for urls, words in (
        ([], "empty"),
        ([url("a"), url("a")], "twice"),
        ([url("a"), url("a") + "/"], "twice"),
        ([url("a"), "b"], "http://"),
    ):
        with pytest.raises(RequestError, match=words) as caught:
            llmlab.connect(urls, quiet=True)
        assert caught.value.param == "url", urls


def test_a_key_that_one_refuses_and_none_that_answers():
    places = three()
    places["b"].status = 401
    with pytest.raises(LLMLabError, match=r"b\.invalid.*api_key"):
        connect(places)
    places = three()
    for place in places.values():
        place.down = True
    with pytest.raises(EngineError, match=r"none of the 3 endpoints answers: http://a.*http://b.*http://c"):
        connect(places)
