"""Names the job that uses a run's folder, or used it last, in a file there that is locked while the job uses it.

This module imports nothing heavy, because `cifar-lightning status` uses it in job scripts.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cifar_lightning.locks import is_locked
from cifar_lightning.run.cluster import job

LOCK = ".lock"


@dataclass(frozen=True)
class Holder:
    """A job, as the lock file of a run's folder names it.

    Attributes:
        job: The scheduler's name for the job; see `cluster.job`.
        host: The machine of its first process.
    """

    job: str | None = None
    host: str | None = None

    @classmethod
    def this(cls) -> "Holder":
        """Returns the job of this process."""
        return cls(job(), socket.gethostname())

    @classmethod
    def of(cls, folder: Path) -> "Holder":
        """Returns the job that uses a run's folder, or used it last."""
        try:
            said = json.loads((folder / LOCK).read_text("utf-8"))
            return cls(said["job"], said["host"])
        except (OSError, ValueError, TypeError, KeyError):  # no job has used it, or the disk was full
            return cls()

    def write(self, descriptor: int) -> None:
        """Writes the job into the lock file, whose lock this process holds."""
        with suppress(OSError):  # a full disk: the name is only for information
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(self)).encode(), 0)

    def same_job(self, other: "Holder") -> bool:
        """Returns whether both are the same job of the scheduler, for example before and after it was requeued."""
        return self.job is not None and self.job == other.job

    def neighbour(self, other: "Holder") -> bool:
        """Returns whether the other is another task of the same array."""
        array, _, task = (self.job or "").partition("_")
        return bool(task) and other.job is not None and self.job != other.job and other.job.startswith(f"{array}_")

    def __str__(self) -> str:
        words = [*([f"job {self.job}"] if self.job else []), *([f"on {self.host}"] if self.host else [])]
        return f" ({' '.join(words)})" if words else ""


def holder_in(folder: Path) -> Holder | None:
    """Returns the job that uses a run's folder now; None if no job does."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:  # no job has used it, or this user may not read it and so could not resume the run
        return None
    try:
        return Holder.of(folder) if is_locked(descriptor) else None
    finally:
        os.close(descriptor)
