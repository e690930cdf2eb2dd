import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from archives import write_archive, write_corrupted
from conftest import PLAIN, SCRIPTS, SYNTHETIC, one_line
from jobs import job
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from pages import Page, assert_sound, bytes_of, percent, plain
from PIL import Image

from cifar_lightning import CLASSES, CIFAR10DataModule, LitNet, fake_data, load_model
from cifar_lightning.commands import predict
from cifar_lightning.report.prediction_page import write_predictions_page
from cifar_lightning.run import resuming, training
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.saved import data_of, select_checkpoint
from cifar_lightning.settings_file import recipes

KEYS = {
    "test_acc", "test_loss", "test_count", "per_class_acc", "confusion", "fit_seconds", "images_seen", "devices",
    "accelerator", "seed", "global_batch_size", "torch", "torchvision", "lightning", "cifar_lightning",
}  # fmt: skip
FIGURES = {
    "training_images", "test_predictions", "mistakes", "curves", "confusion_matrix", "per_class_accuracy",
    "calibration",
}  # fmt: skip


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished.folder / "results.json").read_text())


def test_fit_writes_the_files_of_a_run(finished, results):
    folder = finished.folder
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "metrics.csv", "results.json", "report.html", "checkpoints", "figures",
    }  # fmt: skip
    assert {path.stem for path in (folder / "figures").iterdir()} == FIGURES
    assert (folder / "checkpoints" / "best.ckpt").exists()
    for path in (folder / "figures").iterdir():
        with Image.open(path) as figure:
            assert figure.format == "PNG"
            assert min(figure.size) > 200


def test_results_json_of_a_fit(results):
    assert results.keys() >= KEYS
    confusion = np.array(results["confusion"])
    assert confusion.shape == (10, 10)
    assert confusion.sum() == results["test_count"] == 600
    assert results["test_acc"] == pytest.approx(np.trace(confusion) / 600)
    assert list(results["per_class_acc"]) == list(CLASSES)
    assert list(results["per_class_acc"].values()) == pytest.approx(np.diag(confusion) / confusion.sum(1))
    assert results["test_acc"] > 0.3
    assert results["images_seen"] == 7_500
    assert results["fit_seconds"] > 0
    assert (results["devices"], results["accelerator"], results["seed"]) == (1, "cpu", 0)
    assert results["global_batch_size"] == 20
    for package in ("torch", "torchvision", "lightning", "cifar_lightning"):
        assert results[package] == importlib.metadata.version(package)


def test_fit_prints_the_accuracy_the_figures_and_a_line_per_epoch(finished, results):
    assert f"Accuracy {100 * results['test_acc']:.2f} % on 600 test images" in finished.out
    for name in CLASSES:
        assert sum(line.startswith(name) for line in finished.out.splitlines()) == 1
    for name in FIGURES:
        assert finished.out.count(f"figures/{name}.png") == 1
    # standard error is not a terminal here: one line per epoch, and no warnings
    lines = finished.err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("loss" in line and "val accuracy" in line for line in lines)
    # the values at the end of that epoch, as in the log
    rows = [
        row for row in read_rows(finished.folder / "metrics.csv") if "val_acc" in row and row["val_acc"] is not None
    ]
    for line, row in zip(lines, rows, strict=True):
        assert f"step {row['step']:.0f}  loss {row['train_loss']:.3f}  val loss {row['val_loss']:.3f}" in line


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_trains(plain, call, tmp_path, recipe):
    """Each recipe trains for a few small steps in its own precision, here with a narrow network."""
    small = ("--data.source", "synthetic", "--data.synthetic_size", 100, "--data.batch_size", 10, "--max_steps", 3)
    small += ("--model.width", 8)
    code, _, err = call("fit", "--recipe", recipe, *small, "--accelerator", "cpu", "--model.lr", 0.01)
    assert code == 0, err
    results = json.loads((tmp_path / "lightning_logs" / "version_0" / "results.json").read_text())
    assert results["images_seen"] == 30
    assert results["test_count"] == 20


def test_an_epochs_line_shows_no_validation_of_another_epoch(plain, call):
    flags = ("--data.synthetic_size", 100, "--data.batch_size", 10, "--data.val_split", 20, "--max_epochs", 4)
    code, _, err = call("fit", *SYNTHETIC, *flags, "--trainer.check_val_every_n_epoch", 2)
    assert code == 0, err
    assert ["val accuracy" in line for line in err.splitlines()] == [False, True, False, True]


def test_the_test_is_logged_in_the_row_of_the_tested_step(finished, results):
    rows = read_rows(finished.folder / "metrics.csv")
    (tested,) = (row for row in rows if row["test_acc"] is not None)
    assert tested["test_acc"] == pytest.approx(results["test_acc"])
    assert tested["step"] == results["step"]
    assert (results["val_acc"], results["val_loss"]) == (tested["val_acc"], tested["val_loss"])
    assert tested["val_acc"] == max(row["val_acc"] for row in rows if row["val_acc"] is not None)
    assert rows[-1]["step"] == 3 * 125


