"""evaluate on the published test sets for CIFAR-10 networks, with every figure computed again in numpy."""

import gc
import hashlib
import json
import weakref

import numpy as np
import pytest
import torch
from archives import write_archive, write_corrupted
from conftest import one_line
from PIL import Image

from cifar_lightning import fit, load_model
from cifar_lightning.data import sources
from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.data.layouts.test_sets import CORRUPTIONS, EXTRA_CORRUPTIONS
from cifar_lightning.data.sources import synthetic
from cifar_lightning.run import comparison
from cifar_lightning.run.tested import read_tested

CPU = ("--accelerator", "cpu")


def drawn(count):
    """Returns images, uint8 (N, 32, 32, 3), that a synthetic run mostly classifies correctly, and their labels."""
    images = synthetic("test", count)
    return images.images.permute(0, 2, 3, 1).numpy(), images.labels.numpy()


def log_probabilities(run, images):
    """Returns the log-probabilities that a run's network gives to images, float64 (N, 10)."""
    with torch.inference_mode():
        logits = load_model(run).logits(torch.from_numpy(images).permute(0, 3, 1, 2)).double().numpy()
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def results_in(output):
    return json.loads((output / "results.json").read_text())


def close(found, expected):
    assert found == pytest.approx(expected, abs=1e-9)


def test_cifar10_1(finished, call, tmp_path):
    images, labels = drawn(2_021)
    np.save(tmp_path / "cifar10.1_v4_data.npy", images)
    np.save(tmp_path / "cifar10.1_v4_labels.npy", labels.astype(np.int32))
    flags = (*CPU, "--data.source", "cifar10", "--data.data_dir", tmp_path, "--output_dir", tmp_path / "out")
    code, _, err = call("evaluate", finished.folder, *flags)
    assert code == 0, err
    results, predicted = results_in(tmp_path / "out"), log_probabilities(finished.folder, images).argmax(1)
    close(results["test_acc"], (predicted == labels).mean())
    for number, name in enumerate(CLASSES):
        close(results["per_class_acc"][name], (predicted == labels)[labels == number].mean())
    assert results["test_count"] == 2_021
    assert results["data"]["data_dir"] == str(tmp_path)
    # this set has no training images to show
    figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures >= {"test_predictions", "curves", "confusion_matrix", "per_class_accuracy"}
    assert "training_images" not in figures
    line = one_line(*call("evaluate", finished.folder, "--data.data_dir", tmp_path, *CPU))
    assert line.endswith(
        "when the source is synthetic, as it was in training: pass --data.source cifar10, cifar100 or folder as well\n"
    )


