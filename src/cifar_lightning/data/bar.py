"""A bar of how many things are done, of those that take a while before a run begins."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(name: str, total: int | None, of_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Shows one on standard error where someone may be watching, and takes it away at the end.

    Args:
        name: What is being done.
        total: How many there are; None if that is not known.
        of_bytes: Whether they are bytes, of which the speed is shown too.

    Yields:
        A function that takes how many are done.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    kinds = (rich.DownloadColumn, rich.TransferSpeedColumn) if of_bytes else (rich.MofNCompleteColumn,)
    # Whole, so that in a narrow terminal the bar alone gives way.
    figures = (kind(table_column=Column(no_wrap=True)) for kind in (*kinds, rich.TimeRemainingColumn))
    columns = ("{task.description}", rich.BarColumn(), *figures)
    with rich.Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        task = progress.add_task(name, total=total)
        yield lambda done: progress.update(task, completed=done)
