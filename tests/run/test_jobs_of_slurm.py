"""Jobs that a scheduler stops and starts again, array tasks that share a folder, and the status of runs."""

import json
import os
import shutil
import signal
import time

import pytest
from conftest import NOBODY, another_user
from jobs import SMALL, differences, end, job, start, step_of
from test_resume import unfinished

from cifar_lightning.run.folder import held, newest_unfinished
from cifar_lightning.run.holder import LOCK, Holder
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.status import Status, status

ARRAY = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


@pytest.fixture
def slurm(tmp_path):
    """Makes a scontrol that notes its arguments; returns the variables by which it is found, and the file of notes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    return {**ARRAY, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}, tmp_path / "asked"


def test_tasks_of_an_array_resume_their_own_runs(whole, slurm, tmp_path):
    """Two warned tasks save and are requeued; started again at the same time, each resumes and finishes its own run."""
    variables, asked = slurm
    tasks = [("--resume", "auto", *SMALL), ("--resume", "auto", *SMALL, "--seed", 1)]

    def at_once(fault):
        jobs = [
            start("fit", *flags, cwd=tmp_path, fault=fault, env={**variables, "SLURM_ARRAY_TASK_ID": str(task)})
            for task, flags in enumerate(tasks)
        ]
        return [end(job) for job in jobs]

    warned = at_once("usr1@-:train:10")
    for task, done in enumerate(warned):
        assert done.code == 128 + signal.SIGUSR1, done.text
        assert done.lines[-1].endswith(f"; job 17_{task} is requeued")
        assert done.lines[-1].startswith("stopped by SIGUSR1; continue with --resume lightning_logs/version_")
    assert sorted(asked.read_text().splitlines()) == ["requeue 17_0", "requeue 17_1"]
    runs = {Holder.of(run).job: run for run in (tmp_path / "lightning_logs").iterdir()}
    assert all(step_of(run) >= 10 for run in runs.values())  # on a busy machine a signal arrives some steps later
    assert [done.code for done in at_once("")] == [0, 0]
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 2
    assert json.loads((runs["17_1"] / "results.json").read_text())["seed"] == 1
    assert differences(runs["17_0"], whole[1]) == []


@pytest.mark.soak
def test_group_of_runs_is_requeued_once_and_resumed(slurm, tmp_path):
    variables, asked = slurm
    flags = (*SMALL, "--seeds", 2, "--resume", "auto")
    env = {**variables, "SLURM_ARRAY_TASK_ID": "0"}
    warned = job("fit", *flags, cwd=tmp_path, fault="usr1@-:train:10", env=env)
    assert warned.code == 128 + signal.SIGUSR1, warned.text
    last = "stopped by SIGUSR1; continue with --resume lightning_logs/version_0; job 17_0 is requeued"
    assert warned.lines[-1] == last
    assert asked.read_text() == "requeue 17_0\n"
    again = job("fit", *flags, cwd=tmp_path, env=env)
    assert (again.code, again.lines[0]) == (0, "resuming lightning_logs/version_0"), again.text
    assert [run.name for run in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]


def test_job_that_slurm_does_not_requeue_says_why(slurm, tmp_path):
    variables, _ = slurm
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho Requested operation is disabled >&2; exit 1\n")
    variables = {**variables, "SLURM_ARRAY_JOB_ID": "", "SLURM_JOB_ID": "9"}
    done = job("fit", "--resume", "auto", *SMALL, cwd=tmp_path, fault="usr2@-:data:1", env=variables)
    assert done.code == 128 + signal.SIGUSR2
    assert done.lines[-1] == "stopped by SIGUSR2; job 9 is not requeued (Requested operation is disabled)"


@pytest.mark.parametrize("fault", ["usr1@-:train:10", "term@-:train:10"])
def test_job_that_would_begin_anew_or_is_cancelled_is_not_requeued(slurm, tmp_path, fault):
    """A job is not requeued without --resume auto, as it would begin anew, nor after a user's scancel (SIGTERM)."""
    variables, asked = slurm
    flags = ("--resume", "auto") if fault.startswith("term") else ()
    assert job("fit", *flags, *SMALL, cwd=tmp_path, fault=fault, env=variables).code > 128
    assert not asked.exists()


