"""Where two processes of one test run meet."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic, sleep

FOLDER = os.environ.get("MEET")
"""Set if there are two processes."""


def meet(place: str) -> None:
    """Wait until both processes have come to the same place."""
    if FOLDER is not None:
        folder = Path(FOLDER) / place
        folder.mkdir(exist_ok=True)
        (folder / str(os.getpid())).touch()
        limit = monotonic() + 60
        while len(list(folder.iterdir())) < 2:
            assert monotonic() < limit, f"the other process does not come to {place}"
            sleep(0.01)
