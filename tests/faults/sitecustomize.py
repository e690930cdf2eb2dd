"""Injects a fault into a job that a test starts: with this folder on PYTHONPATH, and `FAULT=KIND@RANK:PLACE:N`.

KIND is kill, term, int, hup or stop (the signal, to the process itself), term-parent, int-parent, term-all or kill-all
(SIGTERM or SIGKILL to the launcher and all its ranks), crash (an exception), nan (a poisoned loss) or enospc (a full
disk). RANK is `-` in a process that is no rank: a job on one device, or the launcher. PLACE is one of

    import   before the package's training is imported
    data     while the images are loaded; of one of several jobs, once those know of one another
    train, val, test   in a batch
    write    in a checkpoint, after half of its bytes
    rename   before it gets its name
    renamed  after that
    report   while the figures are written
    collective  in an all_reduce or a barrier of two ranks, which the other one is in already

and N says the how many'th time that the process comes there, from 1. Before anything is done the fault is written to
the file FAULT_NOTE, by which a test knows that it happened. With `FAULT_PLAIN=1` the figures are not drawn, which no
fault but `report` needs and which takes most of a small job's time; with `FAULT_PLAIN=page` there is the page without
them. With `FAULT_SUSPENDED=S` a rank may be suspended for S seconds. With `FAULT_ONCE=1` a fault strikes once, and not
what is started again after it. With `FAULT_BALLAST=MB` each rank holds so much memory, and takes its time to die.

Python imports a module of this name at its start; the package knows nothing of it.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

_visits = Counter()


def _fault():
    kind, _, where = os.environ.get("FAULT", "").partition("@")
    rank, place, count = (where or "::").split(":")
    return (kind, place, int(count or 0)) if rank == os.environ.get("RANK", "-") else ("", "", 0)


def visit(place):
    """Does what is to be done here, if it is; says whether a loss is to be poisoned."""
    kind, fault_place, count = _fault()
    _visits[place] += 1
    if fault_place != place or _visits[place] != count:
        return False
    if note := os.environ.get("FAULT_NOTE"):
        if os.environ.get("FAULT_ONCE") and Path(note).exists():
            return False
        Path(note).write_text(os.environ["FAULT"])
    if kind == "nan":
        return True
    if kind == "crash":
        raise RuntimeError("injected crash")
    if kind == "enospc":
        raise OSError(28, os.strerror(28))
    signum = getattr(signal, f"SIG{kind.partition('-')[0].upper()}")
    for pid in _targets(kind):
        os.kill(pid, signum)
    return False


def _targets(kind):
    if not kind.endswith(("-parent", "-all")):
        return [os.getpid()]
    parent = os.getppid() if "RANK" in os.environ else os.getpid()
    if kind.endswith("-parent"):
        return [parent]
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


def install():
    """Puts the places of faults into the package, whose modules are imported."""
    import torch
    import torch.distributed as dist

    from cifar_lightning import files
    from cifar_lightning.data.datamodule import CIFAR10DataModule
    from cifar_lightning.model.lit_net import LitNet
    from cifar_lightning.report import results
    from cifar_lightning.run import launch

    if "RANK" in os.environ:
        _load()
    for method, place in (("training_step", "train"), ("validation_step", "val"), ("test_step", "test")):
        setattr(LitNet, method, _step(getattr(LitNet, method), place))
    CIFAR10DataModule.setup = _before(CIFAR10DataModule.setup, "data", _await_others)
    launch.SUSPENDED_SECONDS = float(os.environ.get("FAULT_SUSPENDED", launch.SUSPENDED_SECONDS))
    torch.save = _half(torch.save)
    files.publish = _around(files.publish)
    if ":collective:" in os.environ["FAULT"]:
        for name in ("all_reduce", "barrier"):
            setattr(dist, name, _collective(getattr(dist, name)))
    if plain := os.environ.get("FAULT_PLAIN"):
        setattr(results, "write_figures" if plain == "page" else "draw", lambda *args: None)
    results.draw = _before(results.draw, "report")


def begin_rank():
    """In a rank that is forked of its launcher, and so has these places already: what else a start brings."""
    _visits.clear()
    _load()
    visit("import")


def _load():
    sys.modules[__name__].ballast = bytearray(b"x") * (2**20 * int(os.environ.get("FAULT_BALLAST", "0")))


def _step(original, place):
    def step(self, *args):
        poisoned = visit(place)
        loss = original(self, *args)
        return loss * float("nan") if poisoned else loss

    return step


def _before(original, place, prepare=lambda: None):
    def call(*args, **kwargs):
        if _fault()[1] == place:
            prepare()
        visit(place)
        return original(*args, **kwargs)

    return call


def _await_others():
    """Of whoever has not come yet, nobody can hear that the first has ended. `begin` is over, or meeting is."""
    from cifar_lightning.run import presence

    while presence._begun is not None and not presence._begun.ranks:
        time.sleep(0.01)


def _collective(original):
    """The rank of the fault waits until the other one is in the same collective, which it then never joins."""
    note = Path(f"{os.environ['FAULT_NOTE']}-inside")  # how many the other one has come to

    def call(*args, **kwargs):
        _, place, count = _fault()
        if place != "collective":
            _visits["collective"] += 1
            note.write_text(str(_visits["collective"]))
            return original(*args, **kwargs)
        if _visits[place] + 1 == count:
            while not note.exists() or int(note.read_text() or 0) < count:
                time.sleep(0.05)
            time.sleep(0.2)  # from its note into the collective
        visit(place)
        return original(*args, **kwargs)

    return call


def _half(save):
    import io

    def half(value, file):
        if isinstance(file, io.BytesIO):  # none on a disk
            save(value, file)
            return
        whole = io.BytesIO()
        save(value, whole)
        data = whole.getvalue()
        file.write(data[: len(data) // 2])
        file.flush()
        visit("write")
        file.write(data[len(data) // 2 :])

    return half


def _around(publish):
    def around(temporary, target):
        is_checkpoint = target.suffix == ".ckpt"
        if is_checkpoint:
            visit("rename")
        publish(temporary, target)
        if is_checkpoint:
            visit("renamed")

    return around


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `install` once all that it changes is imported: whatever runs a rank imports this module."""

    def find_spec(self, name, path, target=None):
        if name != "cifar_lightning.run.testing":
            return None
        visit("import")
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            install()

        spec.loader.exec_module = exec_module
        return spec


if "FAULT" in os.environ:
    sys.meta_path.insert(0, _AfterImport())
