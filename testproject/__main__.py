"""``python3 testproject``: the stage, which is the demo chat in several processes and a panel that has them killed.

``python3 testproject ARGUMENTS``: ``manage.py runserver`` with these. ``python3 testproject runworker chat-worker``,
and any other command that begins with a name: ``manage.py`` with it. These send their messages through this one
process's memory, or through the broker whose URL the settings read from the environment.

Makes what it needs: a virtual environment in the checkout.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

from bootstrap import ROOT, environment, run

FOLDER = ROOT / "testproject"

if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    arguments = sys.argv[1:]
    if arguments:
        if not arguments[0].isalpha():  # "runworker", not "8001", "0.0.0.0:8000" or "--noreload"
            arguments.insert(0, "runserver")
        run(environment("demo"), str(FOLDER / "manage.py"), *arguments)
    else:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
        run(environment("demo"), "-m", "stage.supervisor")
