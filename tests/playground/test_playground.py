"""The playground without a browser: what is asked, what is shown, and in whose place the errors stand."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import comm.base_comm
import ipywidgets
import numpy as np
import pytest

import llmlab
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.playground.playground import Playground
from llmlab.playground.state import NO_DISTRIBUTION, TYPING
from tests.backends.endpoint import Endpoint, entry, refusal, spoken
from tests.display.test_strip import Tree

STORY = "Tell me a short story."
#: Goes on until it is stopped.
ENDLESS = {"ignore_eos": True}


@pytest.fixture
def opened() -> Iterator[Any]:
    """Playgrounds that are closed again."""
    made: list[Playground] = []

    def make(lab: Lab, *args: Any, **fields: Any) -> Playground:
        made.append(lab.playground(*args, **fields))
        made[-1].state.wait(60)
        return made[-1]

    yield make
    for playground in made:
        playground.close()
        playground.state.wait(60)


def side(playground: Playground, name: str = "A") -> Any:
    return playground._sides[name]


def settle(playground: Playground) -> Playground:
    playground.state.wait(60)
    return playground


def tree(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def errors(playground: Playground) -> dict[str, str]:
    lines = {**side(playground)._errors, "": side(playground)._error, "prompt": playground._prompt_error}
    shown = {name: line for name, line in lines.items() if line.layout.display != "none"}
    assert all(line.value for line in shown.values())
    return {name: Tree(line.value).text for name, line in shown.items()}


def bars(playground: Playground, name: str = "A") -> list[str]:
    """The figures of the bars that are shown."""
    source = side(playground, name).distribution.value
    return [part.partition('"')[0] for part in source.split('title="id ')[1:]]


class Counter:
    """Counts the model's forward passes for distributions."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes = 0
        ask = lab.backend.next_logits

        def counting(prompt: Any, **options: Any) -> Any:
            self.passes += 1
            return ask(prompt, **options)

        monkeypatch.setattr(lab.backend, "next_logits", counting)


def test_generate_is_what_chat_would_say(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, temperature=0.9, max_tokens=30, seed=11, n=2)
    playground._generate.click()
    settle(playground)
    chat = demo.chat(STORY, temperature=0.9, max_tokens=30, seed=11, n=2)
    assert playground.result.texts == chat.texts
    assert playground.result.request == playground.request == chat.request
    assert playground.results == [playground.result]
    strip = Tree(side(playground).answer.value)
    assert len(strip.tokens) == sum(len(choice.tokens) for choice in chat.choices)
    assert "finished: " in strip.text and "so far" not in strip.text
    assert playground._history.options[0][0].startswith("1 A · n 2 · temperature 0.9 · seed 11 · “")


def test_the_strip_grows_while_the_main_thread_is_free(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, seed=3, max_tokens=120, **ENDLESS)
    sizes: list[int] = []
    said = threading.Event()

    def look(change: dict[str, Any]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        sizes.append(len(Tree(change["new"]).tokens))
        said.set()

    side(playground).answer.observe(look, names="value")
    playground._generate.click()
    assert said.wait(60), "the click is over, and the answer comes by itself"
    settle(playground)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] == 120
    assert side(playground).status.value == ""


def test_stop_keeps_what_was_made(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, seed=3, **ENDLESS)
    grown = threading.Event()
    side(playground).answer.observe(lambda _: grown.set(), names="value")
    playground._stop.click()  # harmless
    playground._generate.click()
    assert grown.wait(60)
    playground._stop.click()
    settle(playground)
    assert playground.result.finish_reasons == ["interrupted"]
    made = playground.result.choices[0].tokens.ids
    assert len(made) > 0
    assert demo.chat(STORY, seed=3, max_tokens=len(made), **ENDLESS).choices[0].tokens.ids.tolist() == made.tolist()
    assert side(playground).status.value == "stopped" and not playground.state.running


def test_generate_again_stops_the_first_and_shows_the_second_alone(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, **ENDLESS)
    grown = threading.Event()
    side(playground).answer.observe(lambda _: grown.set(), names="value")
    playground._generate.click()
    assert grown.wait(60)
    first = playground.state.sides["A"].answer
    side(playground).controls["max_tokens"].value = "5"
    playground._generate.click()
    settle(playground)
    first.join(60)
    assert not first.running
    assert len(playground.result.choices[0].tokens) == 5
    assert len(Tree(side(playground).answer.value).tokens) == 5
    assert sorted(len(result.choices[0].tokens) == 5 for result in playground.results) in ([True], [False, True])


