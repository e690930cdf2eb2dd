import copy
import csv
import dataclasses
import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import compiles
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.transforms import v2

from cifar_lightning import (
    CLASSES,
    CIFAR10DataModule,
    InputError,
    LitNet,
    Preprocessing,
    TutorialNet,
    fake_data,
    load_model,
)
from cifar_lightning.data import transforms
from cifar_lightning.data.cifar10 import MEAN, STD
from cifar_lightning.data.transforms import shrink
from cifar_lightning.errors import NonFiniteError
from cifar_lightning.model import compilation
from cifar_lightning.model.compilation import compile_network, resolve_mode
from cifar_lightning.model.images import check_classes
from cifar_lightning.model.networks import SpeedNet
from cifar_lightning.model.optimizer import build_optimizer
from cifar_lightning.model.schedules import SCHEDULES
from cifar_lightning.run.cpu import step_work

pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    "ignore:You defined a `validation_step`",
)


def trainer(tmp_path=None, **kwargs):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(tmp_path, name="", version="") if tmp_path else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


def test_a_fit_learns():
    """Without steps of the optimiser the accuracy would stay near chance."""
    torch.manual_seed(0)
    data, model = fake_data(3_000), LitNet(lr=0.01)
    tester = trainer(max_epochs=4)
    tester.fit(model, data)
    (results,) = tester.test(model, data, verbose=False)
    assert results["test_acc"] > 0.6  # 0.1 by chance


def test_the_first_steps_are_sgd_with_momentum():
    """The weights after two steps equal SGD's formula, written out in torch."""
    torch.manual_seed(0)
    model = LitNet(lr=0.1, momentum=0.9, weight_decay=0.01)
    data = fake_data(40)
    data.setup("fit")
    weights = [w.detach().clone() for w in model.parameters()]
    reference, velocity = TutorialNet(), [torch.zeros_like(w) for w in weights]
    reference.load_state_dict(model.net.state_dict())
    for x, y in data.train_dataloader():  # two steps
        reference.zero_grad()
        F.cross_entropy(reference(x), y).backward()
        with torch.no_grad():
            for w, v in zip(reference.parameters(), velocity, strict=True):
                v.mul_(0.9).add_(w.grad + 0.01 * w)
                w -= 0.1 * v
    trainer(max_epochs=1).fit(model, data)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# --- metrics ---------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A network whose logits are the image's first pixels, which the test sets."""

    def __init__(self, classes=10):
        super().__init__()
        self.classes, self.weight = classes, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x.flatten(1)[:, : self.classes] * self.weight