def corrupted(names, size):
    """Returns for each name five blocks of `size` images, each blackened further, and the labels of one block."""
    images, labels = drawn(size)
    found = {}
    for number, name in enumerate(names, start=1):
        found[name] = np.tile(images, (5, 1, 1, 1))
        for severity in range(5):
            found[name][severity * size : (severity + 1) * size, : (severity + 1) * number // 4] = 0
    return found, labels


def check_corrupted(run, results, images, labels):
    """Checks the accuracy of each block, and the figures over all blocks."""
    assert list(results["corruption_acc"]) == list(images)
    confusion, losses = np.zeros((10, 10), int), []
    for name, blocks in images.items():
        logs = log_probabilities(run, blocks)
        right = []
        for block in np.split(logs, 5):
            right.append((block.argmax(1) == labels).mean())
            np.add.at(confusion, (labels, block.argmax(1)), 1)
            losses.append(-block[np.arange(len(labels)), labels].mean())
        close(results["corruption_acc"][name], right)
    assert results["confusion"] == confusion.tolist()
    assert results["test_count"] == confusion.sum()
    close(results["test_acc"], confusion.trace() / confusion.sum())
    assert results["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_cifar10_c(finished, call, tmp_path):
    images, labels = corrupted((*CORRUPTIONS, *EXTRA_CORRUPTIONS), 20)
    write_corrupted(tmp_path / "CIFAR-10-C", images, labels)
    output = tmp_path / "out"
    (output / "figures").mkdir(parents=True)
    for name in ("test_predictions.png", "mine.png"):  # an earlier evaluation's, and the user's own
        (output / "figures" / name).touch()
    flags = (*CPU, "--data.source", "folder", "--data.data_dir", tmp_path / "CIFAR-10-C", "--output_dir", output)
    code, out, err = call("evaluate", finished.folder, *flags)
    assert code == 0, err
    results = results_in(output)
    check_corrupted(finished.folder, results, images, labels)
    errors = {name: 1 - np.mean(row) for name, row in results["corruption_acc"].items()}
    close(results["mean_corruption_error"], np.mean([errors[name] for name in CORRUPTIONS]))
    close(results["mean_corruption_error_19"], np.mean(list(errors.values())))
    assert results["mean_corruption_error"] != results["mean_corruption_error_19"]
    digest = hashlib.sha256()
    for blocks in images.values():
        digest.update(blocks.tobytes() + np.tile(labels, 5).astype(np.uint16).tobytes())
    assert results["test_images"] == digest.hexdigest()
    assert len(CORRUPTIONS) == 15
    for key, words in (("", "the 15 corruptions of the benchmark"), ("_19", "all 19")):
        assert f"Mean corruption error over {words}: {100 * results[f'mean_corruption_error{key}']:.2f} %\n" in out
    (row,) = (line.split() for line in out.splitlines() if line.startswith("saturate"))
    shares = [*results["corruption_acc"]["saturate"], np.mean(results["corruption_acc"]["saturate"])]
    assert row == ["saturate", *(part for share in shares for part in (f"{100 * share:.1f}", "%"))]
    assert "19/19  saturate  accuracy" in err
    figures = {"corruptions.png", "confusion_matrix.png", "per_class_accuracy.png", "mine.png"}
    assert {path.name for path in (output / "figures").iterdir()} == figures
    with Image.open(output / "figures" / "corruptions.png") as figure:
        assert figure.size[1] > 700
    assert sorted(path.suffix for path in (tmp_path / "CIFAR-10-C").iterdir()) == [".npy"] * 20


def test_corruptions_are_in_memory_one_at_a_time(finished, call, monkeypatch, tmp_path):
    images, labels = corrupted(("fog", "snow", "spatter", "saturate"), 16)
    write_corrupted(tmp_path, images, labels)
    loaded, alive, make = [], [], sources.image_set_of

    def watched(decoded):
        loaded.append(weakref.ref(decoded.images))
        gc.collect()
        alive.append(sum(reference() is not None for reference in loaded))
        return make(decoded)

    monkeypatch.setattr(sources, "image_set_of", watched)
    flags = (*CPU, "--data.source", "cifar10", "--data.data_dir", tmp_path, "--output_dir", tmp_path / "out")
    code, out, err = call("evaluate", finished.folder, *flags)
    assert code == 0, err
    assert alive == [1, 1, 1, 1]
    images = {name: images[name] for name in ("snow", "fog", "spatter", "saturate")}  # in the benchmark's order
    check_corrupted(finished.folder, results := results_in(tmp_path / "out"), images, labels)
    assert results["mean_corruption_error"] is results["mean_corruption_error_19"] is None
    assert "Mean corruption error over all 19: n/a, because some are missing" in out


@pytest.mark.soak
def test_cifar10_c_on_two_devices(finished, run, tmp_path):
    images, labels = corrupted(("snow", "fog"), 17)
    write_corrupted(tmp_path, images, labels)
    flags = (*CPU, "--data.source", "cifar10", "--data.data_dir", tmp_path, "--devices", 2, "--output_dir", "out")
    code, _, err = run("evaluate", finished.folder, *flags)
    assert code == 0, err
    check_corrupted(finished.folder, results_in(tmp_path / "out"), images, labels)


def write_pictures(home, names):
    """Writes CINIC-10's folders train/, valid/ and test/, each with a folder per class, of pictures of two sources."""
    images, labels = drawn(60)
    for split in ("train", "valid", "test"):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = home / split / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            name = f"cifar10-{split}-{number}" if number % 2 else f"n02690373_{number}"
            Image.fromarray(image).save(folder / f"{name}.png")
    return images, labels


TUTORIALS = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize("names", [CLASSES, TUTORIALS])
def test_cinic10(plain, finished, call, tmp_path, names):
    """A run with a validation split can be tested on CINIC-10's folders, whose classes are matched by name."""
    images, labels = write_pictures(tmp_path / "cinic", names)
    flags = ("--data.source", "folder", "--data.data_dir", tmp_path / "cinic", "--output_dir", tmp_path / "out")
    code, _, err = call("evaluate", finished.folder, *CPU, *flags)
    assert code == 0, err
    check_classes(results_in(tmp_path / "out"), finished.folder, images, labels)


def check_classes(results, run, images, labels):
    right = log_probabilities(run, images).argmax(1) == labels
    assert right.mean() > 0.7  # otherwise a mixed-up order would go unnoticed
    close(results["test_acc"], right.mean())
    close([results["per_class_acc"][name] for name in CLASSES], [right[labels == i].mean() for i in range(10)])


def test_classes_in_another_order_are_matched_by_name(plain, finished, call, tmp_path):
    images, labels = drawn(60)
    split = {"x_train": images, "y_train": 9 - labels, "x_test": images, "y_test": 9 - labels}
    np.savez(tmp_path / "mine.npz", **split, classes=CLASSES[::-1])
    flags = ("--data.source", "folder", "--data.data_dir", tmp_path, "--output_dir", tmp_path / "out")
    code, _, err = call("evaluate", finished.folder, *CPU, *flags)
    assert code == 0, err
    check_classes(results_in(tmp_path / "out"), finished.folder, images, labels)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_cifar10_h(finished, run, call, plain, tmp_path, devices):
    """People's answers, as in CIFAR-10H, are compared with the predictions for the run's 600 test images; some tie."""
    images, labels = drawn(600)
    rng = np.random.default_rng(0)
    numbers = rng.multinomial(4, [0.1] * 10, 600)
    numbers[np.arange(600), labels] += rng.integers(0, 12, 600)
    np.save(tmp_path / "cifar10h-counts.npy", numbers)
    shares = numbers / numbers.sum(1, keepdims=True)
    flags = (*CPU, "--soft_labels", tmp_path / "cifar10h-counts.npy", "--devices", devices)
    evaluate = call if devices == 1 else run
    code, out, err = evaluate("evaluate", finished.folder, *flags, "--output_dir", tmp_path / "out")
    assert code == 0, err
    logs = log_probabilities(finished.folder, images)
    found = results_in(tmp_path / "out")["soft_labels"]
    assert found["file"] == str(tmp_path / "cifar10h-counts.npy")
    assert found["cross_entropy"] == pytest.approx(-(shares * logs).sum(1).mean(), rel=1e-5)
    some = np.where(shares > 0, shares, 1)
    close(found["entropy"], -(some * np.log(some)).sum(1).mean())
    most = shares.max(1)
    assert (np.sort(shares)[:, -2] == most).any()
    close(found["agreement"], (shares[np.arange(600), logs.argmax(1)] == most).mean())
    assert (
        f"Against people's answers: cross-entropy {found['cross_entropy']:.3f} (at best {found['entropy']:.3f}" in out
    )


def test_soft_labels_of_other_images_are_refused(finished, call, tmp_path):
    np.save(tmp_path / "a.npy", np.eye(10)[9 - drawn(600)[1]])
    line = one_line(*call("evaluate", finished.folder, *CPU, "--soft_labels", "a.npy", "--output_dir", "out"))
    assert (
        "is for other images, or for these in another order: most people agree with the labels of only 0 % of" in line
    )
    write_corrupted(tmp_path / "c", *corrupted(["fog"], 5))
    flags = ("--data.source", "cifar10", "--data.data_dir", "c", "--soft_labels", "a.npy", "--output_dir", "out")
    line = one_line(*call("evaluate", finished.folder, *CPU, *flags))
    assert line.endswith("a.npy belong to the official test images: leave out --data.data_dir\n")
    assert not (tmp_path / "out").exists()


def test_fit_on_a_test_set_is_refused(call, tmp_path):
    write_corrupted(tmp_path / "c", *corrupted(["fog"], 5))
    assert (
        "c has corrupted test sets, without training images: choose another --data.data_dir to train on, or test"
        in (one_line(*call("fit", *CPU, "--data.data_dir", "c")))
    )
    line = one_line(*call("fit", *CPU, "--data.data_dir", "c/fog.npy"))
    rest = "or test on this one with cifar-lightning evaluate RUN --data.data_dir c/fog.npy"
    assert f"c/fog.npy is a test set, without training images: choose another --data.data_dir to train on, {rest}" in (
        one_line(*call("data", "c/fog.npy"))
    )
    assert "fog.npy is a test set, without training images: choose another --data.data_dir to train on, or" in line


def test_train_labels_in_fit_evaluate_and_resume(plain, call, tmp_path):
    """CIFAR-10N's labels are kept with a run, are not used in its tests, and must be the same when it is resumed."""
    clean = synthetic("train", 100).labels.numpy()
    labels = {"clean_label": clean, "worse_label": np.roll(clean, 3), "random_label1": np.roll(clean, 1)}
    torch.save(labels, tmp_path / "CIFAR-10_human.pt")
    data = ("--data.source", "synthetic", "--data.synthetic_size", 100, "--data.batch_size", 20)
    code, _, err = call("fit", *CPU, *data, "--data.train_labels", "CIFAR-10_human.pt:worse_label", "--max_epochs", 1)
    assert code == 0, err
    run = tmp_path / "lightning_logs" / "version_0"
    results = results_in(run)
    assert results["data"]["train_labels"] == str(tmp_path / "CIFAR-10_human.pt:worse_label")
    images, labels = drawn(20)
    right = log_probabilities(run, images).argmax(1) == labels
    close(results["test_acc"], right.mean())

    (tmp_path / "CIFAR-10_human.pt").rename(tmp_path / "moved.pt")
    write_corrupted(tmp_path / "c", *corrupted(["fog"], 5))
    flags = ("--data.source", "cifar10", "--data.data_dir", "c/fog.npy", "--output_dir", "out")
    code, _, err = call("evaluate", run, *CPU, *flags)  # other images do not need these labels
    assert code == 0, err
    assert "train_labels" not in results_in(tmp_path / "out")["data"]
    for name, message in (
        ("moved.pt:random_label1", "are not the ones that the run began with"),
        ("moved.pt:worse_label", ""),
    ):
        code, _, err = call("fit", "--resume", run, "--max_epochs", 2, "--data.train_labels", name)
        assert (code, message in err) == (2 if message else 0, True), err


def test_sha256_of_the_training_archive_is_not_expected_of_test_sets(plain, call, tmp_path):
    """The training archive's SHA-256 is expected of another archive, but not of published test sets or folders."""
    for name in "ab":
        (tmp_path / name).mkdir()
    digest = write_archive(tmp_path / "a" / "cifar-10-python.tar.gz")
    fit({"data_dir": tmp_path / "a", "sha256": digest}, accelerator="cpu", max_epochs=1, default_root_dir=tmp_path)
    images, labels = drawn(50)
    write_corrupted(tmp_path / "new", {"fog": images}, labels[:10])
    (tmp_path / "new" / "fog.npy").rename(tmp_path / "new" / "snow.npy")
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / split / name / "1.png")
    other = write_archive(tmp_path / "b" / "cifar-10-python.tar.gz", seed=1)
    run = tmp_path / "lightning_logs" / "version_0"
    for flags, count in (
        (("--data.data_dir", tmp_path / "new"), 50),
        (("--data.data_dir", tmp_path / "new" / "snow.npy"), 50),
        (("--data.data_dir", tmp_path / "pictures", "--data.source", "folder"), 10),
        (("--data.data_dir", tmp_path / "b", "--data.sha256", other), 20),
    ):
        code, _, err = call("evaluate", run, *CPU, *flags, "--output_dir", tmp_path / "out")
        assert code == 0, err
        assert results_in(tmp_path / "out")["test_count"] == count
        if "snow.npy" in str(flags) or "folder" in flags:  # compare can show them
            assert len(comparison._test_images(read_tested(tmp_path / "out")).labels) == count
    assert f"has SHA-256 {other}, expected {digest}" in one_line(
        *call("evaluate", run, *CPU, "--data.data_dir", tmp_path / "b")
    )
