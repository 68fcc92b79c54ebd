"""Which web pages may read the answers: none, unless the server was told."""

from __future__ import annotations

import pytest

from llmlab.errors import RequestError
from llmlab.serve.origins import AllowedOrigins
from tests.serve.bodies import encoded, error_of, http, post
from tests.serve.puppet import Puppet

PAGE = "https://lab.example"
ASKED = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-stainless-os"}


def puppet():
    return Puppet(script=lambda made: (made.say("Hello"), made.finish()))


def preflight(url, origin, **headers):
    return http.request("OPTIONS", f"{url}/v1/chat/completions", headers={"origin": origin, **ASKED, **headers})


def test_no_page_may_by_default(running):
    with running(puppet()) as server:
        answered = post(server.url, encoded(), origin="http://localhost:3000")
        assert answered.status_code == 200 and "access-control-allow-origin" not in answered.headers
        assert "vary" not in answered.headers
        assert preflight(server.url, "http://localhost:3000").status_code == 405
        assert preflight(server.url, PAGE).status_code == 403


@pytest.mark.parametrize("key", [None, "k3y"])
def test_a_page_that_is_named_may(running, key):
    sent = {"authorization": f"Bearer {key}"} if key else {}
    with running(puppet(), api_key=key, allow_origins=[PAGE, "http://localhost:3000"]) as server:
        asked = preflight(server.url, PAGE)  # a browser sends it without the key
        assert asked.status_code == 200 and not asked.content
        assert asked.headers["access-control-allow-origin"] == PAGE and asked.headers["vary"] == "origin"
        assert asked.headers["access-control-allow-headers"] == ASKED["access-control-request-headers"]
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "access-control-allow-private-network" not in asked.headers
        local = preflight(server.url, PAGE, **{"access-control-request-private-network": "true"})
        assert local.headers["access-control-allow-private-network"] == "true"
        for stream in (False, True):
            answered = post(server.url, encoded(stream=stream), origin=PAGE, **sent)
            assert answered.status_code == 200 and answered.headers["access-control-allow-origin"] == PAGE
            assert "x-request-id" in answered.headers["access-control-expose-headers"]
        # A page can read an error, too: the one about a missing key, or about a field.
        refused = post(server.url, encoded(temperature=9), origin=PAGE)
        assert refused.status_code == (401 if key else 400) and refused.headers["access-control-allow-origin"] == PAGE
        for other in ("https://evil.example", "https://lab.example:8443", "http://lab.example", "null"):
            answered = post(server.url, encoded(), origin=other, **sent)
            assert answered.status_code == (200 if key else 403)
            assert "access-control-allow-origin" not in answered.headers and answered.headers["vary"] == "origin"
            assert preflight(server.url, other).status_code == (401 if key else 403)
        if not key:  # an allowed page does not make another host's name one of this server's
            assert post(server.url, encoded(), origin=PAGE, host="evil.example").status_code == 403
        plain = http.request("OPTIONS", f"{server.url}/v1/chat/completions", headers={"origin": PAGE, **sent})
        assert plain.status_code == 405 and error_of(plain)["code"] == "method_not_allowed"


def test_every_page_may_where_there_is_a_key(running):
    with running(puppet(), api_key="k3y", allow_origins=["*"]) as server:
        answered = post(server.url, encoded(), origin="null", authorization="Bearer k3y")
        assert answered.status_code == 200 and answered.headers["access-control-allow-origin"] == "null"
        assert post(server.url, encoded(), origin="https://evil.example").status_code == 401
    with pytest.raises(RequestError, match="needs a key"):
        AllowedOrigins(["*"], keyed=False)


@pytest.mark.parametrize(
    "wrong",
    ["", "lab.example", "https://", "https://lab.example/", "https://lab.example/a", "ftp://x", "https://a@b",
     "https://x:port", "https://x:0", "null", "https://[", "https://*.example"],
)  # fmt: skip
def test_an_origin_that_is_none(wrong):
    with pytest.raises(RequestError, match="an origin is a scheme") as caught:
        AllowedOrigins([wrong])
    assert caught.value.param == "allow_origin"


def test_an_origin_is_compared_as_browsers_write_it():
    origins = AllowedOrigins(["https://Lab.Example"])
    assert origins.allows({b"origin": b"https://lab.example"}) and not origins.allows({})
