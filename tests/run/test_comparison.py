"""compare(): what runs differ in, and whether it is more than noise, read from the files in their folders."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import one_line
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from pages import Page, assert_sound, bytes_of, percent, plain
from PIL import Image

from cifar_lightning import CIFAR10DataModule, InputError, compare, evaluate, fit, load_model
from cifar_lightning.report.comparison_words import statements
from cifar_lightning.report.statistics import mcnemar, of_shares, paired_interval, welch, wilson
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.saved import data_of, select_checkpoint
from cifar_lightning.run.trained import FOLDER

SMALL = {"source": "synthetic", "synthetic_size": 500, "batch_size": 20, "val_split": 100}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains two seeds with each of two learning rates: version_0 and 1 with 0.01, version_2 and 3 with 0.02."""
    home = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cifar_lightning.report.report.draw", lambda *args: None)
        for lr in (0.01, 0.02):
            for seed in (0, 1):
                fit(SMALL, {"lr": lr}, max_epochs=2, accelerator="cpu", seed=seed, default_root_dir=home)
    return [home / "lightning_logs" / f"version_{i}" for i in range(4)]


@pytest.fixture
def runs(trained, tmp_path):
    """Returns copies of the trained runs, which a test may change."""
    return [shutil.copytree(run, tmp_path / run.name) for run in trained]


def results_of(run):
    return json.loads((run / "results.json").read_text())


def predicted_by_the_model(run):
    images = data_of(load_checkpoint(select_checkpoint(run)), {}).image_set("test")
    return load_model(run).predict(images.images)[0].numpy(), images.labels.numpy()


def test_predictions_npz_holds_the_prediction_for_each_test_image(trained, whole):
    for run in (trained[0], *whole.values()):
        predicted, labels = predicted_by_the_model(run)
        with np.load(run / "predictions.npz", allow_pickle=False) as kept:
            assert kept["predicted"].dtype == kept["labels"].dtype == np.uint16
            assert np.array_equal(kept["predicted"], predicted)
            assert np.array_equal(kept["labels"], labels)
        assert (run / "predictions.npz").stat().st_size < 4 * len(labels) + 2_000


def test_two_runs_are_compared_image_by_image(trained):
    a, b = trained[0], trained[2]
    found = compare([a, b])
    assert found["settings"] == {"model.lr": {"A": 0.01, "B": 0.02}}
    right = [predicted == labels for predicted, labels in map(predicted_by_the_model, (a, b))]
    only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    (comparison,) = found["comparisons"]
    assert sum(only) > 0
    assert (comparison["test"], comparison["only_right"], comparison["same_images"]) == ("mcnemar", only, True)
    assert comparison["p"] == mcnemar(*only)
    assert comparison["more_than_noise"] == (mcnemar(*only) < 0.05)
    assert comparison["difference"] == pytest.approx((only[1] - only[0]) / 100)
    assert found["groups"] == []
    for run, figures in zip((a, b), found["runs"], strict=True):
        results = results_of(run)
        assert figures["run"] == str(run)
        assert figures["test_acc_interval"] == wilson(round(100 * results["test_acc"]), 100)
        for name in ("test_acc", "val_acc", "fit_seconds", "accelerator", "devices"):
            assert figures[name] == results[name]
        assert figures["parameters"] == 62_006


def test_runs_that_differ_only_in_the_seed_form_groups(trained):
    found = compare([trained[i] for i in (2, 0, 1, 3)])
    accuracies = [[results_of(trained[i])["test_acc"] for i in group] for group in ((2, 3), (0, 1))]
    assert [run["name"] for run in found["runs"]] == ["A1", "A2", "B1", "B2"]
    assert found["settings"] == {"model.lr": {"A": 0.02, "B": 0.01}}
    for group, values in zip(found["groups"], accuracies, strict=True):
        assert group["seeds"] == [0, 1]
        assert group["mean"] == pytest.approx(np.mean(values))
        assert group["sd"] == pytest.approx(np.std(values, ddof=1))
    (comparison,) = found["comparisons"]
    assert comparison["test"] == "welch"
    p, interval = welch(*accuracies)
    assert (comparison["p"], comparison["interval"]) == (p, of_shares(interval))
    assert found["seeds_needed"]["seeds"] > 2


