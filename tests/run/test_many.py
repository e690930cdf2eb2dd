"""fit_many() and resume_many(): each run equals a fit of its own, and a group survives what a single run survives."""

import json
import os
import shutil
import signal
import threading
from statistics import fmean, stdev

import pytest
import torch
import yaml
from conftest import SYNTHETIC, one_line
from jobs import SMALL, differences, end, job, leftovers, processes_of, start, step_of
from rich.console import Console
from test_stop import LONG_EPOCH, wait_for

from cifar_lightning import InputError, compare, evaluate, fit, fit_many, resume, resume_many
from cifar_lightning.errors import NonFiniteError, RunError
from cifar_lightning.report.group import print_group, summary
from cifar_lightning.run import folder, many
from cifar_lightning.run.status import status

IMAGES = {"source": "synthetic", "synthetic_size": 300, "batch_size": 20, "augment": True}
OPTIONS = {"accelerator": "cpu", "max_epochs": 1, "report": False, "log_every_n_steps": 5}


TWO_CORES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: they go one after another")


# Run as separate programs, because a process that has exported before cannot fork runs. See `can_train_forked`.
FIRST = f"""
import json
from pathlib import Path

import torch

from cifar_lightning.run import many

many.usable_cores = lambda: 2
IMAGES, OPTIONS = {IMAGES}, {OPTIONS}
"""
SEEDS = """
found = many.fit_many(IMAGES, {"lr": 0.02}, seeds=3, seed=5, **OPTIONS)
Path("found.json").write_text(json.dumps(found))
"""
AT_ONCE = """
def at_once():
    small = {"data": {**IMAGES, "synthetic_size": 40}, "model": {}}
    return many._prepared(many.settings_of_fit({**small, **OPTIONS}), 2)[1]

"""


def program(home, text):
    (home / "program.py").write_text(FIRST + text)
    done = job(home / "program.py", cwd=home)
    assert done.code == 0, done.text


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Trains three seeds, two at a time; returns the group's folder, and what `fit_many` returned."""
    home = tmp_path_factory.mktemp("seeds")
    program(home, SEEDS)
    return home / "lightning_logs" / "version_0", json.loads((home / "found.json").read_text())


def read(run):
    return json.loads((run / "results.json").read_text())


def test_run_of_a_group_is_bit_identical_to_a_fit_of_its_own(plain, seeds, tmp_path):
    """A run trained beside others is bit-identical to a fit of its own, and can be evaluated like any run."""
    group, found = seeds
    assert [run["name"] for run in found["runs"]] == ["seed_5", "seed_6", "seed_7"]
    for seed in (5, 7):
        fit(IMAGES, {"lr": 0.02}, seed=seed, threads=1, default_root_dir=tmp_path / str(seed), **OPTIONS)
        alone = tmp_path / str(seed) / "lightning_logs" / "version_0"
        assert differences(alone, group / f"seed_{seed}") == []
    run = group / "seed_6"
    assert yaml.safe_load((run / "config.yaml").read_text())["threads"] == 1
    assert evaluate(run, accelerator="cpu", output_dir=tmp_path)["test_acc"] == read(run)["test_acc"]


def test_results_of_a_group_sum_up_its_runs(seeds):
    group, found = seeds
    assert read(group) == json.loads(json.dumps(found))
    accuracies = [read(group / f"seed_{seed}")["test_acc"] for seed in (5, 6, 7)]
    assert [run["test_acc"] for run in found["runs"]] == accuracies
    spread = found["figures"]["test_acc"]
    assert (spread["n"], spread["mean"], spread["sd"]) == (3, fmean(accuracies), stdev(accuracies))
    half = 4.302652729749464 * stdev(accuracies) / 3**0.5  # Student's t with two degrees of freedom
    assert spread["interval"] == pytest.approx([max(0, spread["mean"] - half), spread["mean"] + half])
    cats = [read(group / f"seed_{seed}")["per_class_acc"]["cat"] for seed in (5, 6, 7)]
    assert found["per_class_acc"]["cat"]["mean"] == fmean(cats)
    (theirs,) = compare([group])["groups"]
    assert (theirs["seeds"], theirs["mean"]) == ([5, 6, 7], spread["mean"])


