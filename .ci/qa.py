"""Style, types, documentation and packaging: everything that is checked without running the project."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """The exit code of the first check that fails, else 0."""
    with tempfile.TemporaryDirectory() as dist, tempfile.TemporaryDirectory() as site:
        return (
            check("ruff", "check", "--quiet")
            or check("ruff", "format", "--check", "--quiet")
            or check("mypy")
            or check("tests.docs.typed")
            or check(
                "sphinx", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "docs", str(Path(site, "html"))
            )
            or check("build", "--no-isolation", "--outdir", dist, output=subprocess.DEVNULL)
            or check("twine", "check", "--strict", *map(str, Path(dist).iterdir()))
        )


def check(*tool: str, output: int | None = None) -> int:
    """Run one tool on the project and return its exit code."""
    print(f"== {tool[0]}", flush=True)
    return subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, stdout=output, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
