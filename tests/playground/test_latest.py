from __future__ import annotations

import threading

from llmlab.playground.latest import Latest


def test_only_what_was_asked_last_is_done_once_there_is_time() -> None:
    latest, done, go, begun = Latest("test"), [], threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait(30)
        done.append(0)

    latest.ask(slow)
    assert begun.wait(30)
    for number in range(1, 50):
        latest.ask(lambda number=number: done.append(number))
    assert not latest.wait(0.0)
    go.set()
    assert latest.wait(30)
    assert done == [0, 49]
    latest.ask(lambda: done.append(50))
    assert latest.wait(30) and done == [0, 49, 50], "a new thread for new work"


def test_what_can_wait_gives_way() -> None:
    latest, done = Latest("test"), []
    latest.ask(lambda: done.append("in an hour"), delay=3600)
    latest.ask(lambda: done.append("now"))
    assert latest.wait(30)
    assert done == ["now"]


def test_there_is_no_thread_where_there_is_nothing_to_do() -> None:
    latest = Latest("llmlab-test-idle")
    latest.ask(lambda: None)
    assert latest.wait(30)
    for thread in threading.enumerate():
        if thread.name == "llmlab-test-idle":
            thread.join(30)
            assert not thread.is_alive()