def test_figure_that_is_not_finite_in_a_run_is_left_out_of_the_group(tmp_path):
    found = fit_many(IMAGES, {"lr": 1e9}, seeds=2, default_root_dir=tmp_path, max_steps=1, **OPTIONS)
    assert [run["test_loss"] for run in found["runs"]] == [None, None]
    assert list(found["figures"]) == ["test_acc"]


def test_runs_with_large_steps_train_one_after_another(seeds, tmp_path, monkeypatch):
    """Runs with large steps train one after another in this process, with the same results."""
    monkeypatch.setattr(many, "SIDE_BY_SIDE_STEP", 0)
    monkeypatch.setattr(many, "side_by_side", None)
    found = fit_many(IMAGES, {"lr": 0.02}, seeds=2, seed=5, default_root_dir=tmp_path, **OPTIONS)
    assert [run["test_acc"] for run in found["runs"]] == [run["test_acc"] for run in seeds[1]["runs"][:2]]
    assert differences(tmp_path / "lightning_logs" / "version_0" / "seed_6", seeds[0] / "seed_6") == []


def test_runs_train_one_after_another_on_a_machine_with_a_gpu(tmp_path):
    """With a GPU no run is forked, even on the CPU: every fit reads CUDA's random state, which a fork cannot do."""
    gpu = """
assert at_once() == 2
torch.cuda.is_available = lambda: True
torch.cuda.device_count = torch.cuda.random.device_count = lambda: 1
assert at_once() == 0
"""
    program(tmp_path, AT_ONCE + gpu)


def test_runs_train_one_after_another_after_an_export(seeds, tmp_path):
    """After an export and gradients, torch acts as if there were a GPU, and forked runs could compute no gradients."""
    exported = """
from torch._subclasses.fake_tensor import FakeTensorMode

with FakeTensorMode():
    torch.nn.Linear(2, 2)(torch.ones(2, 2))
assert at_once() == 2  # the gradients come where they are computed next
torch.ones(1, requires_grad=True).backward()
assert at_once() == 0
"""
    program(tmp_path, AT_ONCE + exported + SEEDS)
    assert json.loads((tmp_path / "found.json").read_text())["figures"] == seeds[1]["figures"]


def test_folds_are_trained_reported_and_resumed(tmp_path, capsys):
    """Each fold is validated on its own part of the training images; the group's report has a table and a figure."""
    found = fit_many({**IMAGES, "augment": False}, folds=2, default_root_dir=tmp_path, **{**OPTIONS, "report": True})
    group = tmp_path / "lightning_logs" / "version_0"
    parts = [yaml.safe_load((group / name / "config.yaml").read_text())["data"]["val_split"] for name in
             ("fold_1", "fold_2")]  # fmt: skip
    assert parts == ["1of2", "2of2"]
    assert found["figures"]["val_acc"]["mean"] == fmean(read(group / name)["val_acc"] for name in ("fold_1", "fold_2"))
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{group}: 2 runs, fold_1 to fold_2, ")
    assert sorted(line.partition(":")[0] for line in out[1:3]) == ["fold_1", "fold_2"]
    assert [line.split()[0] for line in out if line.endswith(("%", "n/a"))][:2] == ["test", "validation"]
    assert (group / "figures" / "accuracies.png").stat().st_size > 10_000
    with pytest.raises(InputError, match=f"nothing to resume: all runs of {group} have finished"):
        resume_many(group)
    (group / "results.json").unlink()
    (group / "fold_2" / "results.json").unlink()
    changes = {"data": {"val_split": 0}, "max_epochs": OPTIONS["max_epochs"]}  # as in the recipe resnet18
    assert many.resume_newest_many(tmp_path, changes, folds=2, report=False)["figures"] == found["figures"]
    with pytest.raises(InputError, match=r"--data.val_split \(the run has 1of2, not 0.1\) would change"):
        resume_many(group, {"data.val_split": 0.1})


