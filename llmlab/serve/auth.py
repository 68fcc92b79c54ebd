"""The API key, and the addresses on which the server may listen without one."""

from __future__ import annotations

import hmac
import ipaddress

from llmlab.errors import RequestError
from llmlab.serve.errors import ApiKeyError


class ApiKey:
    """The key that requests must carry as `Authorization: Bearer`; None asks for no key.

    Raises:
        RequestError: a header cannot carry the key.
    """

    def __init__(self, key: str | None) -> None:
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise RequestError("the API key must be ASCII characters without spaces, and at least one", param="api_key")
        self._key = None if key is None else key.encode("ascii")

    @property
    def wanted(self) -> bool:
        """Whether requests need a key."""
        return self._key is not None

    def check(self, authorization: bytes | None) -> None:
        """Raises `ApiKeyError` where the header does not carry the key."""
        if self._key is None:
            return
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        # Compared in constant time, so that the time does not tell how much of a guess was right.
        if not hmac.compare_digest(given.strip(), self._key) or scheme.lower() != b"bearer":
            what = "this API key is wrong" if authorization else "an API key is needed"
            raise ApiKeyError(f"{what}: send it as 'Authorization: Bearer KEY'")


def check_address(host: str, *, key: ApiKey) -> None:
    """Refuses an address that other machines can reach, unless there is a key.

    Raises:
        RequestError: the address is not a loopback address, and there is no key.
    """
    if key.wanted or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise RequestError(
            f"{host or 'every address'!r} can be reached by others, so it needs a key: set LLMLAB_API_KEY or "
            "--api-key, or listen on 127.0.0.1",
            param="host",
        )
