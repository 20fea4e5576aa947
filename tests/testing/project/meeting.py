"""Where two processes of one test run meet."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.brokers.server import wait_until

FOLDER = os.environ.get("MEET")
"""Set if there are two processes."""


def meet(place: str) -> None:
    """Wait until both processes have come to the same place."""
    if FOLDER is not None:
        folder = Path(FOLDER) / place
        folder.mkdir(exist_ok=True)
        (folder / str(os.getpid())).touch()
        wait_until(lambda: len(list(folder.iterdir())) == 2, f"the other process comes to {place}")
