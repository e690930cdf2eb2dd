"""Tests how jobs end early: a signal stops a job with a checkpoint, and a job that fails says why."""

import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import PLAIN
from jobs import SCRIPTS, SMALL, differences, end, job, processes_of, start, step_of, suspended

from cifar_lightning import stop
from cifar_lightning.errors import Stopped
from cifar_lightning.run import signals

# One checkpoint per epoch, and long epochs: the first checkpoint after the one of the start is saved by a stop.
LONG_EPOCH = (
    *(*SMALL, "--data.synthetic_size", 8_000, "--data.batch_size", 2),
    *("--checkpoint_every_n_steps", "null", "--max_epochs", 2),
)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("devices", "fault", "code"),
    [
        # each signal and each place once, because all signals have the same handler
        (1, "hup@-:train:10", 129),
        (1, "int@-:train:19", 130),
        (1, "usr1@-:val:2", 138),
        (1, "int@-:test:2", 130),
        (1, "term@-:write:3", 143),
        (1, "term@-:report:1", 143),
        (2, "term@1:train:3", 143),
        pytest.param(1, "term@-:val:2", 143, marks=pytest.mark.soak),
        pytest.param(1, "usr1@-:train:10", 138, marks=pytest.mark.soak),
        pytest.param(2, "usr2@1:train:3", 140, marks=pytest.mark.soak),
        pytest.param(2, "int-parent@0:val:1", 130, marks=pytest.mark.soak),
        pytest.param(2, "term-all@0:test:1", 143, marks=pytest.mark.soak),
    ],
)
def test_a_signal_stops_a_run_with_a_checkpoint(whole, tmp_path, devices, fault, code):
    """A signal to one rank, the launcher or all stops a run in training, evaluation, saving or reporting."""
    done = job("fit", *SMALL, "--devices", devices, cwd=tmp_path, fault=fault, timeout=60)
    run = tmp_path / "lightning_logs" / "version_0"
    name = signal.Signals(code - 128).name
    assert done.code == code, done.text
    assert [line for line in done.lines if "stopped" in line or "Error" in line] == [
        f"stopped by {name}; continue with --resume lightning_logs/version_0"
    ]
    assert processes_of(tmp_path) == []
    place, number = fault.split(":")[1:]
    assert step_of(run) >= {"train": int(number), "val": 18, "test": 36, "report": 36, "write": 14}[place]
    assert job("fit", "--resume", run, cwd=tmp_path).code == 0
    assert differences(run, whole[devices]) == []