def test_results_name_the_tested_checkpoint_and_data(finished, results):
    best = finished.folder / "checkpoints" / "best.ckpt"
    step = torch.load(best, weights_only=True)["global_step"]
    assert results["checkpoint"].endswith("checkpoints/best.ckpt")
    assert results["step"] == step
    assert f"(best.ckpt, step {step:,})" in finished.out
    assert Path(results["data"]["data_dir"]).is_absolute()
    assert {**results["data"], "data_dir": ""} == {"source": "synthetic", "data_dir": "", "normalization": "half"}


def test_config_yaml_reproduces_the_run(plain, finished, results, call, tmp_path):
    code, _, err = call("fit", "--config", finished.folder / "config.yaml", "--default_root_dir", tmp_path)
    assert code == 0, err
    repeated = json.loads((tmp_path / "lightning_logs" / "version_0" / "results.json").read_text())
    for key in ("confusion", "test_loss", "images_seen", "seed"):
        assert repeated[key] == results[key]
    before, after = (
        yaml.safe_load((folder / "config.yaml").read_text())
        for folder in (finished.folder, tmp_path / "lightning_logs" / "version_0")
    )
    assert {**before, "default_root_dir": str(tmp_path)} == after


def test_evaluate_reproduces_the_results_and_the_report_of_fit(finished, results, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # as for the fit, see run_script
    code, out, err = call("evaluate", finished.folder, "--accelerator", "cpu")
    assert (code, err) == (0, "")
    folder = finished.folder / "evaluation"
    evaluated = json.loads((folder / "results.json").read_text())
    assert evaluated["confusion"] == results["confusion"]
    assert evaluated["test_loss"] == pytest.approx(results["test_loss"], rel=1e-6)
    assert out.splitlines()[:13] == finished.out.splitlines()[2:15]
    assert finished.out.splitlines()[1] == f"computes {results['computed']}"
    for name in FIGURES:
        ours, theirs = (
            np.asarray(Image.open(parent / "figures" / f"{name}.png")) for parent in (folder, finished.folder)
        )
        assert np.array_equal(ours, theirs), name
    pages = [(parent / "report.html").read_text() for parent in (folder, finished.folder)]
    ours, theirs = (page.partition('<h2 id="settings">') for page in pages)
    assert ours[0] == theirs[0]
    assert f"{100 * results['test_acc']:.2f}\N{NO-BREAK SPACE}% of 600 test images are classified correctly" in ours[0]
    assert ">tutorial, 62,006 parameters, learning rate 0.01, images: synthetic, 10 classes, best.ckpt, " in ours[0]
    assert "on the 500 validation images; no test image was used" in ours[0]
    assert ours[0].count('class="heat"') == ours[0].count('class="pixels"') > 60
    assert "synthetic_size: 3000" in ours[2]  # from config.yaml


def test_evaluate_fits_no_temperature_on_images_of_the_training(undrawn, finished, call, tmp_path):
    """With another split seed, images held out now were trained on. `--html` sets the path of the page."""
    page = tmp_path / "a" / "page.html"
    flags = ("--accelerator", "cpu", "--html", page, "--output_dir", tmp_path / "out", "--data.split_seed", 1)
    code, out, err = call("evaluate", finished.folder, *flags)
    assert (code, err) == (0, "")
    assert f"  {page}\n" in out
    assert "No temperature was fitted: this needs the validation images of the training" in page.read_text()
    assert not (tmp_path / "out" / "report.html").exists()


def test_evaluate_refuses_a_folder_as_its_page(finished, call, tmp_path):
    line = one_line(*call("evaluate", finished.folder, "--accelerator", "cpu", "--html", tmp_path))
    assert line == f"error: html {tmp_path} is a folder: use a file name, such as {tmp_path}/report.html\n"
    line = one_line(*call("evaluate", finished.folder, "--accelerator", "cpu", "--html="))
    assert line == "error: html '' is a folder: use a file name, such as report.html\n"


def test_evaluate_refuses_an_unwritable_output_before_it_starts(finished, call, tmp_path):
    (tmp_path / "file").touch()
    for flag, value, do in (
        ("html", "file/page.html", "choose another path"),
        ("output_dir", "file/out", "choose another folder"),
    ):
        flags = ("--accelerator", "cpu", "--output_dir", "out", f"--{flag}", value)
        line = one_line(*call("evaluate", finished.folder, *flags))
        assert line == f"error: {flag} {value} cannot be written (Not a directory): {do}\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_evaluate_leaves_out_unreadable_files_of_its_run(plain, finished, results, call, tmp_path):
    shutil.copytree(finished.folder / "checkpoints", tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.csv").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(b"\xff")
    code, _, err = call("evaluate", "run", "--accelerator", "cpu")
    without = "note: the report leaves out the"
    assert (code, err.splitlines()) == (
        0,
        [
            f"{without} curves: run/metrics.csv cannot be read (Is a directory): make it readable",
            f"{without} settings: run/config.yaml is not text (invalid start byte): fix the file",
        ],
    )
    evaluated = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert evaluated["confusion"] == results["confusion"]


def test_evaluate_does_without_labels_that_only_training_needs(undrawn, call, tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(300) % 10)
    small = ("--data.synthetic_size", "300", "--data.batch_size", "20", "--max_steps", "1")
    code, _, err = call("fit", *SYNTHETIC, *small, "--data.train_labels", "labels.npy")
    assert code == 0, err
    (tmp_path / "labels.npy").unlink()
    run = tmp_path / "lightning_logs" / "version_0"
    code, _, err = call("evaluate", run, "--accelerator", "cpu")
    assert code == 0, err
    (line,) = err.splitlines()
    assert line.startswith("note: the report leaves out the training images: ")
    assert "labels.npy" in line
    assert json.loads((run / "evaluation" / "results.json").read_text())["test_count"] == 60
    assert (run / "evaluation" / "report.html").exists()


def test_logits_that_are_not_finite_are_reported(plain, call, tmp_path):
    """A network ruined by its learning rate is still tested: notes report the NaN logits, and no JSON holds NaN."""

    def refuse(name):
        raise ValueError(name)

    small = ("--data.synthetic_size", "300", "--data.batch_size", "20", "--max_steps", "1", "--model.lr", "1e9")
    code, out, err = call("fit", *SYNTHETIC, *small, "--data.val_split", 40)
    run = tmp_path / "lightning_logs" / "version_0"
    note = re.escape(f"note: {run.relative_to(tmp_path)}: NaN or infinite logits for ")
    assert code == 0, err
    assert re.search(rf"^{note}\d+ test images; images with only NaN logits count as airplane$", err, re.M)
    assert "note: best.ckpt has a validation loss of nan: images with only NaN logits count as airplane" in err
    assert "on 60 test images, loss nan (best.ckpt, step 1)\n" in out
    results = json.loads((run / "results.json").read_text(), parse_constant=refuse)
    assert results["test_loss"] is None
    odd = int(re.search(rf"^{note}(\d+) test images", err, re.M)[1])
    assert results["not_finite"] == odd > 0
    code, out, err = call("evaluate", run, "--accelerator", "cpu")
    assert (code, "loss nan" in out, "NaN or infinite logits for " in err) == (0, True, True)
    images = CIFAR10DataModule(source="synthetic", synthetic_size=300).image_set("test").images
    write_corrupted(tmp_path / "c", {"fog": images.permute(0, 2, 3, 1).numpy()}, np.zeros(12))
    code, out, err = call("evaluate", run, *SYNTHETIC, "--data.source", "cifar10", "--data.data_dir", "c")
    assert code == 0, err
    assert odd == json.loads((run / "evaluation" / "results.json").read_text())["not_finite"]
    assert f"NaN or infinite logits for {odd} test images" in err
    Image.effect_noise((32, 32), 100).convert("RGB").save(tmp_path / "a.png")
    code, out, err = call("predict", run, "a.png", "--json")
    assert code == 0, err
    (row,) = json.loads(out, parse_constant=refuse)
    assert row["top"][0]["probability"] is None


def test_evaluate_computes_in_the_precision_of_the_training(plain, call, tmp_path):
    small = ("--data.synthetic_size", "1000", "--data.batch_size", "20", "--max_epochs", "1", "--model.lr", "0.01")
    code, _, err = call("fit", *SYNTHETIC, *small, "--precision", "bf16-mixed")
    assert code == 0, err
    run = tmp_path / "lightning_logs" / "version_0"
    fitted = json.loads((run / "results.json").read_text())
    losses = {}
    for precision in ((), ("--precision", "32-true")):
        code, _, err = call("evaluate", run, "--accelerator", "cpu", *precision)
        assert code == 0, err
        results = json.loads((run / "evaluation" / "results.json").read_text())
        losses[results["precision"]] = results["test_loss"]
    assert fitted["precision"] == "bf16-mixed"
    assert losses["bf16-mixed"] == fitted["test_loss"] != losses["32-true"]


def test_evaluate_from_within_a_run(undrawn, finished, call, monkeypatch, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    monkeypatch.chdir(run / "checkpoints")
    code, out, err = call("evaluate", "best.ckpt", "--accelerator", "cpu")
    assert (code, err) == (0, "")
    assert (run / "evaluation" / "figures" / "curves.png").exists()
    shutil.copy("best.ckpt", tmp_path / "alone.ckpt")  # outside a run, so without curves
    code, out, err = call(
        "evaluate", tmp_path / "alone.ckpt", "--accelerator", "cpu", "--output_dir", run / "evaluation"
    )
    assert (code, err) == (0, "")
    assert not (run / "evaluation" / "figures" / "curves.png").exists()
    assert "curves.png" not in out


def test_evaluate_on_other_data(plain, finished, call, tmp_path):
    code, out, err = call(
        "evaluate", finished.folder / "checkpoints" / "best.ckpt", "--accelerator", "cpu",
        "--data.synthetic_size", "150", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "on 30 test images" in out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["test_count"] == 30


def test_evaluate_averages_over_views_and_records_them(plain, finished, results, call, tmp_path):
    flags = ("--accelerator", "cpu", "--test_views", "six", "--output_dir", tmp_path / "six")
    code, _, err = call("evaluate", finished.folder, *flags)
    assert code == 0, err
    six = json.loads((tmp_path / "six" / "results.json").read_text())
    assert (results["test_views"], six["test_views"]) == ("one", "six")
    assert six["test_count"] == results["test_count"]
    assert six["test_loss"] != results["test_loss"]


# --- predict ---------------------------------------------------------------------------------------------

GENERATED = (
    "note: the network was trained on generated images (coloured shapes): its guess about a photograph says nothing"
)


@pytest.fixture
def pictures(tmp_path):
    """Writes image files of every kind, most with the same drawing, and returns their folder."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((48, 64, 3), np.uint8) + rng.integers(0, 256, (1, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    folder = tmp_path / "pictures"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers turn it a quarter clockwise
    image.save(folder / "rgb.png")
    image.convert("L").save(folder / "gray.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.convert("P").save(folder / "palette.gif")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("1").save(folder / "bits.png")
    image.convert("I;16").save(folder / "deep.png")
    image.save(folder / "photo.webp")
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    image.resize((4000, 3000)).save(folder / "huge.jpg")
    return folder


def test_predict_reads_any_image(finished, call, pictures):
    code, out, err = call("predict", finished.folder, pictures, "--json")
    assert code == 0
    deep, unlike, generated = err.splitlines()
    assert deep.startswith(
        f"note: {pictures / 'deep.png'} has 16 bits per value, but no value above"
    )  # the picture has 256 grey levels
    assert unlike.startswith(f"note: {pictures / 'bits.png'} is unlike 999 of 1,000 of CIFAR-10's images (grainier")
    assert generated == GENERATED
    rows = json.loads(out)
    assert [row["file"] for row in rows] == [str(path) for path in sorted(pictures.iterdir())]
    for row in rows:
        probabilities = [guess["probability"] for guess in row["top"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(probabilities) == 3
        assert 0 <= sum(probabilities) <= 1 + 1e-6
        assert row["class"] == row["top"][0]["class"]
        assert {guess["class"] for guess in row["top"]} <= set(CLASSES)
    tops = {row["file"].rpartition("/")[2]: row["top"] for row in rows}
    assert tops["turned.png"] == tops["rgb.png"] == tops["rgba.png"]


def test_predict_agrees_with_the_model_on_saved_test_images(finished, results, call, tmp_path):
    """The predict command gives a test image saved as PNG the class that the model gives to the image itself."""
    from cifar_lightning import CIFAR10DataModule, load_model

    data = CIFAR10DataModule(source="synthetic", synthetic_size=3_000)
    data.setup("test")
    images = data.image_set("test").images[:20]
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02}.png")
    code, out, err = call("predict", finished.folder, *sorted(tmp_path.glob("*.png")), "--json")
    assert code == 0, err
    expected, _ = load_model(finished.folder / "checkpoints" / "best.ckpt").predict(images)
    assert [row["class"] for row in json.loads(out)] == [CLASSES[i] for i in expected]
    assert len(torch.unique(expected)) > 1


def test_predict_skips_files_that_are_not_pictures(finished, call, tmp_path):
    """Files hidden or not named as pictures are skipped, as in a class folder; one without a suffix is read."""
    (tmp_path / "holiday").mkdir()
    for name in ("cat.png", "dog"):
        Image.new("RGB", (32, 32), "blue").save(tmp_path / "holiday" / name, format="PNG")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "holiday" / name).write_text("no image")
    code, out, err = call("predict", finished.folder, "holiday", "--json")
    assert [row["file"] for row in json.loads(out)] == ["holiday/cat.png", "holiday/dog"]
    assert code == 0, err
    notes = err.splitlines()
    assert notes[0] == "note: skipped 2 files, first holiday/Thumbs.db: not pictures by their names"
    assert not any("cannot be read" in note or "not an image" in note for note in notes)


def test_predict_reads_subfolders_of_any_depth(finished, call, tmp_path):
    """Hidden folders are skipped, as in a class folder; a broken link or a link to a parent folder is an error."""
    names = ("b.png", "a/2.png", "a/more/1.png", ".hidden/3.png")
    for name in names:
        (tmp_path / "holiday" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "blue").save(tmp_path / "holiday" / name)
    (tmp_path / "holiday" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "holiday" / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    seen = ["b.png", "a/2.png", "a/more/1.png"]
    for given, folder in (("holiday", "holiday/"), ("holiday/", "holiday/"), (tmp_path / "holiday",) * 2):
        code, out, err = call("predict", finished.folder, given, "--json", "--html", "seen.html")
        assert [row["file"] for row in json.loads(out)] == [str(Path(folder, name)) for name in seen]
        said = err.splitlines()
        assert (code, said[:2]) == (
            1,
            [
                f"note: skipped {Path(folder, 'a/notes.txt')}: not a picture by its name",
                f"error: {Path(folder, 'a/gone.png')} is a broken link: fix or remove it",
            ],
        )
        text = Path("seen.html").read_text()
        assert [name in text for name in names] == [True, True, True, False]
    (tmp_path / "holiday" / "a" / "gone.png").unlink()
    code, out, _ = call("predict", finished.folder, "holiday")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:5]] == [f"holiday/{name}" for name in seen]
    (tmp_path / "holiday" / "a" / "up").symlink_to("..")
    code, out, err = call("predict", finished.folder, "--json", "holiday")
    assert (code, [row["file"] for row in json.loads(out)]) == (1, [f"holiday/{name}" for name in seen])
    assert "error: holiday/a/up is a link to a folder that contains the link: remove it\n" in err
    (tmp_path / "trip").mkdir()
    shutil.move(tmp_path / "holiday" / "a", tmp_path / "trip" / "holiday")
    code, out, err = call("predict", finished.folder, "--json", "trip/holiday")
    assert (code, len(json.loads(out))) == (1, 2)
    assert "error: trip/holiday/up is a link to a folder that contains the link: remove it\n" in err


STANDARDISED = """
from torch import nn

class Standardised(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3072, 10))

    def forward(self, images):
        return super().forward(images / images.std((1, 2, 3), keepdim=True))

class Undecided(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3072, 10))

    def forward(self, images):
        return super().forward(images) * 0
"""


@pytest.mark.parametrize(("net", "said"), [("Standardised", True), ("Undecided", False)])
def test_predict_names_the_same_class_as_python_if_no_class_stands_out(plain, call, tmp_path, monkeypatch, net, said):
    """If all probabilities are equal, or NaN as here for a picture of one colour, predict gives Python's class."""
    (tmp_path / "nets_of_nothing.py").write_text(STANDARDISED)
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    small = ("--data.synthetic_size", "100", "--data.batch_size", "20", "--max_steps", "1", "--report", "false")
    code, _, err = call("fit", *SYNTHETIC, *small, "--model.net", f"nets_of_nothing:{net}")
    assert code == 0, err
    run = tmp_path / "lightning_logs" / "version_0"
    code, out, err = call("predict", run, "black.png", "--json", "--model.net", f"nets_of_nothing:{net}")
    model = load_model(run, net=f"nets_of_nothing:{net}")
    labels, _ = model.predict(torch.zeros(3, 32, 32, dtype=torch.uint8))
    assert (code, json.loads(out)[0]["class"]) == (0, model.classes[labels[0]])
    note = "note: the network says nothing about 1 of 1 images: its logits are NaN or infinite\n"
    assert (note in err) is said


def test_predict_names_missing_pictures_as_they_were_given(finished, call, tmp_path):
    code, out, err = call("predict", finished.folder, "./none.jpg", "*.jpeg", "https://example.com/cat.jpg", "")
    assert (code, out) == (1, "")
    none = "does not exist: use an image, or a folder of images"
    assert err.splitlines() == [
        f"error: ./none.jpg {none}",
        f"error: *.jpeg {none}",
        "error: https://example.com/cat.jpg is an address, but only files can be read: download it, and use the file's "
        "path",
        f"error: '' {none}",
    ]


def test_predict_continues_after_an_unreadable_image(finished, call, tmp_path):
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    code, out, err = call("predict", finished.folder, "bad.png", "missing.png", "good.png")
    assert code == 1
    assert err.splitlines() == [
        "error: bad.png is not an image: leave it out; in a folder, hide it with a leading dot",
        "error: missing.png does not exist: use an image, or a folder of images",
        "note: good.png is unlike 999 of 1,000 of CIFAR-10's images (less contrast, smoother, more even): "
        "the guess says little; --html shows what the network saw",
        GENERATED,
    ]
    table = out.splitlines()
    assert table[0].split() == ["file", "class", "probability", "second", "third"]
    assert table[2].startswith("good.png ")
    assert table[3:] == ["", f"by {finished.folder}/checkpoints/best.ckpt, step 375"]


def test_the_page_of_predictions_shows_what_the_network_saw(finished, call, tmp_path, monkeypatch):
    """The page shows the exact 32 × 32 pixels, the network's guesses, and which pictures are unlike CIFAR-10's."""
    monkeypatch.setattr("cifar_lightning.report.prediction_page.PICTURES", 4)
    drawn = fake_data(30).image_set("test").images[0].permute(1, 2, 0).numpy()
    Image.fromarray(drawn).save(tmp_path / "a <drawn> one.png")
    Image.new("RGB", (320, 200), "orange").save(tmp_path / "flat.png")
    Image.new("RGB", (8, 8), "black").save(tmp_path / "one.png")
    latin = "caf\udce9"  # not UTF-8, as from an old archive
    for name in (latin, "two"):
        Image.new("RGB", (8, 8), "black").save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no image")
    pictures = [tmp_path / f"{name}.png" for name in ("a <drawn> one", "bad", "flat", "one", latin, "two")]
    code, out, err = call("predict", finished.folder, *pictures, "--json", "--html", "seen.html")
    assert code == 1
    assert f"{pictures[2]} is unlike 999 of 1,000 of CIFAR-10's images (less contrast, smoother, more even)" in err
    assert ", and so are 3 more: " in err
    assert err.endswith("seen.html written\n")

    text = Path("seen.html").read_text()
    page = Page(text)
    assert_sound(page, len(text.encode()), text)
    assert page.one("h1")["text"] == "What the network saw in 5 pictures"
    assert "The first 4 are shown." in plain(page.one("main")["text"])
    shown = page.all("li")
    for item, row in zip(shown, json.loads(out), strict=False):
        first, *others = row["top"]
        assert plain(page.one("b", item)["text"]) == f"{first['class']} {percent(first['probability'], 1)}"
        assert [plain(span["text"]) for span in page.all("span", item) if "class" not in span] == [
            f"{guess['class']} {percent(guess['probability'], 1)}" for guess in others
        ]
        assert page.all("small", item)[0]["text"] == row["file"].replace("\udce9", "?")
        parts = [part["text"] for part in page.all("span", item, **{"class": "part"})]
        assert all(part.endswith("/") for part in parts[:-1])  # a line ends after a slash, not within a name
        assert parts[-1] == Path(row["file"]).name.replace("\udce9", "?")
    assert [len(page.all("small", item)) for item in shown] == [1, 2, 2, 2]
    with Image.open(io.BytesIO(bytes_of(page.one("img", shown[0])))) as image:
        assert np.array_equal(np.asarray(image), drawn)
    assert page.one("footer")["text"].strip().startswith("Unlike: more extreme than 999 of 1,000")


@pytest.mark.parametrize(("classes", "judged"), [(CLASSES, True), (("ant", "bee"), False)])
def test_the_page_explains_likeness_only_for_the_classes_of_cifar10(tmp_path, classes, judged):
    """Pictures are compared with CIFAR-10's images only, so a network with other classes judges none."""
    Image.new("RGB", (32, 32), "orange").save(tmp_path / "a.png")
    model = LitNet(classes=classes, preprocessing=fake_data(30).preprocessing).eval()
    tally = predict.Tally(room=1)
    list(predict._rows(model, [str(tmp_path / "a.png")], tally))
    assert bool(tally.shown[0].unlike) == judged
    write_predictions_page(tally.shown, 1, "a.ckpt, step 1", tmp_path / "seen.html")
    assert ("Unlike: " in Page((tmp_path / "seen.html").read_text()).one("footer")["text"]) == judged


def test_predict_refuses_a_folder_as_its_page(finished, call, tmp_path):
    said = one_line(*call("predict", finished.folder, "cat.png", "--html", tmp_path))
    assert said == f"error: html {tmp_path} is a folder: use a file name, such as {tmp_path}/predictions.html\n"


@pytest.mark.parametrize(("source", "said"), [("synthetic", 1), ("cifar10", 0), (None, 0)])
def test_predict_says_that_a_network_has_seen_only_generated_images(finished, call, tmp_path, source, said):
    checkpoint = torch.load(finished.folder / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["datamodule_hyper_parameters"]["source"] = source
    if source is None:  # of a Trainer without our data module
        del checkpoint["datamodule_hyper_parameters"]
    torch.save(checkpoint, tmp_path / "it.ckpt")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "blue").save(tmp_path / name)
    code, _, err = call("predict", "it.ckpt", "a.png", "b.png")
    assert (code, err.splitlines().count(GENERATED)) == (0, said)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_predict_works_in_growing_batches_and_prints_in_order(finished, call, tmp_path, monkeypatch, form):
    """Batches grow up to BATCH, each is printed before the next, and a damaged file is reported in its turn."""
    for i in range(21):
        Image.new("RGB", (32, 32), (12 * i, 0, 99)).save(tmp_path / f"{i:02}.png")
    (tmp_path / "05.png").write_text("no image")
    sizes, shown, whole = [], [], LitNet.predict

    def predict(model, images):
        sizes.append(len(images))
        shown.append(len(re.findall(r"\d\d\.png", sys.stdout.getvalue())))
        return whole(model, images)

    monkeypatch.setattr("cifar_lightning.commands.predict.BATCH", 8)
    monkeypatch.setattr(LitNet, "predict", predict)
    monkeypatch.setattr(
        "cifar_lightning.commands.predict.say",
        lambda line: shown.append((line.partition(" is ")[0], len(re.findall(r"\d\d\.png", sys.stdout.getvalue())))),
    )
    code, out, _ = call("predict", finished.folder, *sorted(tmp_path.glob("*.png")), *form)
    assert code == 1
    assert sizes == [1, 2, 3, 8, 6]  # of 1, 2, 4, 8 and the last 6 files
    assert shown == [
        0,
        1,
        3,
        (f"error: {tmp_path / '05.png'}", 5),
        6,
        14,
        (f"note: {tmp_path / '00.png'}", 20),
        (GENERATED, 20),
    ]
    if form:
        rows = json.loads(out)
        assert out == json.dumps(rows, indent=2) + "\n"
        assert [Path(row["file"]).name for row in rows] == [f"{i:02}.png" for i in range(21) if i != 5]


def test_predict_without_any_readable_picture(finished, call, tmp_path):
    """Without a readable picture, predict prints an empty JSON list and writes no page."""
    code, out, err = call("predict", finished.folder, "none.png", "--json", "--html", "seen.html")
    assert (code, out, len(err.splitlines())) == (1, "[]\n", 1), err
    assert list(tmp_path.iterdir()) == []


def test_predict_stops_when_its_output_is_closed(finished, tmp_path):
    """If a reader such as `head` closes the output, predict stops early without an error; the page has what it read."""
    for i in range(600):  # more than a pipe holds and than predict decodes ahead
        Image.new("RGB", (32, 32), (i % 256, 0, 99)).save(tmp_path / f"{i:03}.bmp")
    (tmp_path / "599.bmp").write_text("no image")
    page = tmp_path / "a" / "page.html"
    command = [sys.executable, SCRIPTS / "predict.py", finished.folder, tmp_path, "--json", "--html", page]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "[\n"
        process.stdout.close()
        assert (process.stderr.read(), process.wait(240)) == (f"{page} written\n", 0)
    text = page.read_text()
    assert f"<h1>What the network saw in {text.count('<img')} picture" in text


# --- flags -----------------------------------------------------------------------------------------------


def test_help_fits_two_screens(call):
    code, out, err = call("fit", "--help")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 100
    assert max(map(len, out.splitlines())) <= 100
    fixed = "accelerator devices num_nodes strategy precision max_epochs max_steps fast_dev_run default_root_dir seed"
    fixed += " config recipe resume data.source data.data_dir data.batch_size data.val_split data.augment model.net"
    for name in (*fixed.split(), "model.lr", "checkpoint_every_n_steps", "verify_steps", "seeds", "folds"):
        assert out.count(f"\n  --{name} ") == 1, name


def test_help_of_evaluate_shows_no_defaults_that_the_run_overrides(call):
    code, out, _ = call("evaluate", "--help")
    assert code == 0
    assert "usage: python scripts/evaluate.py CHECKPOINT [flags]" in out
    assert "--precision STR|INT " in out
    assert "[" not in out.partition("\n  --data.data_dir")[2]


def test_flags_and_files_override_a_recipe_and_the_later_one_wins(plain, call, tmp_path):
    (tmp_path / "mine.yaml").write_text("model:\n  lr: 0.25\n  width: 8\n")
    code, _, err = call(
        "fit", *SYNTHETIC, "--model.width", "4", "--config", "mine.yaml", "--model.momentum", "0.5",
        "--recipe", "tutorial", "--data.synthetic_size", "50", "--max_epochs", "1", "--data.batch_size", "50",
    )  # fmt: skip
    assert code == 0, err
    settings = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "config.yaml").read_text())
    assert settings["model"]["lr"] == 0.25
    assert settings["model"]["width"] == 8  # the file comes after the flag
    assert settings["model"]["momentum"] == 0.5
    assert settings["data"]["batch_size"] == 50