def test_metrics_equal_numpy():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 5, 6, 7, 8, 9], 101)  # class 4 is absent
    logits = rng.normal(size=(101, 10)).astype(np.float32)
    logits[np.arange(101), labels] += 1
    images = np.zeros((101, 3, 32, 32), np.float32)
    images.reshape(101, -1)[:, :10] = logits
    loader = DataLoader(TensorDataset(torch.tensor(images), torch.tensor(labels)), batch_size=25)

    model = LitNet(net=Fixed())
    (results,) = trainer().test(model, loader, verbose=False)

    predicted = logits.argmax(1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(101), labels]
    assert model.last_evaluation["confusion"].tolist() == confusion.tolist()
    assert model.last_evaluation["predicted"].tolist() == predicted.tolist()
    assert np.array_equal(model.last_evaluation["logits"], logits)
    assert results["test_acc"] == pytest.approx((predicted == labels).mean())
    assert results["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    for i, name in enumerate(CLASSES):
        if i != 4:
            assert results[f"test_acc/{name}"] == pytest.approx(confusion[i, i] / confusion[i].sum())


def test_a_class_without_images_is_null_in_results_json(plain, tmp_path):
    from cifar_lightning.run.reporting import report_on

    data = fake_data(100)
    data.setup()
    kept = data.image_set("test").labels != 4
    image_set = data.image_set("test")
    data._images.sets["test"] = type(image_set)(image_set.images[kept], image_set.labels[kept], image_set.classes)
    model, tester = LitNet(), trainer()
    tester.test(model, data, verbose=False)
    report_on(tester, model, data, {"checkpoint": "a.ckpt", "step": 1}, tmp_path)
    text = (tmp_path / "results.json").read_text()
    assert '"deer": null' in text
    assert text.count("null") == 1


def test_a_fit_without_an_optimiser():
    """Lightning runs a fit without an optimiser if a subclass has none, and the metrics are logged."""

    class Measuring(LitNet):
        def configure_optimizers(self):
            return None

    fitter = trainer(max_epochs=1)
    with pytest.warns(UserWarning, match="this fit will run with no optimizer"):
        fitter.fit(Measuring(), fake_data(100))
    assert fitter.callback_metrics["train_loss"] == pytest.approx(math.log(10), rel=0.05)
    assert fitter.callback_metrics["lr"] == 0


def test_a_test_of_one_image(plain, tmp_path):
    """fast_dev_run tests a single image if there are at most eight, because then each is a batch."""
    from cifar_lightning.run.reporting import report_on

    data, model, tester = fake_data(40), LitNet(), trainer(limit_test_batches=1)
    data.setup()
    data._images.sets["test"] = data.image_set("test").part(torch.arange(8))
    tester.test(model, data, verbose=False)
    report_on(tester, model, data, {"checkpoint": "a.ckpt", "step": 1}, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["test_count"] == 1


@pytest.mark.parametrize(("limit", "tested"), [(1.0, 200), (1, 13), (3, 39), (0.5, 104)])
def test_the_report_shows_the_images_that_were_tested(monkeypatch, tmp_path, limit, tested):
    """The report has the predictions of the test itself, in its precision; a part of the test set has all classes."""
    from cifar_lightning.run import reporting

    shown = []
    monkeypatch.setattr(reporting, "report", lambda outcome, *_: shown.append(outcome))
    data, model = fake_data(1_000, eval_batch_size=20), LitNet()
    data.setup()
    image_set = data.image_set("test")
    order = image_set.labels.sort(stable=True).indices  # class by class, as folders are read
    data._images.sets["test"] = image_set = image_set.part(order)
    tester = trainer(precision="bf16-mixed", limit_test_batches=limit)
    tester.test(model, data, verbose=False)
    reporting.report_on(tester, model, data, {"checkpoint": "a.ckpt", "step": 1}, tmp_path)
    (outcome,) = shown
    predicted, counted = model.last_evaluation["predicted"], data.test_indices
    assert len(predicted) == outcome.confusion.sum() == tested
    again = torch.zeros_like(outcome.confusion)
    again.index_put_((image_set.labels[counted[:tested]], predicted), torch.ones(tested, dtype=torch.int64), True)
    assert torch.equal(again, outcome.confusion)
    assert (outcome.confusion.sum(1) > 0).all()
    assert torch.equal(outcome.numbers, counted[:tested])
    assert torch.equal(outcome.test_images.images, image_set.images[counted[:tested]])
    assert torch.equal(outcome.test_images.labels, image_set.labels[counted[:tested]])
    assert torch.equal(outcome.predicted, predicted)
    assert torch.equal(outcome.logits.argmax(1), predicted)


class Labels(LightningModule):
    def predict_step(self, batch):
        return batch[1]


def test_predict_gets_the_test_images_in_their_order():
    data = fake_data(1_000)
    batches = trainer(limit_predict_batches=2, limit_test_batches=1).predict(Labels(), data)
    assert torch.equal(torch.cat(batches), data.image_set("test").labels[: sum(map(len, batches))])


def test_a_second_evaluation_does_not_count_the_first():
    data, model = fake_data(100), LitNet()
    for _ in range(2):
        trainer().test(model, data, verbose=False)
        assert model.last_evaluation["confusion"].sum() == 20


def test_an_interrupted_evaluation_is_not_counted_in_the_next():
    class Breaking(LitNet):
        breaks = True

        def validation_step(self, batch, batch_idx):
            if self.breaks and batch_idx == 3:
                raise MemoryError
            super().validation_step(batch, batch_idx)

        def test_step(self, batch, batch_idx):
            super().test_step(batch, batch_idx)
            if self.breaks:
                raise MemoryError

    data, model = fake_data(100, val_split=40), Breaking()
    for evaluate in (trainer().validate, trainer().test):
        model.breaks = True
        with pytest.raises(MemoryError):
            evaluate(model, data, verbose=False)
        model.breaks = False
        evaluate(model, data, verbose=False)
        assert model.last_evaluation["confusion"].sum() == (40 if evaluate.__name__ == "validate" else 20)


def test_six_views_and_their_weights():
    """The views are the image, its shifts by a pixel to two corners at half the weight, and their mirror images."""

    class Pixel(nn.Module):
        def forward(self, x):
            return x[:, 0, 10, 10:20]

    x = torch.randn(1, 3, 32, 32)
    mirror = x.flip(3)
    expected = (x[0, 0, 10, 10:20] + mirror[0, 0, 10, 10:20]) / 4
    for rows, columns in ((11, 1), (9, -1)):
        shifted = x.roll(-columns, 3)
        expected += (shifted[0, 0, rows, 10:20] + shifted.flip(3)[0, 0, rows, 10:20]) / 8
    torch.testing.assert_close(LitNet(net=Pixel(), test_views="six").logits(x)[0], expected)


@pytest.mark.parametrize("views", ["one", "mirror", "six"])
def test_each_views_logits_are_read_before_the_next(views):
    """A CUDA graph writes the logits of every view into the same memory."""

    class Replayed(nn.Module):
        memory = torch.zeros(4, 10)

        def forward(self, x):
            return self.memory.copy_(x[:, 0, 5, 5:15])

    class Fresh(nn.Module):
        def forward(self, x):
            return x[:, 0, 5, 5:15]

    images = torch.randn(4, 3, 32, 32)
    fresh, replayed = (LitNet(net=net, test_views=views).logits(images) for net in (Fresh(), Replayed()))
    torch.testing.assert_close(replayed, fresh)


def test_views_are_averaged_in_float32():
    """In bfloat16, which has eight bits, the means of different logits would often be equal."""

    class Half(nn.Module):
        def forward(self, x):
            return x[:, 0, 0, :10].bfloat16()

    logits = LitNet(net=Half(), test_views="mirror").logits(torch.randn(4, 3, 32, 32))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


# --- the log ---------------------------------------------------------------------------------------------


def rows(tmp_path):
    with (tmp_path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({"log_every_n_steps": 4}, (slice(0, 4), slice(4, 8), slice(8, 10))),
        ({"log_every_n_steps": 1, "accumulate_grad_batches": 3}, (slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 10))),
    ],
)
def test_train_loss_is_the_mean_since_the_last_log_point(tmp_path, options, windows):
    losses = []

    class Noting(LitNet):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    trainer(tmp_path, max_epochs=1, **options).fit(Noting(), fake_data(200))
    logged = [float(row["train_loss"]) for row in rows(tmp_path) if row["train_loss"]]
    assert len(losses) == 10
    assert logged == pytest.approx([np.mean(losses[window]) for window in windows], rel=1e-5)


