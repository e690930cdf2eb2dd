from itertools import pairwise

import pytest
import torch

from cifar_lightning.report import plots_of_runs


@pytest.mark.parametrize(("rows", "count"), [(1, 2), (10, 2), (40, 9)])
def test_intervals_show_each_accuracy_once_with_its_ends(rows, count):
    random = torch.Generator().manual_seed(0)
    values = torch.rand(count, rows, generator=random).tolist()
    ends = [[(max(0.0, value - 0.1), min(1.0, value + 0.1)) for value in row] for row in values]
    series = {f"{i}": list(zip(values[i], ends[i], strict=True)) for i in range(count)}
    series["0"][0] = None  # this series has no value in this row
    series["1"][0] = (0.5, None)
    figure = plots_of_runs.intervals([f"run {row}" for row in range(rows)], series)
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) >= -0.01
    assert (box.x1, box.y1) <= (figure.get_figwidth() + 0.01, figure.get_figheight() + 0.01)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    dots = sorted(line.get_xdata()[0] / 100 for line in lines if len(line.get_xdata()) == 1)
    spans = sorted(tuple(end / 100 for end in line.get_xdata()) for line in lines if len(line.get_xdata()) == 2)
    there = [found for row in series.values() for found in row if found is not None]
    assert dots == pytest.approx(sorted(accuracy for accuracy, _ in there))
    assert len(spans) == sum(ends is not None for _, ends in there)
    places = [(line.get_ydata()[0], len(line.get_xdata())) for line in lines]
    assert len(places) == len(set(places))  # no two coincide
    styles = {(line.get_color(), line.get_marker()) for line in lines if len(line.get_xdata()) == 1}
    assert len(styles) == len([row for row in series.values() if any(row)])


@pytest.mark.parametrize(("accuracies", "interval"), [((0.9, 0.95), (0.6, 1.0)), ((0.02, 0.1), (0.0, 0.5))])
def test_axes_have_no_ticks_outside_0_to_100(accuracies, interval):
    overall = {"mean": sum(accuracies) / 2, "interval": interval}
    per_class = {name: {"mean": 0.5, "interval": (0.0, 1.0)} for name in ("ant", "bee")}
    figure = plots_of_runs.spread("fold", [1, 2], accuracies, overall, per_class)
    figure.canvas.draw()
    runs, _ = figure.axes
    low, high = runs.get_ylim()
    assert low <= 100 * interval[0] < 100 * interval[1] <= high
    told = [tick.get_loc() for tick in runs.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert min(told) >= 0
    assert max(told) <= 100


@pytest.mark.parametrize("accuracies", [(1.0, 1.0), (0.99999, 0.99998), (0.0, 0.0)])
def test_axes_have_readable_ticks(accuracies):
    """Ticks are plain numbers, without an offset such as "+2.02601e7" at a corner of the axes."""
    overall = {"mean": sum(accuracies) / 2, "interval": None}
    per_class = {"ant": overall, "bee": None}
    figure = plots_of_runs.spread("seed", [20260101, 20260102], accuracies, overall, per_class)
    figure.canvas.draw()
    runs, classes = figure.axes
    assert {"20260101", "20260102"} <= {label.get_text() for label in runs.get_xticklabels()}
    for axis, low, high in ((runs.yaxis, *runs.get_ylim()), (classes.xaxis, *classes.get_xlim())):
        assert axis.get_offset_text().get_text() == ""
        told = [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        values = [float(text.replace("\N{MINUS SIGN}", "-")) for text in told]
        assert low <= 100 * min(accuracies) <= 100 * max(accuracies) <= high
        assert all(0 <= value <= 100 for value in values)
        assert any(abs(value - 100 * accuracies[0]) <= 1 for value in values)


def test_labels_of_long_seeds_do_not_overlap():
    overall = {"mean": 0.5, "interval": (0.1, 0.9)}
    figure = plots_of_runs.spread("seed", [10, 4_294_967_295], [0.1, 0.9], overall, {"ant": overall})
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [tick.label1.get_window_extent() for tick in ticks]
    assert all(left.x1 + 4 < right.x0 for left, right in pairwise(boxes))


def test_a_class_without_images_is_named_and_the_legend_covers_nothing():
    overall = {"mean": 0.5, "interval": (0.0, 1.0)}
    accuracies = [i % 2 for i in range(40)]
    figure = plots_of_runs.spread("seed", range(40), accuracies, overall, {"ant": overall, "bee": None})
    figure.canvas.draw()
    runs, classes = figure.axes
    assert [label.get_text() for label in classes.get_yticklabels()] == ["ant", "bee"]
    assert [(text.get_text(), text.get_position()[1]) for text in classes.texts] == [("n/a", 1)]
    legend = runs.get_legend().get_window_extent()
    assert not any(legend.overlaps(box) for box in (runs.bbox, runs.title.get_window_extent()))


def test_shortened_row_names_stay_distinct():
    names = [f"kind number {number:03} with a long name" for number in range(21)]
    figure = plots_of_runs.intervals(names, {"A": [(0.5, None)] * 21})
    assert len({label.get_text() for label in figure.axes[0].get_yticklabels()}) == 21
