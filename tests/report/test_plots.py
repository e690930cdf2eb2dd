import math
from itertools import pairwise

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from cifar_lightning.report import drawing, plots
from cifar_lightning.report.calibration import reliability
from cifar_lightning.report.curves import curves, gradient_norm

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MANY = ["aquarium_fish", "a_folder_with_a_name_too_long_to_show", "costs_$5_or_$6"]


def names(count):
    return (TEN + MANY + [f"pickup_truck_{index}" for index in range(count)])[:count]


def pictures(count):
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


def answers(classes, count=2_000):
    """Returns labels, and predictions of which about half are right."""
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (count,), generator=random)
    guesses = torch.randint(0, classes, (count,), generator=random)
    return labels, torch.where(torch.rand(count, generator=random) < 0.5, labels, guesses)


def count_confusions(classes):
    labels, predictions = answers(classes)
    return multiclass_confusion_matrix(predictions, labels, num_classes=classes)


def texts(figure):
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def assert_nothing_clipped(figure: Figure):
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01
    assert 1000 <= width * figure.dpi <= 1600


def history(rows, val_every=0):
    """Yields rows as a run logs them: one row per step, with None for values that the step does not have."""
    for row in range(1, rows + 1):
        validated = val_every and row % val_every == 0
        yield {
            "step": row * 10,
            "epoch": 0,
            "train_loss": 1 + math.exp(-row / rows),
            "lr": 0.1,
            "val_loss": 1.5 if validated else None,
            "val_acc": 0.9 * row / rows if validated else None,
        }
    yield {"step": rows * 10, "epoch": 1, "test_loss": 1.234, "test_acc": 0.5432}


@pytest.mark.parametrize("count", [1, 2, 7, 36])
def test_grids_show_every_image_once_and_unblurred(count):
    images, labels = pictures(count), torch.arange(count) % 10
    for figure in (
        plots.image_grid(images, labels, TEN),
        plots.prediction_grid(images, labels, labels.flip(0), TEN),
    ):
        for shown, image in zip(figure.axes[0].images, images, strict=True):
            assert shown.get_interpolation() == "nearest"
            assert torch.equal(torch.as_tensor(shown.get_array()).permute(2, 0, 1), image)
        assert_nothing_clipped(figure)


def test_image_grid_names_each_image():
    figure = plots.image_grid(pictures(3), torch.tensor([3, 0, 9]), TEN)
    assert texts(figure) == ["cat", "airplane", "truck"]


def test_names_that_differ_at_their_ends_stay_distinct():
    """Class names of breeds or species often begin alike, and stay distinct when they are shortened."""
    classes = [f"n02099_Canis_lupus_familiaris_{end}" for end in ("retriever", "doodle", "poodle")]
    counts = torch.eye(3, dtype=torch.int64)
    for figure in (plots.image_grid(pictures(3), torch.arange(3), classes), plots.per_class_bars(counts, classes)):
        assert len({text for text in texts(figure) if text.startswith("n02099")}) == 3
    matrix = plots.confusion_matrix(counts, classes).axes[0]
    assert len({label.get_text() for label in matrix.get_yticklabels()}) == 3
    assert len({label.get_text() for label in matrix.get_xticklabels()}) == 3


def test_names_that_differ_in_their_middle_stay_distinct():
    classes = [f"kind number {number:03} with a long name" for number in range(21)]
    counts = torch.eye(21, dtype=torch.int64)
    bars, matrix = plots.per_class_bars(counts, classes).axes[0], plots.confusion_matrix(counts, classes).axes[0]
    for labels in (bars.get_yticklabels(), matrix.get_yticklabels(), matrix.get_xticklabels()):
        assert len({label.get_text() for label in labels}) == 21
    assert len(set(texts(plots.image_grid(pictures(21), torch.arange(21), classes)))) == 21


def test_wrong_predictions_differ_by_sign_frame_and_colour():
    axes = plots.prediction_grid(pictures(2), torch.tensor([3, 3]), torch.tensor([3, 5]), TEN).axes[0]
    right, wrong = axes.texts
    assert right.get_text() == "true: cat\npred: cat ✓"
    assert wrong.get_text() == "true: cat\npred: dog ✗"
    (frame,) = axes.patches
    assert to_rgba(frame.get_edgecolor()) == to_rgba(drawing.ORANGE)
    left, right_end, *_ = axes.images[1].get_extent()
    assert (frame.get_x(), frame.get_width()) == pytest.approx((left, right_end - left))
    assert wrong.get_color() != right.get_color()


