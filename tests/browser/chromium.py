"""A Chromium for the tests: the environment variable CHROMIUM, PATH, or a copy in the user's cache.

The copy comes from an npm package, or from Debian's, without root and without changing the system.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from ctypes.util import find_library
from functools import lru_cache
from pathlib import Path

from tests.support.brokers.debian import Unpacked, complaint, unpack
from tests.support.brokers.server import ServerMissing, find_program

NAMES = ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable"]
CURE = "install Chromium (Debian: apt-get install chromium-headless-shell) or name one in the variable CHROMIUM"

PACKAGE = "@sparticuz/chromium@147.0.0"
SHA512 = "4ZKeAQQa8up2mt675qSitztLdbQrlf8BKdC5naeap+5Mv1OV1OlJdPoU+EJC/p5sQUJUQmN4r+q5+EhaaOUHpQ=="
DEBIAN = [
    "chromium-headless-shell",
    "chromium-common",
    "libasyncns0",
    "libdouble-conversion3",
    "libflac12",
    "libharfbuzz-subset0",
    "libminizip1",
    "libmp3lame0",
    "libmpg123-0",
    "libogg0",
    "libopenh264-7",
    "libopenjp2-7",
    "libopus0",
    "libpulse0",
    "libsndfile1",
    "libvorbis0a",
    "libvorbisenc2",
    "libxnvctrl0",
]

# The package's files are packed with Brotli, which Python's library can't read and Node's can.
UNPACK = """
const fs = require("fs"), zlib = require("zlib");
for (const name of ["chromium", "al2023.tar", "fonts.tar"])
  fs.writeFileSync(name, zlib.brotliDecompressSync(fs.readFileSync("package/bin/" + name + ".br")));
"""
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir prefix="relative">{folder}</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""


@lru_cache(maxsize=1)
def find_chromium() -> Unpacked:
    """A Chromium that starts, and the variables that it wants.

    Raises `ServerMissing` with one sentence that says what to install.
    """
    named = find_program("CHROMIUM", NAMES)
    if named:
        return Unpacked(named, {})
    if sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("npm") and shutil.which("node"):
        return _from_npm()
    try:
        return _from_debian()
    except ServerMissing as missing:
        raise ServerMissing(f"{CURE}; {missing}") from None


def _from_debian() -> Unpacked:
    unpacked = unpack("usr/lib/chromium/chromium-headless-shell", DEBIAN)
    fonts = Path(unpacked.program).parents[3] / "fonts.conf"
    # A system without fonts lacks their configuration, too, and Chromium crashes at the first text.
    fonts.write_text(FONTS.format(folder="usr/share/fonts"))
    return Unpacked(unpacked.program, {**unpacked.environment, "FONTCONFIG_FILE": str(fonts)})


def _from_npm() -> Unpacked:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "django-anyio-channels"
    root = cache / PACKAGE.rpartition("/")[2]
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            _download(Path(work))
            try:
                Path(work, "ready").rename(root)
            except OSError:
                if not root.exists():
                    raise
                # another test run was quicker: its copy is as good
    environment = {"FONTCONFIG_FILE": str(root / "fonts.conf")}
    if not find_library("nss3"):
        inherited = os.environ.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([str(root / "lib"), *([inherited] if inherited else [])])
    return Unpacked(str(root / "chromium"), environment)


def _download(work: Path) -> None:
    _run(["npm", "pack", "--silent", PACKAGE], work)
    [archive] = work.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != SHA512:
        raise ServerMissing(f"{CURE}; the npm package {PACKAGE} is not the one that was tested: sha512-{found}")
    _extract(archive, work)
    _run(["node", "-e", UNPACK], work)
    ready = work / "ready"
    ready.mkdir()
    (work / "chromium").rename(ready / "chromium")
    (ready / "chromium").chmod(0o755)
    _extract(work / "al2023.tar", ready)
    _extract(work / "fonts.tar", ready)
    (ready / "fonts.conf").write_text(FONTS.format(folder="fonts"))


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        if hasattr(tarfile, "data_filter"):
            opened.extractall(folder, filter="data")
        else:  # Debian 12's Python 3.11.2; the archive is the one whose digest was tested
            opened.extractall(folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerMissing(f"{CURE}; fetching {PACKAGE} failed at `{' '.join(command[:2])}`: {complaint(done)}")


if __name__ == "__main__":
    print(find_chromium().program)
