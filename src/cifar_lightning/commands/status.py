"""Says how far a run has come, by its exit code too.

cifar-lightning status lightning_logs/version_0
cifar-lightning status lightning_logs/version_0 --json

Exit code 0: it has finished. 75: it is to be resumed. 16: a job is in it now.
3: it has diverged, and would again. 2: there is no such run. Of a group of
runs, as --seeds makes them, it says how many have finished, and ends with 0
once all have. For scripts under torchrun, whose own exit code does not tell:
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
    parser.add_argument("run", type=str, help="A run's folder, or that of a group.")
    parser.add_argument("--json", action="store_true", help="As one line of JSON.")
    given = parse(parser, arguments)
    found = status(given.run)
    say(json.dumps(asdict(found)) if given.json else str(found), 1)
    return CODES[found.state]
