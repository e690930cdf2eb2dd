"""Chooses which of many classes to show: a table, a bar chart or a page has no room for hundreds."""

from collections.abc import Sequence

ALL = 100  # up to this many classes, all are shown
ENDS = 20  # with more classes, this many of the best and of the worst are shown


def shown_classes(accuracies: Sequence[float | None]) -> list[int]:
    """Returns the labels to show: all, in their order; of many, the best and then the worst, from high to low.

    Args:
        accuracies: The accuracy of each class; None if it has no images.
    """
    if len(accuracies) <= ALL:
        return list(range(len(accuracies)))
    known = [(-accuracy, label) for label, accuracy in enumerate(accuracies) if accuracy is not None]
    ranked = [label for _, label in sorted(known)]
    return ranked if len(ranked) <= 2 * ENDS else ranked[:ENDS] + ranked[-ENDS:]


def which_classes(shown: int, classes: int) -> str:
    """Says in words which classes are shown; empty if all are."""
    if shown == classes:
        return ""
    ends = f"the {ENDS} best and the {ENDS} worst" if shown == 2 * ENDS else f"the {shown} with images"
    return f"{ends} of {classes:,} classes"