@TWO_CORES
def test_killed_runs_of_a_group_resume_bit_identically(tmp_path):
    """Killed runs of a group continue from their checkpoints, and end bit-identical to an uninterrupted run."""
    flags = (*SMALL, "--threads", 1, "--seeds", 2, "--resume", "auto")
    died = job("fit", *flags, cwd=tmp_path, fault="kill@-:train:25")
    where = "continue with --resume lightning_logs/version_0"
    assert (died.code, died.lines[0]) == (1, "no unfinished group of 2 seeds: starting a new one")
    assert died.lines[-1] == f"error: 2 of 2 runs failed, first seed_0: was killed by SIGKILL; {where}" or (
        died.lines[-1] == f"error: 2 of 2 runs failed, first seed_1: was killed by SIGKILL; {where}"
    ), died.text
    group = tmp_path / "lightning_logs" / "version_0"
    assert not (group / "results.json").exists()
    assert (group / "seed_0" / "checkpoints" / "step-21.ckpt").exists()
    went_on = job("fit", *flags, cwd=tmp_path)
    assert (went_on.code, went_on.lines[0]) == (0, "resuming lightning_logs/version_0"), went_on.text
    assert read(group)["figures"]["test_acc"]["n"] == 2
    (tmp_path / "whole").mkdir()
    whole = job("fit", *SMALL, "--seed", 1, cwd=tmp_path / "whole")
    assert whole.code == 0, whole.text
    assert differences(tmp_path / "whole" / "lightning_logs" / "version_0", group / "seed_1") == []


def test_resume_auto_takes_only_a_free_group_with_the_same_settings(seeds, tmp_path, call, monkeypatch, capsys):
    """--resume auto takes no group with other settings, none that another process holds, and no single run."""
    logs, plan = tmp_path / "lightning_logs", yaml.safe_load((seeds[0] / "group.yaml").read_text())
    for number in (0, 1):
        shutil.copytree(seeds[0], logs / f"version_{number}")
        (logs / f"version_{number}" / "results.json").unlink()
    (logs / "version_0" / "seed_6" / "results.json").unlink()
    shutil.copytree(logs / "version_0" / "seed_6", logs / "version_2")
    monkeypatch.setattr(folder, "HELD_SECONDS", 0.1)

    assert (plan["kind"], len(plan["runs"])) == ("seeds", 3)
    others = [({}, {"seeds": 4}), ({}, {"folds": 3}), ({"seed": 6}, {"seeds": 3}), ({"max_epochs": 2}, {"seeds": 3})]
    for changes, count in [*others, ({"model.lr": 0.01}, {"seeds": 3})]:
        assert many.resume_newest_many(tmp_path, changes, **count) is None
    said = capsys.readouterr().err.splitlines()
    assert f"skipping {logs}/version_1: it is a group of 3 seeds, not of 4 seeds" in said
    assert len([line for line in said if line.startswith("skipping")]) == 5
    with folder.newest_unfinished(tmp_path) as (run, _):
        assert run == logs / "version_2"

    flags = [f"--data.{name}={value}" for name, value in IMAGES.items()] + ["--model.lr=0.02", "--seed=5", "--seeds=3"]
    flags += [f"--{name}={value}" for name, value in OPTIONS.items()] + ["--resume=auto"]
    with folder.held(logs / "version_1"):
        code, out, err = call("fit", *flags)
    assert (code, out) == (0, "resuming lightning_logs/version_0\n"), err
    assert read(logs / "version_0")["figures"] == read(seeds[0])["figures"]
    assert not any((logs / name / "results.json").exists() for name in ("version_1", "version_2"))
    assert call("fit", "--resume", logs / "version_1", "--report", "false")[:2] == (0, "")
    assert read(logs / "version_1")["figures"] == read(seeds[0])["figures"]


