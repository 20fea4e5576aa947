"""The law of the house: what each file of the package may import, how long it may be, and where Lua and SQL stand.

`violations` reads the files and imports none of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

NAME = "django_anyio_channels"

TOP = {"", "apps", "channels_redis", "management", "management.commands", "management.commands.channels"}
"""The files beside the parts, which hold public names or are where Django looks; "" is the package's own __init__."""

BROKERS = {"memory", "redis", "postgres", "mqtt"}

BELOW = {
    "top": {"core", "hub", "django"},
    "core": {"core"},
    "hub": {"core", "hub"},
    "django": {"core", "hub", "django"},
    "testing": {"django", "testing"},
    "brokers.common": {"core", "brokers.common"},
    **{f"brokers.{broker}": {"core", "brokers.common", f"brokers.{broker}"} for broker in BROKERS},
}
"""What each part may import. The only way from Django to a broker is `FACTORY`."""

FACTORY = "django.configuration.factory"

_FRAMEWORKS = {"django", "channels", "asgiref", "daphne"}
_LOOPS = {"asyncio", "trio"}

FOREIGN = {
    "top": set[str](),
    "core": _FRAMEWORKS | _LOOPS,
    "hub": _FRAMEWORKS | _LOOPS,
    "django": {"trio"},
    "testing": {"trio"},
    "brokers.common": _FRAMEWORKS | {"trio"},
    **{f"brokers.{broker}": _FRAMEWORKS | {"trio"} for broker in BROKERS},
    # The embedded broker runs on asyncio and trio alike.
    "brokers.memory": _FRAMEWORKS | _LOOPS,
}
"""The packages that a part doesn't know."""

DRIVERS = {
    "redis": "brokers.redis",
    "hiredis": "brokers.redis",
    "asyncpg": "brokers.postgres",
    "prometheus_client": "django",
    "opentelemetry": "django",
    "pytest": "testing",
}
"""A client library is imported only by its broker, or for telemetry, so that nobody needs the others installed."""

ROOMS = [
    {"keys", "topics", "payloads", "statements"},
    {"packets"},
    {"decoder"},
    {"scripts", "tables"},
    {"options"},
    {"parameters"},
    {"address"},
    {"inflight"},
    {"connection"},
    {"access"},
    {"sentinel"},
    {"server"},
    {"subscriptions"},
    {"prefetch"},
    {"readers"},
    {"queues"},
    {"presence"},
    {"bindings"},
    {"inbox"},
    {"idempotency"},
    {"history"},
    {"deliveries"},
    {"bridge"},
    {"transactions"},
    {"publishing"},
    {"peers"},
    {"cluster"},
    {"session"},
    {"inspection", "doctor"},
    {"broker"},  # the embedded one
    {"verbs"},
    {"layer"},
    {"streams"},
]
"""The files of a broker's folder. Each imports only rooms before it. A room may be a folder."""

LONGEST_FILE = 350
LONGEST_CLASS = 250

CODE_OF_SERVERS = {".lua": "brokers/redis/lua", ".sql": "brokers/postgres/sql"}
"""Where the files stand that a server runs."""

_ARGUMENTS = {".lua": re.compile(r"\b(?:KEYS|ARGV)\b"), ".sql": re.compile(r"\$\d+")}
_EMBEDDED_LUA = re.compile(r"\bredis\.p?call\(|\b(?:KEYS|ARGV)\[")
_EMBEDDED_SQL = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|WITH|DO)\b.{100}", re.DOTALL)
_BROKER_PATH = re.compile(rf"(?:{NAME})?\.brokers\.\w")


@dataclass(frozen=True)
class Import:
    """One imported module, as an absolute name, and where."""

    name: str
    line: int
    for_types: bool
    """Under ``if TYPE_CHECKING``."""
    lazy: bool
    """Within a function."""