def test_a_signal_during_start_up_of_a_rank_stops_the_job(tmp_path):
    done = job("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="term@1:import:1")
    assert done.code == 143
    assert [line for line in done.lines if not line.startswith("lightning_logs")] == [
        "stopped by SIGTERM; continue with --resume lightning_logs/version_0"
    ]
    assert list(tmp_path.rglob("*.ckpt")) == []


@pytest.mark.parametrize("fault", ["term@-:import:1", pytest.param("int@-:data:1", marks=pytest.mark.soak)])
def test_a_signal_during_start_up_stops_a_job(tmp_path, fault):
    arguments = [str(part) for part in SMALL]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "fit.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, **PLAIN, "FAULT": fault},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (130 if "int" in fault else 143)
    assert done.stderr.startswith("stopped by SIG")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_a_second_signal_ends_a_job_at_once(tmp_path):
    """A second signal ends a job at once, even if a rank hangs within a step, where a first one would have to wait."""
    process = start("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="stop@1:train:5")
    wait_for(lambda: suspended(tmp_path))
    for _ in range(20):
        os.kill(process.pid, signal.SIGTERM)  # repeatedly: a signal that comes too soon counts as an echo of the first
        process.join(0.5)
        if process.exitcode is not None:
            break
    done = end(process, timeout=1)
    assert done.code == 143
    assert done.lines[-1] == "stopped by SIGTERM; continue with --resume lightning_logs/version_0"
    assert processes_of(tmp_path) == []


def test_two_signals_close_together_are_one_request(tmp_path):
    """Two signals close together are one request to stop, because `timeout` signals the process and its group."""
    process = start("fit", *LONG_EPOCH, cwd=tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    wait_for((run / "metrics.csv").exists)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    assert end(process, timeout=30).code in (143, 130)
    assert step_of(run) > 0  # saved by the stop
    assert process.log.read_text().count("stopped by") == 1


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_a_closed_terminal_stops_a_run_with_a_checkpoint(tmp_path, devices):
    """When its terminal is closed, a run saves and stops, although it cannot draw its progress bar any more."""
    leader, follower = pty.openpty()
    process = start("fit", *LONG_EPOCH, "--devices", devices, cwd=tmp_path, terminal=os.ttyname(follower))
    run = tmp_path / "lightning_logs" / "version_0"
    shown_in(leader, b"epoch 1/2")
    wait_for(lambda: step_of(run) >= 0)
    os.close(follower)
    os.close(leader)
    process.join(60)
    assert process.exitcode == 129
    assert step_of(run) > 0
    assert processes_of(tmp_path) == []


def shown_in(terminal, text):
    """Waits until a job has shown `text` in a terminal."""
    shown = b""
    while text not in shown:
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 4_096)


AS_NOHUP = f"""
import runpy, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
runpy.run_path({str(SCRIPTS / "fit.py")!r}, run_name="__main__")
"""


def test_an_ignored_sighup_stays_ignored(tmp_path):
    (tmp_path / "program.py").write_text(AS_NOHUP)
    done = job(tmp_path / "program.py", *SMALL, cwd=tmp_path, fault="hup@-:train:3")
    assert done.code == 0, done.text
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()


@pytest.mark.soak
def test_a_run_under_nohup_ignores_sighup(tmp_path):
    arguments = [str(part) for part in SMALL]
    done = subprocess.run(
        ["nohup", sys.executable, SCRIPTS / "fit.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, **PLAIN, "FAULT": "hup@-:train:3"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()


def test_the_last_line_names_the_rank_that_failed(tmp_path):
    done = job("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="crash@1:train:5", timeout=60)
    assert done.code == 1
    assert done.lines[-1] == (
        "error: rank 1: RuntimeError: injected crash; continue with --resume lightning_logs/version_0"
    )
    assert processes_of(tmp_path) == []


def test_a_suspended_rank_ends_the_job_and_is_named(tmp_path):
    done = job("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="stop@1:train:5", env={"FAULT_SUSPENDED": "2"})
    assert done.code == 1
    assert done.lines[-1].startswith("error: rank 1: was suspended (SIGSTOP) for 2 s while the others waited")
    assert processes_of(tmp_path) == []


def test_a_signal_stops_an_evaluation(whole, tmp_path):
    done = job("evaluate", whole[1], "--accelerator", "cpu", cwd=tmp_path, fault="term@-:test:2")
    assert done.code == 143
    assert done.lines == ["stopped by SIGTERM"]


@pytest.mark.parametrize("fault", ["nan@-:train:12", "nan@-:train:13", "nan@1:train:9"])
def test_nan_ends_the_run_and_leaves_a_finite_checkpoint(tmp_path, fault):
    devices = 1 if "-" in fault else 2
    done = job("fit", *SMALL, "--devices", devices, cwd=tmp_path, fault=fault)
    assert done.code == 3
    assert "not finite at step" in done.lines[-1] or "training loss is nan at step" in done.lines[-1]
    assert ", with lr 0.0" in done.lines[-1]
    assert "the last finite loss was 2." in done.lines[-1]
    run = tmp_path / "lightning_logs" / "version_0"
    step = int(done.lines[-1].partition(" at step ")[2].partition(",")[0])
    assert int(fault.rpartition(":")[2]) <= step <= int(fault.rpartition(":")[2]) + 5  # log_every_n_steps
    assert step_of(run) == (14 if "13" in fault and step > 14 else 7)


def test_a_closed_output_pipe_does_not_end_a_run(tmp_path):
    """A run goes on when nothing reads its output any more, as in `fit.py 2>&1 | head -1`."""
    os.mkfifo(tmp_path / "pipe")
    process = start("fit", *SMALL, cwd=tmp_path, output=tmp_path / "pipe")
    with (tmp_path / "pipe").open() as reader:
        assert "starts: 1 x cpu" in reader.readline()
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code"), [pytest.param(SMALL, 143, marks=pytest.mark.soak), (("--model.rate", 0), 2)]
)
def test_a_closed_output_pipe_does_not_change_the_exit_code(tmp_path, arguments, code):
    """A job has the same exit code if nothing reads its last line, as in `fit.py 2>&1 | tee log` if tee ends first."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(part) for part in (sys.executable, SCRIPTS / "fit.py", *arguments)]
    fault = {**PLAIN, "FAULT": "term@-:data:1" if code == 143 else ""}  # during start-up
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **fault}, stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(120) == code


def test_a_rank_told_to_stop_by_launcher_and_scheduler_still_saves(monkeypatch):
    """A scheduler's signal some time after the launcher's request to stop does not end a rank at once."""
    monkeypatch.setattr(signals, "_first_at", None)
    monkeypatch.setattr(signals, "_handled", signals.STOPS)  # as in a rank
    monkeypatch.setattr(stop, "requested", 0)
    monkeypatch.setattr(signals, "_end", lambda signum: pytest.fail("ended at once"))

    def told():
        with signals.deferred():
            signals.receive(signal.SIGTERM, passed_on=True)
            time.sleep(signals.ECHO_SECONDS)
            signals.receive(signal.SIGTERM)

    with pytest.raises(Stopped):
        told()


def test_a_signal_after_a_warning_signal_counts_as_the_first(monkeypatch):
    """SIGTERM after SIGUSR1 does not end a job at once; a second SIGTERM does.

    A scheduler sends SIGTERM at a job's time limit, for example a minute after the SIGUSR1 that the job has asked for.
    """
    monkeypatch.setattr(signals, "_first_at", None)
    monkeypatch.setattr(signals, "_handled", signals.STOPS)
    monkeypatch.setattr(stop, "requested", 0)
    ended = []
    monkeypatch.setattr(signals, "_end", ended.append)

    def told():
        with signals.deferred():
            for signum in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):
                signals.receive(signum)
                time.sleep(signals.ECHO_SECONDS)
            assert ended == []
            signals.receive(signal.SIGTERM)
            assert ended == [signal.SIGTERM]

    with pytest.raises(Stopped) as stopped:
        told()
    assert stopped.value.signum == signal.SIGUSR1


def test_a_signal_as_a_run_of_a_group_ends_is_not_the_next_runs_first(monkeypatch):
    """In several runs one after another, each run's first signal lets it save its state."""
    monkeypatch.setattr(signals, "_first_at", None)
    monkeypatch.setattr(signals, "_phase", signals.Phase.START_UP)
    monkeypatch.setattr(signals, "_handled", signals.STOPS)
    monkeypatch.setattr(signals, "_answer_with", lambda handler: None)  # the handlers are pytest's
    monkeypatch.setattr(signals, "_end", lambda signum: pytest.fail("ended at once"))
    monkeypatch.setattr(stop, "requested", 0)

    def run(signum):
        signals.receive(signum)
        time.sleep(signals.ECHO_SECONDS)

    with signals.deferred():
        run(signal.SIGINT)  # its work is done: the signal comes too late
        signals.finish()
    signals.begin_again()
    with pytest.raises(Stopped), signals.deferred():
        run(signal.SIGINT)


def test_a_terminal_gone_without_a_signal_does_not_end_a_run(tmp_path):
    """A run goes on if its terminal is closed without SIGHUP, as for a background job that the shell has disowned."""
    leader, follower = pty.openpty()
    process = start("fit", *SMALL, "--max_epochs", 8, cwd=tmp_path, output=os.ttyname(follower))
    shown_in(leader, b"epoch ")
    os.close(follower)
    os.close(leader)
    process.join(120)
    assert process.exitcode == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "results.json").exists()
    assert step_of(run) == 8 * 18


def test_a_signal_while_a_stopped_process_is_ending_has_no_effect():
    """A process that SIGUSR1 has stopped keeps that reason if SIGTERM comes while it is ending.

    srun sends SIGTERM once another rank has ended, which may be just before this rank has its job requeued.
    """
    program = """
        import os, signal, time
        from cifar_lightning import stop
        from cifar_lightning.errors import Stopped
        from cifar_lightning.run import signals

        signals.install()
        try:
            with signals.deferred():
                os.kill(os.getpid(), signal.SIGUSR1)
                while not stop.requested:
                    time.sleep(0.01)
        except Stopped as error:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
            print(signal.Signals(error.signum).name)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=PLAIN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SIGUSR1\n", "")


def test_a_program_that_ignores_all_signals_can_train():
    program = """
        import signal
        from cifar_lightning.run import signals

        for signum in signals.STOPS:
            signal.signal(signum, signal.SIG_IGN)
        with signals.deferred():
            signal.raise_signal(signal.SIGTERM)
        print("whole")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=PLAIN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")