def test_only_a_probability_of_1_is_shown_as_100_per_cent():
    """Probabilities are rounded down to a tenth of a per cent, as in report.html."""
    labels, shares = torch.tensor([3, 3, 3]), torch.tensor([0.9999, 1.0, 0.8739])
    figure = plots.prediction_grid(pictures(3), labels, labels, TEN, shares)
    heading, *shown = texts(figure)
    assert "probability" in heading
    assert [text.rpartition("✓ ")[2] for text in shown] == ["99.9 %", "100.0 %", "87.3 %"]
    assert_nothing_clipped(figure)
    above, *below = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not any(above.overlaps(box) for box in (*below, *(i.get_window_extent() for i in figure.axes[0].images)))


@pytest.mark.parametrize("count", [4, 36])
def test_long_names_do_not_overlap(count):
    classes = names(13)
    labels = torch.arange(count) % 3 + 10
    figure = plots.prediction_grid(pictures(count), labels, labels.flip(0), classes)
    assert_nothing_clipped(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


TEST = {"step": 60, "test_loss": 1.234, "test_acc": 0.5432}


def test_curves_without_validation_mark_the_test_accuracy():
    figure = curves(list(history(12)), test=TEST)
    loss, accuracy = figure.axes
    assert list(loss.lines[0].get_xdata()) == [10 * row for row in range(1, 13)]
    level = [line for line in accuracy.lines if line.get_linestyle() == "--"]
    assert level[0].get_ydata()[0] == pytest.approx(54.32)
    assert "test 54.32 %" in texts(figure)
    assert "test 1.234" in texts(figure)
    for axes in figure.axes:  # the star is at the step of the tested network
        assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "*"] == [[60]]
    assert "validation" not in texts(figure)
    assert_nothing_clipped(figure)


def test_curves_with_validation():
    figure = curves(list(history(500, val_every=50)), test=TEST)
    loss, accuracy = figure.axes
    assert [len(line.get_xdata()) for line in loss.lines] == [500, 10, 1]
    assert list(accuracy.lines[0].get_ydata())[-1] == pytest.approx(90)
    assert not any(line.get_linestyle() == "--" for line in accuracy.lines)
    assert_nothing_clipped(figure)


def test_a_single_validation_is_shown_on_an_axis_from_0_to_100():
    """If the axis spanned only the validation and the test, a small difference would look like a large one."""
    accuracy = curves([{"step": 60, "train_loss": 2.0, "val_acc": 0.55}], test=TEST).axes[1]
    assert accuracy.get_ylim() == (0, 102)


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ([2e17, 2.3e4, 2.31, 2.3, 2.3], "log"),  # on a linear axis, 2.3 and 3 would look the same
        ([math.inf, 2.3, 2.2, 2.1, 2.0], "linear"),
        ([math.nan, 400.0, 2.2, 2.1, 2.0], "log"),
        ([2.3, 1.0, 0.5, 0.1, 0.0], "linear"),
        ([2e17, 2.3, 2.2, 0.0, 2.1], "linear"),  # a logarithmic axis has no place for 0
        ([math.nan], "linear"),
    ],
)
def test_a_few_huge_losses_do_not_flatten_the_others(losses, scale):
    rows = [{"step": 10 * (number + 1), "train_loss": loss} for number, loss in enumerate(losses)]
    figure = curves(rows, test=TEST)
    loss, accuracy = figure.axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == (scale, "linear")
    assert_nothing_clipped(figure)
    if scale == "log":
        low, high = (loss.transAxes.inverted().transform(loss.transData.transform((0, y)))[1] for y in (1.234, 2.3))
        assert high - low > 0.01


@pytest.mark.parametrize(
    ("smoothing", "label"),
    [(0.0, "train (mean between points)"), (0.1, "train (mean between points,\nlabels smoothed by 0.1)")],
)
def test_the_training_loss_is_labelled_as_the_mean_of_the_steps_between_points(smoothing, label):
    """Each point is the mean since the previous row of metrics.csv; it is not a running mean."""
    assert label in texts(curves(list(history(12)), smoothing, TEST))


