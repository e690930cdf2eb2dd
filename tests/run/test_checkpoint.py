"""Tests that checkpoints survive full disks and read-only folders, run no code, and are evaluated right."""

import errno
import json
import os
import random
import subprocess
import zipfile

import pytest
import torch
from conftest import NOBODY, another_user
from jobs import SMALL, differences, end, job, leftovers, same, start, step_of, suspended
from PIL import Image
from servers import serve
from test_stop import wait_for
from torchmetrics.functional.classification import multiclass_confusion_matrix

from cifar_lightning import files
from cifar_lightning.errors import InputError, RunError
from cifar_lightning.run import checkpoint, saved
from cifar_lightning.run.callbacks import checkpoints
from cifar_lightning.run.training import fit


@pytest.fixture
def trained(whole):
    """Returns a finished run on one device."""
    return whole[1]


@pytest.fixture
def small_disk(tmp_path):
    """Yields a file system of 1 MB, which two checkpoints nearly fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_resumes_after_a_full_disk(small_disk, tmp_path, trained, devices):
    settings = ("--devices", devices, "--default_root_dir", small_disk)
    done = job("fit", *SMALL, *settings, cwd=tmp_path)
    run = small_disk / "lightning_logs" / "version_0"
    assert done.code == 1
    assert "could not write" in done.lines[-1]
    assert "No space left on device; any earlier version is unchanged: free some disk space" in done.lines[-1]
    assert done.lines[-1].endswith(f"; continue with --resume {run}")
    assert leftovers(run) == []
    assert step_of(run) == 7
    assert checkpoint.load_checkpoint(run / "checkpoints" / "step-7.ckpt")["global_step"] == 7
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert job("fit", "--resume", run, cwd=tmp_path).code == 0
    if devices == 1:
        assert differences(run, trained) == []


def test_a_run_resumes_after_a_write_that_fails_half_way(tmp_path, trained):
    """If the disk is full in the middle of a checkpoint, no part of it is left, and the run can be resumed."""
    done = job("fit", *SMALL, cwd=tmp_path, fault="enospc@-:write:4")
    run = tmp_path / "lightning_logs" / "version_0"
    assert done.code == 1
    assert done.lines[-1].startswith(
        "error: could not write lightning_logs/version_0/checkpoints/step-18.ckpt: No space"
    )
    assert leftovers(run) == []
    assert job("fit", "--resume", run, cwd=tmp_path).code == 0
    assert differences(run, trained) == []


@another_user
def test_a_run_resumes_after_its_folder_was_read_only(for_anyone, trained):
    process = start("fit", *SMALL, cwd=for_anyone, fault="stop@-:train:17", user=NOBODY)
    run = for_anyone / "lightning_logs" / "version_0"
    wait_for(lambda: suspended(for_anyone))
    assert step_of(run) == 14
    (run / "checkpoints").chmod(0o555)
    os.kill(process.pid, 18)  # SIGCONT
    done = end(process)
    assert done.code == 1, done.text
    assert "could not write lightning_logs/version_0/checkpoints/step-18.ckpt: Permission denied" in done.lines[-1]
    assert step_of(run) == 14
    done = job("fit", "--resume", run, cwd=for_anyone, user=NOBODY)
    assert done.code == 1
    (run / "checkpoints").chmod(0o755)
    assert job("fit", "--resume", run, cwd=for_anyone, user=NOBODY).code == 0
    assert differences(run, trained) == []


def test_a_failed_write_leaves_the_old_file_unchanged(tmp_path):
    target = tmp_path / "step-7.ckpt"
    target.write_bytes(b"good")

    def fails(file):
        file.write(b"bad")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=f"could not write {target}: No space left on device"):
        files.write_atomically(target, fails)
    assert target.read_bytes() == b"good"
    assert os.listdir(tmp_path) == ["step-7.ckpt"]


class Gadget:
    """Makes a pickle hostile: loading it calls a function."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def poison(run, marker, kind):
    """Makes every checkpoint of a copy of a run hostile."""
    for path in (run / "checkpoints").glob("*.ckpt"):
        contents = torch.load(path, weights_only=True)
        if kind == "pickle":
            contents["callbacks"] = Gadget(marker)
        else:
            contents["hyper_parameters"] |= {kind: "os.system", "net": f"touch {marker}"}
        torch.save(contents, path)


@pytest.mark.parametrize("kind", ["pickle", "_instantiator", "_class_path"])
def test_a_hostile_checkpoint_is_refused(tmp_path, trained, kind):
    run, marker = tmp_path / "run", tmp_path / "marker"
    subprocess.run(["cp", "-r", trained, run], check=True)
    (run / "results.json").unlink()
    poison(run, marker, kind)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    best = run / "checkpoints" / "best.ckpt"
    for script, arguments in {
        "evaluate": (run, "--accelerator", "cpu"),
        "predict": (best, tmp_path / "a.png"),
        "fit": ("--resume", run),
    }.items():
        done = job(script, *arguments, cwd=tmp_path)
        assert done.code == 2, done.text
        assert len(done.lines) == 1
        assert ("it would run code" if kind == "pickle" else f"names code to run, in {kind}") in done.lines[0]
        assert not marker.exists()
    if kind == "pickle":
        torch.load(best, weights_only=False)
        assert marker.exists()  # so the checkpoint was hostile indeed


def test_a_url_is_refused_as_a_checkpoint(tmp_path, trained):
    best = (trained / "checkpoints" / "best.ckpt").read_bytes()
    with serve(best) as server:
        for script in ("evaluate", "predict"):
            done = job(script, f"{server.url}/best.ckpt", *(["a.png"] if script == "predict" else []), cwd=tmp_path)
            assert done.code == 2
            assert "is a URL: download it" in done.lines[-1]
        assert server.requests == []