def test_runs_with_and_without_callbacks_are_not_grouped(trained, plain, tmp_path):
    arguments = {"max_epochs": 2, "accelerator": "cpu", "seed": 2, "default_root_dir": tmp_path}
    results = fit(SMALL, {"lr": 0.01}, callbacks=GradientAccumulationScheduler({1: 2}), **arguments)
    assert results["callbacks"] == ["GradientAccumulationScheduler"]
    run = tmp_path / "lightning_logs" / "version_0"
    assert compare([*trained[:2], run])["settings"] == {
        "callbacks": {"A": None, "B": "GradientAccumulationScheduler"},
        "seed": {"A": [0, 1], "B": 2},
    }
    evaluate(run, accelerator="cpu")
    assert "callbacks" not in compare([run, run / "evaluation"])["settings"]


def test_two_seeds_form_a_group_and_are_compared_image_by_image(trained):
    found = compare(trained[:2])
    assert (len(found["groups"]), found["settings"]) == (1, {})
    assert (found["comparisons"][0]["groups"], found["comparisons"][0]["test"]) == (["A1", "A2"], "mcnemar")


def test_runs_started_by_flags_and_in_python_form_one_group(trained, plain, call, tmp_path):
    flags = [f"--data.{name}={value}" for name, value in SMALL.items()]
    flags += ["--model.lr=0.01", "--model.weight_decay=0", "--max_epochs=2", "--accelerator=cpu", "--seed=2"]
    code, _, err = call("fit", *flags, "--devices", 1)
    assert code == 0, err
    by_flags = tmp_path / "lightning_logs" / "version_0"
    settings = yaml.safe_load((by_flags / "config.yaml").read_text())
    assert (settings["devices"], settings["data"]["val_split"]) == (1, 100)
    assert repr(settings["model"]["weight_decay"]) == "0.0"
    settings["model"]["weight_decay"] = 0  # as Python may give it
    (by_flags / "config.yaml").write_text(yaml.safe_dump({**settings, "devices": "1"}))  # as an earlier version
    found = compare([*trained[:2], by_flags])
    assert [run["name"] for run in found["runs"]] == ["A1", "A2", "A3"]
    assert found["settings"] == {}


def test_run_and_its_copy_do_not_differ(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "copy")
    found = compare([runs[0], tmp_path / "copy"])
    assert (found["settings"], found["groups"], found["seeds_needed"]) == ({}, [], None)
    comparison = found["comparisons"][0]
    assert (comparison["only_right"], comparison["p"], comparison["more_than_noise"]) == ([0, 0], 1.0, False)


def test_a_single_image_is_not_called_images(runs):
    found = compare([runs[0], runs[2]])
    (comparison,) = found["comparisons"]
    one = {**found, "comparisons": [{**comparison, "only_right": [1, 1_000]}]}
    assert "only A is right on 1 image, only B on 1,000; " in statements(one)[0]


def test_no_p_value_without_a_spread_over_seeds(runs):
    for name in ("results.json", "predictions.npz"):
        shutil.copy(runs[0] / name, runs[1])
    (comparison,) = compare(runs)["comparisons"]
    assert (comparison["p"], comparison["why"]) == (None, "all runs of A have the same accuracy, so no spread")
    (comparison,) = compare([runs[0], *runs[2:]])["comparisons"]
    assert (comparison["p"], comparison["why"]) == (None, "A is a single run")


def test_p_values_of_several_comparisons_are_corrected(runs, tmp_path):
    folders = [runs[0], runs[2]]
    for i in range(3):
        folders.append(shutil.copytree(runs[2], tmp_path / f"other{i}"))
    comparisons = compare(folders)["comparisons"]
    assert len(comparisons) == 4
    for comparison in comparisons:
        assert comparison["p_holm"] == min(1.0, 4 * comparison["p"])


def test_different_test_images_are_noticed(plain, runs, tmp_path):
    evaluate(runs[1], {"synthetic_size": 1_000}, accelerator="cpu", output_dir=tmp_path / "more")
    found = compare([runs[0], tmp_path / "more"])
    assert found["comparisons"][0]["same_images"] is False
    assert found["comparisons"][0]["why"] == "they were not tested on the same images"
    # as many images, with the same labels, but the digest of other pixels
    kept = dict(np.load(runs[2] / "predictions.npz"))
    np.savez(runs[2] / "predictions.npz", **{**kept, "images": "0" * 64})
    assert compare([runs[0], runs[2]])["comparisons"][0]["p"] is None