@pytest.mark.parametrize("validations", [1, 2, 3])
def test_a_validation_equal_to_the_test_is_as_visible_as_its_star(validations):
    """Where the points coincide, each has at least 25 pixels of its own colour."""
    at = [60 * (number + 1) // validations for number in range(validations)]
    values = [(1.5, 0.4), (1.3, 0.5), (TEST["test_loss"], TEST["test_acc"])][-validations:]
    rows = [{"step": step, "val_loss": loss, "val_acc": acc} for step, (loss, acc) in zip(at, values, strict=True)]
    figure = curves([{"step": 30, "train_loss": 2.0}, *rows], test=TEST)
    figure.canvas.draw()
    pixels = torch.tensor(figure.canvas.buffer_rgba().tolist())[..., :3]
    for axes in figure.axes:
        value = TEST["test_loss"] if axes is figure.axes[0] else 100 * TEST["test_acc"]
        x, y = axes.transData.transform((60, value))
        row, column = len(pixels) - round(y), round(x)
        near = pixels[row - 12 : row + 12, column - 12 : column + 12].reshape(-1, 3)
        for color, least in ((drawing.ORANGE, 25), (drawing.GREEN, 25)):
            ink = torch.tensor([round(255 * part) for part in to_rgba(color)[:3]])
            assert (near == ink).all(1).sum() >= least


@pytest.mark.parametrize("smoothing", [0.0, 0.123456])
@pytest.mark.parametrize("norm", [{}, {"grad_norm": 1.0}])
def test_legends_of_curves_cover_nothing(norm, smoothing):
    """Legends are outside the axes, because lines such as these leave no room inside."""
    high, low = {"train_loss": 2.0, "val_loss": 2.2, "val_acc": 0.9}, {"train_loss": 0.1, "val_loss": 0.2, "val_acc": 0}
    rows = [{"step": 100 * i, **(high if i % 2 else low), **dict.fromkeys(norm, 10.0**i)} for i in range(41)]
    figure = curves(rows, smoothing, {**TEST, "step": 4_000})
    assert_nothing_clipped(figure)
    boxes = [axes.get_legend().get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for axes, legend in zip(figure.axes, boxes, strict=True):
        points = [point for line in axes.lines for point in axes.transData.transform(line.get_xydata())]
        assert len(points) >= 41
        assert not any(legend.contains(*point) for point in points)
        assert not any(legend.overlaps(box) for box in (axes.bbox, axes.title.get_window_extent()))
    assert len({axes.title.get_window_extent().y0 for axes in figure.axes}) == 1


def test_the_accuracy_axis_has_no_tick_above_100():
    rows = [{"step": step, "val_loss": 0.1, "val_acc": 1.0} for step in (10, 20, 30)]
    accuracy = curves(rows, test={"step": 30, "test_loss": 0.1, "test_acc": 1.0}).axes[1]
    low, high = accuracy.get_ylim()
    assert low < 100 < high
    assert max(tick for tick in accuracy.get_yticks() if low <= tick <= high) == 100


def test_an_axis_of_equal_values_has_readable_ticks():
    """Three accuracies of 1/3 that differed only by rounding once had the tick "30.0" of "1e-6+3.33333e1"."""
    rows = [{"step": step, "val_loss": 2.3 + 1e-8 * step, "val_acc": 1 / 3 + 1e-9 * step} for step in (5, 10, 15)]
    figure = curves(rows, test={"step": 5, "test_loss": 2.3, "test_acc": 1 / 3})
    figure.canvas.draw()
    for axes, value in zip(figure.axes, (2.3, 100 / 3), strict=True):
        assert axes.yaxis.get_offset_text().get_text() == ""
        told = [float(label.get_text()) for label in axes.get_yticklabels()]
        assert min(told) < value < max(told)
        assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "not measured"),
        ([{"step": 0, "train_loss": 2.3}], "not measured"),
        ([{"step": 3, "train_loss": 2.3, "val_acc": 0.1}], "test 54.32 %"),
        ([{"step": 3, "train_loss": math.nan, "val_acc": 0.1, "val_loss": math.inf}], "validation"),
    ],
)
def test_curves_of_few_or_no_values(rows, said):
    figure = curves(rows, test=TEST if "test" in said else None)
    assert said in texts(figure)
    assert_nothing_clipped(figure)


@pytest.mark.parametrize("classes", [2, 10, 13, 100, 120])
def test_confusion_matrix_fits(classes):
    counts = count_confusions(classes)
    figure = plots.confusion_matrix(counts, names(classes))
    axes = figure.axes[0]
    shown = torch.as_tensor(axes.images[0].get_array().data)
    torch.testing.assert_close(shown, counts / counts.sum(1, keepdim=True).double(), check_dtype=False)
    assert axes.images[0].get_interpolation() == "nearest"
    assert [int(text.get_text()) for text in axes.texts] == (counts.flatten().tolist() if classes <= 20 else [])
    assert_nothing_clipped(figure)
    heights = [label.get_window_extent().height for label in axes.get_yticklabels()]
    assert min(heights) >= 9  # pixels
    assert len(heights) == (classes if classes <= 100 else 60)


def test_confusion_matrix_names_rows_true_and_columns_predicted():
    axes = plots.confusion_matrix(torch.tensor([[1, 2], [0, 0]]), ["ant", "bee"]).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    (cell,) = (text for text in axes.texts if text.get_text() == "2")
    assert cell.get_position() == (1, 0)


