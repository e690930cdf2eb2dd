"""benchmarks/: comparisons, their tables, their flags and the race against airbench."""

import json
import statistics
import subprocess
import sys

import benchmark
import pytest
import sides
import torch
from airbench_race import race
from conftest import BENCHMARKS
from PIL import Image
from tables import mean_and_interval, shown
from tutorial_script import TRANSFORMS

from cifar_lightning import CIFAR10DataModule
from cifar_lightning.errors import RunError

SCRIPT = BENCHMARKS / "benchmark.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=600)


def measured(name, tmp_path):
    """Runs a quick comparison; returns its first table from the JSON, and checks that the table is printed too."""
    path = tmp_path / "figures.json"
    process = run(name, "--quick", "--repeats", "1", "--json", str(path))
    assert process.returncode == 0, process.stderr
    return check(path, name, process.stdout)


def check(path, name, printed):
    report = json.loads(path.read_text())
    assert report["machine"].keys() >= {"cpu", "cores", "gpu", "torch", "lightning"}
    assert report["quick"] is True
    table = report["comparisons"][name][0]
    assert table["title"] in printed
    return table


@pytest.mark.soak  # test_overhead.py tests its sides in this process
def test_overhead_comparison_measures_every_side(tmp_path):
    overhead = measured("overhead", tmp_path)
    assert [row[""] for row in overhead["rows"]] == [
        "bare loop",
        "our fit",
        "our fit, a row a step",
        "Lightning's defaults",
    ]
    assert all(row["CPU µs/step"][0] > 0 for row in overhead["rows"])


def test_both_versions_of_the_tutorial_give_the_same_pixels():
    """Both give the pixels that the data module gives, for every value of a byte in every colour."""

    pixels = torch.arange(3 * 32 * 32, dtype=torch.int32).mul(7).remainder(256).to(torch.uint8).reshape(32, 32, 3)
    assert all(len(pixels[:, :, colour].unique()) == 256 for colour in range(3))
    older, newer = (TRANSFORMS[text](Image.fromarray(pixels.numpy())) for text in ("2018", "2026"))
    assert older.dtype == newer.dtype == torch.float32
    assert (older - newer).abs().max() <= 1e-6
    ours = CIFAR10DataModule(source="synthetic").normalize(pixels.permute(2, 0, 1))
    assert (older - ours).abs().max() <= 1e-6


def test_comparison_is_printed_and_written_as_json(tmp_path, monkeypatch, capsys, cpu_settings):
    """A comparison prints its table and writes it as JSON, here with its sides in this process and on few images."""

    few = {"data": {"source": "synthetic", "synthetic_size": 100}}
    monkeypatch.setattr(benchmark, "call", lambda name, **arguments: getattr(sides, name)(**{**arguments, **few}))
    path = tmp_path / "figures.json"
    benchmark.script(["transforms", "--quick", "--repeats", "1", "--json", str(path)])
    check(path, "transforms", capsys.readouterr().out)


def test_sides_take_turns_and_the_load_excludes_the_benchmark(tmp_path, monkeypatch, capsys):
    """Steps of one process and of two take turns, and the load is measured before the benchmark starts a process."""

    load, processes = 0.25, []

    def call(name, **arguments):
        nonlocal load
        load += 1
        if name == "describe_machine":
            return {"cpu": "a", "cores": 2, "gpu": None, "torch": "2", "lightning": "2"}
        if name == "sums_of_ranks":
            return {str(size): [1.0] for size in arguments["sizes"]}
        processes.append(arguments["processes"])
        return {"ms": [1.0, float(len(processes)), 100.0], "sent": {"gradients": [8]}}

    monkeypatch.setattr(benchmark, "call", call)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0, 0))
    path = tmp_path / "figures.json"
    benchmark.script(["scaling", "--quick", "--repeats", "3", "--json", str(path)])
    printed = capsys.readouterr().out
    assert "busy" not in printed
    assert json.loads(path.read_text())["machine"]["load"] == 0.25
    assert processes == 3 * [1, 2, 1, 2, 1, 2]
    row = check(path, "scaling", printed)["rows"][1]
    assert (row["ms, half alone"], row["ms, two"]) == ([7.0, 9.0, 11.0], [8.0, 10.0, 12.0])


