"""Types for users: what is public is typed as a whole, and the samples of the documentation pass the type checkers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import django_anyio_channels
from tests.docs.samples import samples
from tests.support.paths import ROOT

NAME = "django_anyio_channels"
PUBLIC = {*django_anyio_channels.__all__, "apps", "channels_redis", "testing"}
"""Names and modules of the package that users import."""

TYPED_PAGES = ["docs/guides/testing.rst"]
"""Pages whose samples are annotated, and complete enough to be checked."""


def pyright(*arguments: str | Path) -> dict[str, Any]:
    """What pyright prints as JSON. It looks for packages where the first ``python`` on PATH does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_public_is_typed() -> None:
    found = pyright("--verifytypes", NAME, "--ignoreexternal")["typeCompleteness"]
    assert found["pyTypedPath"]
    exported = [symbol for symbol in found["symbols"] if symbol["isExported"]]
    public = [
        symbol for symbol in exported if symbol["name"].split(".")[1:2] and symbol["name"].split(".")[1] in PUBLIC
    ]
    assert {symbol["name"].split(".")[1] for symbol in public} == PUBLIC
    incomplete = [symbol for symbol in public if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    assert [(symbol["name"], symbol["diagnostics"]) for symbol in incomplete] == []


@pytest.fixture(scope="module")
def sample_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for page in TYPED_PAGES:
        for number, text in enumerate(samples(ROOT / page)):
            (folder / f"{Path(page).stem}_{number}.py").write_text(text)
    return folder


def test_samples_pass_mypy(sample_files: Path) -> None:
    # A cache beside that of the project, whose options are others.
    command = ("mypy", "--strict", f"--config-file={os.devnull}", f"--cache-dir={ROOT / '.mypy_cache' / 'samples'}")
    done = subprocess.run(
        [sys.executable, "-m", *command, *map(str, sample_files.glob("*.py"))],
        cwd=sample_files,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout


def test_samples_pass_pyright(sample_files: Path) -> None:
    found = pyright(sample_files)
    assert found["summary"]["filesAnalyzed"] >= len(list(sample_files.glob("*.py"))) > 0
    assert found["generalDiagnostics"] == []
