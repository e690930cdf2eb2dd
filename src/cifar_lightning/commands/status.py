"""Tells how far a run has come, also by its exit code.

cifar-lightning status lightning_logs/version_0
cifar-lightning status lightning_logs/version_0 --json

Exit codes: 0, the run has finished; 75, resume it; 16, a job is training it;
3, it has diverged, and would again; 2, there is no such run. For a group of
runs (--seeds, --folds) it tells how many have finished; 0 means all have.
Use it under torchrun, whose own exit code does not tell:
`torchrun … fit.py …; cifar-lightning status RUN;
if [ $? = 75 ]; then sbatch again.sh; fi`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

from cifar_lightning.console import say
from cifar_lightning.flags import new_parser, parse
from cifar_lightning.run.status import CODES, status


def script(arguments: Sequence[str]) -> int:
    """Prints the status of a run, or of a group."""
    parser = new_parser("status RUN [flags]", __doc__)
    parser.add_argument("run", type=str, help="Folder of a run or a group.")
    parser.add_argument("--json", action="store_true", help="Print one line of JSON.")
    given = parse(parser, arguments)
    found = status(given.run)
    say(json.dumps(asdict(found)) if given.json else str(found), 1)
    return CODES[found.state]
