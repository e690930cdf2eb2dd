"""Tables on the console: the results of a test, predictions for single files, and a survey of the images."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cifar_lightning.console import percent
from cifar_lightning.report.many import shown_classes, which_classes
from cifar_lightning.report.names import SHORTEST, Name, common_folder, shortened_apart

PLAIN: Any = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False}
GAP = 3  # characters between tables side by side
# By the key of results.json.
MEAN_ERRORS = {
    "mean_corruption_error": "the 15 corruptions of the benchmark",
    "mean_corruption_error_19": "all 19",
}
# A file's name keeps at least this many characters beside further guesses, and beside the predicted class alone.
LEGIBLE, SHORTEST_FILE = 24, 12
ONE_COLUMN = 20  # up to this many classes, the table stays a single column


def print_report(results: Mapping[str, Any], paths: Sequence[Path], console: Console | None = None) -> None:
    """Prints results.json: accuracy overall and per class (of many, the best and worst), and where the files are."""
    console = console or Console()
    _print_overall(results, console)
    names, accuracies = list(results["per_class_acc"]), list(results["per_class_acc"].values())
    shown = shown_classes(accuracies)
    rows = [
        (names[label], f"{sum(counts):,}", f"{counts[label]:,}", percent(accuracies[label]))
        for label, counts in ((label, results["confusion"][label]) for label in shown)
    ]
    width = natural_width(console, _class_table(rows)) + GAP
    abreast = 1 if len(rows) <= ONE_COLUMN else max(1, (console.width + GAP) // width)
    length = math.ceil(len(rows) / abreast)
    parts = (rows[start : start + length] for start in range(0, len(rows), length))
    side_by_side = Table.grid(padding=(0, GAP))
    side_by_side.add_row(*map(_class_table, parts))
    console.print()
    print_table(side_by_side, console)
    if which := which_classes(len(shown), len(names)):
        console.print(f"{which}; results.json has all", soft_wrap=True)
    console.print()
    if people := results.get("soft_labels"):
        line = (
            f"Against people's answers: cross-entropy {people['cross_entropy']:.3f} (at best {people['entropy']:.3f}, "
            f"the entropy of the answers); same class as most people: {100 * people['agreement']:.2f} %"
        )
        console.print(Text(line), soft_wrap=True)
        console.print()
    print_paths(paths, console)


def print_corrupted(results: Mapping[str, Any], paths: Sequence[Path], console: Console | None = None) -> None:
    """Prints results.json: accuracy per corruption and severity, mean errors, and where the files are."""
    console = console or Console()
    _print_overall(results, console)
    accuracies = results["corruption_acc"]
    severities = range(1, len(next(iter(accuracies.values()))) + 1)
    table = table_of_numbers("corruption", *map(str, severities), "mean", padding=0)
    for name, row in accuracies.items():
        table.add_row(Name(name, accuracies), *map(percent, (*row, sum(row) / len(row))))
    console.print()
    print_table(table, console)
    console.print()
    for key, over in MEAN_ERRORS.items():
        error = "n/a, because some are missing" if results[key] is None else f"{100 * results[key]:.2f} %"
        console.print(Text(f"Mean corruption error over {over}: {error}"), soft_wrap=True)
    console.print()
    print_paths(paths, console)


def _print_overall(results: Mapping[str, Any], console: Console) -> None:
    # Two digits are exact for CIFAR's 10,000 test images, and one for the 1,000 or 100 of a class.
    overall = f"Accuracy {100 * results['test_acc']:.2f} % on {results['test_count']:,} test images"
    tested = f" ({Path(results['checkpoint']).name}, step {results['step']:,})"
    console.print(Text.assemble((overall, "bold"), f", loss {results['test_loss']:.3f}", tested), soft_wrap=True)


def print_paths(paths: Sequence[Path], console: Console) -> None:
    """Prints the paths of the files that were written."""
    console.print("Written:")
    for path in paths:  # as Text, because brackets in a path are no markup; unwrapped, because paths get copied
        console.print(Text(f"  {path}"), soft_wrap=True)


def predictions_table(
    rows: Iterable[Mapping[str, Any]],
    files: Iterable[str],
    classes: Sequence[str],
    console: Console | None = None,
) -> None:
    """Prints a table of predictions, one line per file, each as soon as it is known; nothing if there are none.

    If the files' names are too long for a terminal, their common folder is printed once, above. Names that are still
    too long are shortened in the middle, and if little would be left of them, fewer guesses are shown. In a pipe, which
    has no width, nothing is shortened.

    Args:
        rows: `{"file": str, "class": str, "top": [{"class": str, "probability": 0..1}, …]}` each, the most
            probable first.
        files: The names of all files that may follow.
        classes: The names of all classes.
        console: Standard output if None.
    """
    console = console or Console()
    files = list(files)
    folder, class_width = "", max(map(cell_len, classes))
    headings = ("file", "class", "probability", "second", "third")
    widths = _widths(files, class_width)
    if console.is_terminal and _width(widths) > console.width:
        folder = common_folder(files)
        widths = _widths([file.removeprefix(folder) for file in files], class_width)
        legible = min(widths[0], LEGIBLE)
        while len(widths) > 3 and _width(widths) - widths[0] + legible > console.width:
            widths.pop()
        over = _width(widths) - widths[0] + min(widths[0], SHORTEST_FILE) - console.width
        if over > 0:  # only because of long class names
            class_width = max(SHORTEST, class_width - over)
            widths[1] = max(class_width, len("class"))
        widths[0] = max(SHORTEST, min(widths[0], widths[0] + console.width - _width(widths)))
    begun = False
    names = shortened_apart(classes, class_width)
    shown = shortened_apart((file.removeprefix(folder) for file in files), widths[0])
    for row in rows:
        if not begun:
            if folder:
                console.print(Text(f"Files in {folder}"), soft_wrap=True)
            console.print(Text(_line(headings, widths), "bold"), soft_wrap=True)
            console.print("─" * _width(widths), soft_wrap=True)
            begun = True
        first, *others = row["top"]
        guesses = (f"{names[guess['class']]} {percent(guess['probability'])}" for guess in others)
        name, probability = row["file"].removeprefix(folder), f"{percent(first['probability']):>{len('probability')}}"
        cells = (shown[name], names[row["class"]], probability, *guesses)
        print(_line(cells, widths), file=console.file, flush=True)


def _widths(names: Iterable[str], class_width: int) -> list[int]:
    """Returns the widths of the columns for predictions of files with these names."""
    guess = class_width + len(" 100.0 %")
    return [max(map(cell_len, ("file", *names))), max(class_width, len("class")), len("probability"), guess, guess]


def _width(widths: Sequence[int]) -> int:
    """Returns the width of a line with columns of these widths."""
    return sum(widths) + 2 * (len(widths) - 1)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=False))
    return "  ".join(padded).rstrip()


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
    table = table_of_numbers("class", *counts)
    names = [name for name, _ in rows]
    for name, figures in rows:
        table.add_row(Name(name, names), *figures)
    table.add_row("all", *(f"{count:,}" for count in survey["counts"].values()))
    return table


def _triple(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4f}' for value in values)})"


def _examples(pairs: Mapping[str, Any]) -> str:
    """Says how many pairs there are, with some examples."""
    listed = ", ".join(f"{one} = {other}" for one, other in pairs["examples"])
    return f"{pairs['count']:,}{', such as ' * bool(listed)}{listed}"


def _class_table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    table = table_of_numbers("class", "images", "correct", "accuracy", padding=0)  # two of CIFAR-100 fit 80 columns
    names = [name for name, *_ in rows]
    for name, *figures in rows:
        table.add_row(Name(name, names), *figures)
    return table


def table_of_numbers(names: str, *numbers: str, padding: int | tuple[int, int] = (0, 1)) -> Table:
    """Makes an empty table with a column of names and columns of numbers, by their headings."""
    table = Table(names, **PLAIN, padding=padding)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def print_table(table: Table, console: Console) -> None:
    """Prints a table whose text may be long: within the width of a terminal, but in full to a pipe."""
    if not console.is_terminal:
        table.width = natural_width(console, table)
    console.print(table, soft_wrap=not console.is_terminal)


def natural_width(console: Console, table: Table) -> int:
    """Returns the number of characters per line that a table takes if nothing in it is folded."""
    return Measurement.get(console, console.options.update(width=10_000), table).maximum
