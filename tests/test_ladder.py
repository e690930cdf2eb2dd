"""scripts/ladder.py: the runs that it trains or reuses, its table and its figure."""

import json
import re
import runpy
import shutil
import statistics

import pytest
from conftest import PROJECT, SCRIPTS, one_line

from cifar_lightning.run import training

LADDER = runpy.run_path(str(SCRIPTS / "ladder.py"))
FEW = ("--data.source", "synthetic", "--data.synthetic_size", 200, "--accelerator", "cpu", "--max_steps", 2)


def results(folder):
    return {path: json.loads(path.read_text()) for path in sorted(folder.glob("**/results.json"))}


def test_every_run_is_trained_once_and_counted_in_the_docs(call, tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    (docs / "figures").mkdir(parents=True)
    for name in ("ladder.md", "ladder.zh.md"):
        shutil.copy(PROJECT / "docs" / name, docs)
    first = ("--rungs", "norm", "--seeds", 2, *FEW)
    code, out, err = call("ladder", *first)
    assert code == 0, err
    assert out.count("seed 0: fit --data.batch_size 128 --model.lr 0.05 --max_epochs 8 --model.net normed\n") == 1
    before = results(tmp_path)
    assert len(before) == 2

    unfinished = min(before)  # as if the run had been killed while it was tested
    unfinished.unlink()
    code, out, err = call("ladder", "--rungs", "tutorial,norm", "--seeds", 2, "--docs", docs, *FEW)
    assert code == 0, err
    assert re.findall(r"^(\w+, seed \d): fit", out, re.M) == ["tutorial, seed 0", "tutorial, seed 1", "norm, seed 0"]
    found = results(tmp_path)
    assert {path: found[path]["confusion"] for path in before} == {p: r["confusion"] for p, r in before.items()}
    assert len(found) == 4

    shares = {rung: [100 * r["test_acc"] for p, r in found.items() if rung in str(p)] for rung in ("tutorial", "norm")}
    means = {rung: statistics.mean(values) for rung, values in shares.items()}
    for name in ("ladder.md", "ladder.zh.md"):
        text, original = ((folder / name).read_text() for folder in (docs, PROJECT / "docs"))
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| 2 |" in line]
        assert [row[2] for row in rows] == [
            f"{means[rung]:.1f} ± {statistics.stdev(values):.1f}" for rung, values in shares.items()
        ]
        assert [row[3] for row in rows] == ["", ""]  # no gain without the rung just below
        assert "python scripts/fit.py --data.batch_size 128 --model.lr 0.05 --max_epochs 8 --model.net normed" in text
        begin, end = LADDER["BEGIN"], LADDER["END"]
        assert text.partition(begin)[0] == original.partition(begin)[0]
        assert text.partition(end)[2] == original.partition(end)[2]
        assert "Not measured" not in text.partition(begin)[2].partition(end)[0]
        (figure,) = re.findall(r"!\[.*\]\((.*)\)", text)
        assert (docs / figure).read_bytes().startswith(b"\x89PNG")
    assert len([*docs.glob("figures/*")]) == 2

    code, out, _ = call("ladder", *first, "--model.lr", 0.1)  # other flags: other runs
    assert code == 0
    assert len(results(tmp_path)) == 6


def test_a_gain_is_relative_to_the_rung_below():
    rungs = [LADDER["LADDER"][number] for number in (0, 1, 3, 4)]
    ladder = [LADDER["Measured"](rung, [0.5 + 0.01 * i], [1.0]) for i, rung in enumerate(rungs)]
    rows = [line.split("|") for line in LADDER["table"](ladder).splitlines()[2:]]
    assert [row[4].strip() for row in rows] == ["", "+1.0", "", "+1.0"]


def test_a_later_rung_overrides_flags_and_a_recipe_drops_them():
    flags = {rung.name: LADDER["flags_of"](rung) for rung in LADDER["LADDER"]}
    assert flags["tutorial"] == []
    for words in flags.values():
        assert len(words[::2]) == len(set(words[::2]))
    assert flags["schedule"][flags["schedule"].index("--model.lr") + 1] == "0.1"
    assert flags["quick"] == ["--recipe", "quick"]
    assert flags["longer"][:2] == flags["quick"]


def test_a_changed_recipe_is_trained_in_another_folder(tmp_path, monkeypatch):
    folder, rungs = LADDER["_folder"], {rung.name: rung for rung in LADDER["LADDER"]}
    path = tmp_path / "quick.yaml"
    monkeypatch.setitem(folder.__globals__, "recipe", lambda name: path)

    def digest(text, rung="quick"):
        path.write_text(text)
        return folder(rungs[rung], 0, tmp_path, ())

    assert digest("max_epochs: 2 # so\n") == digest("# sd 0.2\nmax_epochs: 2\n") != digest("max_epochs: 3\n")
    assert digest("max_epochs: 2", "muon") == digest("max_epochs: 3", "muon")


def test_the_figure_is_in_the_language_of_its_page_if_a_font_has_it(monkeypatch, capsys):
    measured = [LADDER["Measured"](rung, [0.5], [1.0 + i]) for i, rung in enumerate(LADDER["LADDER"])]
    for language, words in LADDER["AXES"].items():
        (axes,) = LADDER["drawn"](measured, language).axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == words
        titles = [rung.titles[language] for rung in LADDER["LADDER"]]
        assert [text.get_text() for text in axes.texts] == [f"{title}  50.0 %" for title in titles]
    monkeypatch.setattr("cifar_lightning.report.drawing.fonts", lambda: ["DejaVu Sans"])
    assert [LADDER["_drawable"](language) for language in ("en", "zh")] == ["en", "en"]
    assert capsys.readouterr().err.startswith(
        "note: no installed font has all letters of ladder.zh.png, so it is in English: "
    )


@pytest.mark.parametrize("seconds", [(38, 40, 50, 553), (38, 50, 40, 553)])
def test_labels_of_the_figure_do_not_cover_other_rungs(seconds):
    """A label covers neither the axis nor another rung's error bar, even if two rungs are as good as each other."""
    shares = ((0.545, 0.548), (0.625, 0.653), (0.638, 0.666), (0.9, 0.9))
    names = ("tutorial", "norm", "augmentation", "cpu")
    rungs = zip((rung for rung in LADDER["LADDER"] if rung.name in names), shares, seconds, strict=True)
    figure = LADDER["drawn"]([LADDER["Measured"](rung, share, [second]) for rung, share, second in rungs])
    figure.canvas.draw()
    (axes,) = figure.axes
    bars = [axes.transData.transform([(x, 100 * y) for y in share]) for x, share in zip(seconds, shares, strict=True)]
    for number, label in enumerate(axes.texts):
        box = label.get_window_extent()
        assert box.x0 > axes.get_window_extent().x0
        for other, ((x, low), (_, high)) in enumerate(bars):
            assert other == number or not (box.x0 < x < box.x1 and box.y0 < high and low < box.y1)


def test_a_run_killed_before_it_began_is_started_again(tmp_path, monkeypatch):
    """A run whose folder has no settings, which fit cannot resume, is started again; a run with settings is resumed."""
    given, train = [], LADDER["_train"]
    monkeypatch.setitem(train.__globals__, "fit", given.append)
    rung = LADDER["LADDER"][0]
    folder = LADDER["_folder"](rung, 0, tmp_path, ())
    logs = folder / "lightning_logs"
    (logs / "version_0").mkdir(parents=True)
    train(rung, 0, tmp_path, ())
    (logs / "version_1").mkdir()
    (logs / "version_1" / "config.yaml").touch()
    train(rung, 0, tmp_path, ())
    assert [arguments[-2:] for arguments in given] == [
        ["--default_root_dir", str(folder)],
        ["--resume", str(logs / "version_1")],
    ]


def test_a_run_with_damaged_results_is_resumed(tmp_path, monkeypatch):
    given, train = [], LADDER["_train"]
    monkeypatch.setitem(train.__globals__, "fit", given.append)
    rung = LADDER["LADDER"][0]
    run = LADDER["_folder"](rung, 0, tmp_path, ()) / "lightning_logs" / "version_0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    for text in ("{", '{"test_acc": 0.5}'):
        (run / "results.json").write_text(text)
        train(rung, 0, tmp_path, ())
    assert [arguments[-2:] for arguments in given] == [["--resume", str(run)]]


@pytest.mark.parametrize("rung", LADDER["LADDER"], ids=lambda rung: rung.name)
def test_fit_takes_the_flags_of_every_rung(rung, call, monkeypatch):
    calls = []
    monkeypatch.setattr(training, "fit", lambda **settings: calls.append(settings))
    code, _, err = call("fit", *LADDER["flags_of"](rung))
    assert code == 0, err
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rungs", "tutorial,top"), "unknown rung top: choose from tutorial,batches,"),
        (("--seeds", 0), "seeds 0: must be at least 1"),
        (("--seed", 5), "seed: the ladder counts seeds from 0; use --seeds to say how many"),
        (("--resume=auto",), "resume: the ladder resumes stopped runs by itself; leave it out"),
        (("--config", "own.yaml"), "default_root_dir: the ladder sets it; use --runs for the folder of the runs"),
        (("--docs", "nowhere"), "docs nowhere: it has no ladder.md; use the docs/ folder of a checkout"),
    ],
)
def test_wrong_flags_are_errors_of_one_line(arguments, said, call, tmp_path):
    (tmp_path / "own.yaml").write_text("folds: 2\ndefault_root_dir: there\n")
    assert one_line(*call("ladder", *arguments)).startswith(f"error: {said}")


def test_a_flag_that_fit_does_not_know_is_an_error(call, tmp_path):
    code, _, err = call("ladder", "--rungs", "tutorial", "--sedes", 2)
    assert (code, err) == (2, "error: unknown flag --sedes: did you mean --seeds?\n")
    assert list(tmp_path.iterdir()) == []
