"""Which of many classes are shown: a table, a bar chart or a page has no room for hundreds."""

from collections.abc import Sequence

ALL = 100  # up to this many classes, all are shown
ENDS = 20  # with more classes, this many of the best and of the worst are shown


def shown_classes(accuracies: Sequence[float | None]) -> tuple[list[int], str]:
    """Returns the labels to show, and says in words which classes these are; the words are empty if it is all.

    All are in their order; of many, the best and then the worst are shown, from high to low.

    Args:
        accuracies: The accuracy of each class; None if it has no images.
    """
    classes = len(accuracies)
    if classes <= ALL:
        return list(range(classes)), ""
    known = [(-accuracy, label) for label, accuracy in enumerate(accuracies) if accuracy is not None]
    ranked = [label for _, label in sorted(known)]
    if len(ranked) < 2 * ENDS:
        return ranked, f"the {len(ranked)} with images of {classes:,} classes"
    return ranked[:ENDS] + ranked[-ENDS:], f"the {ENDS} best and the {ENDS} worst of {classes:,} classes"
