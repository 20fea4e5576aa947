"""What is shipped: both archives build, hold what they should, and the wheel works where nothing else is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest

import django_anyio_channels
from tests.support.paths import ROOT

Script = Callable[[str], Any]

NEEDS = {
    "AnyioChannelLayer": "django",
    "AsyncResumingMixin": "django",
    "ChannelLayerHealthCheck": "django,health",
    "CreateChannelTables": "django",
    "EventStreamResponse": "django",
    "ResumableConsumer": "django",
    "SyncResumableConsumer": "django",
    "PostgreSQLChannelLayer": "postgres",
    "PrometheusCollector": "django",
    "RedisPubSubChannelLayer": "redis",
    "RedisStreamsChannelLayer": "redis",
    "PresenceMixin": "django",
    "ResumingMixin": "django",
    "get_channel_layer": "django",
    "graceful": "django",
    "Resumption": "django",
    "ChannelNameMiddleware": "django",
    "UserMixin": "django",
    "channel_token": "django",
    "user_groups": "django",
    "take_trace_context": "django",
}
"""Which extra brings what an exported name needs; every other name works without any extra."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout, and the wheel that was built from the sdist alone."""
    folder = tmp_path_factory.mktemp("dist")
    command([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT])
    return folder


@pytest.fixture(scope="module")
def wheel(archives: Path) -> Path:
    [found] = archives.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def script(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Script:
    """Runs a program in an environment with the wheel and what it requires, and returns what it prints as JSON."""
    folder = tmp_path_factory.mktemp("empty environment")
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    command([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel])

    def run(program: str) -> Any:
        return json.loads(command([python, "-I", "-X", "dev", "-W", "error", "-c", program], cwd=folder))

    return run


def command(words: list[str | Path], *, cwd: Path | None = None) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metadata(wheel: Path) -> Message:
    """The METADATA file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def of_the_package() -> set[str]:
    """Its files of Python, and those that servers and browsers run."""
    files = (ROOT / "django_anyio_channels").rglob("*")
    suffixes = (".py", ".lua", ".sql", ".js", ".ts", ".json")
    return {str(file.relative_to(ROOT)) for file in files if file.suffix in suffixes}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == of_the_package() | {"django_anyio_channels/py.typed"}


def test_sdist_holds_what_a_distributor_needs(archives: Path) -> None:
    [sdist] = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in names} - {""}
    assert {"LICENSE", "README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "SECURITY.rst", "docs", "benchmarks"} <= tops
    assert {"PKG-INFO", "pyproject.toml", "setup.cfg", "tox.ini"} <= tops
    assert {"tests/__main__.py", "tests/packaging/test_packaging.py", ".ci/run", ".ci/bootstrap.py"} <= names
    assert {"testproject/__main__.py", *of_the_package()} <= names
    assert not {name for name in names if "__pycache__" in name or name.endswith(".pyc")}
    assert not tops & {".venv", ".envs", ".tox", "build", "dist"}


def test_metadata(wheel: Path) -> None:
    told = metadata(wheel)
    assert told["Name"] == "django-anyio-channels"
    assert told["Requires-Python"] == ">=3.11"
    assert told["License-Expression"] == "BSD-3-Clause"
    assert told.get_all("License-File") == ["LICENSE"]
    assert told["Description-Content-Type"] == "text/x-rst"
    assert set(told.get_all("Provides-Extra", [])) == {
        *("cli", "django", "encryption", "health", "mqtt", "opentelemetry", "postgres", "prometheus", "redis")
    }
    required = {line for line in told.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert {line.partition(">=")[0] for line in required} == {"anyio", "msgpack", "msgspec"}


def test_changelog_knows_the_version(wheel: Path) -> None:
    headings = re.findall(r"\n(\S+) - (\d{4}-\d\d-\d\d|unreleased)\n=+\n", (ROOT / "CHANGELOG.rst").read_text())
    assert metadata(wheel)["Version"] == headings[0][0]


def test_importing_brings_no_framework_and_no_driver(script: Script) -> None:
    forbidden = ["pytest", "asgiref", "asyncpg", "channels", "cryptography", "django", "hiredis", "paho", "redis"]
    program = f"""if True:
        import json, sys
        import django_anyio_channels
        print(json.dumps(sorted(set(sys.modules) & set({forbidden!r}))))
    """
    assert script(program) == []
    # The same in this environment, where all of them are installed.
    assert json.loads(command([sys.executable, "-c", program], cwd=ROOT)) == []


def test_embedded_broker_works_where_nothing_else_is_installed(script: Script) -> None:
    program = """if True:
        import anyio, json
        from django_anyio_channels import Channel, InMemoryChannelLayer

        async def main():
            async with Channel(InMemoryChannelLayer()) as channel:
                async with channel.subscribe("chatroom") as subscriber:
                    await channel.publish("chatroom", {"message": "Message"})
                    async for event in subscriber:
                        return [event.group, event.message]

        print(json.dumps(anyio.run(main)))
    """
    assert script(program) == ["chatroom", {"message": "Message"}]


def test_missing_driver_is_one_sentence_that_names_the_extra(script: Script) -> None:
    found = script("""if True:
        import json
        import django_anyio_channels as package

        found = {}
        for name in package.__all__:
            try:
                getattr(package, name)
            except package.MissingDriver as error:
                found[name] = str(error)
        print(json.dumps(found))
    """)
    assert set(found) == {name for name in django_anyio_channels.__all__ if name in NEEDS}
    for name, sentence in found.items():
        assert sentence.endswith(f"pip install django-anyio-channels[{NEEDS[name]}]")
        assert "\n" not in sentence


def test_missing_cryptography_names_its_extra(script: Script) -> None:
    sentence = script("""if True:
        import json
        from django_anyio_channels import MissingDriver
        from django_anyio_channels.core.encryption import Encryption

        try:
            Encryption(["key"])
        except MissingDriver as error:
            print(json.dumps(str(error)))
    """)
    assert sentence == "Encryption needs the cryptography package: pip install django-anyio-channels[encryption]"


def test_archives_can_be_uploaded(archives: Path) -> None:
    checked = command([sys.executable, "-m", "twine", "check", "--strict", *archives.iterdir()])
    assert checked.count("PASSED") == 2


def test_plugin_of_pytest_needs_no_django(script: Script) -> None:
    program = """if True:
        import json, sys
        from importlib.metadata import entry_points
        from types import ModuleType

        class Pytest(ModuleType):  # which is not installed here
            def __getattr__(self, name):
                return lambda *args, **kwargs: args[0] if args else lambda function: function

        sys.modules["pytest"] = Pytest("pytest")
        [plugin] = entry_points(group="pytest11", name="django_anyio_channels")
        plugin = plugin.load()
        plugin.pytest_load_initial_conftests()
        plugin.pytest_runtest_setup()
        print(json.dumps(sorted(set(sys.modules) & {"asgiref", "channels", "django"})))
    """
    assert script(program) == []


def test_package_is_typed_for_its_users(script: Script) -> None:
    program = """if True:
        import json
        from importlib.resources import files
        print(json.dumps(files("django_anyio_channels").joinpath("py.typed").is_file()))
    """
    assert script(program) is True
