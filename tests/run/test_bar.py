"""The progress bar: what a terminal of any width shows of a run."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from cifar_lightning.run.callbacks.progress_bar import _figures, _Line

# Mean losses and, after the first validation, its loss and accuracy; some are wider than most.
NUMBERS = [(2.303,), (12.01, 1.2, 0.0912), (0.029, 0.063, 1.0), (0.02, 0.05, 0.9), (0.019, 0.05, 0.9)]
RUNS = [(6_250, "2/2"), (25_000, "10/10"), (78_200, "100/200"), (1_000_000, "9/9")]


def lines(width, total, epoch):
    """Yields the bar as it is printed at a few steps of a run, one a day."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    days = 0
    bar = Progress(_Line(console), console=console, get_time=lambda: 86_400.0 * days, speed_estimate_period=1e9)
    task = bar.add_task("", total=total, completed=0, epoch=epoch, figures={})
    for days, numbers in enumerate(NUMBERS, 1):
        metrics = dict(zip(("train_loss", "val_loss", "val_acc"), numbers, strict=False))
        figures = _figures(SimpleNamespace(callback_metrics=metrics))
        bar.update(task, completed=total * days // 6, figures=figures)
        with console.capture() as caught:
            console.print(bar.get_renderable())
        yield caught.get()


@pytest.mark.parametrize(("total", "epoch"), RUNS)
@pytest.mark.parametrize("width", [40, 50, 60, 70, 80, 100, 120, 200])
def test_steps_and_time_left_are_whole_at_every_width(width, total, epoch):
    for days, printed in enumerate(lines(width, total, epoch), 1):
        (line,) = printed.splitlines()
        assert len(line) <= width
        steps = f"{total * days // 6:{len(str(total))}}/{total}"
        time = r"-:--:--" if days == 1 else r"\d{2,3}:\d\d:\d\d"
        assert re.match(rf"epoch {epoch} [━╸╺ ]*{steps} +{time}( |$)", line)
        assert "…" not in line


@pytest.mark.parametrize(
    ("width", "bar", "figures"),
    [
        (120, True, "loss  0.019  val loss 0.050  val accuracy  90.00 %"),
        (90, True, "loss  0.019  val loss 0.050  val accuracy  90.00 %"),
        (85, False, "loss  0.019  val loss 0.050  val accuracy  90.00 %"),
        (80, True, "loss  0.019  val accuracy  90.00 %"),
        (60, False, "loss  0.019  val  90.00 %"),
        (50, True, "loss  0.019"),
        (40, True, ""),
    ],
)
def test_narrow_terminals_drop_bar_then_validation_figures_then_loss(width, bar, figures):
    *_, before, last = lines(width, *RUNS[1])
    assert ("━" in last) == bar
    assert last.rstrip().endswith(figures or last.rstrip()[-8:])
    assert ("loss" in last) == bool(figures)
    # Each part keeps its place, whatever the numbers.
    assert [part.start() for part in re.finditer("/|:|loss|val", before)] == [
        part.start() for part in re.finditer("/|:|loss|val", last)
    ]
