"""CIFAR10DataModule's batches, with a Trainer and without: they depend only on seed, epoch and position."""

import copy
import os
import pickle
from functools import cache

import jobs
import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from PIL import Image
from stand_ins import Log
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cifar_lightning import CIFAR10DataModule, LitNet, fake_data

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns about small fits


def data(**kwargs):
    return fake_data(200, augment=True, **kwargs)


def mark(batch):
    """Returns a key that differs for other images, and for the same ones if they are augmented differently."""
    images, labels = batch
    return (*labels.tolist(), images.contiguous().double().sum().item())  # the same for any memory layout


@cache
def epochs(count, **kwargs):
    """Returns the keys of the batches of `count` epochs in a plain loop, to which the tests compare others."""
    plain = data(**kwargs)
    plain.setup("fit")
    return [[mark(batch) for batch in plain.train_dataloader()] for _ in range(count)]


def joined(lists):
    return [item for each in lists for item in each]


class Theirs(LightningModule):
    """A user's module, without any code of this package; records the batches that it trains on."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(mark(batch))
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def predict_step(self, batch, batch_idx):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Ours(LitNet):
    def __init__(self, **kwargs):
        super().__init__(**{"lr": 0.01, "schedule": "one-cycle", **kwargs})
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(mark(batch))
        return super().training_step(batch, batch_idx)


class Scheduled(Theirs):
    """Asks for the number of steps, for which Lightning makes a loader before it restores a checkpoint's position."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class AskingEarly(Theirs):
    """Asks for the number of steps before a checkpoint is read at all."""

    def setup(self, stage):
        self.steps = self.trainer.estimated_stepping_batches


def trainer(saving=None, callbacks=(), **kwargs):
    """Makes a quiet Trainer on the CPU. `saving` is a folder for a checkpoint at every fourth step."""
    callbacks = [*callbacks]
    if saving is not None:
        callbacks.append(ModelCheckpoint(saving, "{step}", every_n_train_steps=4, save_top_k=-1))
    return Trainer(
        accelerator="cpu", devices=1, callbacks=callbacks, enable_checkpointing=saving is not None,
        **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **kwargs},
    )  # fmt: skip


def fitted(kind, data, *, weights=None, **kwargs):
    """Returns a fitted module; `kwargs` are the Trainer's options and `ckpt_path`, a checkpoint to resume from."""
    torch.manual_seed(0)
    module, path = kind(), kwargs.pop("ckpt_path", None)
    if weights is not None:
        module.load_state_dict(weights)
    trainer(**kwargs).fit(module, data, ckpt_path=path)
    return module


def same_weights(module, other):
    return all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


# --- a Trainer's options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, 8),
        ({"limit_train_batches": 3}, 3),
        ({"limit_train_batches": 0.4}, 3),
        ({"val_check_interval": 3}, 8),
        ({"val_check_interval": 0.3}, 8),
        ({"accumulate_grad_batches": 3}, 8),
        ({"reload_dataloaders_every_n_epochs": 1}, 8),
        ({"check_val_every_n_epoch": None, "val_check_interval": 11}, 8),
    ],
)
def test_each_epoch_has_its_own_order(options, batches):
    module = fitted(Theirs, data(val_split=40), max_epochs=3, **options)
    assert module.seen == joined(epoch[:batches] for epoch in epochs(3, val_split=40))
    assert len(set(module.seen)) == 3 * batches


def test_overfit_batches_with_a_shuffling_loader_beside_ours():
    """`overfit_batches` works beside a shuffling loader: Lightning would fail to rebuild ours if it had a `dataset`."""

    class Beside(Both):
        def train_dataloader(self):
            other = DataLoader(TensorDataset(torch.arange(9)), shuffle=True)
            return CombinedLoader({"ours": CIFAR10DataModule.train_dataloader(self), "other": other}, "min_size")

    module = fitted(LearningFromBoth, Beside("min_size", 9), max_epochs=2, overfit_batches=2)
    assert module.seen == 2 * epochs(1)[0][:2]