@pytest.mark.filterwarnings("error", "ignore:`isinstance.treespec", "ignore:The number of training batches")
def test_a_stock_trainer_gives_no_warnings(tmp_path):
    data, model = fake_data(200, val_split=50), LitNet()
    stock = trainer(tmp_path, max_epochs=1)
    stock.fit(model, data)
    stock.validate(model, data, verbose=False)
    stock.test(model, data, verbose=False)
    stock.predict(model, data)
    assert {"train_loss", "lr", "val_loss", "val_acc", "val_acc/cat"} <= rows(tmp_path)[0].keys()


def test_a_loss_that_is_not_finite_ends_the_fit():
    with pytest.raises(NonFiniteError, match=r"training loss is nan at step .* lower --model.lr"):
        trainer(max_epochs=4, log_every_n_steps=1).fit(LitNet(lr=1e6), fake_data(200))


def test_a_learning_rate_search_continues_after_a_loss_that_is_not_finite(tmp_path):
    torch.manual_seed(0)
    found = Tuner(trainer(max_epochs=2, log_every_n_steps=1, default_root_dir=tmp_path)).lr_find(
        LitNet(), datamodule=fake_data(200), max_lr=1e30, num_training=20, early_stop_threshold=None, update_attr=False
    )
    assert len(found.results["loss"]) == 20
    assert not math.isfinite(found.results["loss"][-1])


def test_labels_are_smoothed_in_training_only():
    model, data = LitNet(label_smoothing=0.2), fake_data(40)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    logits = model(images)
    target = F.one_hot(labels, 10) * 0.8 + 0.02
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(model.training_step((images, labels), 0), expected)
    tester = trainer()
    tester.test(model, data, verbose=False)
    plain = torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in data.test_dataloader()]).mean()
    torch.testing.assert_close(model.last_evaluation["loss"], plain)


def test_each_kind_of_weight_has_its_learning_rate():
    """The decay takes the same share of every weight per step, but nothing of Muon's filters, which keep their size."""
    model = LitNet(net="speed", width=8, lr=2.0, bias_lr=3.0, head_lr=0.5, muon_lr=0.1, weight_decay=0.01)
    groups = {
        group["params"][0].dim(): group for group in build_optimizer(model.parameters(), model.hparams).param_groups
    }
    assert {n: {p.dim() for p in group["params"]} for n, group in groups.items()} == {1: {1}, 2: {2}, 4: {4}}
    assert {n: group["lr"] for n, group in groups.items()} == {1: 3.0, 2: 0.5, 4: 0.1}
    assert groups[1]["lr"] * groups[1]["weight_decay"] == pytest.approx(0.02)
    assert groups[2]["lr"] * groups[2]["weight_decay"] == pytest.approx(0.02)
    assert (groups[4]["weight_decay"], groups[4]["muon"], groups[1]["muon"]) == (0, True, False)


def test_a_loaded_network_and_a_new_fit_start_a_new_running_loss(tmp_path):
    first = trainer(max_epochs=1, limit_train_batches=3, log_every_n_steps=50)

    class Saving(LitNet):
        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            self.trainer.save_checkpoint(tmp_path / "it.ckpt")

    first.fit(Saving(), fake_data(100))
    loaded = LitNet.load_from_checkpoint(tmp_path / "it.ckpt")
    assert (loaded._running_loss._sum, loaded._running_loss.count) == (0, 0)

    class Breaking(LitNet):
        counts = ()

        def on_train_start(self):
            super().on_train_start()
            self.counts += (self._running_loss.count,)

        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            raise MemoryError

    model = Breaking()
    for _ in range(2):
        with pytest.raises(MemoryError):
            trainer(max_epochs=1).fit(model, fake_data(100))
        assert model._running_loss.count == 1
    assert model.counts == (0, 0)


def test_subclasses_may_define_hooks_and_names_of_their_own(tmp_path):
    class Own(LitNet):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.train_loss = nn.Identity()

        def configure_callbacks(self):
            return [Callback()]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    fitter = trainer(max_epochs=1)
    fitter.fit(Own(net="speed54", width=8, sizes=[24]), fake_data(100))
    assert {"train_loss", "lr"} <= set(fitter.callback_metrics)


def test_one_trainer_fits_one_network_after_another(monkeypatch, caplog):
    """Compiling the first network does not compile the second, and no log says that callbacks override each other."""
    compiled = []
    monkeypatch.setattr("cifar_lightning.model.compilation.compile_network", lambda net, mode: compiled.append(net))
    fitter, first, second = trainer(max_epochs=1), LitNet(compile="default"), LitNet()
    for model in (first, second):
        fitter.fit(model, fake_data(100))
        fitter.fit_loop.epoch_progress.reset()
    fitter.test(second, fake_data(100), verbose=False)
    assert compiled == [first.net]
    assert "override" not in caplog.text


# --- schedules -------------------------------------------------------------------------------------------


def rates(schedule, **kwargs):
    class Noting(LitNet):
        rates = ()

        def on_train_batch_start(self, batch, batch_idx):
            self.rates += (self.trainer.optimizers[0].param_groups[0]["lr"],)

    model = Noting(lr=0.1, schedule=schedule)
    trainer(**kwargs).fit(model, fake_data(100))
    return model.rates


def test_constant_rate():
    assert rates("constant", max_epochs=2) == (0.1,) * 10


