import io
import re

import pytest
from rich.console import Console

from cifar_lightning.report.comparison_table import print_comparison

NAMES = "ABCDEFGH"


def comparison(value):
    """Returns a comparison of eight runs, with a long and a short setting."""
    run = {"test_acc": 0.9, "test_acc_interval": (0.85, 0.95), "val_acc": None, "fit_seconds": 12_345.6, "devices": 1}
    run |= {"accelerator": "cpu", "parameters": 11_173_962}
    return {
        "settings": {"model.schedule": dict.fromkeys(NAMES, value), "seed": {name: [0, 1] for name in NAMES}},
        "runs": [{**run, "name": name, "group": name, "run": f"/logs/[bold]{name}"} for name in NAMES],
        "groups": [],
        "comparisons": [],
        "seeds_needed": {"difference": 0.002, "sd": 0.00213, "seeds": 19},
    }


def printed(value, width, terminal):
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, legacy_windows=False)
    print_comparison(comparison(value), console)
    return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())


@pytest.mark.parametrize("value", ["one-cycle", "/a/path/" * 20])
def test_a_table_in_a_terminal_fits_its_width_without_truncation(value):
    output = printed(value, 80, terminal=True)
    assert max(map(len, output.splitlines())) <= 80
    assert "…" not in output
    headings = " ".join(line for line in output.splitlines() if line.startswith("differs"))
    assert headings.replace("differs", "").split() == list(NAMES)
    assert output.count("one-cycle") == (8 if value == "one-cycle" else 0)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_numbers_and_headings_are_whole_at_every_width(width):
    output = printed("one-cycle", width, terminal=True)
    assert max(map(len, output.splitlines())) <= width
    for word, times in {
        "95 % interval": 1, "parameters": 1, "seconds": 1, "90.00 %": 8, "85.00 to 95.00 %": 8, "1 x cpu": 8,
        "11,173,962": 8, "12,345.6": 8, "[0, 1]": 0, "0, 1": 8,
    }.items():  # fmt: skip
        assert len(re.findall(rf"(?<!\S){re.escape(word)}(?!\S)", output)) == times, word


def test_a_pipe_gets_one_line_per_setting():
    output = printed("/a/path/" * 20, 80, terminal=False)
    assert output.count("differs") == 1
    assert re.search(rf"^model\.schedule( +{'/a/path/' * 20}){{8}} *$", output, re.M)
    assert "A  /logs/[bold]A\n" in output
    assert "takes 19 seeds of each (sd 0.21 points)" in output


def test_names_of_many_seeds_do_not_run_into_their_folders():
    many = comparison("one-cycle")
    many["runs"] = [{**many["runs"][0], "name": f"A{i}", "run": f"version_0/seed_{i}"} for i in range(1, 1_001)]
    many |= {"settings": {}, "seeds_needed": None}
    stream = io.StringIO()
    print_comparison(many, Console(file=stream, width=120))
    lines = stream.getvalue().splitlines()
    assert [lines[0], lines[999]] == ["A1     version_0/seed_1", "A1000  version_0/seed_1000"]


def test_numbers_are_aligned_to_the_right():
    few = comparison("one-cycle")
    for count, run in enumerate(few["runs"]):
        run |= {"fit_seconds": 10.0**count, "parameters": 10**count}
    stream = io.StringIO()
    print_comparison(few, Console(file=stream, width=120))
    rows = [line for line in stream.getvalue().splitlines() if "1 x cpu" in line]
    assert {re.search(r"[\d,]+\.0(?=   1 x cpu)", row).end() for row in rows} == {rows[0].index("   1 x cpu")}
    assert len({len(row) for row in rows}) == 1
    assert all(re.search(r"\d$", row) for row in rows)
