"""Every sample of the documentation is checked: programs run, settings are read, commands exist."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import channels
import django.core
import docutils.nodes
import pytest
from django.core.management import find_commands
from django.db import connections
from django.db.utils import ConnectionHandler

import django_anyio_channels
from tests.support.brokers import redis as brokers
from tests.support.paths import ROOT
from tests.support.programs import QUIET_ASYNCIO

from .pages import page, page_names
from .typed import CAPTIONED, write_project

Block = docutils.nodes.literal_block

NAMES = page_names()


def blocks(language: str) -> list[tuple[str, Block]]:
    return [(name, block) for name in NAMES for block in page(name).in_language(language)]


def name_of(sample: Any) -> str:
    return sample if isinstance(sample, str) else f"line {sample.line}"


PYTHON = blocks("python")
CONSOLE = blocks("console")
PROGRAMS = blocks("runs")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What samples import, in a folder."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[brokers.Redis]:
    made = brokers.plain("redis")
    with brokers.running(made):
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_text_is_valid(name: str) -> None:
    assert page(name).document["title"]


@pytest.mark.parametrize(("name", "block"), PYTHON, ids=name_of)
def test_python_compiles(name: str, block: Block) -> None:
    assert ast.parse(block.astext()).body


@pytest.mark.parametrize(("name", "block"), PROGRAMS, ids=name_of)
def test_programs_print_what_the_next_block_says(name: str, block: Block, server: brokers.Redis) -> None:
    on_page = page(name).blocks
    after = on_page[on_page.index(block) + 1]
    assert "prints" in after["classes"]
    program = block.astext().replace("redis+streams://localhost:6379/0", brokers.with_streams(server.url))
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", QUIET_ASYNCIO + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    warnings = done.stderr if "deliveries" not in program else ""  # dead letters are logged, which is the point there
    assert (done.returncode, warnings, done.stdout.strip()) == (0, "", after.astext().strip())


def settings_in(text: str) -> list[dict[str, Any]]:
    """Each CONFIG that a sample sets, or that its CHANNEL_LAYERS has."""
    names: dict[str, Any] = {}
    exec(text, names)
    if "CONFIG" in names:
        return [names["CONFIG"]]
    return [{"BACKEND": entry["BACKEND"], **entry["CONFIG"]} for entry in names["CHANNEL_LAYERS"].values()]


SET = re.compile(r"^(CONFIG|CHANNEL_LAYERS) =", re.MULTILINE)
SETTINGS = [(name, block) for name, block in PYTHON if SET.search(block.astext()) and name != CAPTIONED]


@pytest.mark.parametrize(("name", "block"), SETTINGS, ids=name_of)
def test_settings_are_accepted(
    name: str, block: Block, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    monkeypatch.setenv("CHANNEL_LAYER_KEY", "of the test, long enough")
    monkeypatch.setenv("CHANNEL_LAYER_URL", "redis://localhost:6379/0")
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}
    monkeypatch.setitem(connections.settings, "default", ConnectionHandler({"default": database}).settings["default"])
    brokers.make_certificates(tmp_path)
    text = re.sub(r"/etc/[\w./]+\.crt", str(tmp_path / "ca.crt"), block.astext())
    for config in settings_in(text):
        backend = config.pop("BACKEND", "django_anyio_channels.AnyioChannelLayer")
        module, _, class_name = backend.rpartition(".")
        read = getattr(importlib.import_module(module), class_name).read_config
        assert read(config).make_layers()


def commands() -> Iterator[tuple[str, list[str]]]:
    """The commands of all blocks for a shell: page and words."""
    for name, block in CONSOLE:
        for line in block.astext().replace("\\\n", " ").splitlines():
            assert line.startswith("$ "), f"{name}, line {block.line}: {line!r} shows no prompt"
            words = shlex.split(line[2:], comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            yield name, words


COMMANDS = [(f"{number} {' '.join(words)[:40]}", name, words) for number, (name, words) in enumerate(commands())]

FROM_SYSTEM = {
    *("apt-get", "cd", "docker", "export", "git", "kubectl", "mosquitto_pub", "mosquitto_sub", "redis-server", "rm"),
    *("source", "sudo", "systemctl", "uvx"),
}
"""Programs that the project's environment doesn't bring."""

MANAGED = {
    command
    for package in (django.core, channels, django_anyio_channels)
    for command in find_commands(str(Path(package.__path__[0], "management")))
}
"""The commands of ``manage.py``."""

OF_READERS = {Path(block["caption"]).stem for _, block in PYTHON if "/commands/" in block["caption"]}
"""Those that a page has written."""

EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.mark.parametrize(("name", "words"), [each[1:] for each in COMMANDS], ids=[each[0] for each in COMMANDS])
def test_commands_exist(name: str, words: list[str]) -> None:
    program, *arguments = words
    if program in ("python", "python3", "python3.12"):
        check_python(arguments)
    elif program not in FROM_SYSTEM:
        assert (Path(sys.executable).parent / program).is_file(), f"{name}: {program} is no program"
        check_options(program, arguments)


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        compile(arguments[1], "sample", "exec")
    elif arguments[:3] == ["-m", "pip", "install"]:
        ours = [word for word in arguments if word.startswith("django-anyio-channels")]
        named = [extra for word in ours for extra in re.findall(r"\[([\w,]+)\]", word)]
        assert {extra for extras in named for extra in extras.split(",")} <= EXTRAS
    elif arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), arguments
    elif arguments[0].endswith("manage.py"):
        assert arguments[1] in MANAGED | OF_READERS, arguments
    else:
        assert (ROOT / arguments[0]).exists(), arguments


def check_options(program: str, arguments: list[str]) -> None:
    """Servers list the options that they take."""
    options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), "--help"], capture_output=True, text=True, check=True
    )
    assert {each for each in options if not re.search(rf"(?<![\w-]){each}(?![\w-])", done.stdout)} == set()
