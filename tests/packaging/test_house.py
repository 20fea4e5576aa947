"""The import law: a file of the package imports only from the floors below it, or beside it without a circle.

Layers and hub stand beside each other and do not know each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "django_anyio_channels"

HUB = {"channel", "consuming", "line", "link", "topics", "rejoining"}
FLOORS: dict[int, set[str]] = {
    0: {"event", "exceptions"},
    1: {"serializers", "waiting", "stats", "subscriber", "batching", "layers.base", "layers.arrivals"},
    2: {
        "layers.memory",
        "layers.redis",
        "layers.postgres",
        "layers.mqtt",
        "layers.sharded",
        "channel",
        "consuming",
        "line",
        "link",
        "rejoining",
        "topics",
    },
    3: {"loops", "local", "naming", "config", "database"},
    4: {"node", "jobs", "handover", "courier", "sync", "transaction"},
    5: {"adapter", "channels_redis", "resuming", "apps", "checks", "management"},
}

# Floors 0 to 2 know neither Django nor an event loop of their own; only drivers may be written for asyncio.
CORE = range(3)
FRAMEWORKS = {"django", "channels", "asgiref", "daphne"}
LOOPS = {"asyncio", "trio"}

# A driver's client library is imported by that driver alone, so that nobody needs the others installed.
DRIVERS = {
    "redis": "layers.redis",
    "hiredis": "layers.redis",
    "asyncpg": "layers.postgres",
    "paho": "layers.mqtt",
}
EMBEDDED = {"layers.memory"}
"""Layers that run on asyncio and trio alike."""


@dataclass(frozen=True)
class Import:
    """One imported module, as an absolute name, and where."""

    name: str
    line: int
    at_runtime: bool


def modules(package: Path) -> dict[str, Path]:
    """Every file of the package by the name that the table above calls it."""
    named = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


def floor(module: str) -> int | None:
    """The floor of a module: by its own name, its folder's, or as one of several files of a driver."""
    for number, names in FLOORS.items():
        for name in names:
            if module == name or module.startswith((f"{name}.", f"{name}_")):
                return number
    return None


def imports(source: str, module: str, *, is_package: bool) -> Iterator[Import]:
    """Every import of a file, those within functions and under TYPE_CHECKING too."""
    here = ["django_anyio_channels", *(module.split(".") if module else [])]
    folder = here if is_package else here[:-1]
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) not in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{origin}.{alias.name}", node.lineno, id(node) not in for_types)


def own(name: str, known: dict[str, Path]) -> str | None:
    """Which file of the package an absolute import names, if any ('' is the package itself)."""
    parts = name.split(".")
    if parts[0] != "django_anyio_channels":
        return None
    for length in range(len(parts), 0, -1):
        candidate = ".".join(parts[1:length])
        if candidate in known:
            return candidate
    return ""


def violations(package: Path) -> list[str]:
    """Every breach of the law, as a sentence that names file, line and rule."""
    known = modules(package)
    found = []
    beside: dict[str, set[str]] = {}
    for module, file in known.items():
        where = file.relative_to(package.parent)
        if file.name == "__init__.py" and module in ("", "layers"):
            level = None
        else:
            level = floor(module)
            if level is None:
                found.append(f"{where}: stands on no floor; place it in FLOORS of tests/test_floors.py")
                continue
        for entry in imports(file.read_text(), module, is_package=file.name == "__init__.py"):
            found += [f"{where}:{entry.line}: {breach}" for breach in breaches(module, level, entry, known)]
            target = own(entry.name, known)
            if target and level == floor(target) and entry.at_runtime:
                beside.setdefault(module, set()).add(target)
    try:
        TopologicalSorter(beside).prepare()
    except CycleError as error:
        found.append(f"{' imports '.join(reversed(error.args[1]))}; files of one floor import each other in a circle")
    return found


def breaches(module: str, level: int | None, entry: Import, known: dict[str, Path]) -> Iterator[str]:
    """What one import does against the law."""
    target = own(entry.name, known)
    top = entry.name.split(".")[0]
    if target is not None:
        yield from inner_breaches(module, level, target)
        return
    core = level is None or level in CORE
    if core and top in FRAMEWORKS and entry.at_runtime:
        yield f"imports {top}; floors 0 to 2 know no Django and no Channels"
    driver = module.startswith("layers.") and module not in ("layers.base", *EMBEDDED)
    if core and top in LOOPS and not driver and entry.at_runtime:
        yield f"imports {top}; floors 0 to 2 use anyio, except the drivers"
    if top in DRIVERS and not module.startswith(DRIVERS[top]):
        yield f"imports {top}; only {DRIVERS[top]} may"


