"""Who may ask, and where the server may listen without a key."""

from __future__ import annotations

import pytest

from llmlab.errors import RequestError
from llmlab.serve.auth import ApiKey, check_address
from llmlab.serve.errors import ApiKeyError
from llmlab.serve.server import bind, url_of


def test_without_a_key_everybody_is_let_in():
    ApiKey(None).check(None)
    ApiKey(None).check(b"Bearer anything")


@pytest.mark.parametrize("header", [b"Bearer k3y", b"bearer k3y", b"  Bearer   k3y "])
def test_the_key_lets_in(header):
    ApiKey("k3y").check(header)


@pytest.mark.parametrize(
    "header", [None, b"", b"k3y", b"Bearer", b"Bearer k3", b"Bearer k3y k3y", b"Basic k3y", b"Bearer \xff"]
)
def test_anything_else_does_not(header):
    with pytest.raises(ApiKeyError, match="Authorization: Bearer KEY") as caught:
        ApiKey("k3y").check(header)
    assert caught.value.status == 401 and "k3y" not in caught.value.message


@pytest.mark.parametrize("key", ["", "with space", "schlüssel", "tab\t"])
def test_a_key_that_no_header_can_carry(key):
    with pytest.raises(RequestError, match="the API key must be"):
        ApiKey(key)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    check_address(host, key=ApiKey(None))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.1", "example.org"])
def test_other_addresses_do(host):
    with pytest.raises(RequestError, match="needs a key: set LLMLAB_API_KEY or --api-key") as caught:
        check_address(host, key=ApiKey(None))
    assert caught.value.param == "host"
    check_address(host, key=ApiKey("k3y"))


def test_an_address_that_is_taken_is_a_clear_error():
    with bind("127.0.0.1", 0, api_key=None) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        assert url_of(sock) == f"http://127.0.0.1:{port}"
        with pytest.raises(RequestError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            bind("127.0.0.1", port, api_key=None)
