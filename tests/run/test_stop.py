"""Told to stop, a job stops; and where it must die, it says of what."""

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

# One checkpoint an epoch, which takes a while: the one after the first is that of a stop.
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
        # each signal and each place once: all signals have one handler
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
def test_a_signal_stops_with_a_checkpoint(whole, tmp_path, devices, fault, code):
    """To the process, to one rank, the other, the launcher or all; in training, evaluation, saving and reporting."""
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


def test_a_signal_in_start_up_of_a_rank_stops_it(tmp_path):
    done = job("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="term@1:import:1")
    assert done.code == 143
    assert [line for line in done.lines if not line.startswith("lightning_logs")] == [
        "stopped by SIGTERM; continue with --resume lightning_logs/version_0"
    ]
    assert list(tmp_path.rglob("*.ckpt")) == []


@pytest.mark.parametrize("fault", ["term@-:import:1", pytest.param("int@-:data:1", marks=pytest.mark.soak)])
def test_a_signal_in_start_up_stops_it(tmp_path, fault):
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


def test_a_second_signal_ends_it_at_once(tmp_path):
    """While a rank hangs in the middle of a step, where a first signal could only be waited for."""
    process = start("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="stop@1:train:5")
    wait_for(lambda: suspended(tmp_path))
    for _ in range(20):
        os.kill(process.pid, signal.SIGTERM)  # again and again: one that comes too soon is an echo of the first
        process.join(0.5)
        if process.exitcode is not None:
            break
    done = end(process, timeout=1)
    assert done.code == 143
    assert done.lines[-1] == "stopped by SIGTERM; continue with --resume lightning_logs/version_0"
    assert processes_of(tmp_path) == []


def test_a_signal_that_comes_twice_is_one_request(tmp_path):
    """As `timeout` sends it: to the process, and to its group."""
    process = start("fit", *LONG_EPOCH, cwd=tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    wait_for((run / "metrics.csv").exists)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    assert end(process, timeout=30).code in (143, 130)
    assert step_of(run) > 0  # saved where it was
    assert process.log.read_text().count("stopped by") == 1


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_a_closed_terminal_stops_with_a_checkpoint(tmp_path, devices):
    """The bar can be drawn no more, which must not keep the run from saving."""
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
    """Waits for what a job shows in a terminal."""
    shown = b""
    while text not in shown:
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 4_096)


AS_NOHUP = f"""
import runpy, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
runpy.run_path({str(SCRIPTS / "fit.py")!r}, run_name="__main__")
"""


def test_a_hangup_that_is_ignored_stays_so(tmp_path):
    (tmp_path / "program.py").write_text(AS_NOHUP)
    done = job(tmp_path / "program.py", *SMALL, cwd=tmp_path, fault="hup@-:train:3")
    assert done.code == 0, done.text
    assert (tmp_path / "lightning_logs" / "version_0" / "results.json").exists()


@pytest.mark.soak
def test_a_hangup_that_nohup_ignores_is_ignored(tmp_path):
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


def test_a_rank_that_fails_is_named_last(tmp_path):
    done = job("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="crash@1:train:5", timeout=60)
    assert done.code == 1
    assert done.lines[-1] == (
        "error: rank 1: RuntimeError: injected crash; continue with --resume lightning_logs/version_0"
    )
    assert processes_of(tmp_path) == []


def test_a_rank_that_is_suspended_is_named_and_ends_the_job(tmp_path):
    done = job("fit", *SMALL, "--devices", 2, cwd=tmp_path, fault="stop@1:train:5", env={"FAULT_SUSPENDED": "2"})
    assert done.code == 1
    assert done.lines[-1].startswith("error: rank 1: was suspended (SIGSTOP) for 2 s while the others waited")
    assert processes_of(tmp_path) == []


def test_an_evaluation_stops_too(whole, tmp_path):
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


def test_a_reader_who_leaves_ends_no_run(tmp_path):
    """As `fit.py 2>&1 | head -1` does."""
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
def test_the_exit_code_is_the_same_where_nobody_reads_the_last_line(tmp_path, arguments, code):
    """As in `fit.py 2>&1 | tee log`, where tee is the first to go."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(part) for part in (sys.executable, SCRIPTS / "fit.py", *arguments)]
    fault = {**PLAIN, "FAULT": "term@-:data:1" if code == 143 else ""}  # in start-up
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **fault}, stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(120) == code


def test_a_rank_that_is_told_to_stop_twice_over_saves_all_the_same(monkeypatch):
    """By the launcher, and by a signal of a scheduler's a while after."""
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


def test_what_comes_after_a_warning_is_a_first_signal(monkeypatch):
    """As SIGTERM at the limit of a job's time, a minute after the SIGUSR1 that it has asked for."""
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


def test_a_terminal_that_is_gone_without_a_signal_ends_no_run(tmp_path):
    """As that of a job in the background, of which the shell has been told to forget."""
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


def test_a_signal_that_comes_while_a_stop_is_on_its_way_out_changes_nothing():
    """srun sends SIGTERM once another rank has ended, in the moment before this one has its job requeued."""
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