@TWO_CORES
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signal_to_the_parent_stops_all_runs(tmp_path, signum, code):
    """A signal stops all runs, each with a checkpoint: SIGINT is reported in one line, and a SIGKILL leaves no run."""
    process = start("fit", *LONG_EPOCH, "--seeds", 3, cwd=tmp_path)
    group = tmp_path / "lightning_logs" / "version_0"
    begun = [group / name / "metrics.csv" for name in ("seed_0", "seed_1")]
    wait_for(
        lambda: all(path.exists() and path.read_text().count("\n") > 3 for path in begun) or not process.is_alive()
    )
    os.kill(process.pid, signum)
    stopped = end(process)
    assert stopped.code == code, stopped.text
    if signum == signal.SIGINT:
        assert stopped.lines[-1] == "stopped by SIGINT; continue with --resume lightning_logs/version_0"
        assert len([line for line in stopped.lines if "stopped" in line]) == 1
    wait_for(lambda: processes_of(tmp_path) == [])
    for path in begun:
        assert step_of(path.parent) > 0
    assert not (group / "seed_2" / "checkpoints").exists()


def test_runs_train_forked_after_a_computation_in_several_threads(tmp_path, cpu_settings):
    """OpenMP keeps its threads, but a fork loses them: a forked run that counted on them would wait for ever."""
    torch.set_num_threads(2)
    torch.rand(2_000, 2_000) @ torch.rand(2_000, 2_000)
    waited = threading.Timer(240, os.kill, (os.getpid(), signal.SIGINT))
    waited.start()
    try:
        fit_many(IMAGES, {"net": "speed54"}, seeds=2, default_root_dir=tmp_path, **OPTIONS)
    finally:
        waited.cancel()
    assert torch.get_num_threads() == 2


def test_resume_replaces_damaged_results(seeds, tmp_path):
    group, found = seeds
    copy = shutil.copytree(group, tmp_path / "group")
    figures = json.loads(json.dumps(found["figures"]))
    for damaged in (copy / "seed_6", copy):
        (damaged / "results.json").write_text("{")
        assert status(copy).state == "to be resumed"
        assert json.loads(json.dumps(resume_many(copy, report=False)["figures"])) == figures
    with pytest.raises(InputError, match=r"all runs of .* have finished"):
        resume_many(copy)


@pytest.mark.parametrize("changes", [{"max_epochs": 2}, {"trainer.max_time": None}])
def test_length_of_a_groups_runs_cannot_be_changed(seeds, tmp_path, changes):
    """Runs of a group stay of one length: it can be changed neither for all of them nor for one."""
    copy = shutil.copytree(seeds[0], tmp_path / "group")
    config = copy / "seed_5" / "config.yaml"
    config.write_text(config.read_text().replace("trainer: {}", "trainer: {max_time: '00:01:00:00'}"))
    own = r"(max_epochs 1|trainer\.max_time 00:01:00:00)"
    said = rf"(max_epochs 2|max_time None): all runs of .*group have {own}; start a new group"
    with pytest.raises(InputError, match=said):
        resume_many(copy, changes)
    with pytest.raises(InputError, match=said):
        resume(copy / "seed_5", changes)


def test_error_names_a_failed_run(tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"2 of 2 runs failed, first seed_.*; start a new run with a lower learning rate$"
    ):
        fit_many(IMAGES, {"lr": 1e30}, seeds=2, default_root_dir=tmp_path, **OPTIONS)


