"""Clients that speak HTTP otherwise than a library does, on a bare socket: each gets its answer, and leaves nothing."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import pytest

from tests.serve.bodies import encoded
from tests.serve.puppet import Puppet, wait

POST = "POST /v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def hello(stream) -> None:
    stream.say("Hello")
    stream.finish()


def asked(line: str, body: bytes = b"", *, version: str = "1.1", **headers: str) -> bytes:
    """A request as it goes over the line; its length is said unless another header speaks of the body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body and "Transfer-Encoding" not in named:
        named.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "127.0.0.1", **named}.items())
    return f"{line} HTTP/{version}\r\n{head}\r\n".encode() + body


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


class Connection:
    """A connection; `read` gives one answer: its status, its headers and its body."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")

    def send(self, data: bytes) -> Connection:
        self._socket.sendall(data)
        return self

    def read(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        if not body:
            return status, headers, b""
        if "content-length" in headers:
            return status, headers, self._file.read(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            read = b""
            while size := int(self._file.readline(), 16):
                read += self._file.read(size)
                self._file.readline()
            self._file.readline()
            return status, headers, read
        return status, headers, self._file.read()

    def ended(self) -> bool:
        """Whether the server has closed it, behind what was read."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture(scope="module")
def served(request) -> Iterator:
    from tests.serve.conftest import running

    with running(Puppet(script=hello)) as server:
        yield server


@pytest.fixture
def line(served) -> Iterator[Connection]:
    line = Connection(served.port)
    yield line
    line.close()
    wait(lambda: served.admission.inside == 0)


def said(answer: tuple[int, dict[str, str], bytes]) -> str:
    status, _, body = answer
    assert status == 200, body
    return json.loads(body)["choices"][0]["message"]["content"]


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/v1/models", 200), ("/docs", 200), ("/no", 404)])
def test_head_is_get_without_the_body(line, path, status) -> None:
    line.send(asked(f"HEAD {path}") + asked(f"GET {path}"))
    head, whole = line.read(body=False), line.read()
    assert head[0] == whole[0] == status
    assert head[1]["content-length"] == whole[1]["content-length"] == str(len(whole[2])) != "0"
    line.send(asked("HEAD /v1/chat/completions"))
    assert line.read(body=False)[0] == 405


def test_other_methods_are_told_which_there_is(line) -> None:
    for method in ("OPTIONS", "PUT", "BREW"):
        status, headers, body = line.send(asked(f"{method} /v1/chat/completions")).read()
        assert (status, headers["allow"]) == (405, "POST") and b"this path takes POST" in body
        # No page of somebody else's may read what this server says, or send it JSON.
        assert not any(name.startswith("access-control") for name in headers)


def test_a_body_in_chunks(line) -> None:
    data = encoded()
    assert said(line.send(asked(POST, chunked(data[:5], data[5:]), **JSON, Transfer_Encoding="chunked")).read())


def test_a_client_that_waits_to_be_told_to_send(line) -> None:
    data = encoded()
    head = asked(POST, **JSON, Content_Length=str(len(data)), Expect="100-continue")
    assert line.send(head).read(body=False)[0] == 100
    assert said(line.send(data).read()) == "Hello"
    # Refused by its headers, it is not told to send at all.
    head = asked(POST, Content_Type="text/plain", Content_Length=str(len(data)), Expect="100-continue")
    assert line.send(head).read()[0] == 400


@pytest.mark.parametrize(
    "bad",
    [
        asked(POST, b"{}", **JSON),
        asked(POST, encoded(temperature=9, stream=True), **JSON),
        asked(POST, encoded() * 9_000, Content_Type="text/plain"),
        asked(POST, encoded() * 9_000, **JSON, Content_Encoding="gzip"),
        asked("POST /nowhere", encoded() * 9_000, **JSON),
        asked("PUT /v1/models", encoded() * 9_000, **JSON),
        asked(POST, encoded(model="other"), **JSON),
    ],
    ids=["empty", "stream", "type", "gzip", "path", "method", "model"],
)
def test_a_line_goes_on_after_an_error(line, bad) -> None:
    assert line.send(bad).read()[0] in (400, 404, 405)
    assert said(line.send(asked(POST, encoded(), **JSON)).read()) == "Hello"


def test_requests_one_behind_the_other(line) -> None:
    many = [asked(POST, encoded(), **JSON), asked(POST, b"{}", **JSON), asked(POST, encoded(stream=True), **JSON)]
    line.send(b"".join([*many, asked("GET /health")]))
    statuses = [line.read() for _ in range(4)]
    assert [status for status, *_ in statuses] == [200, 400, 200, 200]
    assert statuses[2][2].endswith(b"data: [DONE]\n\n") and statuses[3][2].startswith(b'{"status"')


def test_an_old_client_gets_its_stream_to_the_end_of_the_line(line) -> None:
    status, headers, body = line.send(asked(POST, encoded(stream=True), version="1.0", **JSON)).read()
    assert status == 200 and "transfer-encoding" not in headers and body.endswith(b"data: [DONE]\n\n")
    assert line.ended()


@pytest.mark.parametrize(
    "bad",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        asked(POST, encoded(), **JSON, Content_Length="-5"),
        asked(POST, b"zz\r\nhello\r\n", **JSON, Transfer_Encoding="chunked"),
    ],
    ids=["tls", "length", "chunks"],
)
def test_what_is_not_http_is_400_and_ends_the_line(line, bad) -> None:
    assert line.send(bad).read()[0] == 400
    assert line.ended()


def test_a_body_that_does_not_come_is_not_waited_for(running) -> None:
    with running(Puppet(script=hello), stalled=0.2) as server:
        line = Connection(server.port)
        status, headers, body = line.send(asked(POST, b'{"messages": [', **JSON, Content_Length="500")).read()
        error = json.loads(body)["error"]
        assert (status, error["code"], error["param"]) == (408, "body_timeout", "body")
        assert re.search(r"the body stopped after 14 bytes: nothing arrived for 0\.2 s", error["message"])
        assert headers["connection"] == "close" and line.ended() and server.admission.inside == 0
        line.close()