@pytest.mark.parametrize("length", [{"max_epochs": 4}, {"max_epochs": 100, "max_steps": 20}])
def test_cosine_per_step(length):
    expected = [0.05 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert rates("cosine", **length) == pytest.approx(expected)


def test_one_cycle_per_step():
    up = [0.1 * (1 / 25 + 24 / 25 * step / 6) for step in range(6)]
    down = [0.05 * (1 + math.cos(math.pi * (step - 6) / 14)) for step in range(6, 20)]
    assert rates("one-cycle", max_epochs=4) == pytest.approx(up + down)


class Backbone(LitNet):
    """Notes the rates of all groups of its optimiser at each step. It has a layer that BackboneFinetuning thaws."""

    rates = ()

    @property
    def backbone(self):
        return self.net.fc1

    def on_train_batch_start(self, batch, batch_idx):
        self.rates += ([group["lr"] for group in self.trainer.optimizers[0].param_groups],)


@pytest.mark.parametrize("schedule", ["linear", "one-cycle"])
def test_a_group_that_a_callback_adds_follows_the_schedule_from_the_rates_that_it_is_given(schedule):
    model = Backbone(lr=0.1, schedule=schedule)
    trainer(max_epochs=4, callbacks=[BackboneFinetuning(1, lambda epoch: 2.0)]).fit(model, fake_data(100))
    plain = rates(schedule, max_epochs=4)
    assert [lr for lr, *_ in model.rates] == list(plain)
    first, second = 0.1 * plain[5], 0.2 * plain[5]  # the callback's rates at the starts of the epochs
    third = min(2 * second, plain[15])
    expected = [*[first / plain[5]] * 5, *[second / plain[10]] * 5, *[third / plain[15]] * 5]
    assert [added / lr for lr, *rest in model.rates for added in rest] == pytest.approx(expected)


def test_a_lengthened_fit_continues_the_rates_of_a_group_that_was_added(tmp_path):
    shorter, model = trainer(max_epochs=2, callbacks=[BackboneFinetuning(1)]), Backbone(lr=0.1, schedule="linear")
    shorter.fit(model, fake_data(100))
    shorter.save_checkpoint(tmp_path / "end.ckpt")
    model = Backbone(lr=0.1, schedule="linear")
    longer = trainer(max_epochs=4, callbacks=[BackboneFinetuning(9)])
    longer.fit(model, fake_data(100), ckpt_path=tmp_path / "end.ckpt")
    assert model.rates[0] == pytest.approx([0.05, 0.005])
    assert model.rates[-1] == pytest.approx([0.005, 0.0005])


def test_the_schedule_counts_optimizer_steps():
    assert rates("cosine", max_epochs=2, accumulate_grad_batches=5)[::5] == pytest.approx([0.1, 0.05])


@pytest.mark.parametrize(("limit", "steps"), [({}, 6), ({"max_steps": 4}, 4)])
def test_the_schedule_counts_steps_if_a_callback_accumulates_in_some_epochs(limit, steps):
    found = rates("linear", max_epochs=2, callbacks=[GradientAccumulationScheduler({1: 5})], **limit)
    assert found == pytest.approx([0.1 * (1 - min(batch, 5) / steps) for batch in range(10 if steps == 6 else 4)])
    all_alike = rates("linear", max_epochs=2, callbacks=[GradientAccumulationScheduler({0: 5})], **limit)
    assert all_alike == rates("linear", max_epochs=2, accumulate_grad_batches=5, **limit)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize(
    "search", [LearningRateFinder(num_training_steps=13), BatchSizeFinder(init_val=5, max_trials=3)]
)
def test_a_fit_uses_what_a_search_at_its_start_has_found(tmp_path, schedule, search):
    torch.manual_seed(0)
    model, images = LitNet(lr=0.1, schedule=schedule, bias_lr=0.03), fake_data(200, batch_size=10)
    start = copy.deepcopy(model.state_dict())
    trainer(max_epochs=2, callbacks=[search], default_root_dir=tmp_path).fit(model, images)
    assert (model.hparams["lr"], images.batch_size) != (0.1, 10)
    again = LitNet(lr=model.hparams["lr"], schedule=schedule, bias_lr=0.03)
    again.load_state_dict(start)
    trainer(max_epochs=2).fit(again, fake_data(200, batch_size=images.batch_size))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


# --- progressive resizing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "options"),
    [(1, {}), (5, {"accumulate_grad_batches": 5}), (5, {"callbacks": [GradientAccumulationScheduler({0: 5})]})],
)
def test_images_grow_during_a_fit(batches, options):
    class Noting(LitNet):
        sides = ()

        def forward(self, images):
            self.sides += (images.shape[-1],)
            assert images.is_contiguous(memory_format=torch.channels_last)
            return super().forward(images)

    model = Noting(net="speed", width=8, sizes=[16, 24])
    fitter = trainer(max_epochs=2 * batches, **options)
    fitter.fit(model, fake_data(100))
    assert model.sides == (16,) * 3 * batches + (24,) * 3 * batches + (32,) * 4 * batches
    model.sides = ()
    fitter.test(model, fake_data(100), verbose=False)
    assert set(model.sides) == {32}