class Module:
    """A Python file of the package."""

    def __init__(self, package: Path, file: Path) -> None:
        self.file = file
        self.shown = file.relative_to(package.parent)
        self.is_package = file.name == "__init__.py"
        parts = file.relative_to(package).with_suffix("").parts
        self.path = parts[:-1] if self.is_package else parts
        self.name = ".".join(self.path)

    @cached_property
    def source(self) -> str:
        return self.file.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def part(self) -> str | None:
        """What it belongs to, a key of `BELOW`; None if it stands nowhere."""
        return part_of(self.name)

    @property
    def room(self) -> str | None:
        """Of a broker's folder, what stands in `ROOMS`."""
        return room_of(self.name)

    def imports(self) -> Iterator[Import]:
        """Every import of the file, those within functions and under TYPE_CHECKING too."""
        here = [NAME, *self.path]
        folder = here if self.is_package else here[:-1]
        for_types = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            for statement in node.body
            for inner in ast.walk(statement)
        }
        lazy = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for inner in ast.walk(node)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = folder[: len(folder) + 1 - node.level] if node.level else []
                origin = ".".join([*base, *([node.module] if node.module else [])])
                names = [f"{origin}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                yield Import(name, node.lineno, id(node) in for_types, id(node) in lazy)

    def strings(self) -> Iterator[tuple[int, str]]:
        """The line and the text of each string that is no docstring or other bare statement."""
        bare = {id(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
                yield node.lineno, node.value


def part_of(name: str) -> str | None:
    """The key of `BELOW` for a module of the package, or None."""
    first, _, rest = name.partition(".")
    if name in TOP:
        return "top"
    if first in ("core", "hub", "django", "testing"):
        return first
    broker = rest.partition(".")[0]
    return f"brokers.{broker}" if first == "brokers" and broker in BROKERS | {"common"} else None


def room_of(name: str) -> str | None:
    """The room of a module in a broker's folder; None outside of these, and for the folder itself."""
    parts = name.split(".")
    return parts[2] if len(parts) > 2 and parts[0] == "brokers" and parts[1] in BROKERS else None


def violations(package: Path) -> list[str]:
    """Every breach of the law, as a sentence that names file, line and rule."""
    modules = {module.name: module for module in (Module(package, file) for file in sorted(package.rglob("*.py")))}
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module in modules.values():
        if module.name == "brokers":
            continue
        if module.part is None:
            found.append(f"{module.shown}: stands in no part; the parts are {', '.join(sorted(BELOW))}")
            continue
        if module.room is not None and place(module.room) is None:
            found.append(f"{module.shown}: {module.room} is no room of a broker's folder; see ROOMS")
        for entry in module.imports():
            target = own(entry.name, modules)
            breaches = foreign_breaches(module, entry) if target is None else inner_breaches(module, entry, target)
            found += [f"{module.shown}:{entry.line}: {breach}" for breach in breaches]
            if target and not entry.for_types:
                graph.setdefault(module.name, set()).add(target)
        found += [f"{module.shown}{breach}" for breach in lengths(module)]
        found += [f"{module.shown}:{line}: {breach}" for line, breach in embedded(module)]
    strings = {text for module in modules.values() for _, text in module.strings()}
    found += [f"{file.relative_to(package.parent)}: {breach}" for file, breach in server_code(package, strings)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"{' imports '.join(reversed(error.args[1]))}; files import each other in a circle")
    return list(dict.fromkeys(found))


def own(name: str, modules: dict[str, Module]) -> str | None:
    """Which file of the package an absolute import names, if any ("" is the package itself)."""
    parts = name.split(".")
    if parts[0] != NAME:
        return None
    candidates = (".".join(parts[1:length]) for length in range(len(parts), 0, -1))
    return next((candidate for candidate in candidates if candidate in modules), "")


def foreign_breaches(module: Module, entry: Import) -> Iterator[str]:
    """What an import of somebody else's package does against the law."""
    top = entry.name.partition(".")[0]
    part = module.part or ""
    if top in FOREIGN[part] and not entry.for_types:
        yield f"imports {top}; {part} does not know it"
    if top in DRIVERS and part != DRIVERS[top]:
        yield f"imports {top}; only {DRIVERS[top]} may"


def inner_breaches(module: Module, entry: Import, target: str) -> Iterator[str]:
    """What an import of one file of the package by another does against the law."""
    part, to = module.part or "", part_of(target)
    if to is None or target in BELOW or target == "":
        yield f"imports from {NAME}{target and '.'}{target}; name the file that defines it"
    elif to in BELOW[part]:
        yield from room_breaches(module, target)
    elif to.startswith("brokers.") and (module.name == FACTORY or part == "top"):
        if not (entry.lazy or entry.for_types):
            yield f"imports {target} when it is imported itself; brokers are imported within functions"
    elif to.startswith("brokers.") and part == "django":
        yield f"imports {target}; only {FACTORY} knows the brokers"
    else:
        yield f"imports {target}; {part} may import only {', '.join(sorted(BELOW[part]))}"


def room_breaches(module: Module, target: str) -> Iterator[str]:
    """What an import within a broker's folder does against the order of its rooms."""
    room, other = module.room, room_of(target)
    if other is None or room == other or module.part != part_of(target):
        return
    if room is None:
        yield f"imports {target}; a folder's own __init__ imports nothing"
        return
    here, there = place(room), place(other)
    if here is not None and there is not None and there >= here:
        yield f"imports {target}; {other} does not stand before {room} in the order of rooms"


def place(room: str) -> int | None:
    """The place of a room in the order, or None."""
    return next((number for number, names in enumerate(ROOMS) if room in names), None)


def lengths(module: Module) -> Iterator[str]:
    """What is too long in a file."""
    lines = module.source.count("\n")
    if lines > LONGEST_FILE:
        yield f": has {lines} lines; no file has more than {LONGEST_FILE}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_CLASS:
            yield f":{node.lineno}: {node.name} has {length} lines; no class has more than {LONGEST_CLASS}"


def embedded(module: Module) -> Iterator[tuple[int, str]]:
    """Strings of a Python file that belong into files of their own, or into the factory."""
    for line, text in module.strings():
        if _EMBEDDED_LUA.search(text):
            yield line, f"holds Lua; it stands in a file in {CODE_OF_SERVERS['.lua']}"
        if _EMBEDDED_SQL.match(text):
            yield line, f"holds SQL; it stands in a file in {CODE_OF_SERVERS['.sql']}"
        if module.part == "django" and module.name != FACTORY and _BROKER_PATH.search(text):
            yield line, f"names {text}; only {FACTORY} knows the brokers"


def server_code(package: Path, strings: set[str]) -> Iterator[tuple[Path, str]]:
    """What is wrong with the files of Lua and SQL, which are loaded by a name that is among these strings."""
    for file in sorted(each for each in package.rglob("*") if each.suffix in CODE_OF_SERVERS):
        if file.stem not in strings:
            yield file, "is loaded by no file of Python"
        lines = file.read_text().splitlines()
        folder = file.parent.relative_to(package).as_posix()
        if folder != CODE_OF_SERVERS[file.suffix]:
            yield file, f"stands in {folder}; only {CODE_OF_SERVERS[file.suffix]} holds {file.suffix}"
        if len(lines) > LONGEST_FILE:
            yield file, f"has {len(lines)} lines; no file has more than {LONGEST_FILE}"
        first = next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))
        head, body = "\n".join(lines[:first]), "\n".join(lines[first:])
        if not head:
            yield file, "begins with no comment; its head says what it expects and promises"
            continue
        for argument in sorted(set(_ARGUMENTS[file.suffix].findall(body))):
            if not re.search(re.escape(argument) + r"(?!\w)", head):
                yield file, f"uses {argument}, of which its head says nothing"
