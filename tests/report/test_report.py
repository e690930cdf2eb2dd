import io
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from cifar_lightning.report.corrupted import print_corrupted
from cifar_lightning.report.group import print_group, summary
from cifar_lightning.report.names import shortened_apart
from cifar_lightning.report.prediction_table import predictions_table
from cifar_lightning.report.table import print_report


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


def on_terminal(print_it, *args, width=80):
    """Returns what a terminal of this width shows, without its styles."""
    return re.sub(r"\x1b\[[\d;]*m", "", printed(print_it, *args, width=width, terminal=True))


def test_report_equals_numpy():
    counts = confusion(10)
    classes = [f"class_{index}" for index in range(10)]
    output = printed(print_report, results(classes, counts), [])
    total = counts.sum()
    assert f"Accuracy {100 * counts.trace() / total:.2f} % on {total:,} test images, loss 1.235" in output
    for index, name in enumerate(classes):
        images, correct = counts[index].sum(), counts[index, index]
        assert re.search(rf"^{name} +{images:,} +{correct:,} +{100 * correct / images:.1f} %", output, re.M)


def test_a_class_without_images_has_no_accuracy():
    output = printed(print_report, results(["ant", "bee"], [[3, 1], [0, 0]]), [])
    assert re.search(r"^ant +4 +3 +75\.0 %", output, re.M)
    assert re.search(r"^bee +0 +0 +n/a", output, re.M)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_hundred_classes_stand_side_by_side_in_80_columns(terminal):
    classes = ["aquarium_fish", *(f"pickup_truck{index}" for index in range(99))]
    output = (on_terminal if terminal else printed)(print_report, results(classes, confusion(100) // 10), [])
    assert max(map(len, output.splitlines())) <= 80
    assert len(output.splitlines()) < 60
    assert all(re.search(rf"\b{name} ", output) for name in classes)
    assert "…" not in output


LONG = [f"Canis_lupus_familiaris_of_the_northern_islands_{end}" for end in ("golden retriever", "doodle", "poodle")]


@pytest.mark.parametrize("classes", [3, 30])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_long_names_are_shortened_in_a_terminal_and_whole_in_a_pipe(width, classes):
    names = LONG if classes == 3 else [f"{LONG[i % 3]} {i:02}" for i in range(classes)]
    given = results(names, confusion(classes))
    whole = printed(print_report, given, [], width=width)
    assert all(re.search(rf"(^|   ){name} +[\d,]+ +[\d,]+ +\d+\.\d %", whole, re.M) for name in names)
    shown = on_terminal(print_report, given, [], width=width)
    _, *lines = shown.splitlines()  # the first line is a sentence
    assert max(map(len, lines)) <= width
    rows = [re.match(r"(.*?) +[\d,]+ +[\d,]+ +\d+\.\d %$", line.rstrip()) for line in lines]
    assert len({row[1] for row in rows if row}) == classes  # the shortened names stay distinct


CORRUPTED = results(["ant", "bee"], [[1, 0], [0, 1]]) | {
    "corruption_acc": {name: [1.0, 0.8, 0.7, 0.5, 0.2] for name in ("gaussian_noise", "elastic_transform")},
    **{"mean_corruption_error": 0.3, "mean_corruption_error_19": None},
}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_accuracies_on_corrupted_images_are_whole_at_every_width(width):
    shown = on_terminal(print_corrupted, CORRUPTED, [], width=width)
    assert len(re.findall(r"100\.0 %  *80\.0 %  *70\.0 %  *50\.0 %  *20\.0 %  *64\.0 %$", shown, re.M)) == 2
    assert max(len(line) for line in shown.splitlines() if "error over" not in line) <= max(width, 70)
    assert re.search(r"^gaussian_noise +100.0 %", printed(print_corrupted, CORRUPTED, [], width=width), re.M)


@pytest.mark.parametrize("width", [20, 30, 40, 47, 48])
def test_accuracies_on_corrupted_images_stand_in_several_tables_if_one_is_too_wide(width):
    shown = on_terminal(print_corrupted, CORRUPTED, [], width=width)
    table = shown[shown.index("corruption") : shown.index("Mean corruption error")]
    assert max(map(len, table.splitlines())) <= width
    rows = [line.split(None, 1)[1] for line in table.splitlines() if line.startswith(("g", "e"))]
    for own in (rows[::2], rows[1::2]):  # a corruption in each of the tables
        assert re.findall(r"\S+ %", " ".join(own)) == ["100.0 %", "80.0 %", "70.0 %", "50.0 %", "20.0 %", "64.0 %"]
    headings = [line.split()[1:] for line in table.splitlines() if line.startswith("corruption")]
    assert list(chain(*headings)) == ["1", "2", "3", "4", "5", "mean"]


def test_paths_are_printed_whole_and_not_read_as_markup():
    path = Path("/a/[bold]folder[/bold]") / ("long " * 30) / "confusion.png"
    assert f"  {path}\n" in printed(print_report, results(["ant"], [[1]]), [path])


def test_class_names_are_not_read_as_markup():
    assert "[red]ant" in printed(print_report, results(["[red]ant"], [[1]]), [])


def test_a_pipe_gets_plain_text_and_a_terminal_gets_style():
    given = results(["ant"], [[1]])
    assert "\x1b" not in printed(print_report, given, [])
    assert "\x1b[1m" in printed(print_report, given, [], terminal=True)


def prediction(file, *top):
    guesses = [{"class": name, "probability": probability} for name, probability in top]
    return {"file": file, "class": guesses[0]["class"], "top": guesses}


def among(rows):
    """Returns the files and the classes of rows, as predictions_table takes them."""
    return [row["file"] for row in rows], sorted({guess["class"] for row in rows for guess in row["top"]})


def test_predictions_name_file_class_and_top_three():
    rows = [prediction("[x].jpg", ("cat", 0.8731), ("dog", 0.1), ("frog", 0.02))]
    output = printed(predictions_table, rows, *among(rows))
    assert re.search(r"^\[x\]\.jpg +cat +87\.3 % +dog 10\.0 % +frog 2\.0 %", output, re.M)


def test_predictions_among_two_classes():
    rows = [prediction("a.png", ("ant", 0.9), ("bee", 0.1))]
    assert "bee 10.0 %" in printed(predictions_table, rows, *among(rows))


def test_a_pipe_gets_every_name_whole():
    rows = [prediction("folder/" * 20 + "a.png", ("cat", 0.9), ("a" * 60, 0.1), ("dog", 0.0))]
    output = printed(predictions_table, rows, *among(rows))
    assert re.search(rf"^{rows[0]['file']} +cat +90.0 % +{'a' * 60} 10.0 % +dog 0.0 %$", output, re.M)
    assert "Files in" not in output


FOLDER = "/data/pictures/of [2024]/summer/"
FILES = {
    "in one folder": [f"{FOLDER}{name}.jpg" for name in ("00003", "00010", "IMG_20240101_123456")],
    "long": [f"{FOLDER}{'long_name_' * 8}{end}.jpg" for end in ("one", "two")],
    "of many folders": ["/a" + "/deep" * 20 + "/cat.jpg", "b/" + "\u732b" * 40 + ".png", "c.jpg"],
    "short": ["c.jpg", "d.jpg"],
}


@pytest.mark.parametrize("longest", [3, 10, 50, 90])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_a_terminal_gets_one_line_per_file_within_its_width(files, width, longest):
    names = ["cat", "an_automobile_and_whatever_else_there_is_to_be_said_of_it"[:longest], "dog" * (longest // 3)]
    rows = [prediction(file, (names[0], 1.0), (names[1], 0.3), (names[2], 0.1)) for file in files]
    output = on_terminal(predictions_table, rows, files, names, width=width)
    folder, lines = "", output.splitlines()
    if lines[0].startswith("Files in "):  # the folder is printed once, and whole
        folder = lines.pop(0).removeprefix("Files in ")
        assert folder == FOLDER
    assert max(map(cell_len, lines)) <= width
    assert len(lines) == 2 + len(files)
    seen = set()
    for line, file in zip(lines[2:], files, strict=True):
        name = file.removeprefix(folder)
        shown = line[: re.search(r"cat +100\.0 %", line).start()].rstrip()
        head, _, tail = shown.partition("…")
        assert shown == name or (name.startswith(head) and name.endswith(tail) and len(tail) >= 3)
        seen.add(shown)
    assert len(seen) == len(files)


def test_names_are_shortened_only_if_they_do_not_fit():
    rows = [prediction(file, ("cat", 0.9), ("automobile", 0.1), ("dog", 0.0)) for file in FILES["in one folder"]]
    output = printed(predictions_table, rows, *among(rows), width=80, terminal=True)
    assert "Files in /data/pictures/of [2024]/summer/\n" in output
    assert "\nIMG_20240101_123456.jpg  cat" in output
    wide = printed(predictions_table, rows, *among(rows), width=130, terminal=True)
    assert rows[0]["file"] in wide
    assert "Files in" not in wide
    assert "dog 0.0 %" in wide


def test_file_names_are_shortened_before_class_names():
    trees = ("palm_tree", "pine_tree")
    files = [f"pictures_of_a_long_name_{number}.jpg" for number in range(2)]
    rows = [prediction(file, (name, 0.9), ("dog", 0.1)) for file, name in zip(files, trees, strict=True)]
    output = printed(predictions_table, rows, *among(rows), width=40, terminal=True)
    assert re.search(r"0\.jpg +palm_tree +90\.0 %$", output, re.M)
    assert re.search(r"1\.jpg +pine_tree +90\.0 %$", output, re.M)


@pytest.mark.parametrize("width", [40, 60])
def test_names_that_differ_in_their_middle_stay_distinct(width):
    names = [f"kind_number_{number:03}_of_{'all_the_' * 5}trees" for number in range(12)]
    given = on_terminal(print_report, results(names, confusion(12)), [], width=width)
    assert len({line.split()[0] for line in given.splitlines() if line.startswith("ki")}) == 12
    rows = [prediction(f"{name}.jpg", (name, 1.0)) for name in names]
    output = printed(predictions_table, rows, *among(rows), width=width, terminal=True)
    seen = [line.split()[:2] for line in output.splitlines() if line.startswith("ki")]
    assert [len(set(column)) for column in zip(*seen, strict=True)] == [12, 12]


@pytest.mark.parametrize("beginning", ["", "kind ", "\u732b" * 9, "0" * 30])
@pytest.mark.parametrize("width", [5, 6, 10, 24])
def test_shortened_names_are_distinct_and_fit_their_width(width, beginning):
    names = [f"{beginning}{number:03}{' of the trees' * length}" for number in range(120) for length in (0, 4)]
    found = shortened_apart(names, width)
    assert list(found) == names
    assert len(set(found.values())) == len(names) if width > 6 else len(set(found.values())) >= 120
    assert max(map(cell_len, found.values())) <= width


def test_a_number_that_distinguishes_names_is_kept_whole():
    names = [f"kind number {number:03} with a long name" for number in range(3)]
    assert list(shortened_apart(names, 24).values()) == [f"kind nu…00{number} with a long…" for number in range(3)]


@pytest.mark.parametrize("width", [40, 60])
def test_the_numbers_of_a_group_are_whole_at_every_width(width):
    per_class = {"automobile": 0.5, "a_class_of_a_long_name": 0.4}
    runs = {f"seed_{i}": {"per_class_acc": per_class, "test_acc": i, "test_loss": 1.0} for i in range(2)}
    output = on_terminal(print_group, summary("seeds", runs), [], width=width)
    assert re.search(r"^test +50\.00 % +70\.71 +0\.00 to 100\.00 %$", output, re.M)
    assert max(map(len, output.splitlines())) <= width


def test_a_prediction_is_printed_before_the_next_is_made():
    file, lengths = io.StringIO(), []
    rows = [prediction(name, ("cat", 0.9), ("dog", 0.1)) for name in ("\u732b.png", "a.png")]

    def made():
        for row in rows:
            lengths.append(file.getvalue().count("\n"))
            yield row

    predictions_table(made(), *among(rows), Console(file=file, width=80))
    assert lengths == [0, 3]  # after the heading, its line and the first row
    _, _, first, second = file.getvalue().splitlines()
    assert first.index("cat") + 1 == second.index("cat")  # the Chinese character is two columns wide
    nothing = io.StringIO()
    predictions_table([], *among(rows), Console(file=nothing))
    assert nothing.getvalue() == ""
