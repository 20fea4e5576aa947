"""Programs of Debian packages, unpacked into the user's cache: no root, no change to the system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .server import ServerMissing


@dataclass(frozen=True)
class Unpacked:
    """One program and the variables that it needs to find its libraries."""

    program: str
    environment: dict[str, str]


def unpack(program: str, packages: Sequence[str]) -> Unpacked:
    """``program`` (a path inside the packages, such as ``usr/sbin/mosquitto``) out of ``packages``.

    Downloads once into ``~/.cache/django-anyio-channels`` (``XDG_CACHE_HOME`` is honoured), with what the packages
    depend on and the system lacks. Raises `ServerMissing` where there is no apt or no package server.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "django-anyio-channels"
    root = cache / Path(program).name
    if not (root / program).exists():
        _download(packages, root)
    libraries = sorted({str(library.parent) for library in root.rglob("lib*.so*")})
    inherited = os.environ.get("LD_LIBRARY_PATH")
    path = os.pathsep.join([*libraries, *([inherited] if inherited else [])])
    return Unpacked(str(root / program), {"LD_LIBRARY_PATH": path})


def _download(packages: Sequence[str], root: Path) -> None:
    if not shutil.which("apt-get"):
        raise ServerMissing(f"install {packages[0]} (this system has no apt-get to fetch it with)")
    work = root.with_name(f"{root.name}.{os.getpid()}")
    (work / "state/lists/partial").mkdir(parents=True)
    (work / "archives/partial").mkdir(parents=True)
    options = [
        f"Dir::State={work}/state",
        f"Dir::State::status={os.environ.get('DPKG_STATUS', '/var/lib/dpkg/status')}",
        f"Dir::Cache={work}",
        "Debug::NoLocking=1",
        "APT::Sandbox::User=",
    ]
    flags = [part for option in options for part in ("-o", option)]
    try:
        _run(["apt-get", *flags, "-q", "update"], work, packages)
        install = ["install", "-y", "--no-install-recommends", "--download-only"]
        _run(["apt-get", *flags, "-q", *install, *packages], work, packages)
        for archive in sorted(work.glob("archives/*.deb")):
            _run(["dpkg-deb", "-x", str(archive), "unpacked"], work, packages)
        try:
            (work / "unpacked").rename(root)
        except OSError:
            if not root.exists():
                raise
            # another test run was quicker: its copy is as good
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(command: Sequence[str], folder: Path, packages: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerMissing(
            f"install {packages[0]}: fetching {' '.join(packages)} without root failed at "
            f"`{command[0]} {command[-1]}`: {complaint(done)}"
        )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a program said, without the passwords of mirrors and proxies in URLs."""
    return re.sub(r"://[^/\s]*@", "://", (done.stderr or done.stdout).strip())[-500:]
