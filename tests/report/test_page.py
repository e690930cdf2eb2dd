"""Tests the page of a test: every number on it against numpy, and that it can be opened anywhere."""

import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pages import Page, assert_sound, bytes_of, interval, percent, plain
from PIL import Image

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.report import report as report_of_a_test
from cifar_lightning.report.outcome import Outcome
from cifar_lightning.report.report import _panels, report
from cifar_lightning.report.results import read_results

NAMES = ["<script>ant</script>", 'bee "& co"', "ñandú", *(f"class {number}" for number in range(3, 1_000))]


def a_test(classes=10, images=800, seed=0, skill=2.0):
    """Returns an Outcome of made-up logits and images, and its logits, labels and predictions as numpy arrays."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    labels[labels == 4] = 5  # a class without images
    logits = rng.normal(size=(images, classes)).astype(np.float32) * 1.5
    logits[np.arange(images), labels] += skill
    predicted = logits.argmax(1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    pixels = torch.from_numpy(rng.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8))
    held_labels = rng.integers(0, classes, 500)
    held = rng.normal(size=(500, classes)).astype(np.float32) * 3
    held[np.arange(500), held_labels] += 3
    names = tuple(NAMES[:classes])
    test = ImageSet(pixels, torch.from_numpy(labels), names)
    outcome = Outcome(
        confusion=torch.from_numpy(confusion),
        loss=float(losses_of(logits, labels).mean()),
        classes=names,
        facts={
            **{"checkpoint": "a/<best>.ckpt", "step": 1_234, "images_seen": 56_789, "seed": 7},
            **{"fit_steps": 2_345, "global_batch_size": 200, "trainer": {"accumulate_grad_batches": 4}},
            "parameters": 62_006,
            "data": {"source": "folder"},
        },
        training_images=test.part(torch.arange(36)),
        test_images=test,
        numbers=torch.arange(images) + 1_000,
        predicted=torch.from_numpy(predicted),
        logits=torch.from_numpy(logits),
        rows=[
            {"step": 500, "train_loss": 2.0, "val_loss": 1.75, "val_acc": 0.25},
            {"step": 1_000, "train_loss": 1.5, "val_loss": None, "val_acc": None},
        ],
        label_smoothing=0.0,
        network="<resnet>18",
        lr=0.05,
        settings="seed: 7\nname: <b>\n",
        held_out=(torch.from_numpy(held), torch.from_numpy(held_labels)),
        grad_cam=lambda images, classes: images[:, 0, :5, :5] / 255,
    )
    return outcome, logits.astype(np.float64), labels, predicted


def losses_of(logits, labels):
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def written(outcome, folder):
    report(outcome, folder, folder / "report.html")
    return Page((folder / "report.html").read_text()), (folder / "report.html").stat().st_size


def confidences_of(logits, temperature=1.0):
    scaled = np.exp(logits / temperature)
    return (scaled / scaled.sum(1, keepdims=True)).max(1)


def error_of(confidences, right):
    bins = np.ceil(confidences * 15).clip(1, 15)
    return sum(
        abs(confidences[bins == b].sum() - right[bins == b].sum()) / len(right)
        for b in range(1, 16)
        if (bins == b).any()
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    outcome, logits, labels, predicted = a_test()
    page, size = written(outcome, folder)
    return page, size, outcome, logits, labels, predicted, folder


def test_the_headline_numbers_equal_numpy(made, capsys):
    page, _, _, logits, labels, predicted, _ = made
    right = predicted == labels
    low, high = interval(right.sum(), len(right))
    assert plain(page.one("h1")["text"]) == f"{percent(right.mean())} of 800 test images are classified correctly"
    accuracy = page.one("dd", id="accuracy")
    assert plain(accuracy["text"]) == f"{percent(right.mean())}95 % interval {percent(low)} to {percent(high)}"
    second = np.sort(logits, 1)[:, -2]
    top2 = (logits[np.arange(800), labels] >= second).mean()
    assert plain(page.one("dd", id="top2")["text"]).startswith(percent(top2))
    assert page.one("dd", id="loss")["text"].startswith(f"{losses_of(logits, labels).mean():.3f}")
    error, confidence = error_of(confidences_of(logits), right), confidences_of(logits).mean()
    assert plain(page.one("dd", id="ece")["text"]) == f"{percent(error)}mean confidence {percent(confidence)}"


def test_the_table_of_classes_equals_numpy(made):
    page, _, outcome, _, labels, predicted, _ = made
    _, *rows = page.rows(page.one("table", **{"class": "per-class"}))
    assert len(rows) == 10
    for label, row in enumerate(rows):
        images, right = (labels == label).sum(), ((labels == label) & (predicted == label)).sum()
        if label == 4:
            assert row[:4] == [outcome.classes[4], "0", "0", "n/a"]
            continue
        low, high = interval(right, images)
        assert row[:5] == [
            plain(outcome.classes[label]), f"{images}", f"{right}", percent(right / images, 1),
            f"{percent(low, 1)} to {percent(high, 1)}",
        ]  # fmt: skip


def test_cells_of_the_matrix_link_to_their_images(made):
    page, _, outcome, logits, labels, predicted, _ = made
    table = page.one("table", **{"class": "matrix"})
    shown = [row[1:] for row in page.rows(table)[1:]]
    assert shown == [[str(count) for count in row] for row in outcome.confusion.tolist()]
    links = page.all("a", table)
    assert len(links) == (outcome.confusion > 0).sum()
    confidences = confidences_of(logits)
    for link in links:
        true, said = map(int, link["href"].removeprefix("#c").split("-"))
        assert link["text"] == str(outcome.confusion[true, said].item())
        section = page.one("section", id=link["href"][1:])
        members = np.flatnonzero((labels == true) & (predicted == said))
        expected = members[np.argsort(-confidences[members], kind="stable")][:4]
        assert numbers_in(page, section) == (expected + 1_000).tolist()
    matrix_names = [cell["text"] for cell in page.all("th", table, scope="row")]
    assert matrix_names == list(outcome.classes)


def numbers_in(page, place):
    return [int(small["text"][4:]) for small in page.all("small", place) if small["text"].startswith("no. ")]


def galleries(page):
    """Returns the galleries outside the cells' sections: mistakes, and labels that look wrong."""
    return [e for e in page.all("ul", **{"class": "gallery"}) if all(w["tag"] != "section" for w in e["within"])]