def test_error_in_one_run_does_not_end_the_others(tmp_path, monkeypatch, capsys):
    """An unexpected error in one run does not end the others, even if they train one after another in this process."""
    fit_one = many._fit_one

    def broken(folder, *args):
        if folder.name == "seed_0":
            raise ValueError("theirs", 3)
        return fit_one(folder, *args)

    monkeypatch.setattr(many, "SIDE_BY_SIDE_STEP", 0)
    monkeypatch.setattr(many, "_fit_one", broken)
    with pytest.raises(RunError, match=r"1 of 2 runs failed, first seed_0: ValueError: \('theirs', 3\); continue with"):
        fit_many(IMAGES, seeds=2, default_root_dir=tmp_path, **OPTIONS)
    group = tmp_path / "lightning_logs" / "version_0"
    assert (group / "seed_1" / "results.json").exists()
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):\n")
    monkeypatch.undo()
    assert resume_many(group, report=False)["figures"]["test_acc"]["n"] == 2


def test_resume_removes_the_partial_files_that_a_kill_has_left(seeds, tmp_path):
    group = tmp_path / "group"
    shutil.copytree(seeds[0], group)
    (group / "figures").mkdir()
    (group / "results.json").rename(group / ".results.json.0123456789ab.part")
    (group / "figures" / ".accuracies.png.0123456789ab.part").touch()
    figures = resume_many(group, report=False)["figures"]
    assert json.loads(json.dumps(figures)) == seeds[1]["figures"]
    assert leftovers(group) == []


def test_a_number_of_runs_that_is_text_is_quoted():
    with pytest.raises(InputError, match="seeds '3': must be a whole number of at least 2; for a single run leave out"):
        fit_many(seeds="3")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", 1), "seeds 1: must be a whole number of at least 2; for a single run leave out --seeds, "),
        (("--folds", 1), "folds 1: must be a whole number of at least 2"),
        (("--seeds", 2, "--folds", 2), "seeds and folds: pass exactly one of them"),
        (("--seeds", 2, "--seed", 2**32 - 1), "exceed 4294967295, the highest seed: use a lower seed"),
        (("--seeds", 2, "--num_nodes", 2), "seeds 2: a group of runs trains on one machine; use num_nodes 1"),
        (
            ("--seeds", 2, "--resume", "version_0"),
            "seeds 2: --resume continues what version_0 already has; leave out",
        ),
        (
            ("--folds", 5, "--data.val_split", 0.1),
            "folds 5: each run is validated on its own fold; leave out val_split 0.1",
        ),
        (("--folds", 21, "--data.synthetic_size", 200), "21 folds are more than the 20 training images of the class"),
        (("--threads", 0), "threads 0: must be at least 1"),
    ],
)
def test_wrong_flags_of_a_group_are_refused_before_it_makes_a_folder(call, tmp_path, flags, message):
    assert message in one_line(*call("fit", *SYNTHETIC, *flags))
    assert not (tmp_path / "lightning_logs").exists()


def test_fit_many_refuses_callback_objects_and_several_ranks(tmp_path, monkeypatch):
    from lightning.pytorch import Callback

    with pytest.raises(InputError, match="Callback is an object for one run: call fit in a loop"):
        fit_many(IMAGES, seeds=2, callbacks=Callback(), default_root_dir=tmp_path, **OPTIONS)
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"seeds 2: a group .* launcher started this process as rank 0 of 2; start"):
        fit_many(IMAGES, seeds=2, default_root_dir=tmp_path, **OPTIONS)
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize("width", [40, 200])
def test_table_of_a_group_fits_the_terminal(capsys, width):
    """The table fits; a class without images has n/a for its accuracy, and equal values have n/a for their interval."""
    run = {"per_class_acc": {"a [b]": 0.5, "none": None}, "test_acc": 0.5, "test_loss": 1.0, "seed": 0}
    found = summary("seeds", {"seed_0": run, "seed_1": {**run, "test_acc": 0.6}})
    print_group(found, [], Console(width=width, force_terminal=True, color_system=None))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    rows = {line[:9].strip(): line[9:].split() for line in lines}
    assert rows["test"][:3] == ["55.00", "%", "7.07"]
    assert width == 40 or rows["test"][3:] == ["0.00", "to", "100.00", "%"]
    assert rows["a [b]"] == ["50.0", "%", "0.0", "n/a"]
    assert rows["none"] == ["n/a", "n/a", "n/a"]