@pytest.mark.parametrize("classes", [2, 10, 13, 100, 120])
def test_bars_equal_torchmetrics(classes):
    labels, predictions = answers(classes)
    each = multiclass_accuracy(predictions, labels, num_classes=classes, average=None)
    overall = multiclass_accuracy(predictions, labels, num_classes=classes, average="micro")
    if classes > 100:  # the best and the worst
        each = torch.cat([each.sort(descending=True).values[:20], each.sort(descending=True).values[-20:]])

    figure = plots.per_class_bars(count_confusions(classes), names(classes))

    widths = [bar.get_width() for axes in figure.axes for bar in axes.patches]
    assert widths == pytest.approx((100 * each).tolist(), abs=1e-4)
    values = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert values == [f"{width:.1f} %" for width in widths]
    assert all(axes.lines[0].get_xdata()[0] == pytest.approx(100 * overall) for axes in figure.axes)
    assert any(f"{100 * overall:.2f} % overall" in text for text in texts(figure))
    assert any("the 20 best and the 20 worst of 120 classes" in text for text in texts(figure)) == (classes == 120)
    assert_nothing_clipped(figure)


def test_a_class_without_images_has_no_accuracy():
    figure = plots.per_class_bars(torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 0]]), ["ant", "bee", "cow"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["75.0 %", "n/a", "0.0 %"]


def test_figures_without_any_images():
    nothing = torch.zeros(3, 3, dtype=torch.int64)
    plots.confusion_matrix(nothing, TEN[:3]).canvas.draw()
    assert "Accuracy per class" in texts(plots.per_class_bars(nothing, TEN[:3]))


def test_figures_save_without_pyplot(tmp_path):
    curves(list(history(3))).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_large_counts_stay_in_their_cells():
    figure = plots.confusion_matrix(torch.full((20, 20), 123_456), names(20))
    figure.canvas.draw()
    first, second, *_ = (text.get_window_extent() for text in figure.axes[0].texts)
    assert first.x1 < second.x0


@pytest.mark.parametrize("panels", [1, 2])
def test_calibration_shows_accuracy_confidence_and_shares(panels):
    random = torch.Generator().manual_seed(0)
    confidences = torch.rand(500, generator=random, dtype=torch.float64) * 0.6 + 0.4
    right = torch.rand(500, generator=random) < confidences
    bins = reliability(confidences, right)
    figure = plots.calibration({f"panel {number}": bins for number in range(panels)})
    assert len(figure.axes) == 2 * panels
    above, below = figure.axes[0], figure.axes[panels]
    filled = bins.counts > 0
    assert [bar.get_height() for bar in above.patches] == pytest.approx(bins.accuracies[filled].tolist())
    assert list(above.lines[0].get_ydata()) == pytest.approx(bins.confidences[filled].tolist())
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(1)
    named = [text.get_text() for text in above.get_legend().get_texts()]
    assert sorted(named) == ["accuracy", "accuracy = confidence", "mean confidence"]
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x1 <= figure.get_figwidth() + 0.01
    legend = above.get_legend().get_window_extent()
    assert not any(legend.overlaps(box) for box in (above.bbox, above.title.get_window_extent()))
    assert all(axes.get_legend().get_window_extent().x1 <= axes.bbox.x1 for axes in figure.axes[:panels])


def test_the_shares_of_a_calibration_are_of_all_images():
    """Images without a confidence have no bar, but count in the shares of the others."""
    bins = reliability(torch.tensor([0.9, math.nan, math.nan, 0.4], dtype=torch.float64), torch.ones(4).bool())
    below = plots.calibration({"some": bins}).axes[1]
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(0.5)


@pytest.mark.parametrize("column", ["grad_norm", "grad_2.0_norm_total"])
def test_gradient_norms_are_shown_if_they_were_logged(column):
    rows = [{**row, column: 2.0 / (1 + row["step"])} for row in history(5)]
    assert gradient_norm(rows) == column
    assert gradient_norm(list(history(5))) is None
    axes = curves(rows, test=TEST).axes[2]
    assert list(axes.lines[0].get_ydata()) == [row[column] for row in rows]


@pytest.mark.parametrize("steps", [99, 9_900, 39_100, 99_000, 156_400, 990_000, 1_560_000])
@pytest.mark.parametrize("norm", [{}, {"grad_norm": 1.0}])
def test_step_labels_of_curves_do_not_overlap(norm, steps):
    rows = [{"step": steps * part // 10, "train_loss": 2.0, "val_acc": 0.1 * part, **norm} for part in range(1, 11)]
    figure = curves(rows, test={**TEST, "step": steps})
    assert_nothing_clipped(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.label1.get_window_extent() for tick in ticks]
        assert len(boxes) >= 3
        assert all(left.x1 + 4 < right.x0 for left, right in pairwise(boxes))