@pytest.mark.parametrize("share", [2, 0.2])
def test_overfit_batches_are_the_same_in_every_epoch(share):
    ours = data()
    assert fitted(Theirs, ours, max_epochs=3, overfit_batches=share).seen == 3 * epochs(1)[0][:2]
    assert len([*ours.train_dataloader()]) == len(epochs(1)[0]) > 2  # all of them, now that the fit is over


def test_overfit_batches_repeat_if_the_fit_is_given_a_loader():
    ours = data()
    loader, module = ours.train_dataloader(), Theirs()
    trainer(max_epochs=3, overfit_batches=2).fit(module, loader)
    assert module.seen == 3 * epochs(1)[0][:2]
    assert [[mark(batch) for batch in loader] for _ in range(2)] == epochs(2)  # the fit has used a copy


# --- resumed fits ----------------------------------------------------------------------------------------


def looking(hook, of_the_module):
    """Returns a callback that takes a training batch in a hook, as a callback that draws images would."""

    def look(trainer, *args):
        loader = trainer.datamodule.train_dataloader() if of_the_module else trainer.train_dataloader
        next(iter(loader))

    callback = Callback()
    setattr(callback, hook, look)
    return callback


@pytest.mark.parametrize("kind", [Theirs, Ours, Scheduled, AskingEarly])
@pytest.mark.parametrize("reload", [0, 1])
def test_a_fit_resumed_within_an_epoch_is_bit_identical(tmp_path, kind, reload):
    options = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": reload, "log_every_n_steps": 2}
    log = Log()
    whole = fitted(kind, data(), saving=tmp_path, logger=log, **options)
    assert whole.seen == joined(epochs(2))
    for step in (4, 16):
        others = Log()
        rest = fitted(kind, data(), logger=others, ckpt_path=tmp_path / f"step={step}.ckpt", **options)
        assert rest.seen == whole.seen[step:]
        assert same_weights(rest, whole)
        assert others.rows == [(done, row) for done, row in log.rows if done >= step]


@pytest.mark.parametrize(
    ("hook", "of_the_module"),
    [
        ("on_fit_start", True),
        *((hook, own) for hook in ("on_train_start", "on_train_epoch_start", "on_train_batch_end") for own in (0, 1)),
    ],
)
def test_a_resumed_fit_gets_the_same_batches_if_a_callback_takes_some(tmp_path, hook, of_the_module):
    whole = fitted(Scheduled, data(), saving=tmp_path, max_epochs=2, callbacks=[looking(hook, of_the_module)])
    assert whole.seen == joined(epochs(2))
    for step in (4, 16):
        options = {"max_epochs": 2, "ckpt_path": tmp_path / f"step={step}.ckpt"}
        for callbacks in ([], [looking(hook, of_the_module)]):
            assert fitted(Scheduled, data(), callbacks=callbacks, **options).seen == whole.seen[step:]


