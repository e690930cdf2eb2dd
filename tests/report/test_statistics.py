import math
from fractions import Fraction

import pytest

from cifar_lightning.report.statistics import (
    bootstrap,
    holm,
    mcnemar,
    mean_interval,
    needed,
    paired_interval,
    pooled_sd,
    t_quantile,
    t_tail,
    welch,
    wilson,
)

A, B = [0.61, 0.62, 0.605], [0.63, 0.64, 0.62, 0.66]
# The expected values were computed by scipy 1.17.1 and statsmodels 0.15.0, or follow from closed forms.


@pytest.mark.parametrize("probability", [0.5, 0.6, 0.8, 0.9, 0.975, 0.9999])
def test_students_t_of_one_and_two_degrees_of_freedom(probability):
    one = math.tan(math.pi * (probability - 0.5))
    two = (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    for freedom, expected in ((1, one), (2, two)):
        assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert t_tail(expected, freedom) == pytest.approx(1 - probability, rel=1e-9)


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.975, 4.4, 2.679679485692335),
        (0.975, 0.7, 36.611415031588656),
        (0.8, 32, 0.8529984536518881),
        (0.975, 1e5, 1.9599877075346095),
    ],
)
def test_students_t_of_any_degrees_of_freedom(probability, freedom, expected):
    assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-10)


def test_wilson():
    assert wilson(6_143, 10_000) == pytest.approx((0.6047175149485069, 0.6237947030239563), rel=1e-12)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_intervals_equal_published_ones(right, images, low, high):
    assert wilson(right, images) == pytest.approx((low, high), abs=5e-5)


def test_wilson_intervals_end_at_exactly_0_or_1():
    for images in (1, 7, 29, 10_000, 123_457):
        assert wilson(0, images)[0] == 0.0
        assert wilson(images, images)[1] == 1.0
        assert 0 < wilson(0, images)[1] < 1
        assert 0 < wilson(images, images)[0] < 1


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 9), (5, 5), (9, 3), (0, 60)])
def test_mcnemar_equals_the_exact_binomial_test(a, b):
    n, fewer = a + b, min(a, b)
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(fewer + 1))
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-15)


def test_mcnemar_of_many_images():
    assert mcnemar(4_900, 5_100) == pytest.approx(0.04658552770494645, rel=1e-12)
    assert mcnemar(0, 10_000) == 0.0  # less than the smallest float


def test_paired_intervals_and_mcnemar_agree():
    for a, b in ((312, 343), (300, 360), (100, 160)):
        low, high = paired_interval(a, b, 10_000)
        assert low < (b - a) / 10_000 < high
        assert (low > 0) == (mcnemar(a, b) < 0.05)


def test_means_and_welch():
    assert mean_interval(A) == pytest.approx((0.5926937514986829, 0.6306395818346505), rel=1e-9)
    assert mean_interval([0.1, 0.0]) == (0.0, pytest.approx(0.6853102368216047))
    assert mean_interval([0.1, 0.0], shares=False)[0] == pytest.approx(-0.5853102368216047)
    p, interval = welch(A, B)
    assert p == pytest.approx(0.050143593795292526, rel=1e-9)
    assert interval == pytest.approx((-2.514141437699041e-05, 0.05169180808104374), rel=1e-8)
    assert pooled_sd([A, B, [0.9]]) == pytest.approx(math.sqrt((2 * 5.833333e-05 + 3 * 2.916667e-04) / 5), rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [([0.6], B), (A, [0.7]), ([0.6, 0.6], [0.7, 0.7]), (A, [0.7, 0.7])])
def test_values_without_a_spread_have_no_p_value(a, b):
    assert welch(a, b) is None
    assert bootstrap(a, b) is None
    assert mean_interval(a if len(set(a)) == 1 else b) is None
    assert pooled_sd([[0.6], [0.7, 0.7]]) is None


def test_bootstrap_intervals_hold_the_difference_and_are_reproducible():
    low, high = bootstrap(A, B)
    assert 0.005 < low < 0.026 < high < 0.047  # within the extremes of what can be drawn, -0.0 and 0.055
    assert bootstrap(A, B) == (low, high)
    assert bootstrap(B, A) == pytest.approx((-high, -low), abs=2e-3)


@pytest.mark.parametrize(
    ("sd", "seeds"),
    [(0.0005, 3), (0.001, 6), (0.002, 17), (0.003, 37), (0.005, 100), (0.01, 394), (0.015, 884)],
)
def test_seeds_needed_to_find_a_difference(sd, seeds):
    assert needed(0.002, sd) == seeds


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
