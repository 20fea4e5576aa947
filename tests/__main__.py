"""``python3 tests``: everything that is checked. ``python3 tests ARGUMENTS``: pytest with these arguments.

Makes what it needs: a virtual environment in the checkout, and brokers and a browser where the machine has none.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

from bootstrap import ROOT, environment, run

if __name__ == "__main__":
    # A shell's background job ignores SIGINT, and so would the servers that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    python = environment("qa")
    os.chdir(ROOT)
    os.environ["PYTHONDEVMODE"] = "1"
    # Development mode also checks what C code does with memory, of which there is none here, for a sixth of the time.
    os.environ.setdefault("PYTHONMALLOC", "pymalloc")
    # The tests start hundreds of programs, and each would compile anew what it imports from the checkout.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if len(sys.argv) > 1:
        run(python, "-m", "pytest", *sys.argv[1:])
    # The tests wait for brokers half of their time.
    workers = 2 * (os.cpu_count() or 1)
    pytest = (python, "-m", "pytest", f"--numprocesses={workers}", "--dist=loadgroup", "-m")
    # Measuring doubles the time that a test takes.
    commands = (
        (python, ".ci/qa.py"),
        (*pytest, "not unmeasured", "--cov", "--cov-report=term-missing"),
        (*pytest, "unmeasured", "tests/contract"),
    )
    ended = [subprocess.run(command, check=False).returncode for command in commands]
    sys.exit(next(filter(None, ended), 0))
