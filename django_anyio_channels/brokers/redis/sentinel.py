"""The master that Sentinels know by a name (``SENTINEL MASTER``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import hiredis

from ...core.exceptions import ListenerClosed
from ...core.options import check_options
from ..common.urls import hosts_and_ports, without_secrets
from .address import Address, database_in, read_location
from .connection import open_connection
from .options import OPTIONS, node_remapping
from .packets import encode_command, permission_cure, without_full_stop

_DEFAULT_PORT = 26379
_CONNECT_SECONDS = 1.0
"""After which the next Sentinel is asked."""

_CURES = {
    "unknown command": "It is not a Sentinel: write {address} for it",
    "No such master": "Check the master's name, and that the Sentinels watch it",
}


class Sentinels:
    """Some Sentinels, and how to log in at the master that they name."""

    def __init__(self, url: str, options: Mapping[str, Any], layer: type) -> None:
        """``layer`` as for `Address`."""
        parts, given = read_location(url, "sentinel")
        nodes = hosts_and_ports(parts, _DEFAULT_PORT)
        service, _, database = parts.path.partition("/")
        if not service:
            raise ValueError(
                f"{without_secrets(url)!r} does not name the master: write redis+sentinel://host:26379/mymaster/0"
            )
        self._service = unquote(service)
        given = {**options, **database_in(parts.scheme, database), **given}
        check_options(given, OPTIONS)
        self._remap = node_remapping(given.pop("address_remap", None))
        own_options = dict(given.pop("sentinel_kwargs", None) or {})
        self._master = Address(None, given, layer)
        secure = own_options.setdefault("ssl", self._master.ssl_context is not None)
        # What the URL says of TLS holds for the Sentinels, too, but not its user and password.
        inherited = {name: value for name, value in given.items() if secure and name.startswith("ssl_")}
        defaults = {"socket_connect_timeout": _CONNECT_SECONDS, **inherited}
        sentinel = Address(None, {**defaults, **own_options}, layer)
        self._sentinels = [sentinel.at(node) for node in nodes]

    def __str__(self) -> str:
        """A URL without secrets."""
        hosts = ",".join(f"{each.host}:{each.port}" for each in self._sentinels)
        return f"{self._master.scheme}+sentinel://{hosts}/{self._service}/{self._master.database}"

    @property
    def database(self) -> int:
        return self._master.database

    async def find_server(self) -> Address:
        """Return the address of the master, as the first Sentinel says that sees it up. Raises `ListenerClosed`."""
        errors = []
        for sentinel in self._sentinels:
            try:
                return self._master.at(self._remap(await self._ask(sentinel)))
            except ListenerClosed as error:
                errors.append(str(error))
        raise ListenerClosed(f"{self}: no Sentinel knows the master. {'; '.join(errors)}")

    async def _ask(self, sentinel: Address) -> tuple[str, int]:
        try:
            connection, (reply,) = await open_connection(sentinel, encode_command("SENTINEL", "MASTER", self._service))
        except ListenerClosed as error:
            if any(word in str(error) for word in ("WRONGPASS", "NOAUTH", "password")):
                raise ListenerClosed(f"{error} (the Sentinels' own are in sentinel_kwargs)") from None
            raise
        connection.abort()
        if isinstance(reply, hiredis.ReplyError):
            text = without_full_stop(str(reply))
            cures = (cure.format(address=sentinel) for word, cure in _CURES.items() if word in text)
            raise ListenerClosed(f"{sentinel}: {text}. {next(cures, permission_cure(text))}".rstrip(". "))
        master = dict(zip(reply[::2], reply[1::2], strict=True))
        if b"_down" in master[b"flags"]:
            raise ListenerClosed(f"{sentinel}: the master {self._service} is down")
        return master[b"ip"].decode(), int(master[b"port"])
