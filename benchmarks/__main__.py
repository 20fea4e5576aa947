"""``python3 benchmarks memory``: measure this package's layer on one broker beside its peers.

Makes what it needs: a virtual environment in the checkout. ``python -m benchmarks memory`` uses the one that it is
called in. ``--help`` tells the rest.
"""

import sys
from pathlib import Path


def _in_an_environment() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))
    import os

    from bootstrap import ROOT, environment, run

    python = environment("test")
    os.chdir(ROOT)
    run(python, "-m", "benchmarks", *sys.argv[1:])


if __name__ == "__main__":
    if not __package__:
        _in_an_environment()
    from benchmarks.harness.command import main

    sys.exit(main(sys.argv[1:]))
