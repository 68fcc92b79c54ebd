"""Who may ask: an API key, and which addresses may be listened on without one."""

from __future__ import annotations

import hmac
import ipaddress

from llmlab.errors import RequestError
from llmlab.serve.refusals import ApiKeyError


class ApiKey:
    """A key that requests have to bring as `Authorization: Bearer`; None lets everybody in.

    Raises:
        RequestError: a key that no header could carry.
    """

    def __init__(self, key: str | None) -> None:
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise RequestError("the API key must be ASCII characters without spaces, and at least one", param="api_key")
        self._key = None if key is None else key.encode("ascii")

    @property
    def wanted(self) -> bool:
        """Whether a key is asked for."""
        return self._key is not None

    def check(self, authorization: bytes | None) -> None:
        """Let a request in by its header, or raise `ApiKeyError`."""
        if self._key is None:
            return
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        # In constant time: how long a comparison takes must not tell how much of a guess was right.
        if not hmac.compare_digest(given.strip(), self._key) or scheme.lower() != b"bearer":
            what = "this API key is wrong" if authorization else "an API key is needed"
            raise ApiKeyError(f"{what}: send it as 'Authorization: Bearer KEY'")


def check_address(host: str, *, key: ApiKey) -> None:
    """Refuse to listen where others can reach the server, unless there is a key.

    Raises:
        RequestError: an address other than loopback, and no key.
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
