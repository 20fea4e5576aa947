"""Programs in an interpreter of their own."""

from __future__ import annotations

import os
import subprocess
import sys

QUIET_ASYNCIO = 'import logging; logging.getLogger("asyncio").setLevel(logging.ERROR)\n'
"""The first line of programs that shall print nothing but what they are about.

See conftest.py, where the same is said to the tests themselves.
"""


def in_a_hurry() -> dict[str, str]:
    """The environment of programs with thousands of things to do.

    In development mode asyncio's debug mode is on, in which every task and future remembers its stack.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDEVMODE"}


def failing(program: str) -> str:
    """What a program that ends with an exception prints at its end: the last line of the traceback."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.splitlines()[-1]