def begun(home, number, **holder):
    run = unfinished(home, number)
    if holder:
        (run / LOCK).write_text(json.dumps({"job": None, "host": "n1", **holder}))
    return run


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, 3),  # the newest
        ({"SLURM_JOB_ID": "8"}, 0),  # its own
        ({"SLURM_JOB_ID": "9"}, 3),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "4"}, 1),  # its own
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "5"}, 2),  # it has no job; version_3 is another task's
    ],
)
def test_resume_auto_prefers_a_jobs_own_run_and_skips_other_tasks(monkeypatch, tmp_path, variables, found):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    begun(tmp_path, 0, job="8")
    begun(tmp_path, 1, job="17_4")
    begun(tmp_path, 2)
    begun(tmp_path, 3, job="17_7")
    with newest_unfinished(tmp_path) as (run, _):
        assert run.name == f"version_{found}"
        assert Holder.of(run) == Holder.this()


def test_resume_auto_skips_runs_with_other_settings(tmp_path, capsys):
    for number in range(3):
        begun(tmp_path, number)
    for number, seed in enumerate((0, 1, 2)):
        config = tmp_path / "lightning_logs" / f"version_{number}" / "config.yaml"
        config.write_text(config.read_text().replace("seed: 0\n", f"seed: {seed}\n"))
    with newest_unfinished(tmp_path, {"seed": 0}) as (run, _):
        assert run.name == "version_0"
    said = capsys.readouterr().err
    assert said.startswith(f"skipping {run.with_name('version_2')}: --seed (the run has 2, not 0) would change")
    assert said.count("\n") == 1
    with newest_unfinished(tmp_path, {"seed": 3}) as found:
        assert found is None


def test_status_of_a_run(whole, call, tmp_path):
    run = tmp_path / "run 1"
    shutil.copytree(whole[1], run)
    results = json.loads((run / "results.json").read_text())
    row = read_rows(run / "metrics.csv")[-1]
    test, val = (f"{100 * share:.2f} %" for share in (results["test_acc"], row["val_acc"]))
    assert call("status", run) == (0, f"{run}: finished, epoch 2/2, step 36, test accuracy {test}\n", "")
    (run / "results.json").write_text(json.dumps({**results, "step": 18}))  # as if the first epoch's was the best
    tested = f"test accuracy {test} at step 18"
    assert call("status", run) == (0, f"{run}: finished, epoch 2/2, step 36, {tested}\n", "")
    _, out, _ = call("status", run, "--json")
    assert (json.loads(out)["step"], json.loads(out)["newest_step"], json.loads(out)["epoch"]) == (18, 36, 2)
    (run / "results.json").unlink()
    go_on = f"; continue with cifar-lightning fit --resume '{run}'\n"
    assert call("status", run) == (75, f"{run}: to be resumed, epoch 2/2, step 36, val accuracy {val}{go_on}", "")
    code, out, _ = call("status", run, "--json")
    assert (code, json.loads(out)["state"], json.loads(out)["step"]) == (75, "to be resumed", 36)
    with held(run):
        code, out, _ = call("status", run)
    assert (code, out) == (16, f"{run}: running{Holder.this()}, epoch 2/2, step 36, val accuracy {val}\n")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    assert call("status", run) == (75, f"{run}: to be resumed{go_on}", "")
    for name, what in (
        ("nowhere", "does not exist: use a run's folder"),
        ("checkpoints", f"is inside a run's folder: use {run}"),
    ):
        assert call("status", run / name) == (2, "", f"error: run {run / name} {what}\n")
    assert call("status", tmp_path) == (
        2,
        "",
        f"error: run {tmp_path} is not a run's folder (no readable config.yaml): use lightning_logs/version_N\n",
    )


def test_status_of_a_diverged_run_has_an_exit_code_of_its_own(whole, call, tmp_path):
    """The exit code lets a loop of restarts end; a diverged run that is resumed nevertheless is like any other run."""
    assert job("fit", *SMALL, cwd=tmp_path, fault="nan@-:train:10").code == 3
    run = tmp_path / "lightning_logs" / "version_0"
    code, out, _ = call("status", run)
    assert code == 3
    assert out.startswith(f"{run}: diverged, epoch 1/2, step 7, ")
    assert ", with lr " in out
    assert out.endswith("; start a new run with a lower learning rate\n")
    assert job("fit", "--resume", run, cwd=tmp_path, fault="kill@-:train:5").code == -9
    assert call("status", run)[0] == 75
    assert job("fit", "--resume", run, cwd=tmp_path).code == 0
    assert differences(run, whole[1]) == []