def test_evaluation_can_be_compared_in_place_of_its_run(plain, runs):
    (runs[0] / "predictions.npz").unlink()  # an earlier version wrote none
    results = results_of(runs[0])
    del results["parameters"]
    (runs[0] / "results.json").write_text(json.dumps(results))
    found = compare([runs[0], runs[2]])
    why = f"there is no predictions.npz in {runs[0]}: evaluate it, and compare its evaluation/ instead"
    assert found["comparisons"][0]["why"] == why
    assert found["comparisons"][0]["difference"] == pytest.approx(
        results_of(runs[2])["test_acc"] - results["test_acc"], abs=1e-12
    )
    assert found["runs"][0]["parameters"] is None
    evaluate(runs[0], accelerator="cpu", test_views="six")
    found = compare([runs[0] / "evaluation", runs[2]])
    assert found["settings"] == {"model.lr": {"A": 0.01, "B": 0.02}, "model.test_views": {"A": "six", "B": "one"}}
    assert found["comparisons"][0]["test"] == "mcnemar"


def test_normalization_dataset_equals_the_data_set_it_stands_for(runs):
    """Normalization `dataset` does not differ from the data set it stands for, whose name an evaluation writes."""
    for run, name in ((runs[0], "dataset"), (runs[2], "cifar10")):
        settings, results = yaml.safe_load((run / "config.yaml").read_text()), results_of(run)
        settings["data"]["normalization"] = results["data"]["normalization"] = name
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        (run / "results.json").write_text(json.dumps(results))
    assert compare([runs[0], runs[2]])["settings"] == {"model.lr": {"A": 0.01, "B": 0.02}}


def test_differing_precisions_of_the_tests_are_listed(runs):
    (runs[2] / "results.json").write_text(json.dumps({**results_of(runs[2]), "precision": "64-true"}))
    settings = compare([runs[0], runs[2]])["settings"]
    assert settings == {"model.lr": {"A": 0.01, "B": 0.02}, "test.precision": {"A": "32-true", "B": "64-true"}}


def test_train_labels_are_told_apart_by_file_name_not_by_folder(runs, tmp_path):
    """Runs with the same train_labels file form a group, even if the file is in another folder on each machine."""
    for folder, labels in (("b", None), ("c", "x.pt:a"), ("d", "x.pt:b")):
        for seed in (0, 1):
            run = shutil.copytree(runs[seed], tmp_path / folder / f"{seed}")
            settings, results = yaml.safe_load((run / "config.yaml").read_text()), results_of(run)
            settings["data"]["train_labels"] = labels and f"/machine{seed}/{labels}"
            (run / "config.yaml").write_text(yaml.safe_dump(settings))
            del results["train_images"]  # an earlier version did not write it
            (run / "results.json").write_text(json.dumps(results))
    found = compare([tmp_path / folder / f"{seed}" for seed in (0, 1) for folder in "bcd"])
    assert [run["name"] for run in found["runs"]] == ["A1", "A2", "B1", "B2", "C1", "C2"]
    assert found["settings"] == {"data.train_labels": {"A": None, "B": "x.pt:a", "C": "x.pt:b"}}


def test_runs_with_and_without_max_time_are_not_grouped(runs):
    settings = yaml.safe_load((runs[1] / "config.yaml").read_text())
    (runs[1] / "config.yaml").write_text(yaml.safe_dump({**settings, "trainer": {"max_time": "00:00:10:00"}}))
    assert compare(runs[:2])["settings"] == {
        "seed": {"A": 0, "B": 1},
        "trainer.max_time": {"A": None, "B": "00:00:10:00"},
    }


def test_runs_with_different_training_images_are_not_grouped(runs):
    """Runs that learnt from different images are not grouped, even if their settings name the same folder."""
    assert re.fullmatch("[0-9a-f]{8}", results_of(runs[0])["train_images"])
    (runs[1] / "results.json").write_text(json.dumps({**results_of(runs[1]), "train_images": "0123abcd"}))
    assert list(compare(runs[:2])["settings"]) == ["seed", "training images"]


