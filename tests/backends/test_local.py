"""A request becomes ids, and an answer becomes the API's shapes; every field has an effect or an error."""

import gc
import json
import weakref
from queue import Queue
from threading import Thread

import jax
import numpy as np
import pytest

import llmlab
from llmlab.backends.local.backend import LocalBackend
from llmlab.errors import ContextLengthError, ModelNotFoundError, RequestError
from llmlab.protocol.request import ChatRequest
from llmlab.protocol.wire import MINUS_INFINITY, chat_completion
from llmlab.testing import tiny_checkpoint
from llmlab.text.template import ChatTemplate


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    backend = LocalBackend.load(tiny_checkpoint(tmp_path_factory.mktemp("local") / "tiny"), slots=4, max_context=256)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint without a chat template."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("base") / "base", template=None)
    backend = LocalBackend.load(folder, slots=1, max_context=256)
    yield backend
    backend.close()


def ask(backend, messages="Hello", **fields):
    return backend.complete(ChatRequest.build(messages, **{"max_tokens": 12, "seed": 1, **fields}))


def ids(completion, choice=0):
    return completion.choices[choice].tokens.ids.tolist()


def test_a_seed_repeats_and_one_is_drawn_where_there_is_none(backend):
    assert ids(ask(backend)) == ids(ask(backend))
    drawn = ask(backend, seed=None)
    assert 0 <= drawn.seed < 2**53
    assert ids(ask(backend, seed=drawn.seed)) == ids(drawn)
    assert ids(ask(backend, seed=5)) != ids(ask(backend, seed=2**32 + 5))


def test_choices_do_not_depend_on_n(backend):
    ten = ask(backend, n=10)
    assert len(ten.choices) == 10
    assert [ids(ten, i) for i in range(3)] == [ids(ask(backend, n=3), i) for i in range(3)]
    assert ten.completion_tokens == sum(len(choice.tokens) for choice in ten.choices)


def test_streaming_changes_nothing(backend):
    request = ChatRequest.build("Hello", n=3, seed=4, max_tokens=30, stop=["a", "B"])
    whole = backend.complete(request)
    stream = backend.stream(request)
    text = {0: "", 1: "", 2: ""}
    tokens = {0: [], 1: [], 2: []}
    for delta in stream:
        text[delta.index] += delta.text
        tokens[delta.index] += delta.tokens.ids.tolist()
    result = stream.result()
    for choice in whole.choices:
        assert text[choice.index] == choice.text == result.choices[choice.index].text
        assert tokens[choice.index] == choice.tokens.ids.tolist()


def test_a_stream_closed_early_keeps_what_it_has(backend):
    stream = backend.stream(ChatRequest.build("Hello", seed=4, ignore_eos=True))
    first = next(iter(stream))
    stream.close()
    result = stream.result()
    assert result.choices[0].finish_reason == "interrupted"
    assert result.choices[0].tokens.ids.tolist()[: len(first.tokens)] == first.tokens.ids.tolist()
    assert ask(backend).choices[0].finish_reason in ("stop", "length")


def test_a_stream_that_is_dropped_goes_at_once(backend):
    stream = backend.stream(ChatRequest.build("Hello", seed=4, n=4, ignore_eos=True))
    next(iter(stream))
    ticket = weakref.ref(stream._ticket)
    gc.disable()
    try:
        del stream
        assert ticket() is None
    finally:
        gc.enable()


def test_max_tokens_and_what_the_context_has_left(backend):
    assert len(ask(backend, max_tokens=3, ignore_eos=True).choices[0].tokens) == 3
    prompt = len(ask(backend).prompt_ids)
    whole = ask(backend, max_tokens=None, ignore_eos=True)
    assert len(whole.choices[0].tokens) == 256 - prompt
    cut = ask(backend, max_tokens=10_000, ignore_eos=True)
    assert ids(cut) == ids(whole)
    with pytest.raises(ContextLengthError, match="at most") as caught:
        ask(backend, max_tokens=10_000, context_length_exceeded_behavior="error")
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize("behavior", ["truncate", "error"])
def test_a_prompt_that_fills_the_window(backend, behavior):
    with pytest.raises(ContextLengthError, match="256") as caught:
        ask(backend, "x" * 300, context_length_exceeded_behavior=behavior)
    assert (caught.value.code, caught.value.param, caught.value.status) == ("context_length_exceeded", "messages", 400)