def test_a_file_that_is_no_checkpoint_is_refused_with_the_reason(tmp_path):
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save({"epoch": 3}, tmp_path / "other.ckpt")
    for name, reason in {
        "none": "does not exist",
        "text": "is damaged or not a checkpoint",
        "other": "was not written by",
    }.items():
        with pytest.raises(InputError, match=reason):
            checkpoint.load_checkpoint(tmp_path / f"{name}.ckpt")


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    """A checkpoint with a flipped bit anywhere is refused, or has the same values.

    Some bytes between the parts of a checkpoint, which no checksum covers, mean nothing.
    """
    path, rng = tmp_path / "a.ckpt", random.Random(0)
    values = {"state_dict": {"w": torch.randn(3), "b": torch.randn(2)}, "hyper_parameters": {}, "global_step": 1}
    torch.save(values, path)
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 5):
        flipped = content[place] ^ 1 << rng.randrange(8)
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        try:
            assert same(checkpoint.load_checkpoint(path), values)
        except checkpoint.UnreadableError:
            pytest.fail(f"bit {place} is taken for a fault of the disk")
        except InputError:
            refused += 1
    assert refused > 100


def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(tmp_path, capsys):
    """Without best.ckpt, the newest checkpoint that can be read is evaluated, with a warning of a damaged newer one."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save({"state_dict": {}, "hyper_parameters": {}, "global_step": 7}, folder / "step-7.ckpt")
    (folder / "step-14.ckpt").write_bytes((folder / "step-7.ckpt").read_bytes()[:-10])
    assert saved.select_checkpoint(tmp_path) == folder / "step-7.ckpt"
    assert capsys.readouterr().err == (
        f"warning: checkpoint {folder / 'step-14.ckpt'} cannot be read: it is damaged or not a checkpoint; "
        "using step-7.ckpt instead\n"
    )


@pytest.mark.parametrize("where", ["torch.load", "zipfile.ZipFile"])
def test_a_checkpoint_that_the_system_cannot_read_is_not_skipped(tmp_path, monkeypatch, where):
    """A checkpoint that the system cannot read is an error: it may be intact, and skipping would delete it."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (7, 14):
        torch.save({"state_dict": {}, "hyper_parameters": {}, "global_step": step}, folder / f"step-{step}.ckpt")
    read = {"torch.load": torch.load, "zipfile.ZipFile": zipfile.ZipFile}[where]

    def read_but(path, *args, **kwargs):
        if str(path).endswith(("step-14.ckpt", "best.ckpt")):
            raise OSError(errno.EIO, "Input/output error")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(where, read_but)
    said = r"{}.ckpt cannot be read \(Input/output error\): make it readable, or move it away to go on without it"
    for look, of in ((checkpoint.newest_readable, folder), (saved.select_checkpoint, tmp_path)):
        with pytest.raises(checkpoint.UnreadableError, match=said.format("step-14")):
            look(of)
    if where == "torch.load":
        monkeypatch.setattr(where, lambda *args, **kwargs: torch.zeros(2**50))  # more than any memory
        with pytest.raises(checkpoint.UnreadableError, match=r"step-14.ckpt cannot be read \(.*: free some memory$"):
            checkpoint.newest_readable(folder)
        monkeypatch.setattr(where, read_but)
    (folder / "best.ckpt").write_bytes((folder / "step-7.ckpt").read_bytes())
    with pytest.raises(checkpoint.UnreadableError, match=said.format("best")):
        checkpoint.why_not_best(folder, folder / "step-7.ckpt")


@pytest.mark.parametrize(("worth", "steps"), [(0, [0, 10, 20, 30]), (1e9, [0, 30])])
def test_epoch_ends_are_saved_if_that_takes_little_of_the_time(plain, monkeypatch, tmp_path, worth, steps):
    saved = []
    monkeypatch.setattr(checkpoints, "WORTH", worth)
    monkeypatch.setattr(checkpoint.AtomicCheckpointIO, "save_checkpoint", note(saved))
    data = {"source": "synthetic", "synthetic_size": 100, "batch_size": 10}
    fit(data, accelerator="cpu", max_epochs=3, default_root_dir=tmp_path)
    assert saved == steps


def note(saved):
    save = checkpoint.AtomicCheckpointIO.save_checkpoint

    def noting(self, state, path, storage_options=None):
        saved.append(state["global_step"])
        save(self, state, path, storage_options)

    return noting


def test_only_the_best_and_the_two_newest_checkpoints_are_kept(trained):
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == [
        *("best.ckpt", "step-35.ckpt", "step-36.ckpt")
    ]


@pytest.mark.parametrize("devices", [1, pytest.param(7, marks=pytest.mark.soak)])
def test_counts_are_right_if_the_devices_do_not_divide_the_images(finished, tmp_path, devices):
    arguments = ("--data.synthetic_size", 535, "--accelerator", "cpu", "--devices", devices, "--output_dir", tmp_path)
    done = job("evaluate", finished.folder, *arguments, cwd=tmp_path)
    assert done.code == 0, done.text
    results = json.loads((tmp_path / "results.json").read_text())
    path = saved.select_checkpoint(finished.folder)
    model, data = saved.load_model(path), saved.data_of(checkpoint.load_checkpoint(path), {"synthetic_size": 535})
    images = data.image_set("test")
    predicted, _ = model.predict(data.normalize(images.images))
    oracle = multiclass_confusion_matrix(predicted, images.labels, 10)
    assert results["confusion"] == oracle.tolist()
    assert results["test_count"] == 107
    assert results["devices"] == devices
    assert (oracle.sum(0) > 0).sum() > 3  # the network tells classes apart
