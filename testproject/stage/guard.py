"""Ends what a process leaves behind, however it ends: the processes of one group, and a folder."""

import os
import shutil
import signal
import sys
from contextlib import suppress


def main(folder: str) -> None:
    """Print the id of a new process group; at the end of the standard input kill it, and remove the folder."""
    group = os.fork()
    if group == 0:  # it keeps the id of the group from being given to another one
        signal.pause()
    os.setpgid(group, group)
    print(group, flush=True)
    with suppress(KeyboardInterrupt):
        sys.stdin.read()
    os.killpg(group, signal.SIGKILL)
    os.waitpid(group, 0)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
