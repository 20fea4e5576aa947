"""The package keeps the law of the house (`law`), and the law catches what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.packaging.law import BELOW, BROKERS, CODE_OF_SERVERS, DRIVERS, FOREIGN, NAME, ROOMS, violations
from tests.support.paths import ROOT

FOLDERS = {
    "contract",
    "core",
    "hub",
    *(f"brokers/{folder}" for folder in ("common", *sorted(BROKERS))),
    "django",
    "testing",
    "asgi",
    "browser",
    "docs",
    "packaging",
    "support",
}
"""Where tests stand; a folder within these has the name of a folder of the package, or holds no tests."""


def test_package_keeps_the_law() -> None:
    found = violations(ROOT / NAME)
    assert not found, "\n".join(["", *found])


def test_law_names_each_part_and_each_room_once() -> None:
    assert set(FOREIGN) == set(BELOW)
    assert set(DRIVERS.values()) <= set(BELOW)
    rooms = [room for rooms in ROOMS for room in rooms]
    assert len(rooms) == len(set(rooms))


def test_tests_mirror_the_package() -> None:
    folders = {file.parent.relative_to(ROOT / "tests").as_posix() for file in (ROOT / "tests").rglob("test_*.py")}
    for folder in folders:
        inner = [name for name in FOLDERS if folder == name or folder.startswith(f"{name}/")]
        assert inner, f"tests/{folder} stands in no folder of the law"
        assert folder in (*FOLDERS, "support/brokers") or (ROOT / NAME / folder).is_dir(), f"tests/{folder}"
    assert FOLDERS - {"support"} <= {"/".join(folder.split("/")[:depth]) for folder in folders for depth in (1, 2)}


def test_files_that_take_long_exist() -> None:
    assert not [long for long in LONG if not (ROOT / "tests" / long).exists()]


LONG_FILE = "x = 1\n" * 351
LONG_CLASS = "class Long:\n" + "    x = 1\n" * 250
LUA_IN_PYTHON = 'SCRIPT = """\nreturn redis.call("GET", KEYS[1])\n"""'
SQL_IN_PYTHON = f'QUERY = "SELECT {"a, " * 50} b"'


@pytest.mark.parametrize(
    ("file", "text", "breach"),
    [
        # The parts.
        ("novelty.py", "", "stands in no part"),
        ("brokers/pigeon/layer.py", "", "stands in no part"),
        ("brokers/helper.py", "", "stands in no part"),
        ("core/layer.py", "from ..hub.channel import Channel", "core may import only core"),
        ("core/layer.py", "from django_anyio_channels.hub.channel import Channel", "core may import only core"),
        ("core/layer.py", "def late():\n    from ..django.nodes.node import Node", "core may import only core"),
        ("core/layer.py", "from ..brokers.memory.layer import Layer", "core may import only core"),
        ("core/layer.py", "from ..apps import Config", "core may import only core"),
        ("hub/channel.py", "from ..django.nodes.node import Node", "hub may import only core, hub"),
        ("hub/channel.py", "from ..brokers.memory.layer import Layer", "hub may import only core, hub"),
        ("hub/channel.py", "from ..brokers.common.batching import Batcher", "hub may import only core, hub"),
        ("brokers/common/batching.py", "from ..redis.keys import key", "brokers.common may import only"),
        ("brokers/redis/layer.py", "from ..memory.broker import Broker", "brokers.redis may import only"),
        ("brokers/redis/layer.py", "from ...hub.channel import Channel", "brokers.redis may import only"),
        ("brokers/redis/layer.py", "from ...django.nodes.node import Node", "brokers.redis may import only"),
        (
            "django/nodes/node.py",
            "from ...brokers.memory.layer import Layer",
            "configuration.factory knows the brokers",
        ),
        (
            "django/nodes/node.py",
            "def f():\n    from ...brokers.mqtt.bridge import B",
            "configuration.factory knows the brokers",
        ),
        (
            "django/nodes/node.py",
            'PATH = "django_anyio_channels.brokers.redis.layer.X"',
            "configuration.factory knows the brokers",
        ),
        ("django/configuration/factory.py", "from ...brokers.memory.layer import Layer", "imported within functions"),
        ("channels_redis.py", "from .brokers.redis.layer import Layer", "brokers are imported within functions"),
        ("django/layer.py", "from ..testing.plugin import x", "django may import only core, django, hub"),
        ("testing/plugin.py", "from ..hub.channel import Channel", "testing may import only django, testing"),
        ("django/layer.py", "import pytest", "only testing may"),
        ("hub/channel.py", "from .. import Event", "name the file that defines it"),
        ("hub/channel.py", "from ..core import Event", "name the file that defines it"),
        ("brokers/redis/layer.py", "from .. import common", "name the file that defines it"),
        ("brokers/redis/layer.py", "from ..common import Batcher", "name the file that defines it"),
        # Packages of others.
        ("core/layer.py", "import asyncio", "core does not know it"),
        ("hub/channel.py", "from trio import open_nursery", "hub does not know it"),
        ("hub/channel.py", "import django.conf", "hub does not know it"),
        ("hub/channel.py", "def late():\n    from channels.layers import get_channel_layer", "hub does not know it"),
        ("brokers/memory/broker.py", "from asyncio import Queue", "brokers.memory does not know it"),
        ("brokers/redis/layer.py", "from django.conf import settings", "brokers.redis does not know it"),
        ("brokers/common/urls.py", "import channels", "brokers.common does not know it"),
        ("brokers/postgres/layer.py", "import redis", "only brokers.redis may"),
        ("brokers/common/urls.py", "import asyncpg", "only brokers.postgres may"),
        ("django/configuration/factory.py", "def late():\n    import redis", "only brokers.redis may"),
        ("__init__.py", "import hiredis", "only brokers.redis may"),
        # The rooms of a broker.
        ("brokers/redis/pigeonhole.py", "", "pigeonhole is no room of a broker's folder"),
        ("brokers/redis/keys.py", "from .layer import Layer", "layer does not stand before keys"),
        ("brokers/redis/address.py", "from .connection import Connection", "connection does not stand before address"),
        ("brokers/postgres/payloads.py", "from .statements import Q", "statements does not stand before payloads"),
        ("brokers/redis/session.py", "from .streams.entries import Entry", "streams does not stand before session"),
        ("brokers/redis/cluster/routing.py", "from ..session import Session", "session does not stand before cluster"),
        ("brokers/mqtt/__init__.py", "from .layer import Layer", "a folder's own __init__ imports nothing"),
        # Lengths.
        ("core/layer.py", LONG_FILE, "has 351 lines; no file has more than 350"),
        ("core/layer.py", LONG_CLASS, "Long has 251 lines; no class has more than 250"),
        ("brokers/redis/lua/put.lua", "-- Head\n" * 351, "has 351 lines; no file has more than 350"),
        # What servers run.
        ("brokers/redis/scripts.py", LUA_IN_PYTHON, "holds Lua; it stands in a file in brokers/redis/lua"),
        ("brokers/postgres/statements.py", SQL_IN_PYTHON, "holds SQL; it stands in a file in brokers/postgres/sql"),
        ("brokers/redis/lua/unused.lua", "-- Unused.", "is loaded by no file of Python"),
        ("brokers/redis/put.lua", "-- Put.", "only brokers/redis/lua holds .lua"),
        ("brokers/redis/sql/put.sql", "-- Put.", "only brokers/postgres/sql holds .sql"),
        ("brokers/redis/lua/put.lua", "return 1", "begins with no comment"),
        ("brokers/redis/lua/put.lua", "-- Put.\nreturn KEYS[1]", "uses KEYS, of which its head says nothing"),
        ("brokers/redis/lua/put.lua", "-- KEYS[1]: the queue\nreturn ARGV[1]", "uses ARGV, of which its head says"),
        ("brokers/postgres/sql/put.sql", "-- $1: the queue, $10\nSELECT $2", "uses $2, of which its head says nothing"),
    ],
)
def test_law_catches(tmp_path: Path, file: str, text: str, breach: str) -> None:
    package = house(tmp_path)
    write(package / file, text)
    [found] = violations(package)
    assert file in found
    assert breach in found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("core/events.py", "core/layer.py"),
        ("brokers/redis/streams/entries.py", "brokers/redis/streams/layer.py"),
        ("django/dispatcher.py", "django/layer.py"),
    ],
)
def test_law_catches_a_circle(tmp_path: Path, one: str, other: str) -> None:
    package = house(tmp_path)
    write(package / one, f"def late():\n    from .{Path(other).stem} import x")
    assert violations(package) == []
    write(package / other, f"from .{Path(one).stem} import y")
    [found] = violations(package)
    names = [file.removesuffix(".py").replace("/", ".") for file in (one, other)]
    assert "{} imports {}".format(*names) in found or "{1} imports {0}".format(*names) in found
    assert "in a circle" in found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("__init__.py", "from .core.events import Event\nif TYPE_CHECKING:\n    from .brokers.redis.layer import L"),
        ("apps.py", "import django\nfrom .django.configuration.checks import check"),
        ("channels_redis.py", "def late():\n    from .brokers.redis.layer import Layer"),
        ("core/layer.py", "import anyio\nfrom . import events\nfrom .exceptions import Error"),
        ("core/layer.py", "if TYPE_CHECKING:\n    import asyncio"),
        ("core/events.py", "if TYPE_CHECKING:\n    from .layer import L\nfrom .exceptions import Error"),
        ("hub/channel.py", "from ..core.layer import Layer\nfrom .session import Session"),
        ("brokers/common/batching.py", "import asyncio\nfrom ...core.layer import Layer\nfrom .urls import read"),
        ("brokers/memory/layer.py", "import anyio\nfrom .broker import Broker\nfrom ..common import urls"),
        (
            "brokers/redis/layer.py",
            "import asyncio, redis, hiredis\nfrom .session import S\nfrom .cluster.routing import R",
        ),
        ("brokers/redis/cluster/routing.py", "from .discovery import find\nfrom ..subscriptions import S"),
        ("brokers/redis/streams/layer.py", "from ..layer import Layer\nfrom .entries import Entry"),
        ("brokers/redis/queues.py", "from . import keys, scripts\nfrom .server import Server"),
        ("brokers/redis/scripts.py", '"""Each script is given its ``KEYS[1]``."""\nPUT = "put.lua"'),
        ("brokers/postgres/session.py", 'QUERY = "SELECT pg_is_in_recovery()"'),
        ("django/configuration/factory.py", "def late():\n    from ...brokers.redis.layer import Layer"),
        ("django/configuration/factory.py", 'PATH = "django_anyio_channels.brokers.redis.layer.X"'),
        ("django/layer.py", "import asyncio, channels\nfrom ..hub.channel import C\nfrom .nodes.node import Node"),
        ("django/management/commands/listen.py", "import django\nfrom ...layer import AnyioChannelLayer"),
        ("core/layer.py", LONG_FILE.removesuffix("x = 1\n")),
        ("core/layer.py", LONG_CLASS.removesuffix("    x = 1\n")),
        (
            "brokers/redis/lua/put.lua",
            "-- Put.\n-- KEYS[1]: the queue\n-- ARGV[1]: a message\nreturn {KEYS[1], ARGV[1]}",
        ),
        ("brokers/postgres/sql/put.sql", "-- Put $1 into $2.\nSELECT $1, $2"),
    ],
)
def test_law_allows(tmp_path: Path, file: str, text: str) -> None:
    package = house(tmp_path)
    write(package / file, text)
    assert violations(package) == []


def house(folder: Path) -> Path:
    """A package with empty files in every part."""
    package = folder / NAME
    for name in (
        *("apps", "channels_redis", "core/events", "core/exceptions", "core/layer", "hub/channel", "hub/session"),
        *("brokers/common/batching", "brokers/common/urls", "brokers/memory/broker", "brokers/memory/layer"),
        *(f"brokers/redis/{room}" for room in ("keys", "scripts", "address", "connection", "server", "subscriptions")),
        *(f"brokers/redis/{room}" for room in ("queues", "cluster/discovery", "cluster/routing", "session", "layer")),
        *("brokers/redis/streams/entries", "brokers/redis/streams/layer"),
        *(f"brokers/postgres/{room}" for room in ("payloads", "statements", "session", "layer")),
        *("brokers/mqtt/bridge", "brokers/mqtt/layer"),
        *(f"django/{room}" for room in ("configuration/checks", "configuration/factory", "nodes/node", "dispatcher")),
        *("django/layer", "django/management/commands/listen"),
        *("testing/isolation", "testing/plugin"),
    ):
        write(package / f"{name}.py", "")
    write(package / "brokers/redis/server.py", 'PUT = "put"')
    for parent in {file.parent for file in package.rglob("*.py")} | {package, package / "brokers"}:
        write(parent / "__init__.py", "")
    for folder_of_code in CODE_OF_SERVERS.values():
        (package / folder_of_code).mkdir()
    return package


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
