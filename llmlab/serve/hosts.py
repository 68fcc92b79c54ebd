"""The names under which a server without a key answers: a web page must not reach it through somebody's browser.

A page can make a browser send requests to a server on loopback. With DNS rebinding it can even read the answers: its
own host name then resolves to 127.0.0.1. Both show in a header, the name in `Host` and the page in `Origin`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from llmlab.errors import RequestError, short
from llmlab.serve.errors import HostError

_OPTIONS = {b"host": "--allow-host NAME", b"origin": "--allow-host NAME or --allow-origin ORIGIN"}


class AllowedHosts:
    """Checks the `Host` and `Origin` of requests where there is no key.

    Args:
        names: further names that are allowed besides loopback, each without a port.
        checked: False where a key is asked for, which no web page knows.

    Raises:
        RequestError: a name that is empty, or holds more than a host.
    """

    def __init__(self, names: Iterable[str] = (), *, checked: bool = True) -> None:
        self._names = {self._name(name) for name in names}
        self._checked = checked

    def check(self, headers: Mapping[bytes, bytes], *, trusts_page: bool = False) -> None:
        """Raises `HostError` where the request was sent to another name, or by a web page of another host.

        `trusts_page`: the request comes from a web page that the server was told to answer.
        """
        if not self._checked:
            return
        for header in (b"host",) if trusts_page else (b"host", b"origin"):
            value = headers.get(header)
            if value is not None and not self._allows(value.decode("latin-1"), with_scheme=header == b"origin"):
                name = header.decode().title()
                raise HostError(
                    f"{name} {short(value.decode('latin-1'))} is not this server's: without a key it answers to "
                    f"loopback names only; start it with {_OPTIONS[header]}, or with a key"
                )

    def _allows(self, value: str, *, with_scheme: bool) -> bool:
        try:
            name = urlsplit(value if with_scheme else f"//{value}").hostname
        except ValueError:
            return False
        if name is None:
            return False
        if name == "localhost" or name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    @staticmethod
    def _name(name: str) -> str:
        try:
            found = urlsplit(f"//{name}")
            alone = found.hostname is not None and found.port is None and found.netloc == name and "@" not in name
        except ValueError:
            alone = False
        if not alone:
            raise RequestError(f"a host must be a name or an address without a port, got {short(name)}", param="host")
        return str(found.hostname)