def test_a_resumed_fit_gets_the_same_batches_if_it_is_given_a_loader(tmp_path):
    """LitNet restores the position of a loader that its schedule needed early; Lightning alone would not."""

    def loader():
        loose = data()
        loose.setup("fit")
        return loose.train_dataloader()

    whole = fitted(Ours, loader(), saving=tmp_path, max_epochs=2)
    assert whole.seen == joined(epochs(2))
    for step in (4, 16):
        rest = fitted(Ours, loader(), max_epochs=2, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert rest.seen == whole.seen[step:]


def test_a_new_fit_starts_at_the_first_epoch(tmp_path):
    """A fit without a checkpoint starts at the first batch, whatever the data module was used for before."""
    whole = fitted(Theirs, data(), saving=tmp_path, max_epochs=1)
    images = data()
    trainer().test(LitNet(), images, verbose=False)
    trainer().validate(whole, images, ckpt_path=tmp_path / "step=4.ckpt", verbose=False)
    assert fitted(Theirs, images, max_epochs=1, limit_train_batches=5).seen == epochs(1)[0][:5]
    assert fitted(Theirs, images, max_epochs=1).seen == epochs(1)[0]
    assert images.state_dict()["position"] == {"epoch": 0, "lap": 0, "position": 10}
    images.setup("fit")
    assert images.state_dict()["position"] is None  # the next fit does not begin where this one ended


# --- a second fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Theirs, Ours, lambda: Ours(net="speed54", width=4, sizes=[24], muon_lr=0.1)])
def test_a_second_fit_continues_only_with_the_same_trainer(kind):
    """A second fit with the same Trainer is the next epoch; with a new one it is bit-identical to a first fit."""
    images = data(val_split=40)
    first = trainer(max_epochs=2, logger=Log(), log_every_n_steps=3)  # 16 steps: some loss is left unlogged
    module = kind()
    first.fit(module, images)
    first.fit_loop.max_epochs = 3
    first.fit(module, images)
    assert module.seen == joined(epochs(3, val_split=40))
    weights = copy.deepcopy(module.state_dict())
    logs = [Log(), Log()]
    module.seen = []
    trainer(max_epochs=1, logger=logs[0], log_every_n_steps=3).fit(module, images)
    options = {"max_epochs": 1, "logger": logs[1], "log_every_n_steps": 3}
    fresh = fitted(kind, data(val_split=40), weights=weights, **options)
    assert module.seen == fresh.seen == epochs(1, val_split=40)[0]
    assert same_weights(module, fresh)
    assert logs[0].rows == logs[1].rows


@pytest.mark.parametrize("kind", [Theirs, Ours])
@pytest.mark.parametrize("search", ["lr_find", "callback", "scale_batch_size"])
def test_a_search_before_a_fit_changes_no_result_and_leaves_no_file(tmp_path, kind, search):
    plain, log, ours = Log(), Log(), {"max_epochs": 2, "log_every_n_steps": 7, "default_root_dir": tmp_path}
    expected = fitted(kind, data(), logger=plain, **ours)
    torch.manual_seed(0)
    module, images = kind(), data()
    callbacks = [LearningRateFinder(num_training_steps=13, update_attr=False)] if search == "callback" else []
    fitter = trainer(logger=log, callbacks=callbacks, **ours)
    if search == "lr_find":
        Tuner(fitter).lr_find(module, datamodule=images, num_training=13, update_attr=False)
    elif search == "scale_batch_size":
        Tuner(fitter).scale_batch_size(module, datamodule=images, init_val=5, max_trials=3)
        assert images.hparams["batch_size"] == 20
    assert len(module.seen) == {"lr_find": 13, "callback": 0, "scale_batch_size": 9}[search]
    fitter.fit(module, images)
    assert module.seen[-20:] == expected.seen == joined(epochs(2))
    assert same_weights(module, expected)
    assert log.rows == plain.rows
    assert os.listdir(tmp_path) == []


# --- combined with another loader ------------------------------------------------------------------------


class Both(CIFAR10DataModule):
    """A data module that combines our training loader with another one, which has `batches` batches."""

    def __init__(self, mode, batches):
        super().__init__(source="synthetic", synthetic_size=200, batch_size=20, augment=True)
        self.mode, self.batches = mode, batches

    def train_dataloader(self):
        other = DataLoader(TensorDataset(torch.arange(self.batches)), batch_size=1)
        return CombinedLoader({"ours": super().train_dataloader(), "other": other}, self.mode)


class LearningFromBoth(Theirs):
    def training_step(self, batch, batch_idx):
        if batch["ours"] is not None:
            return super().training_step(batch["ours"], batch_idx)
        self.seen.append(None)  # our loader is at its end
        return None


@pytest.mark.parametrize(
    ("mode", "batches", "length"),
    [("min_size", 4, 4), ("max_size_cycle", 4, 10), ("max_size", 23, 23), ("max_size_cycle", 23, 23)],
)
def test_a_resumed_fit_gets_the_same_batches_from_combined_loaders(tmp_path, mode, batches, length):
    whole = fitted(LearningFromBoth, Both(mode, batches), max_epochs=2, saving=tmp_path)
    first, second = whole.seen[:length], whole.seen[length:]
    assert first[:10] == epochs(2)[0][:length]
    assert second[:10] == epochs(2)[1][:length]
    if mode == "max_size":
        assert first[10:] == second[10:] == [None] * 13
    else:  # no two laps are alike
        assert len({*first, *second}) == 2 * length
    for path in sorted(tmp_path.glob("step=*.ckpt"))[::2]:
        done = batches_done(path)
        rest = fitted(LearningFromBoth, Both(mode, batches), max_epochs=2, ckpt_path=path)
        assert rest.seen == whole.seen[done:]


def batches_done(path):
    """Returns the number of batches at a checkpoint; the step is smaller, because batches without ours take none."""
    loops = torch.load(path, weights_only=True)["loops"]["fit_loop"]
    return loops["epoch_loop.batch_progress"]["total"]["ready"]


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
def test_combined_loaders_in_a_plain_loop(mode):
    def seen():
        both = Both(mode, 23)
        both.setup("fit")
        combined = both.train_dataloader()
        batches = [batch if mode == "sequential" else batch["ours"] for _ in range(2) for batch, _, _ in combined]
        return [mark(batch) for batch in batches if batch is not None and len(batch) == 2]

    in_cycles = joined(epochs(3))[:23] + joined(epochs(6)[3:])[:23]
    assert seen() == (in_cycles if mode == "max_size_cycle" else joined(epochs(2)))
    assert seen() == seen()


# --- without a Trainer -----------------------------------------------------------------------------------


def test_plain_loops_get_one_epoch_after_another():
    """Each plain loop is the next epoch, with one loader or, as in the docstring, a new one each; `setup` restarts."""
    once, each = data(), data()
    for images in (once, each):
        images.prepare_data()
        images.setup("fit")
    loader = once.train_dataloader()
    assert [[mark(batch) for batch in loader] for _ in range(3)] == epochs(3)
    assert [[mark(batch) for batch in each.train_dataloader()] for _ in range(3)] == epochs(3)
    assert len(set(joined(epochs(3)))) == 30
    next(iter(each.train_dataloader()))  # an epoch that is left early counts
    each.hparams["batch_size"] = 100  # for which a new loader is made
    assert [len(labels) for _, labels in each.train_dataloader()] == [100, 100]
    each.hparams.update(batch_size=20, device="meta")
    assert each.train_dataloader().labels.is_meta
    each.hparams["device"] = "cpu"
    assert [mark(batch) for batch in each.train_dataloader()] == epochs(6)[5]
    each.setup("fit")
    assert [mark(batch) for batch in each.train_dataloader()] == epochs(1)[0]


def test_a_plain_loop_after_a_fit_gets_the_next_epoch():
    images = data()
    fitted(Theirs, images, max_epochs=2)
    assert [[mark(batch) for batch in images.train_dataloader()] for _ in range(2)] == epochs(4)[2:]


def test_batches_are_on_the_data_modules_device_after_a_fit():
    """After a fit, batches are on the data module's `device`, not on the one that Lightning has used."""
    images = fake_data(100, device="meta")
    fitted(Theirs, images, max_epochs=1)
    for loader in (images.train_dataloader(), images.test_dataloader()):
        assert {x.device.type for batch in loader for x in batch} == {"meta"}


def test_test_images_are_in_order_after_a_trainer_has_tested_some():
    images = fake_data(200)
    labels = images.image_set("test").labels
    seen = []

    class Tested(Theirs):
        def test_step(self, batch, batch_idx):
            seen.append(batch[1])

    trainer(fast_dev_run=True).test(Tested(), images, verbose=False)
    (tested,) = seen
    assert torch.equal(tested, labels[images.test_indices[: len(tested)]])  # still those of this test
    assert not torch.equal(images.test_indices, torch.arange(len(labels)))
    assert torch.equal(torch.cat([y for _, y in images.test_dataloader()]), labels)


def in_fabric(fabric, path=None):
    """Returns, and writes to any `path`, the global batches of two plain loops and counts of evaluation images."""
    images, others = data(), data()
    for module in (images, others):
        module.prepare_data()
        module.setup("fit")
    loaders = others.train_dataloader(), others.val_dataloader(), others.test_dataloader()
    set_up = fabric.setup_dataloaders(*loaders)
    assert [loader._dataloader for loader in set_up] == [*loaders]  # Fabric has rebuilt none
    assert [len(loader.dataset) for loader in set_up] == [200, 0, 40]
    seen = [[fabric.all_gather(batch) for batch in images.train_dataloader()] for _ in range(2)]
    seen += [[fabric.all_gather(batch) for batch in set_up[0]] for _ in range(2)]
    if fabric.world_size > 1:
        seen = [[[x.flatten(0, 1) for x in batch] for batch in epoch] for epoch in seen]
    loaders = images.test_dataloader(), *set_up[1:]
    tested = [fabric.all_reduce(torch.tensor(sum(len(y) for _, y in x)), reduce_op="sum").item() for x in loaders]
    found = [[mark(batch) for batch in epoch] for epoch in seen], tested
    if path is not None and fabric.is_global_zero:
        path.write_bytes(pickle.dumps(found))
    return found


def in_two_processes(path):
    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(in_fabric, path)


@pytest.mark.parametrize("processes", [1, 2])
def test_ranks_of_fabric_share_the_global_batches(tmp_path, processes):
    """The ranks of Fabric share the global batches, whether or not it has set up the loaders."""
    if processes == 1:
        seen = in_fabric(Fabric(accelerator="cpu", devices=1))
    else:
        process = jobs.context.Process(target=in_two_processes, args=(tmp_path / "seen",))
        process.start()
        process.join(120)
        seen = pickle.loads((tmp_path / "seen").read_bytes())
    assert seen == (2 * epochs(2), [40, 0, 40])


def test_batches_of_a_loader_set_up_by_fabric_are_on_its_device():
    images = data()
    images.setup("fit")
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric._strategy._root_device = torch.device("meta")
    x, y = next(iter(fabric.setup_dataloaders(images.train_dataloader())))
    assert x.is_meta
    assert y.is_meta


# --- evaluation, ownership, copies -----------------------------------------------------------------------


def test_predict_gets_the_test_images_in_order():
    images = fake_data(200, eval_batch_size=7)
    predicted = trainer().predict(Theirs(), images)
    test = images.image_set("test")
    assert torch.equal(torch.cat([x for x, _ in predicted]), images.normalize(test.images))
    assert torch.equal(torch.cat([labels for _, labels in predicted]), test.labels)


def test_changing_a_batch_changes_no_stored_image_or_label():
    images, untouched = data(val_split=40), data(val_split=40)
    for module in (images, untouched):
        module.setup()
    for loader in (images.train_dataloader(), images.val_dataloader(), images.test_dataloader()):
        for x, y in loader:
            x.add_(1)
            y[0] = 3
    for split in ("train", "test"):
        ours, theirs = images.image_set(split), untouched.image_set(split)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    assert [mark(batch) for batch in images.train_dataloader()] == epochs(2, val_split=40)[1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copied_data_module_continues_independently(copied):
    before = copied(data())
    before.setup("fit")
    assert [mark(batch) for batch in before.train_dataloader()] == epochs(1)[0]
    for _ in before.train_dataloader():
        after = copied(before)
        break
    for module in (after, before):
        assert [[mark(batch) for batch in module.train_dataloader()] for _ in range(2)] == epochs(4)[2:]
    fitted(Theirs, after, max_epochs=1)
    again = copied(after)
    again.setup("fit")
    assert [mark(batch) for batch in again.train_dataloader()] == epochs(1)[0]


def test_a_prepared_data_module_can_be_pickled(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), "red").save(tmp_path / split / name / "a.png")
    data = CIFAR10DataModule(tmp_path, source="folder", batch_size=2)
    data.prepare_data()
    assert pickle.loads(pickle.dumps(data)).image_set("train").labels.tolist() == [0, 1]
