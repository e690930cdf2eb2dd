"""A progress bar for things that take a while before a run begins."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(name: str, total: int | None, of_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A context with a progress bar on standard error, if that is a terminal. The bar disappears at the end.

    Args:
        name: What is being done.
        total: Number of things to do; None if that is not known.
        of_bytes: Whether the things are bytes; their speed is then shown too.

    Yields:
        A function to call with the number of things done so far.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    kinds = (rich.DownloadColumn, rich.TransferSpeedColumn) if of_bytes else (rich.MofNCompleteColumn,)
    # no_wrap keeps the figures whole: in a narrow terminal only the bar gets shorter.
    figures = (kind(table_column=Column(no_wrap=True)) for kind in (*kinds, rich.TimeRemainingColumn))
    columns = ("{task.description}", rich.BarColumn(), *figures)
    with rich.Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        task = progress.add_task(name, total=total)
        yield lambda done: progress.update(task, completed=done)
