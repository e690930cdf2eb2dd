"""Starts our scripts as processes, quickly: they are forked from a process that has imported torch and Lightning.

The ranks of a job are forked from their launcher too: starting two of them takes half a second of CPU time instead of
twelve. The soak and test_console.py start ranks in the way that users do.
"""

import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"
FAULTS = Path(__file__).parent / "faults"

# A small run with all that a resumed run must restore: augmentation, momentum, a schedule, a validation split, log rows
# between checkpoints and checkpoints between log rows. 2 epochs of 18 steps.
SMALL = (
    *("--data.source", "synthetic", "--data.synthetic_size", 400, "--data.batch_size", 20, "--data.augment", "true"),
    *("--data.val_split", 0.1, "--data.eval_batch_size", 10, "--model.schedule", "one-cycle", "--model.lr", 0.02),
    *("--max_epochs", 2, "--checkpoint_every_n_steps", 7, "--log_every_n_steps", 5, "--accelerator", "cpu"),
)

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["preloaded"])
forked_ranks = True


def begin():
    """Starts the process that all jobs are forked from. It imports `preloaded` before it has our sys.path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def start(script, *arguments, cwd, fault="", env=None, user=None, output=None, terminal=None):
    """Starts scripts/SCRIPT.py, or the program at a Path, with a fault, as this user or another one (`user`, an id).

    Returns the process with three more attributes: `log`, the file with all that it prints, `fault`, and `note`, the
    file that the fault writes. Instead of a file it can print to `output`, the path of a pipe or a terminal, or run in
    a `terminal` like a shell's job.
    """
    log = Path(output or terminal or Path(cwd) / f"log-{time.monotonic_ns()}")
    note = Path(cwd) / f"log-{time.monotonic_ns()}-fault"
    env = {
        **{
            "FAULT": fault,
            "FAULT_NOTE": str(note),
            "PYTHONPATH": os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]),
            "COLUMNS": "100",
        },
        **({} if ":report:" in fault else {"FAULT_PLAIN": "1"}),  # that fault strikes as figures are drawn
        **(env or {}),
    }
    path = script if isinstance(script, Path) else SCRIPTS / f"{script}.py"
    process = context.Process(
        target=_main,
        args=(path, [str(a) for a in arguments], str(cwd), env, str(log), terminal, user, forked_ranks),
    )
    process.start()
    process.log, process.fault, process.note = log, fault, note
    return process


def end(process, timeout=300):
    """Waits for a process; returns its `code` (negative if it was killed) and `lines`. Its fault must have happened."""
    process.join(timeout)
    late = process.exitcode is None
    if late:
        process.kill()
        process.join()
    lines = process.log.read_text().splitlines() if process.log.exists() else []  # none if it was ended before it began
    assert not late, "\n".join(lines)
    if process.fault:
        assert process.note.exists(), "\n".join([f"{process.fault} did not happen", *lines])
    return SimpleNamespace(code=process.exitcode, lines=lines, text="\n".join(lines))


def job(script, *arguments, timeout=300, **kwargs):
    """Runs a script to its end; see `start` and `end`."""
    return end(start(script, *arguments, **kwargs), timeout)


def _main(path, arguments, cwd, env, log, terminal, user, forked):
    if user is not None:
        os.setgid(user)
        os.setuid(user)
    os.environ.update(env)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if the tests run under nohup, which ignores it
    os.chdir(cwd)
    if terminal:
        os.setsid()
        source = output = os.open(terminal, os.O_RDWR)  # it becomes the terminal of the session
    else:
        source = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o644)
    for opened, target in ((source, 0), (output, 1), (output, 2)):
        os.dup2(opened, target)
    for opened in {source, output}:
        os.close(opened)
    encoding = env.get("PYTHONIOENCODING")  # Python applies it, and looks for terminals, only as it starts
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115
    sys.modules.pop("sitecustomize", None)  # Debian's Python has one of its own
    sys.path.insert(0, str(FAULTS))
    import sitecustomize

    sitecustomize.install()
    if forked:
        from cifar_lightning.run import launch

        launch.subprocess = SimpleNamespace(Popen=ForkedRank, PIPE=subprocess.PIPE)
    sys.argv = [path.stem, *arguments]
    gpus = contextlib.nullcontext()
    if count := env.get("PRETENDED_GPUS"):
        from pretended import pretended_gpu

        gpus = pretended_gpu(count=int(count))
    with gpus:
        runpy.run_path(str(path), run_name="__main__")


class ForkedRank:
    """Has what a launcher uses of `subprocess.Popen`, for a rank that is a forked child of the launcher."""

    def __init__(self, command, *, env, stdin, start_new_session, pass_fds):
        assert stdin == subprocess.PIPE
        assert start_new_session
        reader, writer = os.pipe()
        self.stdin, self.returncode = open(writer, "wb"), None  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            _rank(command[-1], env, reader, pass_fds)
        os.close(reader)

    def poll(self, options=os.WNOHANG):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self):
        return self.poll(0)

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _rank(job, env, reader, pass_fds):
    """Makes a forked process the rank: first drops what a newly started program would not have."""
    import sitecustomize

    from cifar_lightning.run import launch, signals

    gc.freeze()  # never collect the launcher's objects: those of its threads would abort here, without the threads
    try:
        for signum in signals.STOPS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, signal.SIG_DFL)
        os.setsid()
        os.dup2(reader, 0)
        for opened in map(int, os.listdir("/dev/fd")):
            if opened > 2 and opened not in pass_fds:
                with contextlib.suppress(OSError):  # listdir's own is closed already
                    os.close(opened)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["-c", job]
        signals.install_anew()
        sitecustomize.begin_rank()
        launch.rank_main()  # does not return
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(70)


def step_of(run):
    """Returns the step of a run's newest checkpoint; -1 if there is none."""
    return max((int(path.stem[5:]) for path in (run / "checkpoints").glob("step-*.ckpt")), default=-1)


def differences(run, other):
    """Returns what is not bit-identical in two runs, such as weights, optimiser, schedule, log or test counts."""
    import json

    states = [torch.load(r / "checkpoints" / f"step-{step_of(r)}.ckpt", weights_only=True) for r in (run, other)]
    found = [key for key in ("state_dict", "optimizer_states", "lr_schedulers") if not same(*(s[key] for s in states))]
    best = [r / "checkpoints" / "best.ckpt" for r in (run, other)]
    if best[0].exists() or best[1].exists():
        weights = [torch.load(path, weights_only=True)["state_dict"] for path in best]
        found += [] if same(*weights) else ["best.ckpt"]
    if (run / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    results = [json.loads((r / "results.json").read_text()) for r in (run, other)]
    return found + [key for key in ("confusion", "test_loss", "images_seen") if results[0][key] != results[1][key]]


def same(a, b):
    """Whether two checkpoints, or parts of them, hold exactly the same values."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return a == b


def contents(folder):
    """Returns the bytes of all files in a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(run):
    """Returns the names of temporary files that unfinished writes have left."""
    return [path.name for path in run.rglob(".*.part")]


def suspended(folder):
    """Whether one of the processes that work in `folder` is suspended (SIGSTOP)."""
    for pid in processes_of(folder):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return True
    return False


def processes_of(folder):
    """Returns the ids of the processes that work in `folder`: jobs and their ranks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(path)).is_relative_to(folder):
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]