def test_mistakes_are_sorted_by_confidence(made):
    page, _, outcome, logits, labels, predicted, _ = made
    confidences, wrong = confidences_of(logits), np.flatnonzero(predicted != labels)
    expected = wrong[np.argsort(-confidences[wrong], kind="stable")][:36]
    mistakes, _ = galleries(page)
    assert numbers_in(page, mistakes) == (expected + 1_000).tolist()
    assert any(f"{len(wrong)} images are misclassified" in p["text"] for p in page.all("p"))
    for item, index in zip(page.all("li", mistakes), expected, strict=True):
        picture, heat = page.all("img", item)
        assert picture["alt"] == (
            f"Test image {index + 1_000}: {NAMES[labels[index]]}, predicted as {NAMES[predicted[index]]}"
        )
        with Image.open(io.BytesIO(bytes_of(picture))) as image:  # the exact pixels
            assert np.array_equal(np.array(image), outcome.test_images.images[index].permute(1, 2, 0).numpy())
        with Image.open(io.BytesIO(bytes_of(heat))) as image:
            assert image.size == (5, 5)
            levels = np.array(image) / 15
        assert levels == pytest.approx(outcome.test_images.images[index, 0, :5, :5].numpy() / 255, abs=0.034)
        assert plain(item["text"]).split("no.")[0].endswith(f"{int(1_000 * confidences[index]) / 10:.1f} %")


def test_labels_that_look_wrong_are_the_mistakes_with_the_largest_loss(made):
    page, _, _, logits, labels, predicted, _ = made
    losses, wrong = losses_of(logits, labels), np.flatnonzero(predicted != labels)
    expected = wrong[np.argsort(-losses[wrong], kind="stable")][:24]
    _, doubtful = galleries(page)
    assert numbers_in(page, doubtful) == (expected + 1_000).tolist()
    shown = [float(loss) for loss in re.findall(r"loss (\d+\.\d\d)", doubtful["text"])]
    assert shown == pytest.approx(losses[expected], abs=0.0051)