def inner_breaches(module: str, level: int | None, target: str) -> Iterator[str]:
    """What an import of one file of the package by another does against the law."""
    if level is None:
        return  # the package's own __init__ only names what the floors define
    if target in ("", "layers"):
        yield f"imports from django_anyio_channels{target and '.layers'}; name the file that defines it"
        return
    below = floor(target)
    if below is None or below < level:
        return
    if below > level:
        yield f"imports {target} of floor {below}, above its own floor {level}"
    elif level == 2 and driver_of(module) != driver_of(target):
        yield f"imports {target}; layers and hub do not know each other"


def driver_of(module: str) -> str:
    """What a file of floor 2 is a part of: ``layers.redis_cluster`` of the driver ``redis``; else the hub."""
    if module in HUB:
        return "hub"
    return module.removeprefix("layers.").partition("_")[0]


def test_package_keeps_the_import_law() -> None:
    assert violations(PACKAGE) == []


def test_floors_name_no_driver_twice() -> None:
    names = [name for floor_names in FLOORS.values() for name in floor_names]
    assert len(names) == len(set(names))
    assert set(DRIVERS.values()) <= FLOORS[2]
    assert FLOORS[2] >= EMBEDDED | HUB


@pytest.mark.parametrize(
    ("file", "line", "breach"),
    [
        ("novelty.py", "", "stands on no floor"),
        ("layers/pigeon.py", "", "stands on no floor"),
        ("event.py", "from .channel import Channel", "imports channel of floor 2, above its own floor 0"),
        ("event.py", "from django_anyio_channels.hub.channel import Channel", "imports channel of floor 2"),
        ("layers/base.py", "from ..local import Names", "imports local of floor 3"),
        ("channel.py", "from .layers.memory import InMemoryChannelLayer", "layers and hub do not know each other"),
        ("link.py", "from .layers.memory import InMemoryChannelLayer", "layers and hub do not know each other"),
        ("layers/redis.py", "from ..channel import Channel", "layers and hub do not know each other"),
        ("layers/redis.py", "from .memory import Broker", "layers and hub do not know each other"),
        ("channel.py", "from . import Event", "name the file that defines it"),
        ("channel.py", "import django.conf", "know no Django"),
        (
            "channel.py",
            "def late():\n    from channels.layers import get_channel_layer",
            "know no Django and no Channels",
        ),
        ("subscriber.py", "import asyncio", "use anyio, except the drivers"),
        ("layers/memory.py", "from asyncio import Queue", "use anyio, except the drivers"),
        ("layers/base.py", "import trio", "use anyio, except the drivers"),
        ("layers/postgres.py", "import redis", "only layers.redis may"),
        ("config.py", "import redis", "only layers.redis may"),
        ("config.py", "from .adapter import AnyioChannelLayer", "imports adapter of floor 5, above its own floor 3"),
        ("__init__.py", "import django", "know no Django"),
        ("__init__.py", "import asyncpg", "only layers.postgres may"),
    ],
)
def test_law_catches(tmp_path: Path, file: str, line: str, breach: str) -> None:
    package = a_house(tmp_path)
    (package / file).write_text(line)
    found = violations(package)
    assert len(found) == 1
    assert file in found[0]
    assert breach in found[0]


def test_law_catches_a_circle(tmp_path: Path) -> None:
    package = a_house(tmp_path)
    (package / "waiting.py").write_text("from .subscriber import Subscriber")
    assert violations(package) == []
    (package / "subscriber.py").write_text("from .waiting import Notifier")
    [found] = violations(package)
    assert "waiting imports subscriber" in found or "subscriber imports waiting" in found
    assert "in a circle" in found


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("subscriber.py", "from .waiting import Notifier"),
        ("subscriber.py", "import anyio"),
        ("channel.py", "from .link import Link"),
        ("layers/redis.py", "import asyncio, redis\nfrom .redis_cluster import slots\nfrom ..event import Event"),
        ("layers/redis_cluster.py", "from .redis import Link"),
        ("adapter.py", "import asyncio, channels\nfrom .channel import Channel\nfrom .checks import check"),
        ("channel.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import django"),
        ("__init__.py", "from .event import Event\nfrom .adapter import AnyioChannelLayer"),
        ("management/commands/listen.py", "import django\nfrom ...adapter import AnyioChannelLayer"),
    ],
)
def test_law_allows(tmp_path: Path, file: str, line: str) -> None:
    package = a_house(tmp_path)
    (package / file).write_text(line)
    assert violations(package) == []


def a_house(folder: Path) -> Path:
    """A package with an empty file in every place that has a name."""
    package = folder / "django_anyio_channels"
    for name in [name for names in FLOORS.values() for name in names]:
        if name == "management":
            file = package / "management/commands/listen.py"
        else:
            file = package / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (package / "layers/redis_cluster.py").touch()
    for init in ("__init__.py", "layers/__init__.py", "management/__init__.py"):
        (package / init).touch()
    return package