def test_fast_dev_run(plain, call, tmp_path):
    code, out, err = call("fit", *SYNTHETIC, "--data.synthetic_size", "100", "--fast_dev_run", "true")
    assert code == 0, err
    assert out.splitlines()[0].endswith(", 1 epoch, at most 1 step")
    assert "Accuracy" in out


def test_fit_passes_trainer_flags_to_lightnings_trainer(plain, call, tmp_path):
    code, _, err = call(
        "fit", *SYNTHETIC, "--data.synthetic_size", "100", "--max_epochs", "1", "--data.batch_size", "10",
        "--trainer.limit_train_batches", "3", "--trainer.gradient_clip_val", "1.0",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads((tmp_path / "lightning_logs" / "version_0" / "results.json").read_text())["images_seen"] == 30


@pytest.mark.parametrize(
    ("flags", "length"),
    [
        (("--recipe", "quick"), (2, 165)),
        (("--recipe", "quick", "--max_epochs", "40"), (40, -1)),
        (("--recipe=quick", "--max_epochs=40", "--max_steps=7"), (40, 7)),
        (("--recipe", "quick", "--recipe", "speed94"), (8, -1)),
        (("--resume", "auto", "--recipe", "quick", "--max_epochs", "40"), (40, -1)),
        (("--max_epochs", "1", "--config", "mine.yaml", "--recipe", "quick"), (1, 9)),
        (("--recipe", "quick", "--config", "epochs.yaml"), (6, -1)),
        (("--recipe", "quick", "--config", "epochs.yaml", "--config=mine.yaml"), (6, 9)),
        (("--recipe", "quick", "--config=epochs.yaml", "--max_steps", "7"), (6, 7)),
    ],
)
def test_a_given_length_replaces_both_limits_of_a_recipe(call, tmp_path, monkeypatch, flags, length):
    (tmp_path / "mine.yaml").write_text("max_steps: 9\n")
    (tmp_path / "epochs.yaml").write_text("max_epochs: 6\n")
    given = []
    monkeypatch.setattr(training, "fit", lambda **settings: given.append(settings))
    monkeypatch.setattr(resuming, "resume_newest", lambda root, changes: None)
    code, _, err = call("fit", *flags)
    assert (code, err) == (0, "")
    assert (given[0].get("max_epochs", 2), given[0].get("max_steps", -1)) == length


def test_banner_and_resume_hint_name_the_limit_that_ends_the_run(plain, call, tmp_path):
    small = (*SYNTHETIC, "--data.synthetic_size", "100", "--data.batch_size", "10")
    code, out, err = call("fit", *small, "--max_epochs", "3", "--max_steps", "15")
    assert code == 0, err
    assert out.splitlines()[0].endswith("3 epochs, at most 15 steps")
    run = tmp_path / "lightning_logs" / "version_0"
    for flags in ((), ("--max_epochs", "5")):
        line = one_line(*call("fit", "--resume", run, *flags))
        assert line.endswith(
            "to train it further, use a higher --max_steps than 15, and if needed a higher --max_epochs\n"
        )
    code, _, err = call("fit", "--resume", run, "--max_steps", "30")
    assert code == 0, err
    line = one_line(*call("fit", "--resume", run))
    assert line.endswith("use a higher --max_steps than 30, and if needed a higher --max_epochs\n")
    code, out, err = call("fit", *small, "--max_epochs", "1")
    assert code == 0, err
    assert out.splitlines()[0].endswith("1 epoch")
    line = one_line(*call("fit", "--resume", tmp_path / "lightning_logs" / "version_1"))
    assert line.endswith("to train it further, use a higher --max_epochs than 1\n")


def test_evaluate_normalises_as_in_training(plain, call, tmp_path):
    """After a training on CIFAR-100, a folder's images are normalised with the mean and std of CIFAR-100."""
    digest = write_archive(tmp_path / "archive.tar.gz", source="cifar100", classes=100)
    data = ("--data.source", "cifar100", "--data.data_dir", tmp_path / "archive.tar.gz", "--data.sha256", digest)
    code, _, err = call("fit", *data, "--data.normalization", "dataset", "--accelerator", "cpu", "--max_steps", "1")
    assert code == 0, err
    run = tmp_path / "lightning_logs" / "version_0"
    checkpoint = load_checkpoint(select_checkpoint(run))
    image = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    expected = CIFAR10DataModule(source="cifar100", normalization="dataset").normalize(image)
    assert torch.equal(data_of(checkpoint, {"source": "folder"}).normalize(image), expected)
    assert torch.equal(data_of(checkpoint, {}).normalize(image), expected)
    other = CIFAR10DataModule(source="folder", normalization="dataset").normalize(image)
    assert torch.equal(data_of(checkpoint, {"normalization": "dataset", "source": "folder"}).normalize(image), other)
    assert not torch.equal(other, expected)


def test_class_names_in_chinese(call, tmp_path, recwarn):
    """Tables show Chinese class names, and figures do if a font has them, without warnings; ASCII output has "?"."""
    for part in ("train/猫", "train/dog", "test/猫", "test/dog"):
        (tmp_path / "pets" / part).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), (i * 60, 0, 0)).save(tmp_path / "pets" / part / f"{i}.png")
    flags = ("--data.source", "folder", "--data.data_dir", tmp_path / "pets", "--accelerator", "cpu")
    code, out, err = call("fit", *flags, "--max_epochs", "1")
    assert code == 0, err
    assert "猫" in out
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []
    env = {"PYTHONIOENCODING": "ascii"}
    done = job("fit", *flags, "--max_epochs", "1", "--devices", "2", cwd=tmp_path, env=env)
    assert done.code == 0, done.text
    assert sum(line.startswith("? ") for line in done.lines) == 1


