"""Which of many classes are shown: hundreds have no room in a table, in bars or on a page."""

from collections.abc import Sequence

ALL = 100  # classes up to which each is shown
ENDS = 20  # how many of the best, and of the worst, are where there are more


def shown_classes(accuracies: Sequence[float | None]) -> list[int]:
    """The labels that are shown: all, in their order; or of many the best, then the worst, from high to low.

    Args:
        accuracies: That of each class; None where it has no images.
    """
    if len(accuracies) <= ALL:
        return list(range(len(accuracies)))
    known = [(-accuracy, label) for label, accuracy in enumerate(accuracies) if accuracy is not None]
    ranked = [label for _, label in sorted(known)]
    return ranked if len(ranked) <= 2 * ENDS else ranked[:ENDS] + ranked[-ENDS:]


def which_classes(shown: int, classes: int) -> str:
    """Which these are, in words; nothing where it is all of them."""
    if shown == classes:
        return ""
    ends = f"the {ENDS} best and the {ENDS} worst" if shown == 2 * ENDS else f"the {shown} with images"
    return f"{ends} of {classes:,} classes"
