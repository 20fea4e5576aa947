"""What npm makes of ``client.js``, and what TypeScript makes of its types."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.browser.npm import PACKAGES, folder_of, npm
from tests.support.brokers.server import ServerMissing
from tests.support.paths import ROOT

SOURCE = ROOT / "django_anyio_channels/static/anyio_channels"

GOOD = """
import { connect, backoff, isFinal, type Connection } from "django-anyio-channels";

interface Said { text: string }
interface About { name: string }
const link: Connection<Said, About, string> = connect("/ws/", { token: async () => "t", storage: sessionStorage });
link.join("room", { last: 20, since: "1-1" });
link.addEventListener("message", ({ detail }) => console.log(detail.message.text.length, detail.position?.length));
link.addEventListener("joined", ({ detail }) => console.log(detail.members?.["ana"]?.[0]?.name.length));
link.addEventListener("presence", ({ detail }) => detail.event === "joined" && console.log(detail.metas));
link.addEventListener("state", ({ detail }) => detail.state === "lost" && console.log(detail.delay));
const sent: boolean = link.send("hi", "room") && isFinal(1000);
export const delay: number = sent ? backoff(1) : 0;
"""
WRONG = {
    "detail.message.words": "Property 'words' does not exist on type 'Said'",
    "detail.member": "Property 'member' does not exist on type 'MessageFrame<Said>'",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has installed the archive of ``npm pack``."""
    folder = tmp_path_factory.mktemp("npm")
    try:
        [packed] = json.loads(npm("pack", "--json", str(SOURCE), folder=folder))
    except ServerMissing as missing:
        pytest.skip(f"client.js is not packed: {missing}")
    (folder / "package.json").write_text('{"type": "module"}')
    npm("install", "--offline", "--no-audit", "--no-fund", str(folder / packed["filename"]), folder=folder)
    return folder


def test_the_package_is_the_static_files(project: Path) -> None:
    installed = project / "node_modules/django-anyio-channels"
    assert {file.name for file in installed.iterdir()} == {"client.js", "client.d.ts", "package.json"}
    for file in installed.iterdir():
        assert file.read_bytes() == (SOURCE / file.name).read_bytes()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads((SOURCE / "package.json").read_text())["version"] == version
    program = "import * as client from 'django-anyio-channels'; console.log(Object.keys(client).sort().join())"
    done = subprocess.run(["node", "--input-type=module", "-e", program], cwd=project, capture_output=True, check=True)
    assert done.stdout == b"Connection,backoff,connect,isFinal\n"


def test_the_types_are_generic_over_messages(project: Path) -> None:
    try:
        compiler = folder_of("typescript") / "bin/tsc"
    except ServerMissing as missing:
        pytest.skip(f"the types are not checked: {missing}")
    wrong = [GOOD.replace("detail.message.text.length", expression) for expression in WRONG]
    for number, program in enumerate([GOOD, *wrong]):
        (project / f"program{number}.ts").write_text(program)
    files = [f"program{number}.ts" for number in range(1 + len(wrong))]
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext"]
    done = subprocess.run(
        ["node", compiler, *options, *files], cwd=project, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(WRONG), lines
    for number, (line, reason) in enumerate(zip(lines, WRONG.values(), strict=True), 1):
        assert line.startswith(f"program{number}.ts")
        assert reason in line


def test_a_missing_npm_and_another_package_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake = tmp_path / "npm"
    fake.write_text('#!/bin/sh\necho "$3" > package.tgz\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    [package] = [name for name in PACKAGES if name.startswith("htmx.org@")]
    with pytest.raises(ServerMissing, match=f"the npm package {package} is not the one that was tested: sha512-"):
        folder_of("htmx.org")
    fake.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(ServerMissing, match="`npm pack --silent htmx.* failed: no network"):
        folder_of("htmx.org")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ServerMissing, match=r"there is no npm; install Node\.js"):
        npm("pack", folder=tmp_path)
