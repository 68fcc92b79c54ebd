"""Who is let in: requests count as many as the answers that they want."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmlab.serve.admission import Admission, Place
from llmlab.serve.errors import QueueFullError, ShuttingDownError
from tests.serve.bodies import encoded, error_of, post
from tests.serve.puppet import Puppet, wait


def taken(line: Admission, *answers: int) -> list[Place]:
    """Requests inside, so many answers each."""
    places = []
    for wanted in answers:
        places.append(line.enter())
        line.widen(places[-1], answers=wanted)
    return places


def test_a_request_counts_as_many_as_its_answers() -> None:
    line = Admission(slots=2, queue=2)
    one, two = taken(line, 1, 2)
    late = line.enter()
    with pytest.raises(QueueFullError, match=r"3 answers .* the 2 of n .* \(at most 4\)") as caught:
        line.widen(late, answers=2)
    assert caught.value.headers == {"retry-after": "1"} and (line.inside, line.answers) == (3, 3)
    line.leave(late)
    last = taken(line, 1)
    with pytest.raises(QueueFullError, match="4 answers"):
        line.enter()
    line.leave(two)
    assert line.answers == 2
    for place in (one, *taken(line, 2), *last):
        line.leave(place)
    assert (line.inside, line.answers) == (0, 0)
    asyncio.run(asyncio.wait_for(line.empty(), timeout=1))


def test_a_request_alone_is_always_let_in() -> None:
    line = Admission(slots=1, queue=0)
    (wide,) = taken(line, 128)
    with pytest.raises(QueueFullError, match="128 answers"):
        line.enter()
    line.leave(wide)
    line = Admission(slots=1, queue=1)
    reading, wide = line.enter(), line.enter()
    line.widen(wide, answers=128)  # the other has yet to say what it wants, and may be none at all
    with pytest.raises(QueueFullError):
        line.widen(reading, answers=1)
    line.leave(reading)
    line.leave(wide)
    taken(line, 2)


def test_requests_that_are_read_have_a_place_each() -> None:
    """Each of them holds a thread and a body."""
    line = Admission(slots=1, queue=2)
    reading = [line.enter() for _ in range(3)]
    with pytest.raises(QueueFullError):
        line.enter()
    line.leave(reading[0])
    line.enter()


def test_nobody_enters_a_server_that_closes() -> None:
    line = Admission(slots=1, queue=0)
    line.closing = True
    with pytest.raises(ShuttingDownError):
        line.enter()


@pytest.mark.parametrize("stream", [False, True])
def test_many_answers_of_one_request_fill_the_queue(running, stream) -> None:
    puppet = Puppet(slots=2)
    with running(puppet, max_queue=2) as server:
        asking = threading.Thread(target=post, args=(server.url, encoded(n=100, stream=stream)))
        asking.start()
        wait(lambda: puppet.streams)
        refused = post(server.url, encoded(stream=stream))
        assert refused.status_code == 429 and error_of(refused)["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        puppet.streams[0].finish()
        asking.join(timeout=30)
        wait(lambda: server.admission.inside == 0)
        beside = threading.Thread(target=post, args=(server.url, encoded()))
        beside.start()
        wait(lambda: len(puppet.streams) == 2)
        refused = post(server.url, encoded(n=4, stream=stream))
        assert refused.status_code == 429 and "the 4 of n" in error_of(refused)["message"]
        puppet.streams[1].finish()
        beside.join(timeout=30)
        wait(lambda: server.admission.inside == 0)
        assert len(puppet.streams) == 2, "who is refused costs the model nothing"