def test_calibration_unscaled_and_scaled_equals_numpy(made):
    page, _, outcome, logits, labels, predicted, _ = made
    held, held_labels = (x.numpy() for x in outcome.held_out)
    tried = np.linspace(0.5, 4, 3_501)
    temperature = tried[np.argmin([losses_of(held.astype(float) / t, held_labels).mean() for t in tried])]
    right = predicted == labels
    assert len(page.all("table", **{"class": "bins"})) == 2
    assert page.one("table", **{"class": "calibration"})["within"][-1]["class"] == "scroll"  # wider than a phone
    for number, t in enumerate((1.0, temperature)):
        line = page.one("tr", id=f"calibration-{number}")
        shown, error, confidence, loss = (plain(cell["text"]) for cell in page.all("td", line))
        assert float(shown) == pytest.approx(t, abs=2e-3)
        t = float(shown) if number else 1.0
        assert float(error[:-2]) == pytest.approx(
            100 * error_of(confidences_of(logits, t), right), abs=0.1 * number + 0.006
        )
        assert float(confidence[:-2]) == pytest.approx(100 * confidences_of(logits, t).mean(), abs=0.03)
        assert float(loss) == pytest.approx(losses_of(logits / t, labels).mean(), abs=1e-3)
    bins = np.ceil(confidences_of(logits) * 15)
    table = page.all("table", **{"class": "bins"})[0]
    for number, row in enumerate(page.rows(table)[1:], 1):
        inside = bins == number
        means = [percent(x[inside].mean()) if inside.any() else "n/a" for x in (confidences_of(logits), right)]
        assert row == [f"({number - 1}/15, {number}/15]", str(inside.sum()), *means]
    assert any("on the 500 validation images" in p["text"] for p in page.all("p"))
    assert sum("A temperature is a number that divides the logits" in p["text"] for p in page.all("p")) == 1
    (ends,) = (p for p in page.all("p") if "upper ends" in p["text"])
    assert ends["within"][-1] is table["within"][-1]
    assert ends["within"][-1]["tag"] == "details"


def test_calibrations_are_told_apart_only_if_there_are_two(made):
    outcome = made[2]
    assert [text.partition(" error")[0] for text in _panels(replace(outcome, held_out=None))] == ["Calibration"]
    as_it_is, at = _panels(outcome)
    assert as_it_is.startswith("Unscaled: calibration error")
    assert at.startswith(f"At temperature {outcome.temperature:.2f}: calibration error")
    rows = made[0].rows(made[0].one("table", **{"class": "calibration"}))[1:]
    assert [row[0] for row in rows] == ["unscaled", "scaled"]


def test_curves_and_settings_are_those_of_the_run(made):
    page, _, _, _, _, _, _ = made
    last = "training loss 1.500 (step 1,000), validation loss 1.750 (step 500), validation accuracy 25.00 % (step 500)"
    assert plain(page.one("p", id="last")["text"]) == f"Last {last}."
    assert any("Gradient norms were not logged" in p["text"] for p in page.all("p"))
    facts = dict(page.rows(page.one("table", **{"class": "facts"})))
    assert facts["checkpoint"] == "a/<best>.ckpt"
    assert (facts["step of the tested weights"], facts["seed"], facts["data: source"]) == ("1,234", "7", "folder")
    assert (facts["steps of the whole training"], facts["global batch size"]) == ("2,345", "200")
    assert (facts["network"], facts["parameters"], facts["learning rate"]) == ("<resnet>18", "62,006", "0.05")
    assert facts["trainer: accumulate_grad_batches"] == "4"
    assert facts["images seen in training"] == "56,789"
    assert facts["torch"] == importlib.metadata.version("torch")
    assert {"torchvision", "lightning", "cifar_lightning", "Python"} <= facts.keys()
    assert page.one("pre")["text"] == "seed: 7\nname: <b>\n"


def test_the_line_below_the_heading_tells_two_runs_apart(made, tmp_path, undrawn):
    page, _, outcome, *_ = made
    tested = "10 classes, <best>.ckpt, step 1,234"
    trained = "<resnet>18, 62,006 parameters, learning rate 0.05, images: folder"
    assert page.one("p", id="about")["text"] == f"{trained}, {tested}"
    unknown = {name: value for name, value in outcome.facts.items() if name not in ("parameters", "data")}
    page, _ = written(replace(outcome, network="", lr=None, facts=unknown), tmp_path)
    assert page.one("p", id="about")["text"] == tested
    facts = dict(page.rows(page.one("table", **{"class": "facts"})))
    assert not {"network", "parameters", "learning rate"} & facts.keys()