@pytest.mark.parametrize("results", ["{}", "[]", "{"])
def test_status_of_a_run_with_damaged_files(whole, call, tmp_path, results):
    shutil.copytree(whole[1], tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(results)
    (tmp_path / "run" / "metrics.csv").write_text("no\nlog\n")
    said = {
        0: "run: finished, step 36\n",
        75: "run: to be resumed, step 36; continue with cifar-lightning fit --resume run\n",
    }
    code = 0 if results == "{}" else 75
    assert call("status", "run") == (code, said[code], "")


@another_user
def test_status_of_another_users_unreadable_run(for_anyone):
    run = for_anyone / "run"
    run.mkdir(mode=0o700)
    done = job("status", "run", cwd=for_anyone, user=NOBODY)
    assert (done.code, done.lines) == (2, ["error: run cannot be read (Permission denied): make it readable"])


def test_status_writes_steps_with_thousands_separators():
    line = str(Status("run", "running", 3, 10, 12_345, 0.5, None, newest_step=12_345))
    assert line == "run: running, epoch 3/10, step 12,345, val accuracy 50.00 %"


def test_status_of_a_group(whole, call, tmp_path):
    """A group has finished only if all its runs have and its own results.json exists, which a resume would write."""
    group, names = tmp_path / "group", ["seed_0", "seed_1", "seed_2"]
    for name in names:
        (group / name).mkdir(parents=True)
        for file in ("config.yaml", "results.json"):
            shutil.copy(whole[1] / file, group / name)
    (group / "group.yaml").write_text(f"kind: seeds\nruns: {names}\n")
    go_on = f"; continue with cifar-lightning fit --resume {group}\n"
    assert call("status", group) == (75, f"{group}: to be resumed, 3 of 3 runs finished{go_on}", "")
    (group / "results.json").write_text("{}")
    assert call("status", group) == (0, f"{group}: finished, 3 of 3 runs finished\n", "")
    (group / "seed_1" / "results.json").unlink()
    assert call("status", group) == (75, f"{group}: to be resumed, 2 of 3 runs finished, 1 to be resumed{go_on}", "")
    code, out, _ = call("status", group, "--json")
    assert code == 75
    assert [run["state"] for run in json.loads(out)["runs"]] == ["finished", "to be resumed", "finished"]
    (group / "seed_0" / "results.json").unlink()
    (group / "seed_0" / "diverged.txt").touch()
    assert call("status", group)[:1] == (75,)
    shutil.copy(whole[1] / "results.json", group / "seed_1")
    anew = "start a new run with a lower learning rate"
    assert call("status", group) == (3, f"{group}: diverged, 2 of 3 runs finished, 1 diverged; {anew}\n", "")
    shutil.move(group / "seed_1" / "results.json", group / "seed_0")
    for folder, said in ((group / "seed_1", ", 2 of 3 runs finished, 1 running"), (group, Holder.this())):
        with held(folder):
            code, out, _ = call("status", group)
        assert code == 16
        assert out.startswith(f"{group}: running{said}")
    plan = group / "group.yaml"
    plan.write_bytes(b"kind: seeds\xff\nruns: [../seed_0]\n")
    error = f"error: {plan} does not describe a group of runs: fix it, or use one of the runs in its folder\n"
    assert call("status", group) == (2, "", error)
    plan.unlink()
    plan.mkdir()
    assert call("status", group) == (2, "", f"error: {plan} cannot be read (Is a directory): make it readable\n")


def test_status_writes_nothing(tmp_path, monkeypatch):
    """The state of a run can be read on a read-only mount, even while a job on another machine trains it."""
    run, opened = unfinished(tmp_path, 0), os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *args, **kwargs)

    with held(run):
        monkeypatch.setattr(os, "open", read_only)
        assert (status(run).state, status(run).holder) == ("running", Holder.this())
    assert (status(run).state, status(run).holder) == ("to be resumed", None)


def test_status_while_a_job_trains_and_after_it_has_stopped(tmp_path):
    process = start("fit", *SMALL, "--data.synthetic_size", 20_000, "--data.batch_size", 2, cwd=tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    while step_of(run) < 0:
        assert process.is_alive()
        time.sleep(0.05)
    assert status(run).state == "running"
    os.kill(process.pid, signal.SIGUSR1)
    assert end(process).code == 138
    assert status(run).state == "to be resumed"
    assert status(run).step == step_of(run) > 0
