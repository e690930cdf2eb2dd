import re

import matplotlib
import torch

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.report import drawing
from cifar_lightning.report.curves import curves
from cifar_lightning.report.outcome import Outcome
from cifar_lightning.report.report import draw
from cifar_lightning.report.results import results_of


def test_figures_ignore_the_users_matplotlib_style(tmp_path):
    """A user's style changes no figure, and does not end the run if it needs LaTeX, which is not installed here."""
    classes, images = (
        ("ant", "bee"),
        ImageSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("ant", "bee")),
    )
    outcome = Outcome(
        confusion=torch.tensor([[2, 0], [1, 1]]), loss=1.0, classes=classes,
        facts={"checkpoint": "a.ckpt", "step": 1}, training_images=images,
        test_images=images, numbers=torch.arange(4), predicted=torch.tensor([0, 1, 0, 0]), rows=(), label_smoothing=0.0,
        logits=torch.tensor([[2.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 0.0]]),
    )  # fmt: skip
    results = results_of(outcome.confusion, outcome.loss, classes, outcome.facts, not_finite=0)
    draw(outcome, results, tmp_path / "plain", tmp_path / "plain.html")
    style = {"text.usetex": True, "figure.facecolor": "red", "savefig.dpi": 30, "font.size": 30, "svg.fonttype": "path"}
    with matplotlib.rc_context(style):
        draw(outcome, results, tmp_path / "styled", tmp_path / "styled.html")
        assert {name: matplotlib.rcParams[name] for name in style} == style
    plain, styled = ({path.name: path.read_bytes() for path in (tmp_path / x).iterdir()} for x in ("plain", "styled"))
    assert len(plain) == 6
    assert styled == plain
    assert (tmp_path / "styled.html").read_bytes() == (tmp_path / "plain.html").read_bytes()


def test_an_svg_figure_takes_the_colour_of_its_page_and_loads_nothing():
    figure = curves([{"step": step, "train_loss": 2 / step} for step in (10, 20, 30)])
    figure.canvas.draw()
    svg = drawing.as_svg(figure, "curves")
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert not any(word in svg for word in ("http", "#000000", "#ffffff", "DOCTYPE"))
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"#([mp][0-9a-f]{10})", svg)) == set(ids)
    assert "optimiser step</text>" in svg  # text is not drawn as paths
