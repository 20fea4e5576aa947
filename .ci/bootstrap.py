"""The environment that the project's commands run in, made by nothing but Python and a package index.

It neither needs pip nor ensurepip nor root, touches nothing outside the checkout, and is quick when nothing changed.
"""

import sys

# No newer syntax in this file: an old Python must get as far as these sentences.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "django-anyio-channels needs Python 3.11 or newer; this is {}.{} ({}). "
        "Name a newer one, for example: python3.12 {}".format(*sys.version_info[:2], sys.executable, sys.argv[0])
    )
if sys.platform == "win32":
    sys.exit("This command runs on Linux and macOS; on Windows use it inside WSL.")

import base64
import fcntl
import hashlib
import html
import http.client
import os
import re
import ssl
import subprocess
import tempfile
import urllib.parse
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "-e.[cli,django,encryption,health,mqtt,opentelemetry,postgres,prometheus,redis]"
PIP = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


def environment(group: str) -> Path:
    """The Python of an environment with the project and its dependency group ``group``.

    There is one environment for each version of Python, in ``.envs``. It is made anew if the checkout has moved or
    an earlier run was interrupted, and brought up to date when ``pyproject.toml`` has changed.
    Exits with one sentence when that can't be done.
    """
    folder = ROOT / ".envs" / "{}.{}".format(*sys.version_info)
    python = folder / "bin" / "python"
    complete = Stamp(folder / "complete", str(ROOT))
    installed = Stamp(folder / (group + ".installed"), _requirements())
    try:
        if not (python.exists() and complete.is_set() and installed.is_set()):
            folder.parent.mkdir(exist_ok=True)
            with _locked(folder.parent / "lock"):
                _bring_up_to_date(python, complete, installed, group)
    except OSError as error:
        sys.exit(f"Cannot make an environment: {error}. Use a clone of your own, on a disk with 500 MB left.")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next run begins anew.")
    return python


def _bring_up_to_date(python: Path, complete: "Stamp", installed: "Stamp", group: str) -> None:
    if not (python.exists() and complete.is_set()):
        folder = python.parent.parent
        _say(f"Making an environment for Python {folder.name} in {folder.relative_to(ROOT)} ...")
        venv.EnvBuilder(clear=True, symlinks=True).create(folder)
        _install_pip(python)
    elif installed.is_set():
        return  # another run did it while this one waited
    complete.unset()  # an interrupted installation may leave half a package
    _say(f"Installing the packages of the group '{group}' (the first time: about a minute) ...")
    _run(python, "-m", "pip", "install", "--quiet", PROJECT, "--group", group)
    installed.set()
    complete.set()


def run(python: Path, *arguments: str) -> NoReturn:
    """Become this Python process: signals, the terminal and the exit code are its own."""
    sys.stdout.flush()
    os.execv(python, [str(python), *arguments])


class Stamp:
    """A file that says for which state of affairs a step was completed."""

    def __init__(self, file: Path, state: str) -> None:
        self.file = file
        self.state = state

    def is_set(self) -> bool:
        """Whether the step was completed for this state, and not only for an earlier one."""
        return self.file.exists() and self.file.read_text() == self.state

    def set(self) -> None:
        """Remember that it is. A reader never sees half of it."""
        draft = self.file.with_name(self.file.name + ".new")
        draft.write_text(self.state)
        draft.replace(self.file)

    def unset(self) -> None:
        """Forget that it ever was."""
        self.file.unlink(missing_ok=True)


def _requirements() -> str:
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + PROJECT.encode()).hexdigest()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another run prepares this checkout; waiting for it ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _install_pip(python: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder, PIP)
        if find_spec("pip"):  # it knows from its configuration files where this machine gets packages
            version = PIP.split("-")[1]
            _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "pip==" + version)
        else:
            wheel.write_bytes(_download_pip())
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != PIP_SHA256:
            sys.exit(f"{PIP} from the package index has the SHA-256 {digest} instead of {PIP_SHA256}; do not trust it.")
        _run(python, wheel / "pip", "install", "--quiet", "--no-index", wheel)


def _download_pip() -> bytes:
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    try:
        page, place = _get(index)
        link = re.search(rf'href="([^"#]*{re.escape(PIP)})[#"]', page.decode())
        if not link:
            sys.exit(f"{_without_secrets(index)} has no {PIP}; set PIP_INDEX_URL to an index that has.")
        return _get(index, urllib.parse.urljoin(place, html.unescape(link[1])))[0]
    except OSError as error:
        sys.exit(
            f"Cannot fetch pip from {_without_secrets(index)}: {error}. Check the network, set PIP_INDEX_URL to an "
            f"index that this machine reaches, or install the packages python3-pip and ca-certificates."
        )
    except (ValueError, http.client.HTTPException):  # whose texts quote half of a password, or of a proxy's
        sys.exit(
            f"PIP_INDEX_URL, {_without_secrets(index)}, or the proxy's URL cannot be read. Percent-encode user and "
            f"password in it, or install the package python3-pip."
        )


def _get(index: str, link: str = "") -> tuple[bytes, str]:
    """What the index has under its own URL or under ``link``, and the URL where it was in the end."""
    trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=os.environ.get("PIP_CERT")))
    first = urllib.request.Request(link or _without_secrets(index))
    opener = urllib.request.build_opener(trust, _Credentials(index))
    with opener.open(first, timeout=60) as answer:
        body: bytes = answer.read()
        return body, answer.url


class _Credentials(urllib.request.HTTPRedirectHandler):
    """Shows the user and the password in an index's URL to that server only, wherever links and redirections lead."""

    def __init__(self, index: str) -> None:
        parts = urllib.parse.urlsplit(index)
        self._origin = _origin(index)
        secret = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        self._header = "Basic " + base64.b64encode(secret.encode()).decode() if parts.username else None

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if self._header and _origin(request.full_url) == self._origin:
            # Others are copied into the request that a redirection makes.
            request.add_unredirected_header("Authorization", self._header)
        return request

    https_request = http_request

    def redirect_request(self, *arguments: Any) -> "urllib.request.Request | None":
        request = super().redirect_request(*arguments)
        if request:
            request.remove_header("Proxy-authorization")  # the next server may be reached without the proxy
        return request


def _origin(url: str) -> "tuple[str, str | None, int | None]":
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _without_secrets(url: str) -> str:
    return re.sub("//.*@", "//", url)


def _run(*command: "str | Path") -> None:
    """Run pip, free of what the user's settings for pip would change here, and of the build backend's advice."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PIP_TARGET", "PIP_PREFIX")}
    environ.update(
        PYTHONWARNINGS="ignore",
        PIP_USER="0",
        PIP_REQUIRE_VIRTUALENV="0",
        PIP_NO_INPUT="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )
    if subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode != 0:
        sys.exit("The packages could not be installed; pip says why above. The next run tries again.")


def _say(line: str) -> None:
    print(line, flush=True)
