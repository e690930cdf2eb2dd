"""A bar of how many things are done, of those that take a while before a run begins."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows one on standard error where someone may be watching, and takes it away at the end.

    Args:
        name: What is being done.
        total: How many there are.

    Yields:
        A function that takes how many are done.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        task = progress.add_task(name, total=total)
        yield lambda done: progress.update(task, completed=done)
