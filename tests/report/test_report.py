import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cifar_lightning.report.table import predictions_table, print_report


def results(classes, confusion):
    counts = np.array(confusion)
    images = counts.sum(axis=1)
    return {
        "test_acc": counts.trace() / counts.sum(),
        "test_loss": 1.23456,
        "checkpoint": "run/checkpoints/step-5.ckpt",
        "step": 5,
        "test_count": int(counts.sum()),
        "per_class_acc": {
            name: counts[index, index] / images[index] if images[index] else None for index, name in enumerate(classes)
        },
        "confusion": counts.tolist(),
    }


def confusion(classes):
    return np.random.default_rng(0).integers(0, 50, (classes, classes)) + 1_000 * np.eye(classes, dtype=int)


def printed(print_it, *args, width=80, terminal=False):
    stream = io.StringIO()
    print_it(*args, console=Console(file=stream, width=width, force_terminal=terminal, legacy_windows=False))
    return stream.getvalue()


def test_report_equals_numpy():
    counts = confusion(10)
    classes = [f"class_{index}" for index in range(10)]
    output = printed(print_report, results(classes, counts), [])
    total = counts.sum()
    assert f"Accuracy {100 * counts.trace() / total:.2f} % on {total:,} test images, loss 1.235" in output
    for index, name in enumerate(classes):
        images, correct = counts[index].sum(), counts[index, index]
        assert re.search(rf"^{name} +{images:,} +{correct:,} +{100 * correct / images:.1f} %", output, re.M)


def test_an_absent_class_is_not_applicable():
    output = printed(print_report, results(["ant", "bee"], [[3, 1], [0, 0]]), [])
    assert re.search(r"^ant +4 +3 +75\.0 %", output, re.M)
    assert re.search(r"^bee +0 +0 +n/a", output, re.M)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_hundred_classes_stand_side_by_side_in_80_columns(terminal):
    classes = ["aquarium_fish", *(f"pickup_truck{index}" for index in range(99))]
    output = printed(print_report, results(classes, confusion(100) // 10), [], terminal=terminal)
    output = re.sub(r"\x1b\[[\d;]*m", "", output)
    assert max(map(len, output.splitlines())) <= 80
    assert len(output.splitlines()) < 60
    assert all(re.search(rf"\b{name} ", output) for name in classes)
    assert "…" not in output


def test_paths_are_printed_whole_and_as_they_are():
    path = Path("/a/[bold]folder[/bold]") / ("long " * 30) / "confusion.png"
    assert f"  {path}\n" in printed(print_report, results(["ant"], [[1]]), [path])


def test_a_class_name_is_no_markup():
    assert "[red]ant" in printed(print_report, results(["[red]ant"], [[1]]), [])


def test_a_pipe_gets_plain_text_and_a_terminal_gets_style():
    given = results(["ant"], [[1]])
    assert "\x1b" not in printed(print_report, given, [])
    assert "\x1b[1m" in printed(print_report, given, [], terminal=True)


def prediction(file, *top):
    guesses = [{"class": name, "probability": probability} for name, probability in top]
    return {"file": file, "class": guesses[0]["class"], "top": guesses}


def among(rows):
    """The files and classes of a table of these rows."""
    return [row["file"] for row in rows], sorted({guess["class"] for row in rows for guess in row["top"]})


def test_predictions_name_file_class_and_top_three():
    rows = [prediction("[x].jpg", ("cat", 0.8731), ("dog", 0.1), ("frog", 0.02))]
    output = printed(predictions_table, rows, *among(rows))
    assert re.search(r"^\[x\]\.jpg +cat +87\.3 % +dog 10\.0 % +frog 2\.0 %", output, re.M)


def test_predictions_among_two_classes():
    rows = [prediction("a.png", ("ant", 0.9), ("bee", 0.1))]
    assert "bee 10.0 %" in printed(predictions_table, rows, *among(rows))


def test_a_pipe_gets_one_line_a_file_and_a_terminal_its_width():
    rows = [prediction("folder/" * 20 + "a.png", ("cat", 0.9), ("aquarium_fish", 0.1), ("dog", 0.0))]
    assert rows[0]["file"] in printed(predictions_table, rows, *among(rows))
    folded = re.sub(r"\x1b\[[\d;]*m", "", printed(predictions_table, rows, *among(rows), terminal=True))
    assert max(map(len, folded.splitlines())) <= 80
    assert "…" not in folded


def test_a_prediction_is_printed_before_the_next_is_made():
    file, lengths = io.StringIO(), []
    rows = [prediction(name, ("cat", 0.9), ("dog", 0.1)) for name in ("\u732b.png", "a.png")]

    def made():
        for row in rows:
            lengths.append(file.getvalue().count("\n"))
            yield row

    predictions_table(made(), *among(rows), Console(file=file, width=80))
    assert lengths == [0, 3]  # the heading, its line, the first row
    _, _, first, second = file.getvalue().splitlines()
    assert first.index("cat") + 1 == second.index("cat")  # the sign takes two places
    nothing = io.StringIO()
    predictions_table([], *among(rows), Console(file=nothing))
    assert nothing.getvalue() == ""
