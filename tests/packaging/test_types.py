"""Types for users: what is public is typed as a whole, and the samples of the documentation pass the type checkers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import django_anyio_channels
from tests.docs.pages import page
from tests.support.paths import ROOT

NAME = "django_anyio_channels"
PUBLIC = {*django_anyio_channels.__all__, "apps", "channels_redis", "testing"}
"""Names and modules of the package that users import."""

OF_UNTYPED_CLASSES = {"ChannelLayerHealthCheck"}
"""Subclasses of what another package has left without types."""

TYPED_PAGE = "docs/guides/testing.rst"
"""A page whose samples are annotated, and complete enough for both type checkers."""


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
    assert {symbol["name"].split(".")[1] for symbol in incomplete} == OF_UNTYPED_CLASSES


def test_samples_pass_pyright(tmp_path: Path) -> None:
    """`tests.docs.typed` has mypy check the samples of all pages."""
    samples = page(TYPED_PAGE).in_language("python")
    for number, block in enumerate(samples):
        (tmp_path / f"sample_{number}.py").write_text(block.astext() + "\n")
    found = pyright(tmp_path)
    assert found["summary"]["filesAnalyzed"] == len(samples) > 0
    assert found["generalDiagnostics"] == []