def test_an_unused_gpu_causes_no_warning(plain, call, monkeypatch, recwarn):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    code, _, err = call("fit", *SYNTHETIC, "--data.synthetic_size", "100", "--fast_dev_run", "true")
    assert code == 0, err
    assert [str(warning.message) for warning in recwarn if "GPU" in str(warning.message)] == []
    with pytest.warns(UserWarning, match="GPU available but not used"):  # as a stock Trainer has it
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


def test_help_in_ascii(run):
    code, out, err = run("fit", "--help", env={"PYTHONIOENCODING": "ascii"})
    assert (code, err) == (0, "")
    assert "[INT,?]" in out


@pytest.mark.soak  # test_ddp.py has a fit under torchrun, test_cluster.py an evaluation by two processes
def test_evaluate_under_torchrun(finished, run, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    flags = ("--accelerator", "cpu", "--output_dir", "here")
    code, out, err = run("evaluate", finished.folder, *flags, launcher=launcher, env=PLAIN)
    assert code == 0, err
    assert out.count("Accuracy") == 1
    assert json.loads((tmp_path / "here" / "results.json").read_text())["devices"] == 2


def test_a_run_finds_its_pictures_from_any_working_directory(plain, call, tmp_path, monkeypatch):
    """A run keeps the absolute path of its pictures, and refuses to resume with other pictures at that path."""
    for place, colours in (("there", 1), ("elsewhere", 200)):
        for split in ("train", "test"):
            for label, name in enumerate("ab"):
                for i in range(4):
                    path = tmp_path / place / "pictures" / split / name / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (32, 32), (colours * label, 0, 0)).save(path)
    monkeypatch.chdir(tmp_path / "there")
    data = ("--data.source", "folder", "--data.data_dir", "pictures", "--data.batch_size", 4)
    code, _, err = call("fit", *data, "--max_epochs", 1, "--accelerator", "cpu")
    assert code == 0, err
    run = tmp_path / "there" / "lightning_logs" / "version_0"
    before = json.loads((run / "results.json").read_text())
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = call("evaluate", run, "--accelerator", "cpu")
    assert code == 0, err
    after = json.loads((run / "evaluation" / "results.json").read_text())
    assert after["data"] == before["data"]
    assert after["data"]["data_dir"] == str(tmp_path / "there" / "pictures")
    assert after["test_loss"] == before["test_loss"]
    code, _, err = call("fit", "--resume", run, "--max_epochs", 2)
    assert code == 0, err
    code, _, err = call("fit", "--resume", run, "--max_epochs", 3, "--data.data_dir", "pictures")
    assert code == 2
    assert err == (
        f"error: the training images in {tmp_path / 'elsewhere' / 'pictures'} are not the ones that the run began "
        "with: pass the folder of the original ones as --data.data_dir, or start a new run\n"
    )
    left = (run / "results.json").read_bytes()
    (tmp_path / "there" / "pictures").rename(tmp_path / "moved")
    (tmp_path / "elsewhere" / "pictures").rename(tmp_path / "there" / "pictures")
    code, _, again = call("fit", "--resume", run, "--max_epochs", 3)
    assert (code, again) == (2, err.replace("elsewhere", "there"))
    assert (run / "results.json").read_bytes() == left
    code, _, err = call("fit", "--resume", run, "--max_epochs", 3, "--data.data_dir", tmp_path / "moved")
    assert code == 0, err
