"""The set-up that both commands share, on checkouts of a tiny project."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "tiny"
version = "1"
optional-dependencies = { cli = [], django = [], encryption = [], health = [], mqtt = [], postgres = [], redis = [] }

[dependency-groups]
tools = ["iniconfig"]

[tool.hatch.build.targets.wheel]
packages = ["tiny"]
"""

# What these variables do to pip must not reach the environment.
HOSTILE = {"PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_TARGET": "/nowhere", "PYTHONWARNINGS": "error"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its name, as newcomers have them."""
    folder = tmp_path / "my clone"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(PROJECT)
    shutil.copytree(ROOT / ".ci", folder / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(checkout: Path, *flags: str, **variables: str) -> subprocess.Popen[str]:
    """A command that only makes its environment and becomes the Python in it."""
    script = checkout / "command.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(checkout / '.ci')!r})\n"
        "from bootstrap import environment, run\n"
        "run(environment('tools'), '-c', 'import sys, tiny, iniconfig; print(sys.prefix)')\n"
    )
    environ = {**os.environ, **HOSTILE, **variables}
    pipe = subprocess.PIPE
    command = [sys.executable, *flags, str(script)]
    return subprocess.Popen(command, cwd="/", env=environ, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def prepare(checkout: Path, *flags: str) -> list[str]:
    """The lines that a successful command prints."""
    process = start(checkout, *flags)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, output + errors
    lines = output.splitlines()
    assert lines.pop() == str(next((checkout / ".envs").glob("3.*")))
    return lines


def test_first_runs_make_one_environment_and_later_ones_use_it(checkout: Path) -> None:
    runs = [start(checkout), start(checkout)]
    outputs = [run.communicate(timeout=100) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    both = "".join(output for output, _ in outputs)
    assert both.count("Making an environment for Python") == 1
    assert both.count("Installing the packages of the group 'tools'") == 1

    assert prepare(checkout) == []

    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    [line] = prepare(checkout)
    assert line.startswith("Installing the packages of the group 'tools'")


def test_interrupted_run_leaves_nothing_that_the_next_trusts(checkout: Path) -> None:
    interrupted = start(checkout)
    assert interrupted.stdout
    assert interrupted.stdout.readline().startswith("Making")
    assert interrupted.stdout.readline().startswith("Installing")
    os.killpg(interrupted.pid, signal.SIGKILL)
    interrupted.communicate(timeout=100)
    [environment] = (checkout / ".envs").glob("3.*")
    (environment / "half of it").touch()

    # Without site, hence without site-packages and pip, as on a bare Debian.
    assert len(prepare(checkout, "-S")) == 2
    assert not (environment / "half of it").exists()


def test_environment_of_a_moved_checkout_is_not_trusted(checkout: Path) -> None:
    elsewhere = checkout / ".envs" / "{}.{}".format(*sys.version_info)
    (elsewhere / "bin").mkdir(parents=True)
    (elsewhere / "bin" / "python").symlink_to(sys.executable)
    (elsewhere / "complete").write_text(str(checkout.with_name("where it was")))
    with index("<html></html>") as url:
        process = start(checkout, "-S", PIP_INDEX_URL=url)
        output, _ = process.communicate(timeout=100)
    assert output.startswith("Making an environment for Python")
    assert not (elsewhere / "complete").exists()


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A web server; gives its host and port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def index(page: str, moved: dict[str, str] | None = None) -> Iterator[str]:
    """A package index that asks for a password; gives its URL. ``moved`` says where a path redirects to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == "Basic YW5uOnNlY3JldA=="  # ann:secret
            elsewhere = (moved or {}).get(self.path)
            self.send_response(401 if not allowed else 302 if elsewhere else 200)
            self.send_header("Location", elsewhere or "")
            self.end_headers()
            self.wfile.write(page.encode() if self.path.endswith("/simple/pip/") else b"no wheel")

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with serving(Handler) as place:
        yield f"http://ann:secret@{place}/simple"


@contextmanager
def stranger() -> Iterator[tuple[str, list[str]]]:
    """Another server: its URL, and the credentials that it was sent."""
    credentials: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names = ("Authorization", "Proxy-Authorization")
            credentials.extend(filter(None, (self.headers[name] for name in names)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"no wheel")

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with serving(Handler) as place:
        yield f"http://{place}/", credentials


def refusal(checkout: Path, url: str, **variables: str) -> str:
    """The one sentence with which a command ends that cannot get pip from this index."""
    process = start(checkout, "-S", PIP_INDEX_URL=url, **variables)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert "secret" not in errors
    return errors


def test_pip_that_gets_nothing_from_the_index_shows_no_password(checkout: Path) -> None:
    with index("<html></html>") as url:
        process = start(checkout, PIP_INDEX_URL=url, PIP_RETRIES="0", PIP_NO_CACHE_DIR="1", PIP_FIND_LINKS="")
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "pip says why above" in errors
    assert "secret" not in output + errors


def test_other_pip_than_the_tested_one_is_refused(checkout: Path) -> None:
    with index('<a href="../../files/pip-26.3-py3-none-any.whl#sha256=0">pip</a>') as url:
        assert "do not trust it" in refusal(checkout, url)


LINK = '<a href="pip-26.3-py3-none-any.whl#sha256=0">pip</a>'


def test_credentials_of_the_index_do_not_follow_a_redirect_to_another_server(checkout: Path) -> None:
    with stranger() as (elsewhere, credentials):
        for path in ("/simple/pip/", "/simple/pip/pip-26.3-py3-none-any.whl"):
            with index(LINK, {path: elsewhere}) as url:
                assert "has no pip" in (answer := refusal(checkout, url)) or "do not trust it" in answer
    assert credentials == []


def test_credentials_of_the_index_do_not_follow_a_link_to_another_server(checkout: Path) -> None:
    with stranger() as (elsewhere, credentials), index(LINK.replace("pip-", f"{elsewhere}pip-", 1)) as url:
        assert "do not trust it" in refusal(checkout, url)
    assert credentials == []


def test_credentials_follow_redirects_and_links_within_the_index(checkout: Path) -> None:
    with index(LINK, {"/simple/pip/": "/mirror/simple/pip/"}) as url:
        assert "do not trust it" in refusal(checkout, url)  # a wheel came, though not the right one
    with index(LINK, {"/mirror/simple/pip/pip-26.3-py3-none-any.whl": "/wheel"}) as url:
        assert "do not trust it" in refusal(checkout, url.replace("/simple", "/mirror/simple"))


def test_credentials_of_a_proxy_do_not_follow_a_redirect_past_it(checkout: Path) -> None:
    with stranger() as (elsewhere, credentials):
        place = elsewhere.replace("127.0.0.1", "localhost")
        with index(LINK, {"http://index.invalid/simple/pip/": place}) as proxy:
            refusal(
                checkout,
                "http://ann:secret@index.invalid/simple",
                http_proxy=proxy.removesuffix("/simple"),
                no_proxy="localhost",
            )
    assert credentials == []


@pytest.mark.parametrize("url", ["http://ann:se/secret@127.0.0.1:9/simple", "http://ann:secret@[::1/simple"])
def test_url_that_cannot_be_read_is_named_without_its_password(checkout: Path, url: str) -> None:
    sentence = refusal(checkout, url)
    assert "Percent-encode user and password" in sentence
    assert "se/" not in sentence


def test_index_without_pip_is_named(checkout: Path) -> None:
    with index("<html></html>") as url:
        assert "has no pip-26.3-py3-none-any.whl; set PIP_INDEX_URL" in refusal(checkout, url)


def test_unreachable_index_is_named_with_the_cure(checkout: Path) -> None:
    with index("") as url:
        pass
    sentence = refusal(checkout, url)
    assert url.replace("ann:secret@", "") in sentence
    assert "set PIP_INDEX_URL" in sentence
    assert "python3-pip" in sentence


def test_foreign_checkout_is_refused(checkout: Path) -> None:
    (checkout / ".envs").write_text("a file, so that not even root can make a folder here")
    process = start(checkout)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert str(checkout / ".envs") in errors
