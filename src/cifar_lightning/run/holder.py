"""Who is in a run's folder, or was last: a file there, which is locked for as long as it is true.

This module imports nothing heavy: `cifar-lightning status` asks it, in a job's script.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cifar_lightning.files import is_locked
from cifar_lightning.run.cluster import job

LOCK = ".lock"


@dataclass(frozen=True)
class Holder:
    """A job, as the lock of a run's folder names it.

    Attributes:
        job: The scheduler's name for it: see `cluster.job`.
        host: The machine that its first process is on.
    """

    job: str | None = None
    host: str | None = None

    @classmethod
    def this(cls) -> "Holder":
        """This process's job."""
        return cls(job(), socket.gethostname())

    @classmethod
    def of(cls, folder: Path) -> "Holder":
        """The job that is in a run's folder, or was last."""
        try:
            said = json.loads((folder / LOCK).read_text("utf-8"))
            return cls(said["job"], said["host"])
        except (OSError, ValueError, TypeError, KeyError):  # there has been none, or its disk was full
            return cls()

    def write(self, descriptor: int) -> None:
        """Notes it in the lock, which this process holds."""
        with suppress(OSError):  # of a full disk: it is only to be known
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(self)).encode(), 0)

    def same_job(self, other: "Holder") -> bool:
        """Whether the other is this one: before it was requeued, say."""
        return self.job is not None and self.job == other.job

    def neighbour(self, other: "Holder") -> bool:
        """Whether the other is another task of the same array."""
        array, _, task = (self.job or "").partition("_")
        return bool(task) and other.job is not None and self.job != other.job and other.job.startswith(f"{array}_")

    def __str__(self) -> str:
        words = [*([f"job {self.job}"] if self.job else []), *([f"on {self.host}"] if self.host else [])]
        return f" ({' '.join(words)})" if words else ""


def holder_in(folder: Path) -> Holder | None:
    """The job that is in a run's folder now; None where none is."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:  # nobody has been, or nobody that this user could resume
        return None
    try:
        return Holder.of(folder) if is_locked(descriptor) else None
    finally:
        os.close(descriptor)
