"""``python3 docs``: build the documentation site and serve it; it is built again when a page changes.

``python3 docs --port 8080``, and any other option of ``sphinx-autobuild``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

from bootstrap import ROOT, environment, run

if __name__ == "__main__":
    python = environment("docs")
    docs = ROOT / "docs"
    watched = [f"--watch={ROOT / path}" for path in ("CHANGELOG.rst", "CONTRIBUTING.rst", "django_anyio_channels")]
    run(python, "-m", "sphinx_autobuild", *watched, *sys.argv[1:], str(docs), str(docs / "_build" / "html"))
