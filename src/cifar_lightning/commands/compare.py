"""Compares runs, and tells whether they differ by more than noise.

cifar-lightning compare lightning_logs/version_0 lightning_logs/version_1
cifar-lightning compare lightning_logs/version_* --json
cifar-lightning compare lightning_logs/version_* --html comparison.html
"""

import json
from collections.abc import Sequence

from cifar_lightning.console import output, say
from cifar_lightning.flags import new_parser, parse
from cifar_lightning.startup import importing


def script(arguments: Sequence[str]) -> None:
    """Compares runs."""
    parser = new_parser("compare RUN RUN ... [flags]", __doc__)
    parser.add_argument("runs", type=str, nargs="+", help="folders of runs, or of evaluations")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--html", type=str, default=None, help="page to write (.html), with pictures")
    settings = parse(parser, arguments)

    with importing():  # imported late: torch and Lightning take seconds
        from cifar_lightning.report.comparison_table import print_comparison
        from cifar_lightning.run.comparison import compare

    comparison = compare(settings.runs, settings.html)
    with output():
        if settings.json:
            print(json.dumps(comparison, indent=2), flush=True)
        else:
            print_comparison(comparison)
    if settings.html is not None:
        say(f"{settings.html} written")
