"""Tests signals while fit() runs in a program or a notebook, which goes on after it."""

import hashlib
import os
import signal
import threading
import time

import pytest
from jobs import differences, job, leftovers, step_of
from test_stop import wait_for

from cifar_lightning.run import signals

pytestmark = pytest.mark.usefixtures("interruptible")

PROGRAM = """
import os, signal, sys
from cifar_lightning import fit, resume

devices = int(sys.argv[1])
settings = {
    "data": {
        "source": "synthetic", "synthetic_size": 400, "batch_size": 20, "augment": True, "val_split": 0.1,
        "eval_batch_size": 10,
    },
    "model": {"lr": 0.02, "schedule": "one-cycle"},
    "max_epochs": 2, "log_every_n_steps": 5, "checkpoint_every_n_steps": 7, "accelerator": "cpu", "devices": devices,
}
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests ignores it, perhaps
before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
try:
    fit(**settings)
except KeyboardInterrupt as error:
    print("interrupted:", error)
os.environ["FAULT"] = ""  # new ranks would meet it too
assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
assert signal.set_wakeup_fd(-1) == -1
resume("lightning_logs/version_0")
if devices == 1:
    fit(**settings)
assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
"""


def program(path, devices, fault):
    (path / "program.py").write_text(PROGRAM)
    return job(path / "program.py", devices, cwd=path, fault=fault)


@pytest.mark.parametrize(("devices", "fault"), [(1, "int@-:train:10"), (2, "int-parent@0:train:10")])
def test_an_interrupted_fit_saves_and_the_program_goes_on(whole, tmp_path, devices, fault):
    done = program(tmp_path, devices, fault)
    assert done.code == 0, done.text
    assert "interrupted: stopped by SIGINT; continue with resume('lightning_logs/version_0')" in done.lines
    (begun,) = (line for line in done.lines if "version_0 resumes from step-" in line)
    assert int(begun.partition("step-")[2].partition(".")[0]) >= 10
    runs = sorted((tmp_path / "lightning_logs").iterdir())
    assert len(runs) == (2 if devices == 1 else 1)
    assert [differences(run, whole[devices]) for run in runs] == [[]] * len(runs)
    assert leftovers(tmp_path) == []


def test_sigterm_ends_a_program_once_fit_has_saved(tmp_path):
    done = program(tmp_path, 1, "term@-:train:10")
    assert done.code == -signal.SIGTERM
    assert done.lines[-1] == "stopped by SIGTERM; continue with resume('lightning_logs/version_0')"
    assert step_of(tmp_path / "lightning_logs" / "version_0") >= 10


def test_a_second_interrupt_is_raised_at_once():
    def interrupted():
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(2 * signals.ECHO_SECONDS)
            reached.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
            reached.append("after the second")

    reached, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT"):
        interrupted()
    assert reached == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_first_interrupt_handled_late_by_python_is_no_second_one():
    def interrupted():
        with signals.deferred():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            while not signals.stop.requested:  # a call in which Python runs no handler, like a backward pass
                hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)
            reached.append("a checkpoint")

    reached = []
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT"):
        interrupted()
    assert reached == ["a checkpoint"]


def test_a_programs_own_handler_is_called_once_the_stop_is_complete():
    called, before = [], signal.signal(signal.SIGHUP, lambda signum, frame: called.append(signum))

    def stopped():
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert called == []

    try:
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGHUP"):
            stopped()
        assert called == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("own", [False, True])
def test_sigusr1_stops_a_run_unless_the_program_handles_it_itself(own):
    """SIGUSR1 stops a run if it would otherwise end the program; a program's own handler is called instead."""
    called = []
    before = signal.signal(signal.SIGUSR1, (lambda signum, frame: called.append(signum)) if own else signal.SIG_DFL)

    def warned():
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_for(lambda: called or signals.stop.requested)
            assert signals.stop.requested == (0 if own else signal.SIGUSR1)
            signals.stop.requested = 0

    try:
        warned()
        assert called == ([signal.SIGUSR1] if own else [])
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signals_are_left_alone_in_another_thread():
    def elsewhere():
        with signals.deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    seen = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