def test_logit_bias_forces_and_forbids(backend):
    assert set(ids(ask(backend, logit_bias={65: 100}))) == {65}
    free = ids(ask(backend, temperature=0))
    banned = ask(backend, temperature=0, logit_bias={free[0]: -100})
    assert ids(banned)[0] != free[0]
    with pytest.raises(RequestError, match="261") as caught:
        ask(backend, logit_bias={261: 1})
    assert caught.value.param == "logit_bias"


def test_penalties_move_what_was_said(backend):
    greedy = ids(ask(backend, temperature=0, max_tokens=40, ignore_eos=True))
    for field, value in (("frequency_penalty", 2), ("presence_penalty", 2), ("repetition_penalty", 2)):
        moved = ids(ask(backend, temperature=0, max_tokens=40, ignore_eos=True, **{field: value}))
        assert moved != greedy
        assert len(set(moved)) >= len(set(greedy))


def test_a_stop_ends_a_choice_and_is_returned(backend):
    text = ask(backend, max_tokens=30, ignore_eos=True).choices[0].text
    stop = text[4]
    choice = ask(backend, max_tokens=30, ignore_eos=True, stop=stop).choices[0]
    assert choice.text == text[: text.index(stop) + 1] and choice.finish_reason == "stop"
    without = ask(backend, max_tokens=30, ignore_eos=True, stop=[stop], include_stop=False).choices[0]
    assert without.text == text[: text.index(stop)]


def test_min_tokens_and_ignore_eos(backend):
    assert any(ask(backend, seed=s, max_tokens=40).choices[0].finish_reason == "stop" for s in range(20))
    for seed in range(20):
        held = ask(backend, seed=seed, max_tokens=40, min_tokens=40).choices[0].tokens.ids.tolist()
        assert 258 not in held[:-1]
        assert ask(backend, seed=seed, max_tokens=40, ignore_eos=True).choices[0].finish_reason == "length"


def test_the_last_message_is_continued(backend):
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am"}]
    continued = ask(backend, chat, continue_final_message=True)
    assert backend.tokenizer.decode(continued.prompt_ids.tolist()).endswith("I am")
    assert not backend.tokenizer.decode(ask(backend, chat).prompt_ids.tolist()).endswith("I am")


def test_the_templates_switch(backend):
    on, off = ask(backend, enable_thinking=True), ask(backend, enable_thinking=False)
    assert len(on.prompt_ids) < len(off.prompt_ids)
    assert ask(backend).prompt_ids.tolist() == off.prompt_ids.tolist()
    assert ask(backend, chat_template_kwargs={"enable_thinking": True}).prompt_ids.tolist() == on.prompt_ids.tolist()


