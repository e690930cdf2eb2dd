"""The order of the batches wherever CIFAR10DataModule is used: a function of (seed, epoch, position) alone."""

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
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cifar_lightning import CIFAR10DataModule, LitNet, fake_data

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, on small fits


def data(**kwargs):
    return fake_data(200, augment=True, **kwargs)


def mark(batch):
    """Tells a batch from all others, and from the same images augmented otherwise."""
    images, labels = batch
    return (*labels.tolist(), images.contiguous().double().sum().item())  # however they lie


@cache
def epochs(count, **kwargs):
    """The batches of so many epochs, in a plain loop."""
    plain = data(**kwargs)
    plain.setup("fit")
    return [[mark(batch) for batch in plain.train_dataloader()] for _ in range(count)]


def joined(lists):
    return [item for each in lists for item in each]


class Theirs(LightningModule):
    """Knows nothing of ours; notes the batches that it learns from."""

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
    """Asks for the length of the fit, and so for a loader, before a checkpoint has brought its position."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class AskingEarly(Theirs):
    """Does so before a checkpoint is read at all."""

    def setup(self, stage):
        self.steps = self.trainer.estimated_stepping_batches


class Log(DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(sorted(metrics.items()))))


def trainer(saving=None, callbacks=(), **kwargs):
    """`saving`: a folder for a checkpoint of every fourth step."""
    callbacks = [*callbacks]
    if saving is not None:
        callbacks.append(ModelCheckpoint(saving, "{step}", every_n_train_steps=4, save_top_k=-1))
    return Trainer(
        accelerator="cpu", devices=1, callbacks=callbacks, enable_checkpointing=saving is not None,
        **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **kwargs},
    )  # fmt: skip


def fitted(kind, data, *, weights=None, **kwargs):
    """A module of a kind, fitted; `ckpt_path` among the options of the Trainer is to go on from."""
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


def test_overfit_batches_beside_a_loader_that_shuffles():
    """Lightning makes those anew that have a dataset, and fails where one is no DataLoader."""

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
    assert len([*ours.train_dataloader()]) == len(epochs(1)[0]) > 2  # all of them, where there is no fit any more


def test_they_are_so_with_a_loader_in_place_of_the_module():
    ours = data()
    loader, module = ours.train_dataloader(), Theirs()
    trainer(max_epochs=3, overfit_batches=2).fit(module, loader)
    assert module.seen == 3 * epochs(1)[0][:2]
    assert [[mark(batch) for batch in loader] for _ in range(2)] == epochs(2)  # which has not been iterated


# --- a fit that was interrupted --------------------------------------------------------------------------


def looking(hook, of_the_module):
    """A callback that looks at some of the training images in a hook, as one that draws them would."""

    def look(trainer, *args):
        loader = trainer.datamodule.train_dataloader() if of_the_module else trainer.train_dataloader
        next(iter(loader))

    callback = Callback()
    setattr(callback, hook, look)
    return callback


@pytest.mark.parametrize("kind", [Theirs, Ours, Scheduled, AskingEarly])
@pytest.mark.parametrize("reload", [0, 1])
def test_it_goes_on_within_an_epoch(tmp_path, kind, reload):
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
def test_it_does_so_whoever_looks_at_the_images_meanwhile(tmp_path, hook, of_the_module):
    whole = fitted(Scheduled, data(), saving=tmp_path, max_epochs=2, callbacks=[looking(hook, of_the_module)])
    assert whole.seen == joined(epochs(2))
    for step in (4, 16):
        options = {"max_epochs": 2, "ckpt_path": tmp_path / f"step={step}.ckpt"}
        for callbacks in ([], [looking(hook, of_the_module)]):
            assert fitted(Scheduled, data(), callbacks=callbacks, **options).seen == whole.seen[step:]


def test_it_does_so_with_a_loader_in_place_of_the_module(tmp_path):
    """Lightning leaves one that it has made for a schedule at the start of the epoch; LitNet does not."""

    def loader():
        loose = data()
        loose.setup("fit")
        return loose.train_dataloader()

    whole = fitted(Ours, loader(), saving=tmp_path, max_epochs=2)
    assert whole.seen == joined(epochs(2))
    for step in (4, 16):
        rest = fitted(Ours, loader(), max_epochs=2, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert rest.seen == whole.seen[step:]


def test_a_fit_that_begins_anew_begins_at_the_start(tmp_path):
    """Whatever has been tested, or fitted in part, before."""
    whole = fitted(Theirs, data(), saving=tmp_path, max_epochs=1)
    images = data()
    trainer().test(LitNet(), images, verbose=False)
    trainer().validate(whole, images, ckpt_path=tmp_path / "step=4.ckpt", verbose=False)
    assert fitted(Theirs, images, max_epochs=1, limit_train_batches=5).seen == epochs(1)[0][:5]
    assert fitted(Theirs, images, max_epochs=1).seen == epochs(1)[0]
    assert images.state_dict()["position"] == {"epoch": 0, "lap": 0, "position": 10}
    images.setup("fit")
    assert images.state_dict()["position"] is None  # that of a fit before is not that of the next


# --- a second fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Theirs, Ours, lambda: Ours(net="speed54", width=4, sizes=[24], muon_lr=0.1)])
def test_a_second_fit(kind):
    """With the same Trainer it goes on; with a new one it is as any fit from these weights: nothing has been left."""
    images = data(val_split=40)
    first = trainer(max_epochs=2, logger=Log(), log_every_n_steps=3)  # which leaves some of the loss to the end
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
def test_a_search_before_a_fit_leaves_no_trace(tmp_path, kind, search):
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


# --- with another loader ---------------------------------------------------------------------------------


class Both(CIFAR10DataModule):
    """Our loader with another of so many batches."""

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
        self.seen.append(None)  # ours has come to its end
        return None


@pytest.mark.parametrize(
    ("mode", "batches", "length"),
    [("min_size", 4, 4), ("max_size_cycle", 4, 10), ("max_size", 23, 23), ("max_size_cycle", 23, 23)],
)
def test_combined_with_another_loader(tmp_path, mode, batches, length):
    whole = fitted(LearningFromBoth, Both(mode, batches), max_epochs=2, saving=tmp_path)
    first, second = whole.seen[:length], whole.seen[length:]
    assert first[:10] == epochs(2)[0][:length]
    assert second[:10] == epochs(2)[1][:length]
    if mode == "max_size":
        assert first[10:] == second[10:] == [None] * 13
    else:  # no lap is as another
        assert len({*first, *second}) == 2 * length
    for path in sorted(tmp_path.glob("step=*.ckpt"))[::2]:
        done = batches_done(path)
        rest = fitted(LearningFromBoth, Both(mode, batches), max_epochs=2, ckpt_path=path)
        assert rest.seen == whole.seen[done:]


def batches_done(path):
    """Not the step: there is none without a batch of ours."""
    loops = torch.load(path, weights_only=True)["loops"]["fit_loop"]
    return loops["epoch_loop.batch_progress"]["total"]["ready"]


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
def test_combined_without_a_trainer(mode):
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


def test_epochs_follow_on():
    """Whether the loader is asked for once or, as in the docstring, in every epoch; after a setup from the start."""
    once, each = data(), data()
    for images in (once, each):
        images.prepare_data()
        images.setup("fit")
    loader = once.train_dataloader()
    assert [[mark(batch) for batch in loader] for _ in range(3)] == epochs(3)
    assert [[mark(batch) for batch in each.train_dataloader()] for _ in range(3)] == epochs(3)
    assert len(set(joined(epochs(3)))) == 30
    next(iter(each.train_dataloader()))  # an epoch that is left early has been begun
    each.hparams["batch_size"] = 100  # which takes another loader
    assert [len(labels) for _, labels in each.train_dataloader()] == [100, 100]
    each.hparams.update(batch_size=20, device="meta")
    assert each.train_dataloader().labels.is_meta
    each.hparams["device"] = "cpu"
    assert [mark(batch) for batch in each.train_dataloader()] == epochs(6)[5]
    each.setup("fit")
    assert [mark(batch) for batch in each.train_dataloader()] == epochs(1)[0]


def test_they_do_so_after_a_fit():
    images = data()
    fitted(Theirs, images, max_epochs=2)
    assert [[mark(batch) for batch in images.train_dataloader()] for _ in range(2)] == epochs(4)[2:]


def test_batches_are_where_they_are_wanted_once_a_trainer_has_finished():
    """Lightning has its own device, and has then moved the module to the CPU."""
    images = fake_data(100, device="meta")
    fitted(Theirs, images, max_epochs=1)
    for loader in (images.train_dataloader(), images.test_dataloader()):
        assert {x.device.type for batch in loader for x in batch} == {"meta"}


def test_the_test_images_are_in_their_order_once_a_trainer_has_tested_a_part():
    images = fake_data(200)
    labels = images.image_set("test").labels
    seen = []

    class Tested(Theirs):
        def test_step(self, batch, batch_idx):
            seen.append(batch[1])

    trainer(fast_dev_run=True).test(Tested(), images, verbose=False)
    (tested,) = seen
    assert torch.equal(tested, labels[images.test_indices[: len(tested)]])  # which still tells which those were
    assert not torch.equal(images.test_indices, torch.arange(len(labels)))
    assert torch.equal(torch.cat([y for _, y in images.test_dataloader()]), labels)


def in_fabric(fabric, path=None):
    """Two epochs of two plain loops; gives, or writes, the global batches and how many test images there were."""
    images, others = data(), data()
    for module in (images, others):
        module.prepare_data()
        module.setup("fit")
    loaders = others.train_dataloader(), others.val_dataloader(), others.test_dataloader()
    set_up = fabric.setup_dataloaders(*loaders)
    assert [loader._dataloader for loader in set_up] == [*loaders]  # none has been made anew
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
def test_in_fabric(tmp_path, processes):
    """Ranks share the batches, whether Fabric has been given the loaders to set up or not."""
    if processes == 1:
        seen = in_fabric(Fabric(accelerator="cpu", devices=1))
    else:
        process = jobs.context.Process(target=in_two_processes, args=(tmp_path / "seen",))
        process.start()
        process.join(120)
        seen = pickle.loads((tmp_path / "seen").read_bytes())
    assert seen == (2 * epochs(2), [40, 0, 40])


def test_fabric_moves_what_it_has_set_up_to_its_device():
    images = data()
    images.setup("fit")
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric._strategy._root_device = torch.device("meta")
    x, y = next(iter(fabric.setup_dataloaders(images.train_dataloader())))
    assert x.is_meta
    assert y.is_meta


# --- what stays as it is ---------------------------------------------------------------------------------


def test_an_evaluation_gives_the_test_images_in_their_order():
    images = fake_data(200, eval_batch_size=7)
    predicted = trainer().predict(Theirs(), images)
    test = images.image_set("test")
    assert torch.equal(torch.cat([x for x, _ in predicted]), images.normalize(test.images))
    assert torch.equal(torch.cat([labels for _, labels in predicted]), test.labels)


def test_batches_are_their_users():
    """What is done to them is done to no stored image or label."""
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
def test_a_copy_goes_on_by_itself(copied):
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


def test_it_can_be_sent_to_another_process_once_it_is_prepared(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), "red").save(tmp_path / split / name / "a.png")
    data = CIFAR10DataModule(tmp_path, source="folder", batch_size=2)
    data.prepare_data()
    assert pickle.loads(pickle.dumps(data)).image_set("train").labels.tolist() == [0, 1]