def test_no_figure_is_shown_as_a_power_of_ten():

    for value, text in ((999.4, "999"), (999.5, "1,000"), (-999.97, "-1,000"), (1_000.0, "1,000"), (0.0125, "0.0125")):
        assert shown(value) == text
    assert shown([12.0, 999.7, 1_234.4]) == "1,000 (12–1,234)"


def test_a_side_runs_in_its_own_terminal():

    found = benchmark.execute(["-c", "import sys; assert sys.stdout.isatty() and sys.stderr.isatty()"])
    assert all(found[name] > 0 for name in ("process_seconds", "cpu_seconds", "peak_mb"))
    with pytest.raises(RunError, match="ended with 3: it printed nothing"):
        benchmark.execute(["-c", "import sys; sys.exit(3)"])


@pytest.mark.soak
def test_a_step_sends_only_gradients_and_batch_norm_sums(tmp_path):
    """A rank sends its gradients and, once forward and once backward, the sums of each batch norm; nothing else."""
    rows = {row[""]: row for row in measured("scaling", tmp_path)["rows"]}
    assert {name: row["batch norms, messages"] for name, row in rows.items()} == {
        "tutorial": 0,
        "speed94": 12,
        "resnet18": 40,
    }
    parameters = {"tutorial": 62_006, "speed94": 1_971_352, "resnet18": 11_173_962}
    assert {name: row["MB"] for name, row in rows.items()} == {name: 4 * n / 1e6 for name, n in parameters.items()}
    assert {row["others"] for row in rows.values()} == {0}


@pytest.mark.soak
def test_transforms_comparison_gives_a_ratio(tmp_path):
    (row,) = measured("transforms", tmp_path)["rows"]
    assert row["ratio"] == [row["2026, v2"][0] / row["2018, ToTensor"][0]]


@pytest.mark.soak
def test_loader_comparison_covers_every_batch_size(tmp_path):
    loader = measured("loader", tmp_path)
    cpu = [row for row in loader["rows"] if row["device"] == "cpu"]
    assert [row["batch size"] for row in cpu] == [4, 128, 2048]
    for row in cpu:
        assert row["ratio"] == [row["ours, images"][0] / row["torchvision, images"][0]]
        assert row["ours, once, s"][0] > 0


@pytest.mark.soak
@pytest.mark.parametrize(("name", "rows"), [("decode", 4), ("predict", 2)])
def test_decode_and_predict_comparisons_have_all_rows(name, rows, tmp_path):
    assert len(measured(name, tmp_path)["rows"]) == rows


def test_an_unknown_comparison_is_an_error_of_one_line():
    process = run("loder")
    assert process.returncode == 2
    assert process.stderr.startswith("error: unknown comparison loder: choose from tutorial, ")
    assert process.stderr.count("\n") == 1


def test_a_missing_folder_for_the_figures_is_an_error(tmp_path):
    process = run("loader", "--json", str(tmp_path / "none" / "figures.json"))
    assert process.returncode == 2
    assert process.stderr.startswith(
        f"error: json {tmp_path}/none/figures.json: the folder {tmp_path}/none does not exist"
    )


def test_a_length_of_zero_epochs_is_an_error():
    process = run("to-accuracy", "--recipes", "quick:0")
    assert process.returncode == 2
    assert process.stderr == (
        "error: recipe quick:0: the number of epochs must be above 0, as in quick:0.25, or left out\n"
    )


