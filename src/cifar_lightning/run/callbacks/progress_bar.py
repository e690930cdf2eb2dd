"""Shows a run's progress and figures: a bar in a terminal, a line after each epoch elsewhere."""

import math
import sys
import time
from collections.abc import Mapping, Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from rich.console import Console, RenderableType
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
from rich.progress_bar import ProgressBar as Bar
from rich.table import Column, Table
from rich.text import Text

from cifar_lightning.console import percent, printing, say
from cifar_lightning.model.schedules import steps_of
from cifar_lightning.run.loop import StepEnd

DRAW_SECONDS = 0.5
# Labels of figures, by their names in metrics.csv. The progress bar shows the first set that the terminal has room for.
FIGURES: Sequence[Mapping[str, str]] = (
    {"train_loss": "loss", "val_loss": "val loss", "val_acc": "val accuracy"},
    {"train_loss": "loss", "val_acc": "val accuracy"},
    {"train_loss": "loss", "val_acc": "val"},
    {"train_loss": "loss"},
    {},
)
BAR_WIDTHS = 4, 40  # minimum and maximum, in characters


class ProgressBar(LightningProgressBar, StepEnd):
    """A progress bar of the run's steps, with as many figures as there is room for, updated twice a second.

    If standard error is not a terminal, it prints a line at the end of every epoch instead. Lightning's own bars read
    every metric from the device in every batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due = ""
        self._bar: Progress | None = None
        self._task, self._noted = TaskID(0), -math.inf
        self._validated_step = -1

    def disable(self) -> None:
        """Does nothing: Lightning calls it on all ranks but the first, and those have no bar."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar, on the first rank and in a terminal only."""
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        console = Console(stderr=True)
        self._bar = Progress(_Line(console), console=console, refresh_per_second=2)
        total, epoch = int(steps_of(trainer)), _epoch(trainer)
        self._task = self._bar.add_task("", total=total, completed=trainer.global_step, epoch=epoch, figures={})
        self._bar.start()

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Updates the bar, which its own thread draws. Reads the loss only at log points, where it is already known."""
        if self._bar is None:
            return
        step = trainer.global_step
        if step % max(trainer.log_every_n_steps, 1) == 0:  # type: ignore[attr-defined]  # set by a connector
            self._bar.update(self._task, figures=_figures(trainer))
        now = time.monotonic()
        if now - self._noted >= DRAW_SECONDS or trainer.is_last_batch:
            self._noted = now
            self._bar.update(self._task, completed=step, epoch=_epoch(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step, because Lightning keeps a validation's figures until the next one: they may be old."""
        self._validated_step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes, if there is no bar, that the epoch's figures are to be printed; some of them are logged after this."""
        if self._bar is None and trainer.is_global_zero:
            self._due = f"epoch {_epoch(trainer)}  step {trainer.global_step:,}"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the previous epoch's figures, or shows the new epoch in the bar."""
        self._print_due(trainer)
        if self._bar is not None:
            self._bar.update(self._task, epoch=_epoch(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the last epoch's figures, or stops the bar, which stays on the terminal."""
        self._print_due(trainer)
        bar, self._bar = self._bar, None
        if bar is not None:
            with printing(2):
                bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stops the bar, so that the terminal is left in order."""
        self.on_train_end(trainer, pl_module)

    def _print_due(self, trainer: Trainer) -> None:
        due, self._due = self._due, ""
        if due:
            validated = self._validated_step == trainer.global_step
            words = FIGURES[0]
            figures = (f"{words[name]} {number}" for name, number in _figures(trainer, validated).items())
            say("  ".join((due, *figures)))


class _Line(ProgressColumn):
    """The bar's whole line. Steps and remaining time always stay; if room is short, the bar shrinks, then figures go.

    Each number keeps the width of its widest value so far, so that the layout does not change from step to step.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._steps, self._left = MofNCompleteColumn(), TimeRemainingColumn()
        self._widest = {"left": len("0:00:00"), "train_loss": len("0.000"), "val_loss": len("0.000"), "val_acc": 7}

    def render(self, task: Task) -> Table:
        steps, left = self._steps.render(task), self._left.render(task)
        left.pad_left(self._room("left", left.plain) - len(left))
        parts = [Text(f"epoch {task.fields['epoch']}"), steps, left]
        room = self._console.width - sum(len(part) + 1 for part in parts)  # and a space after each
        numbers = {name: f"{text:>{self._room(name, text)}}" for name, text in task.fields["figures"].items()}
        lines = ("  ".join(f"{words[name]} {numbers[name]}" for name in words if name in numbers) for words in FIGURES)
        figures = next(line for line in lines if len(line) <= max(0, room))
        least, most = BAR_WIDTHS
        width = min(most, room - len(figures) - 1)
        bar = [Bar(total=task.total, completed=task.completed, width=width)] if width >= least else []
        shown: list[RenderableType] = [parts[0], *bar, steps, left, Text(figures)]
        line = Table.grid(*(Column(no_wrap=True) for _ in shown), padding=(0, 1))
        line.add_row(*shown)
        return line

    def _room(self, name: str, text: str) -> int:
        self._widest[name] = max(self._widest[name], len(text))
        return self._widest[name]


def _epoch(trainer: Trainer) -> str:
    return f"{trainer.current_epoch + 1}/{trainer.max_epochs}"


def _figures(trainer: Trainer, validated: bool = True) -> dict[str, str]:
    """Returns the figures as text, by name; a validation's figures only if `validated`."""
    metrics = trainer.callback_metrics
    found = [name for name in FIGURES[0] if name in metrics and (validated or name == "train_loss")]
    return {
        name: percent(float(metrics[name]), 2) if name == "val_acc" else f"{float(metrics[name]):.3f}" for name in found
    }