def test_evaluations_have_no_training_times(plain, runs, call, tmp_path):
    evaluate(runs[0], accelerator="cpu")
    evaluate(runs[2], accelerator="cpu", precision="64-true")
    runs = [runs[0] / "evaluation", runs[2] / "evaluation"]
    code, out, _ = call("compare", *runs, "--html", "page.html")
    assert code == 0
    assert not re.search("cpu", out)
    page = Page((tmp_path / "page.html").read_text())
    assert [row[1:6] for row in table(page, "times")] == [["n/a"] * 5] * 2


def test_compare_by_command(trained, call, monkeypatch, tmp_path):
    monkeypatch.chdir(trained[0].parent)
    names = [run.name for run in trained]
    code, out, err = call("compare", *names)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:4] == ["A1  version_0", "A2  version_1", "B1  version_2", "B2  version_3"]
    assert re.search(r"^model\.lr +0\.01 +0\.02 *$", out, re.M)
    accuracy = 100 * results_of(trained[0])["test_acc"]
    assert re.search(rf"^A1 +{accuracy:.2f} % +[\d.]+ to [\d.]+ % +[\d.]+ % +[\d.]+ +1 x cpu +62,006", out, re.M)
    assert re.search(
        r"^B - A: [+-][\d.]+ points \(95 % interval: .*; bootstrap: .*\), p [=<] .* by Welch's test: ", out, re.M
    )
    assert re.search(r"^Finding a difference of 0\.2 points .* takes [\d,]+ seeds of each", out, re.M)
    code, out, err = call("compare", "version_0", "version_2")
    assert (code, err) == (0, "")
    assert re.search(
        r"^B - A: .* only A is right on \d+ images, only B on \d+; p [=<] .* by McNemar's exact test: ", out, re.M
    )
    code, out, err = call("compare", "version_0", "version_2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(compare(["version_0", "version_2"])))


def page_of(found, path):
    text = path.read_text()
    page = Page(text)
    assert_sound(page, path.stat().st_size, text)
    b_less_a = " - ".join(reversed(found["comparisons"][0]["groups"]))
    assert page.all("p", **{"class": "statement"})[0]["text"].startswith(f"{b_less_a}: ")
    return page


def table(page, name):
    return page.rows(page.one("table", **{"class": name}))[1:]


def points(difference, digits=2):
    return f"{100 * difference:+.{digits}f}"


def between(interval, digits=1):
    return " to ".join(points(end, digits) for end in interval)


def test_figures_on_the_page_of_two_runs_equal_numpys(trained, tmp_path):
    a, b = trained[0], trained[2]
    found = compare([a, b], html=tmp_path / "a" / "page.html")
    assert found == compare([a, b])
    page = page_of(found, tmp_path / "a" / "page.html")
    (comparison,) = found["comparisons"]
    (said_a, labels), (said_b, _) = map(predicted_by_the_model, (a, b))
    difference = (said_b == labels).mean() - (said_a == labels).mean()
    how = f"B is {abs(100 * difference):.2f} points {'better' if difference > 0 else 'worse'} than A"
    verdict = "more than noise" if comparison["p"] < 0.05 else "it may be noise"
    assert plain(page.one("h1")["text"]) == f"{how}: {verdict}"
    assert page.rows(page.one("table", **{"class": "facts runs"})) == [["A", str(a)], ["B", str(b)]]
    (settings, *_) = page.all("table", page.one("div", **{"aria-label": "Settings that differ"}))
    assert page.rows(settings) == [["setting", "A", "B"], ["model.lr", "0.01", "0.02"]]
    for row, run in zip(table(page, "accuracies"), (a, b), strict=True):
        results = results_of(run)
        low, high = wilson(round(100 * results["test_acc"]), 100)
        assert row[1:] == [
            "0", percent(results["test_acc"]), f"{100 * low:.2f} to {100 * high:.2f} %", percent(results["val_acc"]),
            "100",
        ]  # fmt: skip
    for row, run in zip(table(page, "times"), (a, b), strict=True):
        results = results_of(run)
        seconds = results["fit_seconds"]
        assert row[1:4] == [f"{seconds:,.1f}", "800", f"{800 / seconds:,.0f}"]
    ratio = results_of(b)["fit_seconds"] / results_of(a)["fit_seconds"]
    assert any(plain(p["text"]).startswith(f"B took {ratio:.2f} times as long as A: ") for p in page.all("p"))
    for label, row in enumerate(table(page, "per-class")):
        of_it = labels == label
        right = [said[of_it] == label for said in (said_a, said_b)]
        only = [int((one & ~other).sum()) for one, other in (right, right[::-1])]
        shares = [one.mean() for one in right]
        assert row[1:] == [
            str(of_it.sum()), *(percent(share, 1) for share in shares), points(shares[1] - shares[0], 1),
            between(paired_interval(*only, int(of_it.sum()))),
        ]  # fmt: skip


def test_page_shows_the_images_that_two_networks_disagree_on(trained, tmp_path):
    a, b = trained[0], trained[2]
    compare([a, b], html=tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    (said_a, labels), (said_b, _) = map(predicted_by_the_model, (a, b))
    right_a, right_b, wrong = said_a == labels, said_b == labels, (said_a != labels) & (said_b != labels)
    kinds = {
        "Both are right": right_a & right_b,
        "Only A is right": right_a & ~right_b,
        "Only B is right": right_b & ~right_a,
        "Both are wrong, with the same prediction": wrong & (said_a == said_b),
        "Both are wrong, with different predictions": wrong & (said_a != said_b),
    }
    assert table(page, "kinds") == [[name, str(members.sum())] for name, members in kinds.items()]
    galleries = page.all("ul", **{"class": "gallery"})
    shown = [name for name in list(kinds)[1:3] + list(kinds)[4:] if kinds[name].any()]
    assert [plain(h["text"]).partition(":")[0] for h in page.all("h3")] == shown
    assert len(galleries) == len(shown) >= 2
    images = CIFAR10DataModule(**{**SMALL, "val_split": 0}).image_set("test")
    for name, gallery in zip(shown, galleries, strict=True):
        pictures = page.all("img", gallery)
        numbers = [int(re.match(r"Test image (\d+): ", picture["alt"])[1]) for picture in pictures]
        assert len(numbers) == min(24, kinds[name].sum())
        assert kinds[name][numbers].all()
        for number, picture in zip(numbers, pictures, strict=True):
            true, one, other = (images.classes[x[number]] for x in (labels, said_a, said_b))
            assert picture["alt"] == f"Test image {number}: {true}; A predicts {one}; B predicts {other}"
            with Image.open(io.BytesIO(bytes_of(picture))) as image:
                assert np.array_equal(np.array(image), images.images[number].permute(1, 2, 0).numpy())


def test_page_has_no_pictures_if_the_tested_images_are_gone_or_changed(runs, tmp_path):
    """The page shows no pictures unless the images that are there now are known to be the tested ones."""
    for run in (runs[0], runs[2]):
        settings = yaml.safe_load((run / "config.yaml").read_text())
        settings["data"]["source"], settings["data"]["data_dir"] = "cifar10", str(tmp_path / "gone")
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        results = results_of(run)
        results["data"] |= {"source": "cifar10", "data_dir": str(tmp_path / "gone")}
        (run / "results.json").write_text(json.dumps(results))
    compare([runs[0], runs[2]], html=tmp_path / "gone.html")
    for run in (runs[0], runs[2]):
        results = results_of(run)
        results["data"] |= {"source": "synthetic"}
        (run / "results.json").write_text(json.dumps(results))
        kept = dict(np.load(run / "predictions.npz"))
        np.savez(run / "predictions.npz", **{**kept, "images": "0" * 64})
    compare([runs[0], runs[2]], html=tmp_path / "others.html")
    for name in ("gone", "others"):
        page = Page((tmp_path / f"{name}.html").read_text())
        assert not page.all("img")
        assert len(table(page, "kinds")) == 5
        assert any("There are no pictures" in p["text"] for p in page.all("p"))


def test_page_of_groups_of_seeds(trained, call, tmp_path):
    code, out, err = call("compare", *trained, "--html", "page.html")
    assert (code, err) == (0, "page.html written\n")
    assert out.startswith("A1")
    found = compare(trained)
    page = page_of(found, tmp_path / "page.html")
    for row, group in zip(table(page, "groups"), found["groups"], strict=True):
        low, high = (100 * end for end in group["mean_interval"])
        sd = f"{100 * group['sd']:.2f}"
        assert row == [group["name"], "2", percent(group["mean"]), sd, f"{low:.2f} to {high:.2f} %"]
    results = list(map(results_of, trained))
    for row, name in zip(table(page, "per-class"), results[0]["per_class_acc"], strict=True):
        values = [result["per_class_acc"][name] for result in results]
        means = np.mean(values[:2]), np.mean(values[2:])
        tested = welch(values[:2], values[2:])
        ends = between(of_shares(tested[1])) if tested else "n/a"
        assert row[2:] == [percent(means[0], 1), percent(means[1], 1), points(means[1] - means[0], 1), ends]
    assert not page.all("table", **{"class": "kinds"})
    compare(trained[:2], html=tmp_path / "seeds.html")  # two runs of one recipe are compared by image
    page = Page((tmp_path / "seeds.html").read_text())
    assert any(plain(p["text"]) == "Only the seed." for p in page.all("p"))
    assert table(page, "kinds")[1][0] == "Only A1 is right"


def test_evaluations_of_weights_without_a_run_are_refused(tmp_path, monkeypatch):
    """An evaluation of weights outside a run's folder cannot be compared, because their settings are unknown."""
    monkeypatch.chdir(tmp_path)
    weights = FOLDER / "quick.safetensors"
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        results = {"checkpoint": str(weights), "test_acc": 1.0, "test_count": 1, "confusion": [[1]]}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    said = (
        f"run mine is an evaluation of {weights}, which is not in a run's folder, so its settings are unknown: use runs"
    )
    with pytest.raises(InputError, match=re.escape(said)):
        compare(["mine", "theirs"])


def test_evaluation_in_another_runs_folder_belongs_to_the_tested_run(plain, runs, tmp_path):
    """An evaluation belongs to the run of its checkpoint, not to the run around it, also after moving with its run."""
    evaluate(runs[2], accelerator="cpu", output_dir=runs[0] / "other")
    assert compare([runs[0], runs[0] / "other"])["settings"] == {"model.lr": {"A": 0.01, "B": 0.02}}
    drawn = {"source": "synthetic", "synthetic_size": 100}
    evaluate("quick", drawn, accelerator="cpu", output_dir=runs[0] / "quick")
    with pytest.raises(InputError, match="which is not in a run's folder, so its settings are unknown"):
        compare([runs[0], runs[0] / "quick"])
    evaluate(runs[2], accelerator="cpu")
    (tmp_path / "of_others").mkdir()
    namesake = Path(shutil.copytree(runs[0], tmp_path / "of_others" / runs[2].name))
    evaluate(runs[2], accelerator="cpu", output_dir=namesake / "other")
    assert compare([runs[0], namesake / "other"])["settings"] == {"model.lr": {"A": 0.01, "B": 0.02}}
    moved = Path(shutil.move(runs[2], tmp_path / "elsewhere"))
    assert compare([runs[0], moved / "evaluation"])["settings"] == {"model.lr": {"A": 0.01, "B": 0.02}}
    shutil.rmtree(moved / "checkpoints")
    assert compare([runs[0], moved / "evaluation"])["settings"] == {"model.lr": {"A": 0.01, "B": 0.02}}


def test_folders_that_cannot_be_compared_are_refused_in_one_line(runs, call, tmp_path):
    shutil.copytree(runs[1], tmp_path / "begun", ignore=shutil.ignore_patterns("results.json"))
    shutil.copytree(tmp_path / "begun", tmp_path / "diverged")
    (tmp_path / "diverged" / "diverged.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "results.json").touch()
    shutil.copytree(runs[0], tmp_path / "cut")
    (tmp_path / "cut" / "predictions.npz").write_bytes((runs[0] / "predictions.npz").read_bytes()[:300])
    shutil.copytree(runs[0], tmp_path / "mixed")
    shutil.copy(runs[2] / "predictions.npz", tmp_path / "mixed")
    settings = yaml.safe_load((runs[0] / "config.yaml").read_text())
    shutil.copytree(runs[0], tmp_path / "strange")
    (tmp_path / "strange" / "config.yaml").write_text(yaml.safe_dump({**settings, "model": 7}))
    shutil.copytree(runs[0], tmp_path / "lost" / "evaluation")
    (tmp_path / "lost" / "evaluation" / "config.yaml").unlink()
    moved = {**results_of(runs[0]), "checkpoint": "gone/checkpoints/best.ckpt"}
    (tmp_path / "lost" / "evaluation" / "results.json").write_text(json.dumps(moved))
    for other, said in {
        "lost/evaluation": "run lost/evaluation: there is no config.yaml in it or in the run that it evaluates; "
        "run compare in the folder from which gone/checkpoints/best.ckpt can be reached",
        "version_0": "run version_0 is given twice: leave one out",
        "results.json": "run results.json is not a folder: use one that fit or evaluate wrote",
        "nowhere": "run nowhere does not exist: use one that fit or evaluate wrote",
        "begun": "run begun has not finished: resume it with fit --resume begun, or leave it out",
        "diverged": "run diverged diverged and has no results: leave it out, and compare the others",
        "empty": "run empty has no results.json: use a folder that fit or evaluate wrote",
        "cut": "cut/predictions.npz is damaged: evaluate the run, and compare its evaluation/ instead",
        "mixed": "predictions.npz and results.json in mixed come from different tests: evaluate the run, and compare "
        "its evaluation/ instead",
        "strange": "run strange: strange/config.yaml does not hold the settings of a run of fit",
    }.items():
        assert one_line(*call("compare", "version_0", other)) == f"error: {said}\n"
    (tmp_path / "file").touch()
    for html, said in {
        "empty": "html empty is a folder: use a file name, such as empty/comparison.html",
        "file/page.html": "html file/page.html cannot be written (Not a directory): choose another path",
    }.items():
        assert one_line(*call("compare", "version_0", "version_2", "--html", html)) == f"error: {said}\n"
    said = "error: compare needs at least two runs, not 1: pass two or more folders of runs\n"
    assert one_line(*call("compare", "version_0")) == said


def test_error_for_a_folder_of_runs_names_the_runs_in_it(call, tmp_path):
    logs = tmp_path / "lightning_logs"
    for number in (9, 10, 11):
        (logs / f"version_{number}").mkdir(parents=True)
        (logs / f"version_{number}" / "results.json").touch()
    for number in (9, 11):
        (logs / f"version_{number}" / "config.yaml").touch()
    (logs / "version_10" / "group.yaml").write_text("kind: seeds\nruns: [seed_0, seed_1]\n")

    def check(named):
        for given in ("lightning_logs", "."):
            said = f"error: {given} is not a run's folder but a folder of runs: use {named}\n"
            assert one_line(*call("compare", given)) == said

    pair = "such as lightning_logs/version_{} lightning_logs/version_{}"
    check(f"lightning_logs/version_* for all of them, or two, {pair.format(10, 11)}")
    (logs / "version_11" / "results.json").unlink()  # it has not finished: version_* would be refused
    check(f"two that have finished, {pair.format(9, 10)}")
    (logs / "version_11" / "config.yaml").unlink()  # another program's
    check(f"two that have finished, {pair.format(9, 10)}")
    (logs / "version_9" / "results.json").unlink()
    check("lightning_logs/version_10")  # a group is several runs
    (logs / "version_10" / "results.json").unlink()
    assert one_line(*call("compare", "lightning_logs")).startswith("error: compare needs at least two runs, not 1: ")
    logs.rename(tmp_path / "my logs")
    for number in (9, 10):
        (tmp_path / "my logs" / f"version_{number}" / "results.json").touch()
    assert one_line(*call("compare", "my logs")).endswith(" such as 'my logs/version_9' 'my logs/version_10'\n")
    with pytest.raises(InputError, match=r"^compare needs at least two runs, not 0: pass two or more folders of runs$"):
        compare([])


@pytest.mark.parametrize("arguments", [("a",), ("a", "b"), (Path("a"), "b")])
def test_compare_refuses_a_path_in_place_of_a_list(arguments):
    """A path would be read as a list of letters, and a second one as the file of the page."""
    with pytest.raises(InputError, match=r"^runs 'a' is one path: pass a list of two or more, as in compare"):
        compare(*arguments)
