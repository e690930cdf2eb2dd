"""Climbs from the tutorial's 54 % in rungs, each of which changes some flags, and measures what each rung gains.

python scripts/ladder.py                                     # on CIFAR-10; an hour, half of it for the last rung
python scripts/ladder.py --rungs tutorial,batches --seeds 2  # part of it
python scripts/ladder.py --data.source folder --data.data_dir pictures

Other flags go to every fit. A run that has finished is not trained again, and one that was stopped is resumed.
"""

import argparse
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

import yaml

from cifar_lightning.cli import main
from cifar_lightning.commands.fit import script as fit
from cifar_lightning.console import say
from cifar_lightning.errors import InputError
from cifar_lightning.files import write_atomically
from cifar_lightning.flags import named_in, value_of
from cifar_lightning.run import signals
from cifar_lightning.run.ended import RESULTS, results_in
from cifar_lightning.settings_file import recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes:
        name: Its name for `--rungs`.
        titles: Its title in each language.
        changes: The flags that are new or different from the rung before; if one is a recipe, all flags of the rung.
    """

    name: str
    titles: Mapping[str, str]
    changes: str


def _rung(name: str, changes: str, en: str, zh: str) -> Rung:
    return Rung(name, {"en": en, "zh": zh}, changes)


LADDER = (
    _rung("tutorial", "", "the tutorial", "官方教程"),
    _rung(
        "batches",
        "--data.batch_size 128 --model.lr 0.05 --max_epochs 8",
        "larger batches, more epochs",
        "更大的批次，更多轮次",
    ),
    _rung("norm", "--model.net normed", "batch norm", "批归一化"),
    _rung("augmentation", "--data.augment true --data.crop_padding 2", "augmentation", "数据增强"),
    _rung("schedule", "--model.schedule one-cycle --model.lr 0.1", "schedule", "学习率调度"),
    _rung("width", "--model.width 16", "width", "更宽的网络"),
    _rung("muon", "--model.muon_lr 0.1", "Muon", "Muon"),
    _rung(
        "quick", "--recipe quick", "3 × 3 filters, whitening, small images first", "3 × 3 卷积核、白化、先小图后大图"
    ),
    _rung("longer", "--max_epochs 6 --max_steps 550 --data.crop_padding 2", "longer, crops", "训练更久，并随机裁剪"),
    _rung("cpu", "--recipe cpu --model.test_views six", "wider, longer, six views", "更宽、更久、六个视角"),
)
WORDS = {
    "en": ("rung", "flags that change", "accuracy, %", "gain", "seconds to train", "n"),
    "zh": ("台阶", "改动的参数", "准确率（%）", "提升", "训练秒数", "n"),
}
ALT = {
    "en": "Test accuracy over seconds to train, a point a rung",
    "zh": "测试准确率与训练秒数，每级台阶一个点",
}
AXES = {
    "en": ("seconds to train (median, log scale)", "test accuracy, % (mean ± sd)"),
    "zh": ("训练秒数（中位数，对数刻度）", "测试准确率（%，均值 ± 标准差）"),
}
FIGURES = {"en": "ladder.png", "zh": "ladder.zh.png"}
# Settings that may not be passed on to a fit, by flag or in a file, because the ladder sets them itself.
OWN = {
    "seed": "the ladder counts seeds from 0; use --seeds to say how many",
    "seeds": "the ladder starts the runs one by one; use the flag --seeds instead",
    "folds": "the runs of a rung differ in their seeds; leave it out",
    "resume": "the ladder resumes stopped runs by itself; leave it out",
    "default_root_dir": "the ladder sets it; use --runs for the folder of the runs",
}
BEGIN, END = "<!-- what scripts/ladder.py has written begins -->", "<!-- and ends -->"


@dataclass(frozen=True)
class Measured:
    """The measurements of the runs of a rung.

    Attributes:
        rung: The rung.
        accuracies: The test accuracy of each seed, 0 to 1.
        seconds: The training time of each seed.
    """

    rung: Rung
    accuracies: Sequence[float]
    seconds: Sequence[float]

    @property
    def percent(self) -> float:
        """The mean accuracy, in percent."""
        return 100 * fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """The standard deviation of the accuracy; None for one seed."""
        return 100 * stdev(self.accuracies) if len(self.accuracies) > 1 else None


def _pairs(rung: Rung) -> list[tuple[str, str]]:
    """Returns the flags that a rung changes, with their values."""
    words = rung.changes.split()
    return list(zip(words[::2], words[1::2], strict=True))


def flags_of(rung: Rung) -> list[str]:
    """Returns all flags of a rung: those of all rungs since the last recipe, where later values win."""
    found: dict[str, str] = {}
    for each in LADDER[: LADDER.index(rung) + 1]:
        pairs = _pairs(each)
        if "--recipe" in dict(pairs):
            found.clear()
        found.update(pairs)
    return [word for pair in found.items() for word in pair]


def script(arguments: Sequence[str]) -> None:
    """Trains the runs that have not been trained, and writes table and figure."""
    settings, others = _parser().parse_known_args(arguments)
    rungs, seeds = _chosen(settings.rungs), range(settings.seeds)
    if settings.seeds < 1:
        raise InputError(f"seeds {settings.seeds}: must be at least 1")
    if given := named_in(others) & {*OWN}:
        name = min(given)
        raise InputError(f"{name}: {OWN[name]}")
    if settings.docs and (missing := [path for path in _pages(settings.docs).values() if not path.is_file()]):
        raise InputError(f"docs {settings.docs}: it has no {missing[0].name}; use the docs/ folder of a checkout")
    for rung in rungs:
        for seed in seeds:
            _train(rung, seed, settings.runs, others)
    found = [measured for rung in LADDER if (measured := _measured(rung, seeds, settings.runs, others))]
    say(f"\n{table(found)}\n", 1)
    if settings.docs:
        for language, path in _pages(settings.docs).items():
            figure = f"![{ALT[language]}](figures/{FIGURES[language]})"
            _put(path, f"{figure}\n\n{table(found, language)}\n\n{commands(found, language)}")
    folder = settings.docs / "figures" if settings.docs else settings.runs
    for language in FIGURES if settings.docs else ("en",):
        path = folder / FIGURES[language]
        write_atomically(path, partial(drawn(found, _drawable(language)).savefig, format="png"))
        say(f"Written: {path}", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    names = [rung.name for rung in LADDER]
    parser.add_argument(
        "--rungs", default=",".join(names), help=f"rungs to climb, with commas: {', '.join(names)} [all]"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each rung, with seeds counted from 0 [3]")
    parser.add_argument(
        "--runs", type=Path, default=Path("lightning_logs/ladder"), help="folder of the runs [lightning_logs/ladder]"
    )
    parser.add_argument("--docs", type=Path, help="docs/ folder to write the figures and the tables into")
    return parser


def _chosen(names: str) -> list[Rung]:
    """Returns the rungs of these names, given with commas, from the lowest to the highest."""
    known, chosen = [rung.name for rung in LADDER], names.split(",")
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"unknown rung {unknown[0]}: choose from {','.join(known)} (several with commas)")
    return [rung for rung in LADDER if rung.name in chosen]


def _pages(docs: Path) -> dict[str, Path]:
    return {"en": docs / "ladder.md", "zh": docs / "ladder.zh.md"}


def _folder(rung: Rung, seed: int, runs: Path, others: Sequence[str]) -> Path:
    """Returns the folder of a run. It depends on the flags and on the content of the recipe."""
    told = [*flags_of(rung), *others]
    if name := value_of("--recipe", told):
        told.append(json.dumps(yaml.safe_load(recipe(name).read_text("utf-8"))))
    digest = hashlib.sha256(shlex.join(told).encode()).hexdigest()[:8]
    return runs / f"{rung.name}-{digest}" / f"seed_{seed}"


def _results(folder: Path) -> Path | None:
    """Returns the path of the results of a run, if it has finished."""
    return next((run / RESULTS for run in folder.glob("lightning_logs/version_*") if results_in(run) is not None), None)


def _train(rung: Rung, seed: int, runs: Path, others: Sequence[str]) -> None:
    folder = _folder(rung, seed, runs, others)
    if _results(folder):
        return
    say(f"{rung.name}, seed {seed}: fit {shlex.join(flags_of(rung))}", 1)
    began = next(folder.glob("lightning_logs/version_*/config.yaml"), None)  # none: it was killed before it began
    where = ["--resume", str(began.parent)] if began else ["--default_root_dir", str(folder)]
    fit([*flags_of(rung), "--seed", str(seed), "--report", "false", *others, *where])
    signals.begin_again()


def _measured(rung: Rung, seeds: Iterable[int], runs: Path, others: Sequence[str]) -> Measured | None:
    paths = [path for seed in seeds if (path := _results(_folder(rung, seed, runs, others)))]
    results = [json.loads(path.read_text()) for path in paths]
    if not results:
        return None
    return Measured(rung, [each["test_acc"] for each in results], [each["fit_seconds"] for each in results])


def table(ladder: Sequence[Measured], language: str = "en") -> str:
    """Formats the rungs as a table in Markdown."""
    words = WORDS[language]
    lines = [f"| {' | '.join(words)} |", "|---|---|---:|---:|---:|---:|"]
    for before, here in zip([None, *ladder[:-1]], ladder, strict=True):
        follows = before is not None and LADDER.index(here.rung) == LADDER.index(before.rung) + 1
        sd = "" if here.sd is None else f" ± {here.sd:.1f}"
        cells = (
            here.rung.titles[language],
            " ".join(f"`{flag} {value}`" for flag, value in _pairs(here.rung)),
            f"{here.percent:.1f}{sd}",
            f"{here.percent - before.percent:+.1f}" if before and follows else "",
            f"{median(here.seconds):.0f}",
            str(len(here.accuracies)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def commands(ladder: Sequence[Measured], language: str = "en") -> str:
    """Formats the full command of each rung, as a code block in Markdown."""
    lines = ["```bash"]
    for here in ladder:
        lines += [f"# {here.rung.titles[language]}", shlex.join(["python", "scripts/fit.py", *flags_of(here.rung)])]
    return "\n".join([*lines, "```"])


def _put(path: Path, text: str) -> None:
    """Replaces what is between the marks in a page by `text`."""
    before, found, rest = path.read_text("utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise InputError(f"docs: {path} lacks the lines {BEGIN} and {END}; add them where the table should go")
    page = f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
    write_atomically(path, page.encode())


def _drawable(language: str) -> str:
    """Returns the language if an installed font has its letters; otherwise English, with a note."""
    from matplotlib.font_manager import findfont, get_font

    from cifar_lightning.report.drawing import fonts

    letters = "".join((*AXES[language], *(rung.titles[language] for rung in LADDER)))
    if {*map(ord, letters)} <= {code for name in fonts() for code in get_font(findfont(name)).get_charmap()}:
        return language
    say(
        f"note: no installed font has all letters of {FIGURES[language]}, so it is in English: install Noto Sans CJK SC"
    )
    return "en"


def drawn(ladder: Sequence[Measured], language: str = "en") -> "Figure":
    """Draws accuracy over seconds to train."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    from cifar_lightning.report.drawing import BLUE, DPI, GREY, own_style

    seconds, accuracies = [median(here.seconds) for here in ladder], [here.percent for here in ladder]
    with own_style():
        figure = Figure(figsize=(9, 6), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(seconds, accuracies, color=GREY, linewidth=1, alpha=0.6)
        axes.errorbar(seconds, accuracies, [here.sd or 0 for here in ladder], fmt="o", color=BLUE, capsize=3)
        middle = math.sqrt(min(seconds) * max(seconds))
        near = 0.05 * (max(accuracies) - min(accuracies))
        for here, x, y in zip(ladder, seconds, accuracies, strict=True):
            others = {*zip(seconds, accuracies, strict=True)} - {(x, y)}
            beside = [other for other, height in others if abs(height - y) < near]
            # The labels of two points at one height go to opposite sides.
            left = x < min(beside) if beside else x > 1.01 * middle
            axes.annotate(
                f"{here.rung.titles[language]}  {y:.1f} %",
                (x, y),
                (-10 if left else 10, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
        axes.set(xscale="log", xlabel=AXES[language][0], ylabel=AXES[language][1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if str(value)[0] in "25" else ""))
        axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.tick_params(axis="x", which="both", length=4, pad=4)
        axes.set_xlim(min(seconds) / 2.2, max(seconds) * 1.3)  # room for labels on the left
        axes.grid(which="both")
    return figure


if __name__ == "__main__":
    main(script)
