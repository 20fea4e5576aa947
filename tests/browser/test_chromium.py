"""A browser that is nowhere to be had is told in one sentence with the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import chromium
from tests.browser.chromium import _run, find_chromium
from tests.support.brokers.debian import Unpacked
from tests.support.brokers.server import ServerMissing


def test_a_missing_browser_names_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ServerMissing, match=r"install Chromium \(Debian: apt-get install chromium-headless-shell\)"):
        find_chromium.__wrapped__()


def test_a_download_that_fails_shows_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho cannot reach https://ann:secret@mirror.example/simple >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(ServerMissing, match="cannot reach https://mirror.example/simple"):
        _run([str(npm), "pack"], tmp_path)


def test_a_system_without_fonts_gets_those_that_come_with_the_browser(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "usr/lib/chromium/chromium-headless-shell"
    monkeypatch.setattr(chromium, "unpack", lambda *wanted: Unpacked(str(program), {"LD_LIBRARY_PATH": "lib"}))
    found = chromium._from_debian()
    assert (found.program, found.environment["LD_LIBRARY_PATH"]) == (str(program), "lib")
    assert '<dir prefix="relative">usr/share/fonts</dir>' in Path(found.environment["FONTCONFIG_FILE"]).read_text()


def test_a_wrong_choice_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = str(tmp_path / "no-browser")
    monkeypatch.setenv("CHROMIUM", chosen)
    with pytest.raises(ServerMissing, match=f"CHROMIUM names '{chosen}', which is no program"):
        find_chromium.__wrapped__()