def test_a_slider_redraws_the_distribution_and_asks_the_model_nothing(
    demo: Lab, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(demo, monkeypatch)
    playground = opened(demo, STORY)
    before = bars(playground)
    for name, value in (("temperature", 0.3), ("top_k", 4), ("top_p", 0.7), ("min_p", 0.4), ("order", "llama.cpp")):
        side(playground).controls[name].value = value
        settle(playground)
    fields = {"temperature": 0.3, "top_k": 4, "top_p": 0.7, "min_p": 0.4}
    assert counter.passes == 1
    frame = demo.next_token(STORY).frame(top=12, order="llama.cpp", **fields)
    shown = [float(each.rpartition("sampling ")[2]) for each in bars(playground)]
    np.testing.assert_allclose(shown, np.exp(frame.sampling_logprob), atol=6e-4)
    assert bars(playground) != before
    assert playground.results == [], "nothing was generated"


def test_what_the_prompt_depends_on_asks_the_model_once(
    demo: Lab, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(demo, monkeypatch)
    playground = opened(demo, STORY)
    for text in ("N", "Na", "Name an animal."):
        playground._prompt.value = text
    settle(playground)
    assert counter.passes <= 2 + (TYPING == 0), "typing is waited for"
    assert bars(playground)[0].startswith(str(demo.next_token("Name an animal.").frame().token_id[0]))
    for name, value in (("max_tokens", "7"), ("seed", "9"), ("n", 3), ("stop", "x"), ("repetition_penalty", 1.4)):
        side(playground).controls[name].value = value
    settle(playground)
    before = counter.passes
    side(playground).controls["enable_thinking"].value = "on"
    settle(playground)
    assert counter.passes == before + 1


def test_the_distribution_of_any_token_of_the_answer(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, temperature=1.3, seed=8, max_tokens=12)
    playground._generate.click()
    settle(playground)
    tokens = playground.result.choices[0].tokens
    slider = side(playground).places.slider
    assert (slider.max, slider.layout.display) == (len(tokens) - 1, "")
    for position in (0, 3, 7):
        slider.value = position
        settle(playground)
        text = Tree(side(playground).distribution.value).text
        spelled = playground.state._bars("A").would
        assert spelled[0] == tokens.ids[position], "the same noise and the same settings draw the same token"
        assert ("the answer has" in text) == (position > 0)
    side(playground).controls["temperature"].value = 0.0
    settle(playground)
    assert playground.state._bars("A").kept == 1 and playground.state._bars("A").drawn[0] == tokens.ids[7]
    playground._prompt.value = "Another one."
    assert slider.layout.display == "none" and slider.value == 0


def click(playground: Playground, position: int, *, choice: int = 0, name: str = "A") -> None:
    """What the page writes when a token of the strip is clicked."""
    side(playground, name).places.clicked.value = f"{choice} {position} {time.monotonic_ns()}"
    settle(playground)


def test_a_click_on_a_token_shows_its_distribution(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, temperature=1.3, seed=8, max_tokens=12, n=2)
    click(playground, 3)
    assert playground.state.sides["A"].position == 0, "there is no answer yet"
    playground._generate.click()
    settle(playground)
    places = side(playground).places
    for choice, position in ((0, 5), (1, 5), (1, 0), (0, 0)):
        click(playground, position, choice=choice)
        shown = playground.state._bars("A")
        assert places.slider.value == position
        assert shown.would[0] == playground.result.choices[choice].tokens.ids[position]
        if (choice, position) != (0, 0):
            assert shown.drawn[0] == shown.would[0]
            where = f"position {position} of choice {choice}"
            assert where in Tree(side(playground).distribution.value).text
    places.slider.value = 4
    settle(playground)
    click(playground, 5)
    places.slider.value = 4
    settle(playground)
    click(playground, 5)
    assert (playground.state.sides["A"].position, places.slider.value) == (5, 5), "the same token again"
    for nonsense in ("", "0 99 1", "7 0 1", "a b c", "0"):
        places.clicked.value = nonsense
    assert playground.state.sides["A"].position == 5
    assert (
        "onclick" in side(playground).answer.value and places.clicked._dom_classes[0] in side(playground).answer.value
    )


def test_an_answer_goes_on_from_a_position_with_another_token(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, temperature=0.9, seed=8, max_tokens=12)
    places = side(playground).places
    assert places.box.layout.display == "none"
    playground._generate.click()
    settle(playground)
    first = playground.result
    click(playground, 4)
    assert places.box.layout.display == "" and "position 4" in Tree(places._where.value).text
    offered = [token for _, token in places.tokens.options]
    likely = demo.chat(first.request).next_token(4).ranking[:12].tolist()
    assert offered == [token for token in likely if token != first.choices[0].tokens.ids[4]]
    places.tokens.value = offered[1]
    side(playground).controls["temperature"].value = 0.3
    places.button.click()
    settle(playground)
    branched = playground.result
    assert branched.parent is first and branched.choices[0].given == 5
    assert branched.choices[0].tokens.ids.tolist() == (
        first.branch(4, offered[1], temperature=0.3).choices[0].tokens.ids.tolist()
    )
    assert places.slider.value == 4, "the place stays"
    assert len(Tree(side(playground).answer.value).tokens) == len(branched.choices[0].tokens)
    assert "goes on from position 4" in playground._history.options[0][0]
    places.button.click()  # from the branch again
    settle(playground)
    assert playground.result.parent is branched and len(playground.results) == 3
    playground._prompt.value = "Another one."
    settle(playground)
    assert places.box.layout.display == "none"


def test_what_cannot_go_on_is_an_error_at_its_control(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, seed=8, max_tokens=6)
    side(playground).places.button.click()
    playground._generate.click()
    settle(playground)
    click(playground, 2)
    side(playground).controls["top_p"].box.value = "2"
    side(playground).places.button.click()
    settle(playground)
    assert list(errors(playground)) == ["top_p"] and len(playground.results) == 1


def test_the_answers_of_both_sides_are_compared(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, max_tokens=10, seed=3)

    def compared() -> str:
        settle(playground)
        shown = playground._compared.layout.display != "none"
        assert shown == bool(playground._compared.value)
        return Tree(playground._compared.value).text

    playground._generate.click()
    assert compared() == "", "one answer"
    playground._both.value = True
    side(playground, "B").controls["temperature"].value = 1.8
    assert compared() == "", "B has no answer yet"
    playground._generate.click()
    text = compared()
    a, b = (playground.state.sides[name].result for name in "AB")
    assert Tree(b.diff(a)._repr_html_()).text.strip() == text.strip()
    assert "temperature 1.0 → 1.8" in text
    assert "temperature 1.0 → 1.8" in Tree(playground.to_html()).text
    playground._same.click()
    playground._generate.click()
    assert "the same parameters" in compared() and "the same 10 tokens" in compared()
    playground._both.value = False
    assert compared() == ""


def test_two_sides_are_asked_at_once_under_the_same_noise(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, max_tokens=10)
    assert len(playground._side_by_side.children) == 1, "the second side is not there yet"
    playground._both.value = True
    side(playground, "B").controls["temperature"].value = 1.8
    settle(playground)
    assert side(playground, "B").box.layout.display == "" and bars(playground, "A") != bars(playground, "B")
    playground._generate.click()
    settle(playground)
    a, b = (playground.state.sides[name].result for name in "AB")
    assert a.seed == b.seed and b.request.temperature == 1.8
    assert {run.side for run in playground.state.history} == {"A", "B"}
    assert b.text == demo.chat(STORY, temperature=1.8, max_tokens=10, seed=a.seed).text
    playground._same.click()
    settle(playground)
    assert bars(playground, "A") == bars(playground, "B")
    assert side(playground, "B").controls["temperature"].value == 1.0
    playground._both.value = False
    playground._generate.click()
    settle(playground)
    assert len(playground.results) == 3


@pytest.mark.parametrize(
    ("control", "value", "message"),
    [
        ("logit_bias", "{oops", "logit_bias must be JSON"),
        ("logit_bias", '{"99999": 1}', "logit_bias"),
        ("seed", "x", "seed must be an integer, got 'x'"),
        ("temperature", "hot", "temperature must be a number, got 'hot'"),
        ("top_p", "1.5", "top_p must be above 0 and at most 1"),
        ("top_k", "2.5", "top_k must be an integer"),
        ("max_tokens", "0", "max_tokens must be at least 1, got 0"),
        ("stop", '["a","b","c","d","e"]', "stop"),
        ("response_format", '{"type": "html"}', "response_format"),
        ("tool_choice", "required", "tool_choice needs tools"),
        ("chat_template_kwargs", "[]", "chat_template_kwargs"),
    ],
)
def test_an_error_stands_at_the_control_that_it_names(
    demo: Lab, opened: Any, control: str, value: str, message: str
) -> None:
    playground = opened(demo, STORY)
    assert errors(playground) == {}
    before = side(playground).distribution.value
    box = getattr(side(playground).controls[control], "box", side(playground).controls[control])
    box.value = value
    settle(playground)
    assert list(errors(playground)) == [control] and message in errors(playground)[control]
    playground._generate.click()
    settle(playground)
    assert list(errors(playground)) == [control] and playground.results == []
    assert side(playground).status.value == "", "nothing is waited for"
    assert side(playground).distribution.value == before
    box.value = ""
    settle(playground)
    assert errors(playground) == {}


def test_a_number_is_what_was_given_or_typed_and_a_slider_only_points_at_it(demo: Lab, opened: Any) -> None:
    given = {"temperature": 0.333, "top_p": 0.975, "min_p": 0.0051, "top_k": 9, "repetition_penalty": 1.0123456789}
    playground = opened(demo, STORY, max_tokens=4, seed=1, **given)
    controls = side(playground).controls

    def asked() -> dict[str, float]:
        return {name: getattr(playground.request, name) for name in given}

    assert asked() == given
    assert {name: controls[name].box.value for name in given} == {name: repr(value) for name, value in given.items()}
    # What a browser sends when it draws: each slider's own index. It stands for a value near by, and is no move.
    for name in given:
        controls[name].slider.set_trait("value", controls[name].slider.value)
        controls[name]._moved(controls[name].slider.value)
    assert asked() == given
    controls["top_p"].box.value = " 0.995 "
    controls["temperature"].box.value = "0.1234567890123456"
    assert asked() == given | {"top_p": 0.995, "temperature": 0.1234567890123456}
    playground._generate.click()
    settle(playground)
    assert playground.result.request == playground.request
    assert "top_p=0.995" in playground.state.snippets("A")["Python"]
    # A slider that is moved goes to the next step, in decimals.
    controls["top_p"].slider.value -= 10
    assert playground.request.top_p == 0.89 and controls["top_p"].box.value == "0.89"
    controls["top_p"].slider.value += 1
    assert '"top_p": 0.9,' in playground.state.snippets("A")["JSON"]
    # The same settings on the other side and from the history, to the last digit.
    playground._same.click()
    assert playground.state.request("B") == playground.request
    playground._both.value = True
    assert side(playground, "B").controls["repetition_penalty"].box.value == "1.0123456789"
    playground._history.value = 1
    playground._show_in["A"].click()
    assert asked() == given | {"top_p": 0.995, "temperature": 0.1234567890123456}


def test_what_only_the_engine_can_refuse_is_shown_as_well(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, max_tokens=600, context_length_exceeded_behavior="error")
    playground._generate.click()
    settle(playground)
    assert "600" in errors(playground)["max_tokens"]
    playground = opened(demo, "word " * 2_000)
    assert "the prompt has 2015 tokens" in errors(playground)["prompt"]
    playground._prompt.value = STORY
    settle(playground)
    assert errors(playground) == {} and bars(playground)


def test_history_brings_back_what_was_asked(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, temperature=0.4, seed=5, max_tokens=8, logit_bias={7: 2.5})
    playground._generate.click()
    settle(playground)
    first = playground.result
    playground._prompt.value, playground._system.value = "Name an animal.", "Be brief."
    side(playground).controls["temperature"].value = 1.1
    side(playground).controls["seed"].value = ""
    side(playground).controls["logit_bias"].value = ""
    playground._generate.click()
    settle(playground)
    second = playground.result
    assert second.request.messages[0] == {"role": "system", "content": "Be brief."}
    assert [number for _, number in playground._history.options] == [2, 1], "the latest first"
    playground._history.value = 1
    playground._show_in["A"].click()
    settle(playground)
    assert playground.request == first.request and playground._prompt.value == STORY and playground._system.value == ""
    assert len(Tree(side(playground).answer.value).tokens) == len(first.choices[0].tokens)
    playground._history.value = 2
    playground._show_in["B"].click()
    settle(playground)
    assert playground.state.request("B") == second.request.replace(seed=second.seed)
    assert playground._both.value


def test_copied_code_makes_the_same_request(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, temperature=1.2, max_tokens=9, order="vllm")
    playground._generate.click()
    settle(playground)
    spelled = playground.state.snippets("A")
    assert tuple(spelled) == tuple(side(playground)._spelling.options)
    found: dict[str, Any] = {"lab": demo}
    exec(spelled["Python"], found)
    assert found["result"].choices[0].tokens.ids.tolist() == playground.result.choices[0].tokens.ids.tolist()
    again = demo.request(**json.loads(spelled["JSON"]))
    assert again == playground.result.request and again.seed == playground.result.seed
    assert '"top_k"' not in spelled["openai"] and "curl" in spelled["curl"]
    side(playground)._copy.value = True
    assert "lab.chat(" in Tree(side(playground)._snippet.value).text
    side(playground)._spelling.value = "JSON"
    assert '"temperature": 1.2' in Tree(side(playground)._snippet.value).text
    side(playground).controls["top_k"].value = 5
    settle(playground)
    assert '"top_k": 5' in Tree(side(playground)._snippet.value).text
    assert "seed" not in playground.state.snippets("A")["JSON"], "another request than the one that was answered"


def test_a_raw_prompt(demo: Lab, opened: Any) -> None:
    playground = opened(demo, prompt="Once upon a", max_tokens=4, seed=1)
    assert playground._raw.value and playground._prompt.value == "Once upon a"
    playground._generate.click()
    settle(playground)
    assert playground.result.text == demo.complete("Once upon a", max_tokens=4, seed=1).text
    assert "lab.complete(" in playground.state.snippets("A")["Python"]
    side(playground).controls["tool_choice"].value = "none"
    settle(playground)
    assert "belongs to a chat" in errors(playground)["tool_choice"]
    playground._raw.value = False
    settle(playground)
    assert errors(playground) == {} and playground.request.messages[-1]["content"] == "Once upon a"


def test_it_opens_with_any_conversation_and_any_value(demo: Lab, opened: Any) -> None:
    talk = [
        {"role": "system", "content": "Be <b>brief</b>."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello <there>."},
        {"role": "user", "content": STORY},
    ]
    playground = opened(demo, talk, repetition_penalty=0.01, temperature=0.731, top_k=-1, min_tokens=300)
    assert playground.request.messages == tuple(talk)
    assert playground.request.repetition_penalty == 0.01 and playground.request.temperature == 0.731
    assert playground.request.min_tokens == 300
    assert "Hello <there>." in Tree(playground._before.value).text
    more = {"model": "demo", "user": "u", "logprobs": True, "top_logprobs": 2}
    request = demo.request(STORY, temperature=0.5, max_completion_tokens=9, stream=True, **more)
    assert opened(demo, request).request == demo.request(STORY, temperature=0.5, max_tokens=9, **more)
    with pytest.raises(RequestError, match="last message"):
        demo.playground(talk[:3])
    with pytest.raises(RequestError, match="temperature"):
        demo.playground(STORY, temperature=3)
    with pytest.raises(RequestError, match="token ids"):
        demo.playground(prompt=[1, 2])
    assert opened(demo).request.messages[-1]["content"] == STORY


def test_a_notebook_gets_widgets_and_a_picture(demo: Lab, opened: Any) -> None:
    playground = opened(demo, "Tell me a <b>story</b>.", max_tokens=6, seed=2)
    bundle = playground._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == playground.widget.model_id
    tree = Tree(bundle["text/html"])
    assert "run the cell" in tree.text and "Tell me a <b>story</b>." in tree.text and "The distribution of" in tree.text
    assert len(tree.tokens) == 12 + 1 and not {"script", "iframe"} & tree.tags
    playground._generate.click()
    settle(playground)
    assert len(Tree(playground.to_html()).tokens) == 12 + 1 + len(playground.result.choices[0].tokens)
    assert bundle["text/plain"] == "<a playground of demo, 0 answers>" and "1 answer>" in repr(playground)


def test_only_widgets_that_every_notebook_has(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY)
    everything = list(tree(playground.widget))
    assert {widget._view_module for widget in everything} == {"@jupyter-widgets/controls"}
    assert not any(getattr(widget, "tabbable", None) is False for widget in everything)
    playground.close()
    assert all(widget.comm is None for widget in everything)


class Page:
    """What a page has been told: the models that are open. It fails where a page would: at a part it does not know."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: set[str] = set()
        self.messages = 0
        monkeypatch.setattr("ipywidgets.comm.create_comm", lambda **asked: PageComm(self, **asked))

    def told(self, state: Any) -> None:
        self.messages += 1
        named = set(re.findall("IPY_MODEL_([0-9a-f]+)", json.dumps(state, default=str)))
        assert named <= self.open


class PageComm(comm.base_comm.BaseComm):
    def __init__(self, page: Page, **asked: Any) -> None:
        self.page, self.refers = page, asked["data"]["state"]
        super().__init__(**asked)

    def publish_msg(self, msg_type: str, data: Any = None, **_: Any) -> None:
        page = self.page
        if msg_type == "comm_close":
            page.open.discard(self.comm_id)
            return
        page.told((data or {}).get("state"))
        page.open.add(self.comm_id)


def test_a_page_is_told_of_every_part_first_and_in_few_messages(
    demo: Lab, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(monkeypatch)
    playground = opened(demo, STORY, max_tokens=4)
    # The output socket of a kernel can lose messages once 500 of them wait: two playgrounds are not enough for that.
    assert 100 < page.messages < 250 and len(page.open) < 220
    before = set(page.open)
    children = {box: box.children for box in tree(playground.widget) if isinstance(box, ipywidgets.Box)}
    playground._both.value = True
    side(playground, "B").controls["temperature"].value = 1.4
    playground._generate.click()
    settle(playground)
    playground._past.value = True
    playground._history.value = 1
    for name in "AB":
        playground._show_in[name].click()
    playground._both.value = False
    playground._both.value = True
    settle(playground)
    assert before < page.open and len(page.open) < 400, "nothing is closed, and a second side is made once"
    for box, parts in children.items():
        assert box.children[: len(parts)] == parts, "parts are added, and none is taken away"
    playground.close()
    assert not page.open


def test_what_the_user_has_set_on_the_second_side_stays(demo: Lab, opened: Any) -> None:
    playground = opened(demo, STORY, temperature=1.2)
    playground._both.value = True
    slider = side(playground, "B").controls["temperature"].slider
    for _ in range(8):
        slider.value += 1
    playground._both.value = False
    playground._both.value = True
    settle(playground)
    assert playground.state.request("B").temperature == 1.6
    assert side(playground, "B").controls["temperature"].box.value == "1.6"
    assert playground.request.temperature == 1.2


def test_two_playgrounds_and_a_closed_lab(opened: Any, tmp_path: Any) -> None:
    from llmlab.testing import tiny_checkpoint

    lab = llmlab.load(tiny_checkpoint(tmp_path), slots=4, max_context=256, quiet=True)
    one, two = (opened(lab, "hello", seed=seed, max_tokens=20, **ENDLESS) for seed in (1, 2))
    for playground in (one, two):
        playground._generate.click()
    for playground in (one, two):
        settle(playground)
    assert one.result.text == lab.chat("hello", seed=1, max_tokens=20, **ENDLESS).text
    assert two.result.text == lab.chat("hello", seed=2, max_tokens=20, **ENDLESS).text
    lab.close()
    one._generate.click()
    settle(one)
    assert "closed" in errors(one)[""]
    two._prompt.value = "another prompt"
    settle(two)
    assert "closed" in errors(two)[""], "also where a thread for distributions finds it"


def test_somebody_elses_endpoint_has_no_distribution_and_says_so(opened: Any) -> None:
    endpoint = Endpoint(lambda body: spoken(entry("Hel", -0.3), entry("lo", -0.2)))
    playground = opened(Lab(endpoint.backend()), "hi", temperature=0.5)
    assert NO_DISTRIBUTION in Tree(side(playground).distribution.value).text
    assert "order" not in side(playground).controls
    playground._generate.click()
    settle(playground)
    assert playground.result.text == "Hello" and len(Tree(side(playground).answer.value).tokens) == 2
    assert side(playground).places.slider.layout.display == "none"
    endpoint.script = lambda body: refusal("temperature must be 1", param="temperature")
    playground._generate.click()
    settle(playground)
    assert "temperature must be 1" in errors(playground)["temperature"]
