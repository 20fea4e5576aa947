"""Programs in an interpreter of their own."""

from __future__ import annotations

import subprocess
import sys


def failing(program: str) -> str:
    """What a program that ends with an exception prints at its end: the last line of the traceback."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.splitlines()[-1]