def test_the_page_is_self_contained_and_reproducible(made):
    page, size, _, _, _, _, folder = made
    text = (folder / "report.html").read_text()
    assert_sound(page, size, text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    again = made[2]
    report(again, folder / "again", folder / "again.html")
    assert (folder / "again.html").read_text() == text


def test_results_json_has_one_line_per_row_of_the_matrix(made):
    _, _, outcome, _, _, _, folder = made
    text = (folder / "results.json").read_text()
    assert json.loads(text)["confusion"] == outcome.confusion.tolist()
    lines = text.splitlines()
    assert [
        json.loads(line.strip().rstrip(",")) for line in lines if line.startswith("    [")
    ] == outcome.confusion.tolist()
    assert f'    "{json.dumps(NAMES[1])[1:-1]}": ' in text  # other values have one line each


def test_without_mistakes_validation_convolution_and_log(tmp_path, request):
    """The page leaves out what the test did not have, and says so; figures of an earlier test are removed."""
    outcome, *_ = a_test(classes=2, images=60, skill=50.0)
    outcome = replace(outcome, held_out=None, rows=(), settings="", grad_cam=lambda images, classes: None)
    (tmp_path / "figures").mkdir()
    for name in ("mistakes", "curves"):  # left by a test of another network
        (tmp_path / "figures" / f"{name}.png").touch()
    page, size = written(outcome, tmp_path)
    text = plain((tmp_path / "report.html").read_text())
    assert_sound(page, size, (tmp_path / "report.html").read_text())
    assert plain(page.one("h1")["text"]) == "100.00 % of 60 test images are classified correctly"
    low, _ = interval(60, 60)
    assert f"{percent(low)} to 100.00 %" in plain(page.one("dd", id="accuracy")["text"])
    assert not page.all("dd", id="top2")  # with two classes it is always 100 %
    assert text.count("None: every test image is right.") == 2
    assert "No temperature was fitted: this needs the validation images" in text
    assert "this network has no convolution" in text
    assert "metrics.csv, is not available" in text
    assert not page.all("pre")
    assert not page.all("img", **{"class": "heat"})
    assert not page.all("input")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        "training_images", "test_predictions", "confusion_matrix", "per_class_accuracy", "calibration",
    }  # fmt: skip
    perfect = (torch.eye(2), torch.tensor([0, 1]))
    request.getfixturevalue("undrawn")
    page, _ = written(replace(outcome, held_out=perfect), tmp_path)
    assert [row[0] for row in page.rows(page.one("table", **{"class": "calibration"}))[1:]] == ["test images"]
    assert any("there is no best one for the 2 validation images" in p["text"] for p in page.all("p"))


