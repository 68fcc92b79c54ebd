"""Whatever clients send, however many come, however they leave: an answer, or one clear error."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmlab.backends.local.stream import LocalStream
from llmlab.engine.live import Live
from llmlab.engine.scheduler import Job
from llmlab.grammar.matcher import Matcher
from llmlab.serve.app import create_app
from llmlab.serve.handler import Handler, find
from llmlab.serve.routes.chat import CHAT
from tests.serve.bodies import encoded, error_of, head_of, http, post, vanish
from tests.serve.mutations import VALID, VALID_ELSEWHERE, requests
from tests.serve.puppet import Puppet, wait


def test_what_is_mutated_is_valid_to_begin_with(server):
    for path, bodies in {CHAT.path: VALID, **VALID_ELSEWHERE}.items():
        for body in bodies:
            answer = post(server.url, json.dumps(body).encode(), path=path)
            assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_thousands_of_mutated_requests(demo):
    """In-process, through the code that the server answers with: what nobody foresaw is raised here."""

    def answer(data):
        conversation = Handler(demo.backend, CHAT)
        reply = conversation.start(data)
        body = next(reply.parts)  # of a stream the beginning will do
        conversation.leave()
        return data, reply.status, body

    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(answer, requests(4600, seed=1), timeout=300))
    statuses = Counter(status for _, status, _ in answers)
    print(f"\n{dict(statuses)}")
    assert statuses.total() == statuses[200] + statuses[400] + statuses[404] == 4600
    assert statuses[200] > 100 and statuses[400] > 1000
    for data, status, body in answers:
        if status != 200:
            assert json.loads(body)["error"]["param"] is not None and len(body) < 5000, (data, body)


@pytest.mark.slow
@pytest.mark.parametrize("path", VALID_ELSEWHERE)
def test_mutated_requests_to_the_other_paths(demo, path):
    route, _ = find("POST", path)

    def answer(data):
        conversation = Handler(demo.backend, route)
        reply = conversation.start(data)
        body = next(reply.parts)
        conversation.leave()
        return data, reply.status, body

    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(answer, requests(1500, seed=4, valid=VALID_ELSEWHERE[path]), timeout=300))
    statuses = Counter(status for _, status, _ in answers)
    print(f"\n{path}: {dict(statuses)}")
    assert statuses.total() == statuses[200] + statuses[400] + statuses[404] == 1500
    assert statuses[200] > 10 and statuses[400] > 300
    for data, status, body in answers:
        if status != 200:
            assert json.loads(body)["error"]["param"] is not None and len(body) < 5000, (data, body)


@pytest.mark.parametrize("path", VALID_ELSEWHERE)
def test_mutated_requests_to_the_other_paths_over_the_socket(server, path):
    for data in requests(60, seed=5, valid=VALID_ELSEWHERE[path]):
        answer = post(server.url, data, path=path)
        assert answer.status_code in (200, 400, 404), data
        assert answer.status_code == 200 or error_of(answer)["param"] is not None, data
    wait(lambda: server.admission.inside == 0)


def test_mutated_requests_over_the_socket(server):
    statuses: Counter[int] = Counter()
    with http.Client(timeout=60, headers={"content-type": "application/json"}) as client:
        for data in requests(400, seed=3):
            answer = client.post(f"{server.url}/v1/chat/completions", content=data)
            statuses[answer.status_code] += 1
            if answer.status_code != 200:
                assert answer.status_code in (400, 404) and error_of(answer)["param"] is not None, data
    assert statuses[400] > 200 and statuses[200] > 10
    wait(lambda: server.admission.inside == 0)


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ({"content_type": ""}, encoded()),
        ({"content_type": "text/plain"}, encoded()),
        ({"content_type": "application/x-www-form-urlencoded"}, b"messages=hi"),
        ({"content_type": "multipart/form-data; boundary=x"}, b"--x--"),
        ({"content_encoding": "gzip"}, b"\x1f\x8b\x08\x00"),
        ({}, b""),
        ({}, b"[" * 1_000_000),
    ],
)
def test_a_body_of_another_kind(server, headers, data):
    refused = post(server.url, data, **headers)
    assert refused.status_code == 400 and error_of(refused)["param"] == "body"


@pytest.mark.slow
def test_two_hundred_clients_at_once_on_eight_slots(server):
    async def ask(client, seed):
        fields = {"seed": seed, "max_tokens": 24, "stream": seed % 2 == 0, "temperature": 0.8, "ignore_eos": True}
        return await client.post(f"{server.url}/v1/chat/completions", content=encoded(**fields))

    async def all_of_them():
        limits = http.Limits(max_connections=None)
        async with http.AsyncClient(timeout=120, limits=limits, headers={"content-type": "application/json"}) as client:
            return await asyncio.gather(*(ask(client, number % 4) for number in range(200)))

    answers = asyncio.run(all_of_them())
    counts = Counter(answer.status_code for answer in answers)
    print(f"\n{dict(counts)}, {threading.active_count()} threads")
    assert set(counts) <= {200, 429} and counts[200] >= server.admission.places
    for answer in answers:
        if answer.status_code == 429:
            assert error_of(answer)["code"] == "queue_full" and int(answer.headers["retry-after"]) >= 1
    # Whoever sat beside them: one seed, one answer.
    texts = {seed: {text_of(a) for a in answers[seed::4] if a.status_code == 200} for seed in range(4)}
    assert [len(found) for found in texts.values()] == [1, 1, 1, 1]
    wait(lambda: server.admission.inside == 0)


def test_a_request_that_fails_inside_a_shared_batch_disturbs_nobody(server, monkeypatch):
    """Its grammar breaks after a few tokens, while seven others are in the same batch."""
    others = [encoded(seed=seed, max_tokens=40, temperature=0.8, ignore_eos=True) for seed in range(7)]
    alone = [text_of(post(server.url, data)) for data in others]
    looks: Counter[int] = Counter()

    def breaks(matcher):
        looks[id(matcher)] += 1
        return "it broke" if looks[id(matcher)] > 8 else None

    monkeypatch.setattr(Matcher, "error", property(breaks))
    doomed = encoded(response_format={"type": "json_object"}, stream=True, seed=1)

    async def together():
        async with http.AsyncClient(timeout=60, headers={"content-type": "application/json"}) as client:
            url = f"{server.url}/v1/chat/completions"
            return await asyncio.gather(*(client.post(url, content=data) for data in (doomed, *others)))

    failed, *answers = asyncio.run(together())
    *events, last, done, _ = failed.text.split("\n\n")
    assert "it broke" in json.loads(last.removeprefix("data: "))["error"]["message"] and done == "data: [DONE]"
    assert [text_of(answer) for answer in answers] == alone
    assert "choices" in events[0] and server.admission.inside == 0


def text_of(answer):
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json()["choices"][0]["message"]["content"]
    assert answer.text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


async def vanish_all(port, datas, *, reads):
    await asyncio.gather(*(vanish(port, data, reads=read) for data, read in zip(datas, reads, strict=True)))


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_vanish_end_their_work(running, stream):
    """With answers that would never end by themselves."""
    puppet = Puppet(slots=8, script=lambda stream: stream.say("Once"))
    with running(puppet, max_queue=100) as server:
        asyncio.run(vanish_all(server.port, [encoded(stream=stream)] * 100, reads=[300 * stream] * 100))
        wait(lambda: len(puppet.streams) == 100 or not server.admission.inside)
        wait(lambda: server.admission.inside == 0)
        assert all(stream.closed.is_set() for stream in puppet.streams)


def test_a_client_that_takes_nothing_counts_as_gone(running):
    """It asks, and never reads: once the buffers between are full, its answer has nowhere to go."""
    puppet = Puppet()
    with running(puppet, stalled=0.2) as server, socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(head_of(encoded(stream=True)) + encoded(stream=True))
        wait(lambda: puppet.streams)
        for _ in range(200):
            puppet.streams[0].say("x" * 2**16)
        wait(lambda: puppet.streams[0].closed.is_set() and server.admission.inside == 0)


@pytest.mark.parametrize("full", ["start", 1, 2, "end"])
def test_a_stream_ends_wherever_the_client_stops_to_take_it(full):
    """The line is full from some part of the answer on, its very end included, and stays so."""
    puppet = Puppet(script=lambda stream: [stream.say("Once"), stream.finish()])
    app = create_app(puppet, stalled=0.05)
    sent = []

    async def ask():
        coming = [{"type": "http.request", "body": encoded(stream=True), "more_body": False}]

        async def receive():
            return coming.pop() if coming else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)
            kind = "start" if message["type"] == "http.response.start" else len(sent) - 1
            if full == (kind if kind == "start" or message.get("more_body") else "end"):
                await asyncio.Event().wait()

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        scope |= {"query_string": b"", "root_path": "", "scheme": "http", "server": ("x", 1), "http_version": "1.1"}
        await asyncio.wait_for(app(scope, receive, send), timeout=30)

    asyncio.run(ask())
    assert puppet.streams[0].closed.is_set() and app.state.admission.inside == 0
    app.state.threads.shutdown()
    assert len(sent) == {"start": 1, 1: 2, 2: 3, "end": 6}[full] and (full == "end") is not sent[-1].get("more_body", 1)


@pytest.mark.slow
def test_vanished_clients_leave_no_slot_and_no_memory(server):
    datas = [encoded(stream=n % 2 == 0, max_tokens=400, ignore_eos=True, seed=n) for n in range(100)]
    reads = [250 if n % 2 == 0 and n < 16 else 0 for n in range(100)]

    def once():
        asyncio.run(vanish_all(server.port, datas, reads=reads))
        wait(lambda: server.admission.inside == 0)

    def all_gone():
        """How many objects there are, once none is left of a request; a row in line or in a slot would be one."""
        gc.collect()
        objects = gc.get_objects()
        kinds = (Handler, LocalStream, Job, Live)
        return 0 if any(type(thing) in kinds for thing in objects) else len(objects)

    for _ in range(3):  # by then the programs of such a load are compiled
        once()
    wait(all_gone, every=0.2)
    before, memory = all_gone(), resident()
    once()
    once()
    wait(all_gone, every=0.2)
    objects, memory = all_gone() - before, resident() - memory
    print(f"\nafter 200 more clients: {objects:+} objects, {memory / 2**20:+.1f} MiB")
    assert objects < 1000 and memory < 2**26 and len(asyncio.all_tasks(server.loop)) < 10


def resident():
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
