"""Again: runs a tested network once more for its report."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from cifar_lightning import CIFAR10DataModule, LitNet, evaluate, fake_data, fit
from cifar_lightning.run import reporting
from cifar_lightning.run.again import Again


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_validation_images_give_the_loss_and_accuracy_of_the_training(cpu_settings, precision):
    """The logits are computed in the training's precision and over its views; the network is left unchanged."""
    data = fake_data(300, val_split=60, eval_batch_size=7)
    model = LitNet("speed54", lr=0.1, test_views="six")
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, precision=precision, enable_model_summary=False, **options)
    trainer.fit(model, data)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits, labels = Again(trainer, model, data).held_out()
    assert logits.shape == (60, 10)
    assert torch.equal(labels, data.image_set("train").labels[data.val_indices])
    loss, acc = (trainer.callback_metrics[name].item() for name in ("val_loss", "val_acc"))
    assert F.cross_entropy(logits, labels).item() == pytest.approx(loss, rel=1e-5)
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(acc)
    images = data.image_set("test").images[:5]
    maps = Again(trainer, model, data).grad_cam(images, torch.arange(5))
    assert maps.shape == (5, 2, 2)
    assert 0 <= maps.min() <= maps.max() <= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_logits_without_a_validation_split(cpu_settings):
    data, model = fake_data(100), LitNet()
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.test(model, data, verbose=False)
    assert Again(trainer, model, data).held_out() is None


def test_report_shows_only_training_images_that_the_run_learnt_from(plain, monkeypatch, tmp_path):
    """A report's training images are those the run learnt from: no validation images, and none if the data differs."""
    kept, report = [], reporting.report

    def watched(outcome, *args):
        kept.append(outcome.training_images)
        report(outcome, *args)

    monkeypatch.setattr(reporting, "report", watched)
    drawn = {"source": "synthetic", "synthetic_size": 100, "batch_size": 10, "val_split": 0.5}
    fit(drawn, accelerator="cpu", max_epochs=1, report=False, default_root_dir=tmp_path)
    data = CIFAR10DataModule(**drawn)
    data.setup("fit")
    learnt = {image.numpy().tobytes() for image in data.image_set("train").part(data.train_indices).images}
    assert all(image.numpy().tobytes() in learnt for image in kept[0].images)
    run = tmp_path / "lightning_logs" / "version_0"
    evaluate(run, accelerator="cpu")
    assert torch.equal(kept[1].images, kept[0].images)
    evaluate(run, {"synthetic_size": 200}, accelerator="cpu")
    assert kept[2] is None
