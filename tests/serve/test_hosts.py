"""Without a key a server answers to its own names alone, whoever resolves another one to its address."""

from __future__ import annotations

import pytest

from llmlab.errors import RequestError
from llmlab.serve.errors import HostError
from llmlab.serve.hosts import AllowedHosts
from tests.serve.bodies import ASK, encoded, http, post
from tests.serve.puppet import Puppet

LOOPBACK = ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:8000"]
OTHERS = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "10.0.0.1",
    "",
    "[",
    "@",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_names_are_answered(host: str) -> None:
    AllowedHosts().check({b"host": host.encode()})
    AllowedHosts().check({b"host": b"127.0.0.1", b"origin": f"http://{host}".encode()})


@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_not(host: str) -> None:
    for headers in ({b"host": host.encode()}, {b"host": b"localhost", b"origin": f"https://{host}".encode()}):
        with pytest.raises(HostError, match="--allow-host") as caught:
            AllowedHosts().check(headers)
        assert caught.value.status == 403
        AllowedHosts(checked=False).check(headers)  # a key is asked for instead
    with pytest.raises(HostError):
        AllowedHosts().check({b"origin": b"null"})  # a page in a sandbox, or a file


def test_names_can_be_added() -> None:
    hosts = AllowedHosts(["lab.example", "10.0.0.1"])
    for host in ("lab.example", "Lab.Example:80", "10.0.0.1:8000", "localhost"):
        hosts.check({b"host": host.encode()})
    with pytest.raises(HostError):
        hosts.check({b"host": b"sub.lab.example"})
    for wrong in ("", "lab.example:80", "http://lab.example", "a/b", "a@b"):
        with pytest.raises(RequestError, match="without a port"):
            AllowedHosts([wrong])


def test_every_path_of_a_server_without_a_key(running) -> None:
    with running(Puppet(script=lambda made: (made.say("Hello"), made.finish()))) as server:
        for path in ("/docs", "/openapi.json", "/health", "/v1/models"):
            refused = http.get(server.url + path, headers={"host": "evil.example"})
            assert refused.status_code == 403 and refused.json()["error"]["code"] == "host_not_allowed"
        refused = post(server.url, encoded(), host="evil.example")
        assert refused.status_code == 403 and not server.backend.streams
        assert post(server.url, encoded(), origin="https://evil.example").status_code == 403
        assert post(server.url, encoded(), origin="http://localhost:8888").status_code == 200
    with running(Puppet(script=lambda made: (made.say("Hello"), made.finish())), allow_hosts=["lab.example"]) as server:
        assert post(server.url, encoded(messages=ASK), host="lab.example").status_code == 200
    with running(Puppet(script=lambda made: (made.say("Hello"), made.finish())), api_key="k3y") as server:
        answered = post(server.url, encoded(), host="lab.example", authorization="Bearer k3y")
        assert answered.status_code == 200