def test_a_pixel_of_a_shrunk_image_is_a_mean_of_pixels():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert shrink(images, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert shrink(images, None) is images


@pytest.mark.parametrize("size", [16, 20, 24, 28])  # the sizes in the recipes
def test_shrinking_by_matrix_products_takes_the_same_means(size):
    """On an Apple GPU, torch itself shrinks only to divisors of the side, so that shrink uses matrix products."""
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(transforms._by_products(images, size), shrink(images, size))


def test_the_speed_network_is_initialised_from_images_once():
    data, model = fake_data(100), LitNet(net="speed", width=8)
    with pytest.raises(InputError, match="is initialised from images"):
        trainer(max_epochs=1).fit(model, DataLoader(TensorDataset(torch.zeros(4, 3, 32, 32), torch.zeros(4).long())))
    trainer(max_epochs=1).fit(model, data)
    with pytest.raises(InputError, match="net SpeedNet is initialised from images"):
        trainer(max_epochs=1).fit(LitNet(SpeedNet(width=8)), data.train_dataloader())
    learnt = {name: weight.clone() for name, weight in model.net.whiten.state_dict().items()}
    assert learnt["bias"].any()
    for again in (model, LitNet(net="speed", width=8)):
        again.load_state_dict(model.state_dict())
        fitter = trainer(max_steps=1, limit_train_batches=0)
        fitter.fit(again, data)  # fine-tuning keeps the weights
        assert all(torch.equal(weight, learnt[name]) for name, weight in again.net.whiten.state_dict().items())


# --- compilation -----------------------------------------------------------------------------------------


@compiles
def test_a_network_is_compiled_before_the_first_step_and_learns_the_same(tmp_path, monkeypatch):
    from torch._dynamo.utils import counters

    def fitted(compile):
        torch.manual_seed(0)
        net = nn.Sequential(nn.AvgPool2d(4), nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(10))
        net(torch.zeros(2, 3, 32, 32))
        # 42 held out: eight batches, of 6 and of 5
        model, data = Counting(net=net, lr=0.1, compile=compile, test_views="six"), fake_data(200, val_split=42)
        fitter = trainer(max_epochs=2)
        fitter.fit(model, data)
        fitter.test(model, data, verbose=False)
        model.predict(data.normalize(data.image_set("test").images))  # as for the figures
        return model

    def graphs():
        return counters["stats"]["unique_graphs"]

    class Counting(LitNet):
        def on_train_start(self):
            super().on_train_start()
            self.before_fit = graphs()

        def on_train_end(self):
            self.after_fit = graphs()

        def on_test_start(self):
            super().on_test_start()
            self.before_test = graphs()

    counters.clear()
    plain, compiled = fitted("none"), fitted("default")
    assert plain.before_test == 0
    assert compiled.before_fit >= 3  # one for a step, and one for each batch size in a validation
    assert compiled.after_fit == compiled.before_fit
    assert graphs() == compiled.before_test  # nothing is compiled in the test or for the figures
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weight, msg=name)
    assert fitted("auto").before_test == compiled.before_test  # auto compiles nothing on a CPU
    monkeypatch.setattr("cifar_lightning.model.compilation.resolve_mode", lambda *args, **kwargs: "default")
    torch._dynamo.reset()
    counters.clear()
    auto = fitted("auto")  # as on a GPU: the test runs uncompiled
    assert graphs() == auto.after_fit == compiled.after_fit < compiled.before_test


@compiles
@pytest.mark.filterwarnings("ignore:Found 1 module\\(s\\) in eval mode")  # Lightning's warning; here it is meant
def test_a_frozen_batch_norm_keeps_its_statistics():
    """A batch norm in evaluation mode stays in it when the work is counted, in a compiled fit, and after `predict`."""

    class Frozen(LitNet):
        def on_train_start(self):
            super().on_train_start()
            self.modes = [module.training for module in self.net]

    net = nn.Sequential(nn.AvgPool2d(4), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 10))
    net[1].eval()
    model, data = Frozen(net=net, compile="default"), fake_data(100, val_split=20)
    model.train()
    net[1].eval()
    before = copy.deepcopy(net[1].state_dict())
    step_work(model, 4)
    for _ in range(2):
        trainer(max_epochs=1).fit(model, data)
        assert model.modes == [True, False, True, True]
        model.predict(data.image_set("test").images)
    torch.testing.assert_close(net[1].running_mean, before["running_mean"], rtol=0, atol=0)


@compiles
def test_a_compiled_network_trains_and_tests_in_bf16_true():
    model, data = LitNet(width=8, lr=0.01, compile="default"), fake_data(100)
    fitter = trainer(max_epochs=1, precision="bf16-true")
    fitter.fit(model, data)
    fitter.test(model, data, verbose=False)
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_losses_are_summed_in_float32_in_any_precision():
    """In bfloat16, which has eight bits, a sum of 300 ones would stop at 256."""

    class Alike(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(10))

        def forward(self, images):
            return self.logits.expand(len(images), 10)

    model, data = LitNet(net=Alike(), lr=1e-9), fake_data(1_500, val_split=300, eval_batch_size=1)
    fitter = trainer(max_epochs=1, precision="bf16-true")
    fitter.fit(model, data)
    assert fitter.callback_metrics["val_loss"].item() == pytest.approx(math.log(10), rel=1e-2)
    (results,) = fitter.test(model, data, verbose=False)
    assert results["test_loss"] == pytest.approx(math.log(10), rel=1e-2)


@pytest.mark.parametrize(
    ("options", "mode", "taken"),
    [
        ({}, "reduce-overhead", "reduce-overhead"),
        ({"accumulate_grad_batches": 2}, "reduce-overhead", "default"),
        ({"accumulate_grad_batches": 2}, "max-autotune", "default"),
        ({"accumulate_grad_batches": 2}, "default", "default"),
        ({"callbacks": [GradientAccumulationScheduler({1: 2})]}, "reduce-overhead", "default"),  # in a later epoch
        ({"callbacks": [GradientAccumulationScheduler({1: 1})]}, "reduce-overhead", "reduce-overhead"),
    ],
)
def test_no_cuda_graphs_are_used_if_gradients_accumulate(monkeypatch, options, mode, taken):
    model, modes = LitNet(lr=0.01, compile=mode), []
    monkeypatch.setattr("cifar_lightning.model.compilation.compile_network", lambda net, mode: modes.append(mode))
    trainer(max_epochs=1, **options).fit(model, fake_data(100))
    assert modes == [taken]


