import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)


def test_it_measures_both_sides_and_writes_the_figures(tmp_path):
    path = tmp_path / "figures.json"
    process = run("loader", "overhead", "--quick", "--repeats", "1", "--json", str(path))
    assert process.returncode == 0, process.stderr
    report = json.loads(path.read_text())
    assert report["machine"].keys() >= {"cpu", "cores", "gpu", "torch", "lightning"}
    assert report["quick"] is True
    loader, overhead = (report["comparisons"][name][0] for name in ("loader", "overhead"))
    cpu = [row for row in loader["rows"] if row["device"] == "cpu"]
    assert [row["batch size"] for row in cpu] == [4, 128, 2048]
    for row in cpu:
        assert row["ratio"] == [row["ours, images"][0] / row["torchvision, images"][0]]
    assert [row[""] for row in overhead["rows"]] == ["bare loop", "our fit", "Lightning's defaults"]
    assert all(row["CPU µs/step"][0] > 0 for row in overhead["rows"])
    for table in (loader, overhead):
        assert table["title"] in process.stdout


def test_an_unknown_comparison_is_one_line():
    process = run("loder")
    assert process.returncode == 2
    assert process.stderr.startswith("error: comparison 'loder' is not known: give some of tutorial, ")
    assert process.stderr.count("\n") == 1


def test_a_length_that_is_none_is_one_line():
    process = run("to-accuracy", "--recipes", "quick:0")
    assert process.returncode == 2
    assert process.stderr == "error: recipe 'quick:0' has no number of epochs: give it like quick or quick:0.25\n"