def test_a_recipe_trains_for_its_own_or_a_given_number_of_epochs():

    for run, epochs, whole, steps in (
        ("quick", 1.65, 2, 165),
        ("quick:1.8", 1.8, 2, 180),
        ("speed54", 0.3, 1, 60),
        ("speed54:2", 2, 2, 400),
        ("cpu:3.5", 3.5, 4, 175),
    ):
        flags = ["--recipe", run.partition(":")[0], "--max_epochs", str(whole), "--max_steps", str(steps)]
        assert (benchmark.recipe_epochs(run, 50_000), benchmark.recipe_flags(run, 50_000)) == (epochs, flags)
    assert benchmark.recipe_epochs("speed54", 10_000) == 1  # its max_epochs: its max_steps would need more


def test_intervals_follow_students_t():

    for count, t in ((5, 2.776), (20, 2.093), (100, 1.984)):  # 97.5 % quantiles for count - 1 degrees of freedom
        values = [float(i % 2) for i in range(count)]
        mean, half = mean_and_interval(values)
        assert mean == pytest.approx(statistics.mean(values))
        assert half == pytest.approx(t * statistics.stdev(values) / count**0.5, rel=0.02)
    assert mean_and_interval([1.0, 2.0]) == (1.5, None)


@pytest.mark.soak
def test_the_longer_comparisons_run(tmp_path):
    path = tmp_path / "figures.json"
    names = ("tutorial", "to-accuracy", "width", "beside", "devices", "seeds", "growth")
    process = run(*names, "--quick", "--repeats", "1", "--recipes", "quick,speed54:1", "--json", str(path))
    assert process.returncode == 0, process.stderr
    report = json.loads(path.read_text())
    assert tuple(report["comparisons"]) == names
    for table in (table for tables in report["comparisons"].values() for table in tables):
        assert table["rows"]
        assert table["title"] in process.stdout


AIRBENCH = """
import torch

class CifarNet(torch.nn.Module):
    def cuda(self):
        return self

def print_training_details(variables, is_final_entry):
    raise AssertionError("the race reads the clock in its place")

def main(run, model):
    train = torch.load("cifar10/train.pt")
    assert (train["images"].shape, train["images"].dtype) == ((400, 32, 32, 3), torch.uint8)
    time_seconds = 1.0 if run == "warmup" else 2.0 + run
    print_training_details(locals(), is_final_entry=True)
    return 0.5 + run / 100 if run != "warmup" else 0.0
"""


def test_the_race_times_both_sides_on_the_same_images(tmp_path, monkeypatch, cpu_settings):
    monkeypatch.chdir(tmp_path)

    script = tmp_path / "airbench94_muon.py"
    script.write_text(AIRBENCH)
    data = {"source": "synthetic", "synthetic_size": 400}
    settings = {"max_epochs": 1, "data": {"batch_size": 50}, "model": {"net": "speed", "width": 8}}
    found = race(data, str(script), settings, [1, 2], "max-autotune", str(tmp_path), "cpu")
    assert [(run["acc"], run["clock"]) for run in found["airbench"]] == [(0.51, 3.0), (0.52, 4.0)]
    for run, number in zip(found["ours"], (1, 2), strict=True):
        assert 0 < run["fit"] < run["clock"]
        assert run["fit"] < run["trainer.fit"] < run["wall"]
        results = json.loads((tmp_path / "lightning_logs" / f"version_{number}" / "results.json").read_text())
        assert (results["test_acc"], results["test_views"]) == (run["acc"], "six")


def test_the_race_needs_airbench(tmp_path):
    process = run("airbench")
    assert process.returncode == 2
    assert process.stderr.startswith("error: airbench None: use --airbench DIR, a checkout of https://github.com/")
    for script in ("airbench94_muon.py", "airbench96_faster.py"):
        (tmp_path / script).touch()
    process = run("airbench", "--airbench", str(tmp_path), "--recipes", "quick,cpu")
    assert process.stderr == "error: recipes quick,cpu: airbench races speed94 and speed96: use these\n"
