"""What stands on the console about the images at a place: how many there are of each class, and what is odd."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_lightning.report.table import ONE_COLUMN, print_table, table_of_numbers


def print_survey(survey: Mapping[str, Any]) -> None:
    """Prints a survey of the images at a place, given as `Survey.plain`."""
    console = Console()

    def say(*parts: str) -> None:
        console.print(Text.assemble(*parts), soft_wrap=True)

    files, counts, published = survey["files"], survey["counts"], survey["published"]
    more = f" and {survey['file_count'] - len(files):,} more" if survey["file_count"] > len(files) else ""
    console.print(Text(f"{survey['data_dir']}: {survey['shape']}", "bold"), soft_wrap=True)
    say(f"Flags for fit: {shlex.join(survey['flags'])}")
    say(f"Files: {', '.join(files)}{more}\n")
    print_table(_counts_table(survey), console)
    say()
    say(f"Training images: mean {_triple(survey['mean'])}, std {_triple(survey['std'])}")
    if published:
        say(f"{published['name']}, published: mean {_triple(published['mean'])}, std {_triple(published['std'])}")
    for pairs in survey["repeated"]:
        say(f"{pairs['split'].capitalize()} images that are also in {pairs['in']}: {_examples(pairs)}")
    say(f"Training images that are also there with another label: {_examples(survey['contradictions'])}")
    if "test" not in counts:
        say("There are no test images with labels, but fit ends with a test: add some, or train in Python")


def _counts_table(survey: Mapping[str, Any]) -> Table:
    """A table with a line per class; of many, those with most and fewest training images, or one line if all agree."""
    counts = survey["class_counts"]
    rows = [(name, [f"{counts[split][name]:,}" for split in counts]) for name in survey["classes"]]
    if len(rows) > ONE_COLUMN and all(figures == rows[0][1] for _, figures in rows):
        rows = [(f"each of {len(rows)}", rows[0][1])]
    elif len(rows) > ONE_COLUMN:
        rows.sort(key=lambda row: -counts["train"][row[0]])
        rows[ONE_COLUMN // 2 : -ONE_COLUMN // 2] = [("…", ["…"] * len(counts))]
    rows.append(("all", [f"{count:,}" for count in survey["counts"].values()]))
    return table_of_numbers(("class", *counts), [(name, *figures) for name, figures in rows], padding=(0, 1))


def _triple(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4f}' for value in values)})"


def _examples(pairs: Mapping[str, Any]) -> str:
    """Says how many pairs there are, with some examples."""
    listed = ", ".join(f"{one} = {other}" for one, other in pairs["examples"])
    return f"{pairs['count']:,}{', such as ' * bool(listed)}{listed}"
