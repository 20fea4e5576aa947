"""``python3 tests``: everything that is checked. ``python3 tests ARGUMENTS``: pytest with these arguments.

Makes what it needs: a virtual environment in the checkout, and brokers and a browser where the machine has none.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

from bootstrap import ROOT, environment, run

if __name__ == "__main__":
    python = environment("qa")
    os.chdir(ROOT)
    os.environ["PYTHONDEVMODE"] = "1"
    if len(sys.argv) > 1:
        run(python, "-m", "pytest", *sys.argv[1:])
    quality = subprocess.run([python, ".ci/qa.py"], check=False).returncode
    if quality:
        sys.exit(quality)
    run(python, "-m", "pytest", "--numprocesses=auto", "--dist=loadgroup", "--cov", "--cov-report=term-missing")
