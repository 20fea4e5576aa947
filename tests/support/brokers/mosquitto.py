"""Mosquitto, the MQTT broker: anonymous, with passwords and access control, with TLS, with and without persistence."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .debian import Unpacked, unpack
from .redis import make_certificates
from .server import Server, ServerMissing, accepts_connections, find_program, free_port, new_folder
from .server import running as run_servers

USERNAME = "anna"
PASSWORD = "correct horse"

_GENEROUS = ["max_queued_messages 0", "max_queued_bytes 0"]
"""By default mosquitto drops in silence what a slow client has more than 1000 messages behind."""


@lru_cache(maxsize=1)
def find_mosquitto() -> Unpacked:
    """Environment variable MOSQUITTO, PATH and the sbin folders, then Debian's package in the user's cache."""
    found = find_program("MOSQUITTO", ["mosquitto"])
    return Unpacked(found, {}) if found else unpack("usr/sbin/mosquitto", ["mosquitto"])


@lru_cache(maxsize=2)
def find_client(name: str) -> Unpacked:
    """``mosquitto_pub`` or ``mosquitto_sub``: environment variable, PATH, or Debian's package in the user's cache."""
    found = find_program(name.upper(), [name])
    return Unpacked(found, {}) if found else unpack(f"usr/bin/{name}", ["mosquitto-clients"])


def _find_passwords_tool() -> Unpacked:
    """``mosquitto_passwd``, which comes with the broker."""
    found = find_program("MOSQUITTO_PASSWD", ["mosquitto_passwd"])
    if found:
        return Unpacked(found, {})
    broker = find_mosquitto()
    return Unpacked(str(Path(broker.program).parents[1] / "bin" / "mosquitto_passwd"), broker.environment)


@dataclass(frozen=True)
class Mosquitto:
    """One broker and how to reach it."""

    server: Server
    url: str
    ca_file: str | None = None

    @property
    def port(self) -> int:
        return self.server.port


def mosquitto(
    *options: str, listener: Sequence[str] = ("allow_anonymous true",), url: str = "", generous: bool = True
) -> Mosquitto:
    """One broker, not started yet; ``options`` are lines of its configuration, ``listener`` those of its listener.

    It queues without limits, unless it is not to be ``generous``.
    """
    folder = new_folder("mosquitto")
    return _prepare(folder, [*(_GENEROUS if generous else []), *options], listener, url or "mqtt://127.0.0.1:{port}")


def persistent() -> Mosquitto:
    """One that writes its sessions, queued and retained messages to disk after every change."""
    return mosquitto("persistence true", "persistence_location ./", "autosave_interval 1", "autosave_on_changes true")


def protected(*rules: str) -> Mosquitto:
    """One that wants `USERNAME` and `PASSWORD`; ``rules`` is its access control list (default: everything allowed)."""
    folder = new_folder("mosquitto")
    passwords = make_passwords(folder, USERNAME)
    acl = folder / "acl"
    acl.write_text("\n".join([f"user {USERNAME}", *(rules or ["topic readwrite #"])]) + "\n")
    listener = ["allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}"]
    secret = PASSWORD.replace(" ", "%20")
    return _prepare(folder, _GENEROUS, listener, f"mqtt://{USERNAME}:{secret}@127.0.0.1:{{port}}")


def make_passwords(folder: Path, username: str) -> Path:
    """A new file ``passwords`` for a broker, in which a user has `PASSWORD`."""
    tool = _find_passwords_tool()
    made = folder / "passwords"
    subprocess.run(
        [tool.program, "-b", "-c", made, username, PASSWORD], env={**os.environ, **tool.environment}, check=True
    )
    return made


def strict(topic: str) -> Mosquitto:
    """One that refuses subscriptions to ``topic``. (An access control list only drops what they would be sent.)"""
    folder = new_folder("mosquitto")
    rule = {"acltype": "subscribePattern", "topic": topic, "allow": False}
    kinds = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    security = {
        "defaultACLAccess": dict.fromkeys(kinds, True),
        "clients": [],
        "groups": [{"groupname": "all", "roles": [{"rolename": "reader"}]}],
        "roles": [{"rolename": "reader", "acls": [rule]}],
        "anonymousGroup": "all",
    }
    (folder / "security.json").write_text(json.dumps(security))
    options = [*_GENEROUS, f"plugin {_find_plugin()}", f"plugin_opt_config_file {folder}/security.json"]
    return _prepare(folder, options, ["allow_anonymous true"], "mqtt://127.0.0.1:{port}")


def _find_plugin() -> Path:
    name = "mosquitto_dynamic_security.so"
    program = Path(find_mosquitto().program)
    for folder in (program.parents[2] / "usr/lib", program.parents[1] / "lib", Path("/usr/lib")):
        for found in folder.rglob(name):
            return found
    raise ServerMissing(f"install mosquitto with its plugin {name} (Debian's package has it)")


def encrypted(*more: str) -> Mosquitto:
    """One that speaks TLS, with a certificate of an authority of its own (``ca_file``); ``more`` is of its listener."""
    folder = new_folder("mosquitto")
    make_certificates(folder)
    listener = [
        "allow_anonymous true",
        f"cafile {folder}/ca.crt",
        f"certfile {folder}/server.crt",
        f"keyfile {folder}/server.key",
        *more,
    ]
    url = f"mqtts://127.0.0.1:{{port}}/?ca_file={folder}/ca.crt"
    return _prepare(folder, _GENEROUS, listener, url, ca_file=f"{folder}/ca.crt")


def running(*brokers: Mosquitto) -> AbstractContextManager[None]:
    """Start the brokers, and stop them at the end."""
    return run_servers(*(each.server for each in brokers))


def _prepare(
    folder: Path, options: Sequence[str], listener: Sequence[str], url: str, ca_file: str | None = None
) -> Mosquitto:
    found = find_mosquitto()
    port = free_port()
    configuration = folder / "mosquitto.conf"
    # Started by root, mosquitto would become a user who may not read our folders.
    me = ["user root"] if os.geteuid() == 0 else []
    lines = ["per_listener_settings false", *me, *options, f"listener {port} 127.0.0.1", *listener]
    configuration.write_text("\n".join(lines) + "\n")
    server = Server(
        name="mosquitto",
        port=port,
        command=[found.program, "-c", str(configuration)],
        answers=accepts_connections(port),
        folder=folder,
        environment=found.environment,
    )
    return Mosquitto(server, url.format(port=port), ca_file)