def test_a_second_fit_is_compiled_again_only_if_it_needs_another_mode(monkeypatch):
    """A later fit in the same mode reuses the compiled network, and a network that the user compiled stays compiled."""
    modes = []

    def noting(net, mode):
        modes.append(mode)
        net.compile(backend="eager")

    monkeypatch.setattr(compilation, "compile_network", noting)
    model = LitNet(lr=0.01, compile="reduce-overhead")
    for accumulated in (1, 1, 2):
        trainer(max_epochs=1, accumulate_grad_batches=accumulated).fit(model, fake_data(100))
    assert modes == ["reduce-overhead", "default"]
    monkeypatch.setattr(compilation, "resolve_mode", lambda *args, **kwargs: "none")  # as on a CPU
    trainer(max_epochs=1).fit(model, fake_data(100))
    assert model.net._compiled_call_impl is None
    own = LitNet(net=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), lr=0.01)
    own.net.compile(backend="eager")
    before = own.net._compiled_call_impl
    trainer(max_epochs=1).fit(own, fake_data(100))
    assert own.net._compiled_call_impl is before


def test_a_network_is_compiled_with_its_own_options_and_those_of_the_mode(monkeypatch):
    given = {}
    monkeypatch.setattr(nn.Module, "compile", lambda self, options, dynamic: given.update(options))
    compile_network(SpeedNet(width=8), "reduce-overhead")
    assert given.items() >= {**SpeedNet.compile_options, "triton.cudagraphs": True}.items()


def test_auto_compiles_if_there_is_a_gpu_and_a_c_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert resolve_mode("auto", on_gpu=True, graphs=True) == "reduce-overhead"
    assert resolve_mode("auto", on_gpu=True, graphs=False) == "default"
    assert resolve_mode("auto", on_gpu=False, graphs=True) == "none"
    assert resolve_mode("max-autotune", on_gpu=False, graphs=True) == "max-autotune"
    (tmp_path / "Python.h").unlink()
    assert resolve_mode("auto", on_gpu=True, graphs=True) == "none"
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert resolve_mode("auto", on_gpu=True, graphs=True) == "none"


def test_an_evaluation_without_a_fit_compiles_nothing(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: pytest.fail("compiled"))
    trainer().test(LitNet(compile="default"), fake_data(100), verbose=False)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped(precision):
    model, data = LitNet(lr=1.0, momentum=0.0), fake_data(100, batch_size=100)
    before = [weight.detach().clone() for weight in model.parameters()]
    trainer(max_epochs=1, precision=precision, gradient_clip_val=1e-3).fit(model, data)
    steps = [weight.detach() - old for weight, old in zip(model.parameters(), before, strict=True)]
    assert torch.cat([step.flatten() for step in steps]).norm().item() == pytest.approx(1e-3, rel=1e-2)


# --- data and fits that a network takes ------------------------------------------------------------------


def test_images_of_other_classes_are_refused():
    data = CIFAR10DataModule(source="synthetic", synthetic_size=100)
    for classes in (CLASSES[:9], [*CLASSES, "unicorn"]):
        with pytest.raises(InputError, match=r"the images have 10 classes \(airplane, …\), but the network has"):
            trainer(max_epochs=1).fit(LitNet(classes=classes), data)
    data._images.sets["train"] = dataclasses.replace(data.image_set("train"), classes=tuple("abcdefghij"))
    with pytest.raises(InputError, match=r"10 classes \(a, …\), but the network has 10 \(airplane, …\): use LitNet\("):
        trainer(max_epochs=1).fit(LitNet(), data)


@pytest.mark.parametrize("count", [10, 12])
def test_loaders_with_images_of_other_classes_are_refused(count):
    names = tuple("abcdefghijkl"[:count])
    data = CIFAR10DataModule(source="synthetic", synthetic_size=100, val_split=20)
    data._images.sets["train"] = dataclasses.replace(data.image_set("train"), classes=names)
    for validation in (data.val_dataloader(), None):
        with pytest.raises(InputError, match=rf"the images have {count} classes \(a, …\), but the network has 10 \("):
            trainer(max_epochs=1).fit(LitNet(), data.train_dataloader(), validation)
    with pytest.raises(InputError, match="use LitNet"):
        trainer().test(LitNet(), [data.val_dataloader()], verbose=False)
    trainer(max_epochs=1).fit(LitNet(classes=names), data.train_dataloader(), data.val_dataloader())


@pytest.mark.parametrize("options", [{"schedule": "linear"}, {"sizes": [16], "net": "speed"}])
def test_a_schedule_needs_max_epochs_or_max_steps(options):
    with pytest.raises(InputError, match="needs the length of the fit: pass max_epochs, or max_steps if"):
        trainer(max_epochs=-1, max_time="00:00:00:01").fit(LitNet(**options), fake_data(100))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "linear"])
def test_a_schedule_needs_max_steps_if_the_loader_has_no_length(schedule):
    """Lightning's number of steps is -1 if the loader has no length."""

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.zeros(3, 32, 32), 0)] * 4)

    with pytest.raises(InputError, match="max_steps if the loader has no length either"):
        trainer(max_epochs=2).fit(LitNet(schedule=schedule), DataLoader(Stream(), batch_size=2))
    trainer(max_epochs=2, max_steps=4).fit(LitNet(schedule=schedule), DataLoader(Stream(), batch_size=2))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "linear"])
def test_no_rate_is_negative_past_the_end_of_a_schedule(schedule):
    """A fit that resumes with larger batches has fewer steps in all, and may already be past their end."""
    assert SCHEDULES[schedule](1.0) == pytest.approx(0)
    assert SCHEDULES[schedule](1.5) == 0


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_resumed_fit_continues_the_random_numbers(tmp_path, ranks):
    """A fit resumed by a stock Trainer equals a whole one; if there were more ranks, it continues from the first's."""

    def model():
        torch.manual_seed(0)
        return LitNet(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(3 * 32 * 32, 10)))

    whole, first, second, data = model(), trainer(max_epochs=1), trainer(max_epochs=2), fake_data(100)
    trainer(max_epochs=2).fit(whole, data)
    first.fit(model(), data)
    first.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    saved["random_states"] += (ranks - 1) * [None]
    torch.save(saved, tmp_path / "end.ckpt")
    resumed = model()
    second.fit(resumed, data, ckpt_path=tmp_path / "end.ckpt")
    assert torch.equal(resumed.net[2].weight, whole.net[2].weight)


