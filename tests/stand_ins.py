"""Stand-ins that several tests use: a terminal, and a logger that keeps what it is given."""

import io

from lightning.pytorch.loggers.logger import DummyLogger


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Log(DummyLogger):
    """Keeps the steps and figures that are logged."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(sorted(metrics.items()))))
