"""Words a comparison, for both the console and the page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cifar_lightning.errors import number_of
from cifar_lightning.report.statistics import INTERVAL, POWER

NOTHING_DIFFERS = "No setting differs, not even the seed."


def statements(comparison: Mapping[str, Any]) -> list[str]:
    """States whether each difference in the result of `compare` is more than noise, with notes on the tests."""
    several = len([c for c in comparison["comparisons"] if c["p"] is not None])
    return [*(_sentence(c, several) for c in comparison["comparisons"]), *_notes(comparison)]


def verdict(comparison: Mapping[str, Any]) -> str:
    """States in a few words whether one difference is more than noise."""
    if comparison["p"] is None:
        return "not tested"
    return "more than noise" if comparison["more_than_noise"] else "it may be noise"


def value(setting: Any) -> str:
    """Formats the value of a setting, or the values that the runs of a group have."""
    if isinstance(setting, bool | None):
        return {None: "none", True: "true", False: "false"}[setting]
    return ", ".join(map(value, setting)) if isinstance(setting, list) else str(setting)


def shares(interval: Sequence[float]) -> str:
    """Formats an interval of accuracies."""
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def points(difference: float, digits: int = 2) -> str:
    """Formats a difference of accuracies, in percentage points."""
    return f"{100 * difference:+.{digits}f}"


def device(run: Mapping[str, Any]) -> str:
    """Names the devices of a training; n/a for an evaluation (no `fit_seconds`), which records only its own devices."""
    return "n/a" if run["fit_seconds"] is None else f"{run['devices']} x {run['accelerator']}"


def p_value(p: float) -> str:
    """Formats a p-value, such as "p = 0.012"."""
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _sentence(comparison: Mapping[str, Any], several: int) -> str:
    a, b = comparison["groups"]
    text = f"{b} - {a}: {points(comparison['difference'])} points"
    if comparison["p"] is None:
        return f"{text}. No p-value: {comparison['why']}."
    low, high = map(points, comparison["interval"])
    text += f" ({INTERVAL}: {low} to {high}"
    if comparison["test"] == "welch":
        low, high = map(points, comparison["bootstrap_interval"])
        text += f"; bootstrap: {low} to {high}), {p_value(comparison['p'])} by Welch's test"
    else:
        only_a, only_b = comparison["only_right"]
        text += f"); only {a} is right on {number_of(only_a, 'image')}, only {b} on {only_b:,}"
        text += f"; {p_value(comparison['p'])} by McNemar's exact test"
    if several > 1:
        text += f", {p_value(comparison['p_holm'])} after Holm's correction for {several} tests"
    return f"{text}: {verdict(comparison)}."


def _notes(comparison: Mapping[str, Any]) -> Iterable[str]:
    tests = [c["test"] for c in comparison["comparisons"]]
    if "mcnemar" in tests and comparison["settings"]:
        yield "This compares these two networks, not their settings: to compare settings, train several seeds of each."
    if any(c["test"] == "welch" and c["same_images"] is None for c in comparison["comparisons"]):
        yield "It is not known whether all runs were tested on the same images: some have no predictions.npz."
    if needed := comparison["seeds_needed"]:
        yield (
            f"Finding a difference of {100 * needed['difference']:g} points with a power of {100 * POWER:.0f} % takes "
            f"{needed['seeds']:,} seeds of each (sd {100 * needed['sd']:.2f} points)."
        )
