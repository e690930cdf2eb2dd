"""Injects a fault into a job that a test starts with this folder on PYTHONPATH and with `FAULT=KIND@RANK:PLACE:N`.

KIND is a signal to the process itself (kill, term, int, hup, usr1, usr2, stop), to its launcher (kill-parent and so on)
or to the launcher and all its ranks (kill-all and so on), crash (an exception), nan (a poisoned loss) or enospc (a full
disk). RANK is `-` in a process that is no rank: a job on one device, or the launcher. PLACE is one of

    import   before the package's training is imported
    data     before the images are loaded; in a rank without our launcher, once it is connected to another
    train, val, test   at the start of a batch
    write    in a checkpoint, after half of its bytes
    rename   before a checkpoint gets its name
    renamed  after that
    report   before the figures are drawn
    collective  before an all_reduce or a barrier of two ranks that the other rank has already entered

and N is the visit of that place at which the fault strikes, from 1. First the fault is written to the file FAULT_NOTE,
so that a test knows that it happened. More variables:

    FAULT_PLAIN=1      no figures or page are made: that takes most of a small job's time, and only `report` needs them
    FAULT_PLAIN=page   there is a page, without figures
    FAULT_SUSPENDED=S  a rank may be suspended for S seconds
    FAULT_ONCE=1       the fault does not strike again in processes that are started again after it
    FAULT_BALLAST=MB   each rank holds this much memory, so that it takes a while to die

Python imports a module of this name when it starts; the package knows nothing of it.
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
    """Lets the fault strike if this visit of a place is the one; returns whether to poison a loss."""
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
    """Adds the places of faults to the package, whose modules are imported by now."""
    import torch
    import torch.distributed as dist

    from cifar_lightning import files
    from cifar_lightning.data.datamodule import CIFAR10DataModule
    from cifar_lightning.model.lit_net import LitNet
    from cifar_lightning.report import report
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
        setattr(report, "write_figures" if plain == "page" else "draw", lambda *args: None)
    report.draw = _before(report.draw, "report")


def begin_rank():
    """Begins anew in a rank that is forked from its launcher, and so has the places of faults already."""
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
    """Waits until another rank is connected: one that has not come yet could not notice that this one ends.

    `_begun` is None if this rank has no connections, or if the ranks have begun to meet.
    """
    from cifar_lightning.run import presence

    while presence._begun is not None and not presence._begun.ranks:
        time.sleep(0.01)


def _collective(original):
    """Lets the rank with the fault wait until the other one has entered the same collective, which it never joins."""
    note = Path(f"{os.environ['FAULT_NOTE']}-inside")  # how many collectives the other rank has reached

    def call(*args, **kwargs):
        _, place, count = _fault()
        if place != "collective":
            _visits["collective"] += 1
            note.write_text(str(_visits["collective"]))
            return original(*args, **kwargs)
        if _visits[place] + 1 == count:
            while not note.exists() or int(note.read_text() or 0) < count:
                time.sleep(0.05)
            time.sleep(0.2)  # the other rank's way from its note into the collective
        visit(place)
        return original(*args, **kwargs)

    return call


def _half(save):
    import io

    def half(value, file):
        if isinstance(file, io.BytesIO):  # not a file on a disk
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
    """Calls `install` once all that it changes is imported: whatever trains or tests imports run/reporting.py."""

    def find_spec(self, name, path, target=None):
        if name != "cifar_lightning.run.reporting":
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
