"""Whether a difference is more than noise: intervals and significance tests of accuracies, on plain numbers.

None of the package's dependencies has them. The results agree with SciPy's to ten digits.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev, variance

import numpy as np

LEVEL = 0.95  # of every interval
ALPHA = 1 - LEVEL
INTERVAL = f"{100 * LEVEL:.0f} % interval"
POWER = 0.8
RESAMPLES = 10_000
Interval = tuple[float, float]

_Z = NormalDist().inv_cdf(1 - ALPHA / 2)


def wilson(right: float, count: float) -> Interval:
    """Computes the interval of a share (https://doi.org/10.1080/01621459.1927.10502953), exactly 0 and 1 at the ends.

    It covers the error of testing on these images rather than on others like them, not the variation between seeds.

    Args:
        right: How many of the images are right; an image with several copies counts as their mean.
        count: How many images there are, at least 1.
    """
    share, z2 = right / count, _Z * _Z / count
    middle, half = share + z2 / 2, _Z * math.sqrt((share * (1 - share) + z2 / 4) / count)
    low, high = (middle - half) / (1 + z2), (middle + half) / (1 + z2)
    return 0.0 if right == 0 else low, 1.0 if right == count else high


def mcnemar(only_a: int, only_b: int) -> float:
    """Computes the exact p-value of two classifiers on the same images: a binomial test on images one alone got right.

    It is 1 if there are none.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    term, tail = 1, 1  # binomial coefficients, as integers
    for k in range(1, fewer + 1):
        term = term * (n - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def paired_interval(only_a: int, only_b: int, count: int) -> Interval:
    """Agresti and Min's interval of B's accuracy minus A's on the same images (https://doi.org/10.1002/sim.1781)."""
    a, b, n = only_a + 0.5, only_b + 0.5, count + 2
    difference = (b - a) / n
    half = _Z * math.sqrt(a + b - n * difference**2) / n
    return of_shares((difference - half, difference + half))


def mean_interval(values: Sequence[float], shares: bool = True) -> Interval | None:
    """Computes the interval of the mean, by Student's t; of shares, within 0 to 1. None if values have no spread."""
    if len(values) < 2 or stdev(values) == 0:
        return None
    half = t_quantile(1 - ALPHA / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    low, high = fmean(values) - half, fmean(values) + half
    return (max(0.0, low), min(1.0, high)) if shares else (low, high)


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, Interval] | None:
    """Tests b's mean against a's by Welch's test; returns the p-value, and the interval of the difference.

    None if a group has no spread: fewer than two values, or equal ones, which say nothing about further values.
    """
    if min(len(a), len(b)) < 2 or not (stdev(a) and stdev(b)):
        return None
    parts = [variance(values) / len(values) for values in (a, b)]
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (a, b), strict=True))
    difference = fmean(b) - fmean(a)
    half = t_quantile(1 - ALPHA / 2, freedom) * error
    return 2 * t_tail(abs(difference) / error, freedom), (difference - half, difference + half)


def of_shares(interval: Interval) -> Interval:
    """Clips the interval of a difference of shares to -1 to 1, beyond which no difference can be."""
    return max(-1.0, interval[0]), min(1.0, interval[1])


def bootstrap(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """Computes a percentile bootstrap interval of the difference of means, with a fixed seed; None as for `welch`."""
    if min(len(a), len(b)) < 2 or not (stdev(a) and stdev(b)):
        return None
    generator = np.random.default_rng(0)
    means = [generator.choice(np.array(values), (RESAMPLES, len(values))).mean(1) for values in (a, b)]
    low, high = np.quantile(means[1] - means[0], [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def pooled_sd(groups: Sequence[Sequence[float]]) -> float | None:
    """Computes the standard deviation within groups; None if no group has two values, or if all values are equal."""
    several = [values for values in groups if len(values) > 1]
    if not several:
        return None
    squares = sum((len(values) - 1) * variance(values) for values in several)
    return math.sqrt(squares / sum(len(values) - 1 for values in several)) or None


def needed(difference: float, sd: float) -> int:
    """Computes how many values each of two groups needs to detect a difference of their means with power POWER."""
    ratio = 2 * (sd / difference) ** 2
    n = max(2, math.floor(ratio * (_Z + NormalDist().inv_cdf(POWER)) ** 2))
    while n < ratio * (t_quantile(1 - ALPHA / 2, 2 * n - 2) + t_quantile(POWER, 2 * n - 2)) ** 2:
        n += 1
    return n


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts p-values for the number of tests, by Holm's method (https://www.jstor.org/stable/4615733)."""
    adjusted, least = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = least
    return adjusted


def t_tail(t: float, freedom: float) -> float:
    """Computes the probability that Student's t, with `freedom` degrees of freedom, exceeds `t` (0 or more)."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


def t_quantile(probability: float, freedom: float) -> float:
    """Computes the value that Student's t is below with this probability, which is at least 0.5."""
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - probability:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - probability else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction: https://dlmf.nist.gov/8.17#E22."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction from the other end converges faster
        return 1 - _incomplete_beta(b, a, 1 - x)
    log = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # Lentz's algorithm, as modified by Thompson and Barnett: https://dlmf.nist.gov/3.10#iii
    fraction, c, d = 1.0, 1.0, 0.0
    for m in range(10_000):
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        even = (m + 1) * (b - m - 1) * x / ((a + 2 * m + 1) * (a + 2 * m + 2))
        for term in (odd, even):
            d, c = 1 / (1 + term * d), 1 + term / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log) / (a * fraction)