def test_what_this_model_cannot_honour(backend, base):
    with pytest.raises(ModelNotFoundError, match="gpt-4"):
        ask(backend, model="gpt-4")
    assert ask(backend, model="tiny").model == "tiny"
    with pytest.raises(RequestError, match="tools"):
        ask(backend, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(RequestError, match="chat template"):
        ask(base)
    with pytest.raises(RequestError, match="order"):
        backend.complete(ChatRequest.build("Hello"), order="none")


def test_a_template_given_in_place_of_one_that_is_missing(tmp_path):
    folder = tiny_checkpoint(tmp_path / "base", template=None)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    backend = LocalBackend.load(folder, slots=1, max_context=256, chat_template=template)
    assert backend.tokenizer.decode(ask(backend, max_tokens=1).prompt_ids.tolist()) == "user: Hello\n"
    backend.close()


def test_the_response_in_the_apis_own_shape(backend):
    completion = ask(backend, n=2, seed=3, max_tokens=30, logprobs=True, top_logprobs=3, top_k=2)
    response = chat_completion(completion)
    assert response.object == "chat.completion" and response.id.startswith("chatcmpl-")
    assert response.model == "tiny" and response.model_extra["seed"] == 3
    assert response.system_fingerprint == backend.system_fingerprint
    for choice, ours in zip(response.choices, completion.choices, strict=True):
        assert choice.message.content == ours.text
        listed = choice.logprobs.content
        assert len(listed) == sum(segment != "end" for segment in ours.tokens.segment)
        assert b"".join(bytes(token.bytes or []) for token in listed).decode("utf-8", "replace") == ours.text
        for token in listed:
            assert len(token.top_logprobs) == 3
            alternatives = [(-a.logprob, a.token_id) for a in token.top_logprobs]
            assert alternatives == sorted(alternatives)
            assert sum(a.sampling_logprob == MINUS_INFINITY for a in token.top_logprobs) >= 1  # top_k left two of them
    usage = response.usage
    assert usage.completion_tokens == completion.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    json.loads(response.model_dump_json(), parse_constant=pytest.fail)  # neither NaN nor Infinity


def test_logprobs_govern_the_response_alone(backend):
    plain, asked = ask(backend), ask(backend, logprobs=True)
    assert chat_completion(plain).choices[0].logprobs is None
    assert chat_completion(asked).choices[0].logprobs.content[0].top_logprobs == []
    np.testing.assert_array_equal(plain.choices[0].tokens.logprob, asked.choices[0].tokens.logprob)


def test_half_precision_runs_and_says_what_it_costs(tmp_path):
    folder = tiny_checkpoint(tmp_path / "half")
    backend = LocalBackend.load(folder, dtype="bfloat16", slots=1, max_context=256)
    assert backend.describe()["dtype"] == "bfloat16" and "slower" in backend.describe()["notes"][0]
    full = LocalBackend.load(folder, slots=1, max_context=256)
    half, whole = (b.next_logits(b.render(ChatRequest.build("Hello"))) for b in (backend, full))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.05 * np.abs(whole).max()
    assert len(ask(backend).choices[0].tokens) > 0
    backend.close()
    full.close()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="on an accelerator it is loaded as it is stored")
@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_what_is_stored_in_half_is_loaded_whole_on_a_cpu_and_said(tmp_path, field):
    folder = tiny_checkpoint(tmp_path / "half", num_hidden_layers=1, **{field: "bfloat16"})
    backend = LocalBackend.load(folder, slots=1, max_context=128)
    assert backend.describe()["dtype"] == "float32"
    assert any("stored as bfloat16, loaded as float32" in note for note in backend.describe()["notes"])
    backend.close()


def test_a_switch_that_the_template_lacks_is_unsupported(backend, tmp_path):
    assert backend.unsupported == frozenset()
    (tmp_path / "plain.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    plain = LocalBackend(
        "plain",
        tokenizer=backend.tokenizer,
        template=ChatTemplate(backend.tokenizer, tmp_path / "plain.jinja"),
        engine=backend.engine,
    )
    assert plain.unsupported == {"enable_thinking", "reasoning_effort"}


def test_the_banners_facts(backend):
    facts = backend.describe()
    assert facts["model"] == "tiny" and facts["slots"] == 4 and facts["context"] == 256
    assert facts["parameters"] == sum(x.size for x in jax.tree.leaves(backend.engine.programs._weights))


def test_another_thread_may_close_a_stream_that_is_being_read(backend):
    """As the HTTP server does when a client leaves: the reader comes to its end, and nothing is raised."""
    request = ChatRequest.build("hello", max_tokens=200, ignore_eos=True)
    for _ in range(25):
        stream = backend.stream(request)
        ended: Queue[object] = Queue()

        def read(stream=stream, ended=ended):
            try:
                ended.put(sum(1 for _ in stream))
                ended.put(stream.result().choices[0].finish_reason)
            except BaseException as error:
                ended.put(error)

        reader = Thread(target=read)
        reader.start()
        stream.close()
        reader.join(timeout=60)
        assert isinstance(ended.get(timeout=60), int)
        assert ended.get(timeout=60) in ("interrupted", "length")


