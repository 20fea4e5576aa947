"""Which characters of a script Chromium has run, by V8's precise coverage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page


class Coverage:
    """What all pages of a test run have run of one file."""

    def __init__(self, file: Path) -> None:
        self.source = file.read_text()
        self._name = file.name
        self._ran = bytearray(len(self.source))

    def start(self, page: Page) -> CDPSession:
        session = page.context.new_cdp_session(page)
        session.send("Profiler.enable")
        session.send("Profiler.startPreciseCoverage", {"callCount": True, "detailed": True})
        return session

    def take(self, session: CDPSession) -> None:
        for script in session.send("Profiler.takePreciseCoverage")["result"]:
            if script["url"].endswith(self._name):
                self._add(script["functions"])
        # The next page may be in the same process of Chromium, where this session would end its coverage later on.
        session.send("Profiler.stopPreciseCoverage")
        session.send("Profiler.disable")
        session.detach()

    def _add(self, functions: list[dict[str, Any]]) -> None:
        ran = bytearray(len(self.source))
        ranges = [each for function in functions for each in function["ranges"]]
        # An inner range says more than the one around it.
        for each in sorted(ranges, key=lambda each: (each["startOffset"], -each["endOffset"])):
            start, end = each["startOffset"], each["endOffset"]
            ran[start:end] = bytes([each["count"] > 0]) * (end - start)
        self._ran = bytearray(map(max, self._ran, ran))

    def missing(self) -> list[str]:
        """The parts that no page has run, each with its line; without those that hold nothing but punctuation."""
        found = []
        for match in re.finditer(rb"\x00+", bytes(self._ran)):
            text = self.source[match.start() : match.end()]
            if re.search(r"\w", re.sub(r"//.*", "", text)):
                found.append(f"{self.source.count(chr(10), 0, match.start()) + 1}: {text.strip()}")
        return found