def strict(text):
    """Parses JSON; raises ValueError for NaN and infinity."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def with_logits(outcome, logits):
    predicted, confusion = logits.argmax(1), torch.zeros_like(outcome.confusion)
    confusion.index_put_((outcome.test_images.labels, predicted), torch.tensor(1), accumulate=True)
    loss = torch.nn.functional.cross_entropy(logits, outcome.test_images.labels).item()
    return replace(outcome, logits=logits, predicted=predicted, confusion=confusion, loss=loss)


@pytest.mark.parametrize(("value", "where"), [("nan", 3), ("inf", 3), ("-inf", 3), ("nan", slice(None))])
def test_a_report_is_written_although_logits_are_not_finite(tmp_path, capsys, value, where):
    """Unknown values are null and n/a, and images with an unknown confidence are the last of the mistakes."""
    outcome, *_ = a_test(images=60)
    logits, held = outcome.logits.clone(), outcome.held_out[0].clone()
    label = outcome.test_images.labels[3].item()
    logits[where, label if value == "-inf" else label - 1] = held[7, 0] = float(value)  # makes the prediction wrong
    outcome = replace(with_logits(outcome, logits), held_out=(held, outcome.held_out[1]))
    page, _ = written(outcome, tmp_path)
    assert f", loss {'inf' if value == '-inf' else 'nan'} " in capsys.readouterr().out
    text = (tmp_path / "results.json").read_text()
    assert strict(text)["test_loss"] is None
    assert strict(text)["not_finite"] == (1 if where == 3 else 60)
    right = 0 if where == 3 else (outcome.test_images.labels == label - 1).sum().item()
    said = plain(page.one("p", id="not-finite")["text"])
    assert said.startswith(f"The logits of {1 if where == 3 else 60} of these images are NaN or infinite.")
    assert f". {right} of the " in said
    assert read_results(tmp_path) == strict(text)
    assert page.one("dd", id="loss")["text"].startswith("n/a")
    assert not any(re.search(r"\b(nan|inf)\b", element["text"]) for element in page.all("main"))
    assert any("or not all finite" in p["text"] for p in page.all("p"))
    mistakes, *doubtful = galleries(page)
    shown = [small["text"] for small in page.all("small", mistakes) if not small["text"].startswith("no. ")]
    assert shown == sorted(shown, key="n/a".__eq__)
    if value == "-inf":  # its loss is infinite
        assert numbers_in(page, doubtful[0])[0] == 1_003
    else:
        assert page.one("dd", id="ece")["text"].startswith("n/a")
        assert len(doubtful) == (1 if where == 3 else 0)  # an unknown loss does not make a label doubtful
        assert not any("loss n/a" in gallery["text"] or 1_003 in numbers_in(page, gallery) for gallery in doubtful)
        assert any("the loss of every misclassified image is NaN" in p["text"] for p in page.all("p")) != bool(doubtful)
        known = sum(int(row[1]) for row in page.rows(page.one("table", **{"class": "bins"}))[1:])
        assert known == (59 if where == 3 else 0)
    assert (tmp_path / "figures" / "mistakes.png").exists()


def test_heads_of_the_matrix_are_turned_sideways_in_any_script(made):
    """By default Chinese characters stay upright in vertical text, and would be upside down when it is rotated."""
    *_, folder = made
    rule = re.search(r"\.matrix thead th:not\(:first-child\) {(.*?)}", (folder / "report.html").read_text())[1]
    assert "text-orientation: sideways;" in rule


def test_a_note_names_characters_that_no_font_has(tmp_path, capsys):
    outcome, *_ = a_test(images=60)
    odd = ("ant \U00012000", "bee \U00012001\U00012000", *outcome.classes[2:])  # cuneiform
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        written(replace(outcome, classes=odd), tmp_path)
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: no installed font has \U00012000\U00012001, so the figures show boxes: install one ")
    assert "fontlist-*.json in " in note
    written(outcome, tmp_path)
    assert capsys.readouterr().err == ""


def test_copies_of_a_corrupted_image_count_once_in_the_intervals(tmp_path, undrawn):
    outcome, _, labels, predicted = a_test()
    data = {"source": "cifar10", "data_dir": "/CIFAR-10-C/fog.npy"}
    page, _ = written(replace(outcome, facts={**outcome.facts, "data": data}), tmp_path)
    low, high = interval((predicted == labels).sum() / 5, 800 / 5)
    assert f"95 % interval {percent(low)} to {percent(high)}" in plain(page.one("dd", id="accuracy")["text"])
    assert page.all("p", id="not-finite") == []
    row = page.rows(page.one("table", **{"class": "per-class"}))[1]
    low, high = interval(((labels == 0) & (predicted == 0)).sum() / 5, (labels == 0).sum() / 5)
    assert row[4] == f"{percent(low, 1)} to {percent(high, 1)}"
    assert (
        "Each image occurs 5 times, with different corruptions, and counts once in the intervals."
        in page.one("footer")["text"]
    )


def test_the_page_says_what_noisy_labels_were_used_for(made, tmp_path, undrawn):
    page, _, outcome, *_ = made
    assert not any("the labels of" in p["text"] for p in page.all("p"))
    data = {**outcome.facts["data"], "train_labels": "/home/me/CIFAR-10_human.pt:<b>"}
    page, _ = written(replace(outcome, facts={**outcome.facts, "data": data}), tmp_path)
    said = [plain(p["text"]) for p in page.all("p")]
    named = "the labels of CIFAR-10_human.pt:<b>"
    assert any(f"cross-entropy on the 500 validation images, with {named}; no test image was" in p for p in said)
    (last,) = (p for p in said if p.startswith("Last training loss"))
    used = f"The training and validation figures use {named}, on which the network was trained"
    assert f"(step 500). {used}; the test uses the" in last


def test_top2_accuracy_of_equal_logits():
    """The top-2 accuracy breaks ties as the accuracy does, so that it is never lower."""

    def top2(labels, logits):
        outcome, *_ = a_test()
        images = ImageSet(outcome.test_images.images[: len(labels)], torch.tensor(labels), outcome.classes)
        return replace(outcome, test_images=images, logits=logits, predicted=logits.argmax(1)).top2

    assert top2([0, 0, 1, 2], torch.zeros(4, 3)) == 0.75
    assert top2([0, 1, 2], torch.tensor([[3.0, 2.0, 1.0]]).expand(3, 3)) == pytest.approx(2 / 3)


def test_nan_in_the_results_of_an_earlier_version_is_read_as_none(tmp_path):
    (tmp_path / "results.json").write_text('{"test_loss": NaN, "val_loss": -Infinity, "test_acc": 0.5}')
    assert read_results(tmp_path) == {"test_loss": None, "val_loss": None, "test_acc": 0.5}


def test_a_thousand_classes_show_the_best_and_the_worst(tmp_path, capsys):
    outcome, *_ = a_test(classes=1_000, images=3_000, skill=3.0)
    page, size = written(outcome, tmp_path)
    assert_sound(page, size, (tmp_path / "report.html").read_text())
    images, right = outcome.confusion.sum(1).numpy(), outcome.confusion.diag().numpy()
    accuracies = right / np.maximum(images, 1)
    ranked = sorted(np.flatnonzero(images), key=lambda label: (-accuracies[label], label))
    expected = [outcome.classes[label] for label in (*ranked[:20], *ranked[-20:])]
    rows = page.rows(page.one("table", **{"class": "per-class"}))[1:]
    assert [row[0] for row in rows] == [plain(name) for name in expected]
    out = capsys.readouterr().out.splitlines()
    assert len(out) < 70
    assert "the 20 best and the 20 worst of 1,000 classes; results.json has all" in out
    for name in expected:
        assert any(line.startswith(name) or f" {name} " in line for line in out)
    assert (tmp_path / "results.json").stat().st_size < 3_100_000
    with Image.open(tmp_path / "figures" / "per_class_accuracy.png") as bars:
        assert max(bars.size) < 1_600
    off = outcome.confusion.clone().fill_diagonal_(0)
    pairs = page.all("section", **{"class": "cell"})
    assert len(pairs) == 40
    shown = [off[tuple(map(int, pair["id"][1:].split("-")))].item() for pair in pairs]
    assert shown == off.flatten().sort(descending=True).values[:40].tolist()
    assert page.one("img", **{"class": "picture"})["alt"] == "Confusion matrix of all 1000 classes"


def drawn(outcome, values, folder, page):
    """Writes one figure and an empty page, in place of `draw`."""
    figure = Figure()
    report_of_a_test.write_figures({"curves": figure}, folder)
    page.touch()


def test_a_report_removes_the_page_and_figures_of_an_earlier_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome, *_ = a_test(images=40)
    monkeypatch.setattr(report_of_a_test, "draw", drawn)
    report(outcome, tmp_path, Path("report.html"))  # the folder's own page, as a relative path
    assert (tmp_path / "report.html").exists()
    report(outcome, tmp_path, tmp_path / "elsewhere.html")
    assert not (tmp_path / "report.html").exists()
    assert list((tmp_path / "figures").iterdir())
    (tmp_path / "report.html").write_text("another's")
    report(outcome, tmp_path, tmp_path / "report.html", aloud=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere.html", "figures", "results.json"]
    assert not list((tmp_path / "figures").iterdir())


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_shows_the_page_without_errors(made, tmp_path):
    """Opened from the disk at a cell, the page logs nothing to the console, and it is dark in dark mode."""
    address = f"{(made[6] / 'report.html').as_uri()}#c0-0"
    dark = ("--enable-features=WebContentsForceDark:inversion_method/none", "--blink-settings=preferredColorScheme=0")
    brightness = []
    for number, flags in enumerate(((), dark)):
        shot = tmp_path / f"{number}.png"
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *flags]
        command += [
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1000,1400",
            f"--screenshot={shot}",
            address,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert "CONSOLE" not in done.stderr, done.stderr
        with Image.open(shot) as image:
            brightness.append(np.asarray(image.convert("L")).mean())
    assert brightness[0] > 180
    assert brightness[1] < 90
