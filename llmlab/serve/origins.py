"""Cross-origin requests: which web pages may read this server's answers (CORS, https://fetch.spec.whatwg.org)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from llmlab.errors import RequestError, short

#: The origin that stands for all of them.
EVERY = "*"

#: Seconds for which a browser may remember the answer to a preflight.
_REMEMBERED = 600

#: What a page's script gets to see of the headers.
_EXPOSED = "x-request-id, retry-after"


class AllowedOrigins:
    """The origins of web pages that may ask this server and read what it answers; none by default.

    Args:
        origins: each `http://host` or `https://host`, with a port where the address has one; or `*` for every page.
        keyed: whether the server asks for a key. Without one it must not answer every page.

    Raises:
        RequestError: an origin that is none, or `*` without a key.
    """

    def __init__(self, origins: Iterable[str] = (), *, keyed: bool = True) -> None:
        self._origins = {_checked(origin, keyed=keyed) for origin in origins}

    def allows(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the request comes from a page that may read the answer."""
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        return bool(origin) and (origin in self._origins or EVERY in self._origins)

    def headers(self, request: Mapping[bytes, bytes]) -> dict[str, str]:
        """Returns the headers that an answer to a request gets."""
        if not self._origins:
            return {}
        # Caches must not hand an answer to a page of another origin.
        found = {"vary": "origin"}
        if self.allows(request):
            origin = request[b"origin"].decode("latin-1")
            found |= {"access-control-allow-origin": origin, "access-control-expose-headers": _EXPOSED}
        return found

    def preflight(self, method: str, request: Mapping[bytes, bytes]) -> dict[str, str] | None:
        """Returns the headers of the answer to a browser's question whether a page may ask; None if it is no such.

        The question comes without a key, and tells nothing that the answer could give away.
        """
        if method != "OPTIONS" or b"access-control-request-method" not in request or not self.allows(request):
            return None
        found = {
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": request.get(b"access-control-request-headers", b"").decode("latin-1"),
            "access-control-max-age": str(_REMEMBERED),
        }
        if b"access-control-request-private-network" in request:
            found["access-control-allow-private-network"] = "true"
        return found


def _checked(origin: str, *, keyed: bool) -> str:
    if origin == EVERY:
        if not keyed:
            raise RequestError(
                "allow-origin * lets every web page read the answers, so it needs a key: name the pages' origins, or "
                "set LLMLAB_API_KEY or --api-key",
                param="allow_origin",
            )
        return origin
    try:
        parts = urlsplit(origin)
        whole = parts.scheme in ("http", "https") and parts.hostname and f"{parts.scheme}://{parts.netloc}" == origin
        valid = bool(whole) and not {"@", "*"} & set(origin) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise RequestError(
            "an origin is a scheme, a host and perhaps a port, such as http://localhost:3000, got " + short(origin),
            param="allow_origin",
        )
    return origin.lower()
