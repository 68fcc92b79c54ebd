"""The progress bar of a notebook: it comes late, and is gone when its work ends, however that ends."""

from __future__ import annotations

import IPython.display
import pytest

from llmlab.counterfactuals import tree as tree_module
from llmlab.display import progress


class Handle:
    """What a kernel gives for an output that can be changed later."""

    def __init__(self) -> None:
        self.updates: list[object] = []

    def update(self, data: object, *, raw: bool) -> None:
        self.updates.append((data, raw))


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch):
    """The outputs of a notebook's cell: what was shown, and the handle that was given for it."""
    found: list[tuple[object, Handle]] = []

    def display(shown: object, *, display_id: bool) -> Handle:
        found.append((shown, Handle()))
        return found[-1][1]

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    progress._vanishing.cache_clear()
    yield found
    progress._vanishing.cache_clear()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_a_bar_goes_also_where_its_work_ends_early(outputs, monkeypatch, error) -> None:
    monkeypatch.setattr(progress, "DELAY", 1e-9)

    def work() -> None:
        with progress.progress_bar(total=100, unit="token") as bar:
            bar.set_description_str("compiling")
            bar.update(3)
            assert len(outputs) == 1 and outputs[0][0] is bar.container and not outputs[0][1].updates
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    ((shown, handle),) = outputs
    assert handle.updates == [({"text/plain": ""}, True)]
    assert shown.comm is None, "the widget is closed"


def test_an_answer_that_is_read_as_it_is_made_says_what_it_waits_for(outputs, monkeypatch, demo) -> None:
    demo.chat("Hello!", seed=1, max_tokens=4)  # nothing is compiled any more
    outputs.clear()
    monkeypatch.setattr(progress, "DELAY", 1e-9)
    with demo.stream("Hello!", seed=1, max_tokens=4) as stream:
        next(stream)
        ticket = stream._source._ticket  # which calls this while nothing comes
        ticket.on_wait()
        assert not outputs, "the model's own words are worth no line"
        monkeypatch.setattr(demo.backend.engine.programs, "compiling", "compiling decode")
        ticket.on_wait()
        ticket.on_wait()
        ((shown, handle),) = outputs
        assert not handle.updates
        assert str(stream._wait._bar).startswith("compiling decode: 0 tokens [")  # one colon
        next(stream)
        assert handle.updates == [({"text/plain": ""}, True)] and shown.comm is None
        stream.result()
    assert len(outputs) == 1


def test_an_answer_that_grows_takes_the_line_away_again(outputs, monkeypatch, demo) -> None:
    demo.chat("Hello!", seed=1, max_tokens=40)
    outputs.clear()
    monkeypatch.setattr(progress, "DELAY", 1e-9)
    stream = demo.stream("Hello!", seed=1, max_tokens=40)
    monkeypatch.setattr(demo.backend.engine.programs, "compiling", "compiling decode")
    stream._source._ticket.on_wait()
    ((shown, handle),) = outputs
    grown = stream.partial_results(every=0)
    next(grown)
    assert handle.updates == [({"text/plain": ""}, True)] and shown.comm is None
    stream._source._ticket.on_wait()  # again, and the reader goes away
    grown.close()
    assert len(outputs) == 2 and outputs[1][0].comm is None


def test_a_wait_that_nobody_watches_costs_no_bar(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    wait = progress.Wait()
    wait.tell("compiling decode")
    assert wait._bar is None
    wait.over()
    assert capsys.readouterr().err == ""


def test_a_tree_counts_its_levels(monkeypatch, demo) -> None:
    story = demo.chat("Hello!", seed=1, max_tokens=4)
    asked, counted = [], []

    class Bar:
        """One that shows every step; a real one leaves out those that are quick."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            counted.append("over")

        def update(self) -> None:
            counted.append(1)

    monkeypatch.setattr(tree_module, "progress_bar", lambda **options: asked.append(options) or Bar())
    story.tree(3, 2)
    assert [options["total"] for options in asked] == [3] and counted == [1, 1, 1, "over"]


def test_what_is_quick_shows_nothing(outputs) -> None:
    with progress.progress_bar(total=3, unit="token") as bar:
        bar.set_description_str("waiting")
        bar.update(3)
    assert not outputs