def test_ids_that_only_the_model_has_can_be_named_as_they_can_be_drawn(tmp_path):
    lab = llmlab.load(tiny_checkpoint(tmp_path / "padded", vocab_size=300), slots=2, max_context=128, quiet=True)
    drawn = lab.chat("Hello", max_tokens=4, temperature=0, logit_bias={290: 100.0}, ignore_eos=True)
    assert drawn[0].tokens.ids.tolist() == [290] * 4 and drawn[0].tokens.bytes == (None,) * 4
    assert drawn.logprobs_frame()["token"].tolist() == ["<id 290>"] * 4
    again = lab.score(drawn)
    np.testing.assert_allclose(again.logprobs_frame()["logprob"], drawn.logprobs_frame()["logprob"], atol=1e-4)
    assert drawn.branch(2, 299).choices[0].tokens.ids[:3].tolist() == [290, 290, 299]
    assert lab.complete([65, 290], max_tokens=1).prompt_ids.tolist() == [65, 290]
    for wrong in ({"logit_bias": {300: 1.0}}, {"prompt": [300]}):
        with pytest.raises(RequestError, match=r"token id 300 is not in the vocabulary \(0..299\)"):
            lab.complete(**{"prompt": "a", **wrong})
    lab.close()


def test_a_token_that_only_the_tokenizer_has_is_refused_where_it_is_used(tmp_path):
    lab = llmlab.load(tiny_checkpoint(tmp_path / "short", vocab_size=260), slots=1, max_context=128, quiet=True)
    assert any("the tokenizer has 261 tokens and the model 260" in note for note in lab.describe()["notes"])
    assert len(lab.complete("Once", max_tokens=3, ignore_eos=True)[0].tokens) == 3
    assert lab.next_token(prompt="Once").frame(top=None)["token_id"].max() == 259
    for ask in (lambda: lab.complete("Once </think>"), lambda: lab.score(prompt="Once", given="</think>")):
        with pytest.raises(RequestError, match=r"holds '</think>', token id 260, for which the model has no embedding"):
            ask()
    lab.close()


def test_what_the_template_leaves_out_is_an_error_or_a_note_of_the_answer(backend):
    source = "{% for m in messages if m.role != 'system' %}{{ m.content or '' }};{% endfor %}"
    template = ChatTemplate(backend.tokenizer, source)
    plain = LocalBackend("plain", tokenizer=backend.tokenizer, template=template, engine=backend.engine)
    user, system = {"role": "user", "content": "hi"}, {"role": "system", "content": "hi"}
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    called = [user, {"role": "assistant", "content": None, "tool_calls": [call]}]
    called.append({"role": "tool", "tool_call_id": "a", "content": "noon"})
    assert plain.complete(ChatRequest.build([user], max_tokens=1)).notes == ()
    with pytest.raises(RequestError, match=r"messages\[1\]"):
        plain.complete(ChatRequest.build([user, system], max_tokens=1))
    (note,) = plain.complete(ChatRequest.build(called, max_tokens=1)).notes
    assert note.startswith("messages[1].tool_calls[0]: ")
    stream = plain.stream(ChatRequest.build(called, max_tokens=1))
    assert stream.header.notes == (note,) and stream.result().notes == (note,)


def test_calls_in_a_syntax_that_is_not_known_are_noted(backend):
    source = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
    )
    template = ChatTemplate(backend.tokenizer, source)
    plain = LocalBackend("plain", tokenizer=backend.tokenizer, template=template, engine=backend.engine)
    tools = [{"type": "function", "function": {"name": "f"}}]
    (note,) = plain.complete(ChatRequest.build("hi", max_tokens=1, tools=tools)).notes
    assert note.startswith("tools: ") and "not known" in note
    assert plain.complete(ChatRequest.build("hi", max_tokens=1, tools=tools, tool_choice="none")).notes == ()
    assert ask(backend, max_tokens=1).notes == ()
