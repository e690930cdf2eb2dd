import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)


def test_it_measures_both_sides_and_writes_the_figures(tmp_path):
    path = tmp_path / "figures.json"
    process = run("loader", "width", "--quick", "--repeats", "1", "--json", str(path))
    assert process.returncode == 0, process.stderr
    report = json.loads(path.read_text())
    assert report["machine"].keys() >= {"cpu", "cores", "gpu", "torch", "lightning"}
    assert report["quick"] is True
    loader, width = (report["comparisons"][name][0] for name in ("loader", "width"))
    cpu = [row for row in loader["rows"] if row["device"] == "cpu"]
    assert [row["batch size"] for row in cpu] == [4, 128, 2048]
    for row in cpu:
        assert row["ratio"] == [row["ours, images"][0] / row["torchvision, images"][0]]
    assert [row["width"] for row in width["rows"]] == [6, 32, 128]
    assert all(row["batch 128"][0] > row["batch 4"][0] > 0 for row in width["rows"])
    for table in (loader, width):
        assert table["title"] in process.stdout


def test_an_unknown_comparison_is_one_line():
    process = run("loder")
    assert process.returncode == 2
    assert process.stderr.startswith("error: comparison 'loder' is not known: give some of tutorial, ")
    assert process.stderr.count("\n") == 1