def test_a_lengthened_fit_continues_as_if_its_schedule_had_been_longer(tmp_path):
    class Noting(LitNet):
        rates_seen = ()

        def training_step(self, batch, batch_idx):
            self.rates_seen += (self.trainer.optimizers[0].param_groups[0]["lr"],)
            return super().training_step(batch, batch_idx)

    data = fake_data(100, batch_size=20)
    shorter = trainer(max_epochs=1)
    shorter.fit(Noting(lr=0.1, schedule="linear"), data)
    shorter.save_checkpoint(tmp_path / "end.ckpt")
    model = Noting(lr=0.1, schedule="linear")
    trainer(max_epochs=2).fit(model, data, ckpt_path=tmp_path / "end.ckpt")
    assert model.rates_seen == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])


def test_the_logged_rate_is_lr_and_not_bias_lr_or_muon_lr(tmp_path):
    model = LitNet(lr=0.1, bias_lr=0.5, muon_lr=0.2, schedule="linear")
    fitter = trainer(tmp_path, max_epochs=1, log_every_n_steps=2)
    fitter.fit(model, fake_data(80, batch_size=20))
    rates = [float(row["lr"]) for row in rows(tmp_path) if row["lr"]]
    assert rates == pytest.approx([0.05, 0.0])  # the rates of the next step
    assert model.diverged("it").endswith("lower --model.lr, --model.muon_lr, --model.bias_lr")


class Plain(LightningDataModule):
    """A user's own data module, which only names its classes."""

    classes = ("no", "yes")

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])), batch_size=2)

    test_dataloader = train_dataloader


def test_any_data_module_can_be_used():
    model = LitNet(classes=Plain.classes)
    fitter = trainer(max_epochs=1)
    fitter.fit(model, Plain())
    assert set(fitter.test(model, Plain(), verbose=False)[0]) >= {"test_acc", "test_acc/no", "test_acc/yes"}
    plain = Plain()
    plain.classes = tuple("0123456789")  # other names, but as many
    trainer(max_epochs=1).fit(LitNet(), plain)
    with pytest.raises(InputError, match=r"the images have 2 classes \(no, …\), but the network has 10 \(airplane"):
        trainer(max_epochs=1).fit(LitNet(), Plain())
    with pytest.raises(InputError, match="is initialised from images"):
        trainer(max_epochs=1).fit(LitNet(net="speed", width=8, classes=Plain.classes), Plain())


@pytest.mark.parametrize(("classes", "said"), [(list(range(100)), r"the images have 100 classes \(0, …\)"), ([], None)])
def test_classes_of_a_users_data_module_may_be_numbers_or_empty(classes, said):
    data = SimpleNamespace(classes=classes)
    with nullcontext() if said is None else pytest.raises(InputError, match=said):
        check_classes(data, CLASSES)


def test_classes_cannot_change_after_a_litnet_is_made(tmp_path):
    """The figures, hparams and checkpoints depend on the classes: with others, the figures would have the old names."""
    model = LitNet()
    with pytest.raises(InputError, match=r"^classes cannot change .* use LitNet\(\.\.\., classes=data\.classes\), or"):
        model.classes = ["cat", "dog"]
    assert model.classes == model.hparams["classes"] == list(CLASSES)

    class Mine(LitNet):
        classes = ("a", "b")  # the constructor's classes replace these

        def __init__(self):
            super().__init__()
            self.classes = Plain.classes

    with pytest.raises(InputError, match="classes cannot change after a LitNet is made"):
        Mine()
    again = LitNet(model.net, classes=Plain.classes)  # as the error says
    again.net.fc3 = nn.Linear(84, 2)
    fitter = trainer(max_epochs=1)
    fitter.fit(again, Plain())
    assert set(fitter.test(again, Plain(), verbose=False)[0]) >= {"test_acc/no", "test_acc/yes"}
    fitter.save_checkpoint(tmp_path / "a.ckpt")
    assert load_model(tmp_path / "a.ckpt", again.net).classes == copy.deepcopy(again).classes == ["no", "yes"]
    again.classes[0] = "maybe"
    assert again.hparams["classes"] == ["maybe", "yes"]
    assert "test_acc/maybe" in fitter.test(again, Plain(), verbose=False)[0]


def test_a_class_without_images_has_no_accuracy():
    images, labels = torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    (results,) = trainer().test(LitNet(), DataLoader(TensorDataset(images, labels)), verbose=False)
    assert {name for name in results if name.startswith("test_acc/")} == {f"test_acc/{name}" for name in CLASSES[:4]}


# --- checkpoints -----------------------------------------------------------------------------------------


def test_checkpoint_holds_plain_values_and_loads(tmp_path):
    data, model = fake_data(40), LitNet(lr=0.02, width=8, classes=tuple("abcdefghij"))
    fitter = trainer(max_epochs=1)
    fitter.fit(model, data)
    fitter.save_checkpoint(tmp_path / "a.ckpt")

    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["classes"] == list("abcdefghij")
    assert checkpoint["hyper_parameters"]["lr"] == 0.02
    assert checkpoint["datamodule_hyper_parameters"]["source"] == "synthetic"
    loaded = LitNet.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.classes == list("abcdefghij")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(x), model.eval()(x))


@pytest.mark.parametrize("part", ["", "conv1"])
def test_a_checkpoint_is_read_whether_the_network_was_compiled_or_not(tmp_path, part):
    """torch.compile(model.net), or of a part of it, puts _orig_mod into the names of the weights that it wraps."""

    def compiled():
        model = LitNet(lr=0.02)
        wrapped = torch.compile(model.net.get_submodule(part), backend="eager")
        setattr(*((model.net, part) if part else (model, "net")), wrapped)
        return model

    data, model, fitter = fake_data(40), compiled(), trainer(max_epochs=1)
    fitter.fit(model, data)
    fitter.save_checkpoint(tmp_path / "compiled.ckpt")
    assert any("_orig_mod" in name for name in torch.load(tmp_path / "compiled.ckpt")["state_dict"])
    images = data.image_set("test").images
    expected = model.predict(images)[1]
    for loaded in (
        load_model(tmp_path / "compiled.ckpt"),
        LitNet.load_from_checkpoint(tmp_path / "compiled.ckpt", weights_only=True),
    ):
        assert torch.equal(loaded.predict(images)[1], expected)
    plain, longer = LitNet(lr=0.02), trainer(max_epochs=2)
    longer.fit(plain, data, ckpt_path=tmp_path / "compiled.ckpt", weights_only=True)
    assert longer.global_step == 4
    longer.save_checkpoint(tmp_path / "plain.ckpt")
    back = compiled()
    back.load_state_dict(torch.load(tmp_path / "plain.ckpt")["state_dict"])
    back.preprocessing = plain.preprocessing
    assert torch.equal(back.predict(images)[1], plain.predict(images)[1])


def test_a_network_fitted_in_other_processes_can_be_saved(tmp_path):
    """After `ddp_spawn` this process's Trainer knows the module, but the module has no Trainer."""
    model, here = LitNet(), trainer()
    here.strategy.connect(model)
    here.save_checkpoint(tmp_path / "it.ckpt")
    weights = LitNet.load_from_checkpoint(tmp_path / "it.ckpt").state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_any_module_can_be_the_network(tmp_path):
    net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
    fitter, model = trainer(max_epochs=1), LitNet(net=net, lr=0.01)
    fitter.fit(model, fake_data(100))
    fitter.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["lr"] == 0.01
    other = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
    loaded = LitNet.load_from_checkpoint(tmp_path / "a.ckpt", net=other)
    assert torch.equal(loaded.net[2].weight, net[2].weight)
    with pytest.raises(InputError, match=r"use LitNet.load_from_checkpoint\(path, net=...\)"):
        LitNet.load_from_checkpoint(tmp_path / "a.ckpt")


# --- prediction ------------------------------------------------------------------------------------------


def test_predict_step():
    model = LitNet().eval()
    x, y = torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
    for batch in (x, (x, y)):
        classes, probabilities = model.predict_step(batch)
        torch.testing.assert_close(probabilities, F.softmax(model(x), 1))
        assert torch.equal(classes, probabilities.argmax(1))
    assert torch.equal(model.train().predict(x)[0], classes)


def test_a_network_with_a_wrong_number_of_outputs_is_refused():
    model = LitNet(net=nn.Sequential(nn.Flatten(), nn.Linear(3072, 1_000)))
    with pytest.raises(InputError, match="returns 1000 logits per image, but there are 10 classes: change its"):
        trainer(max_epochs=1).fit(model, fake_data(40))


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_example_input(precision):
    """Lightning's summary passes the example input through the network, in the network's precision."""
    model = LitNet()
    assert model(model.example_input_array).shape == (len(model.example_input_array), 10)
    stock = Trainer(
        accelerator="cpu", max_epochs=1, precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )  # fmt: skip
    stock.fit(model, fake_data(40))
    assert stock.global_step == 2
    model.example_input_array = torch.zeros(1, 3, 64, 64)
    assert model.example_input_array.shape == (1, 3, 64, 64)


def test_example_input_for_images_of_another_size():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
    larger = dict.fromkeys(["train_transforms", "test_transforms"], v2.Resize(64))
    with_summary = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with_summary.fit(LitNet(net), fake_data(40, **larger))
    assert with_summary.global_step == 2
    assert LitNet(net).example_input_array is None
    assert LitNet(net, preprocessing=Preprocessing(MEAN, STD, 64)).example_input_array.shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", 0.0, "lr 0.0: must be more than 0"),
        ("lr", math.inf, "lr inf: must be more than 0, and finite"),
        ("weight_decay", math.inf, "weight_decay inf: must be at least 0, and finite"),
        ("classes", ["cat", "dog", "cat"], "classes has cat more than once, so results could not tell them apart"),
        ("momentum", 1.0, "momentum 1.0: must be at least 0 and less than 1"),
        ("weight_decay", -0.1, "weight_decay -0.1: must be at least 0"),
        ("label_smoothing", 1.0, "label_smoothing 1.0: must be at least 0 and less than 1"),
        ("schedule", "step", "unknown schedule 'step': choose from constant, one-cycle, cosine"),
        ("net", "vgg", "unknown net 'vgg'"),
    ],
)
def test_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(InputError, match=message):
        LitNet(**{name: value})


def test_a_network_without_weights_to_train_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3_072, 10)).requires_grad_(False)
    with pytest.raises(InputError, match="the network has no weights to train: call requires_grad_"):
        trainer(max_epochs=1).fit(LitNet(net), fake_data(40))


def test_nesterov_needs_momentum():
    with pytest.raises(InputError, match="nesterov True: must be false if momentum is 0"):
        LitNet(nesterov=True, momentum=0.0)
