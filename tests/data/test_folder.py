"""Class folders: which pictures are found, how they are decoded, and the messages on files that are not."""

import io
import json
import os
import re
import shutil
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PLAIN
from jobs import job
from PIL import Image, ImageDraw, JpegImagePlugin

from cifar_lightning import CIFAR10DataModule
from cifar_lightning.data import cache
from cifar_lightning.data.cifar10 import CIFAR100_CLASSES, CLASSES
from cifar_lightning.data.layouts import class_folders
from cifar_lightning.data.pictures import decoding, helpers, reading
from cifar_lightning.data.sources import Source
from cifar_lightning.errors import ImageWarning, InputError, quoted
from cifar_lightning.run.metrics_log import read_rows

pytestmark = pytest.mark.usefixtures("own_cache")


def write_folder(top, classes=("b", "a"), size=(32, 32), count=2):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (top / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(top / split / name / f"{i}.png")


def read_image(path):
    """Returns the pixels of a picture and the remarks on it, or raises its error."""
    (found,) = reading.read_each([path])
    if isinstance(found, InputError):
        raise found
    return found


def test_pictures_are_read_by_class_and_other_files_ignored(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "a" / ".hidden").write_text("no image")
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / "README").write_text("no class")
    (tmp_path / "train" / "a" / "empty").mkdir()
    Source("folder", tmp_path).prepare()
    loaded = Source("folder", tmp_path).load("train")
    assert (loaded.images.shape, loaded.images.dtype, loaded.classes) == ((4, 3, 32, 32), torch.uint8, ("a", "b"))
    assert loaded.labels.tolist() == [0, 0, 1, 1]
    for image, name in zip(loaded.images, ["a/0", "a/1", "b/0", "b/1"], strict=True):
        with Image.open(tmp_path / "train" / f"{name}.png") as file:
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(file))


@pytest.mark.parametrize("classes", [CLASSES, CIFAR100_CLASSES])
def test_cifars_classes_keep_their_official_order(tmp_path, classes):
    write_folder(tmp_path, classes=sorted(classes, key=lambda name: name[::-1]), count=1)
    assert Source("folder", tmp_path).load("test").classes == classes


def test_changed_and_removed_pictures_are_noticed_despite_the_cache(tmp_path):
    write_folder(tmp_path)
    first = Source("folder", tmp_path).load("train")
    picture = tmp_path / "train" / "a" / "0.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    second = Source("folder", tmp_path).load("train")
    assert second.images[0].flatten(1).float().mean(1).tolist() == [255, 0, 0]
    assert torch.equal(first.images[1:], second.images[1:])
    picture.unlink()
    assert len(Source("folder", tmp_path).load("train").labels) == 3


def test_pictures_of_all_kinds_become_upright_rgb_of_32_pixels(tmp_path):
    def read(image, name="x.png", **options):
        image.save(tmp_path / name, **options)
        pixels, notes = read_image(tmp_path / name)
        assert not notes
        return pixels

    red = Image.new("RGB", (100, 50), "red")
    assert read(red).shape == (32, 32, 3)
    assert (read(red) == [255, 0, 0]).all()
    assert (read(red.convert("CMYK"), "x.jpg", quality=100)[..., 0] > 200).all()
    assert (read(Image.new("L", (40, 40), 7)) == 7).all()
    assert (read(Image.new("P", (40, 40), 0), "x.gif") == 0).all()
    assert (read(Image.new("1", (40, 40), 1)) == 255).all()
    assert (read(Image.new("RGBA", (40, 40), (255, 0, 0, 0))) == 255).all()  # transparent: on white
    assert (read(Image.new("LA", (40, 40), (0, 255))) == 0).all()
    assert (read(Image.fromarray(np.full((40, 40), 32768, np.uint16))) == 128).all()
    upright = Image.fromarray(np.repeat(np.repeat(np.array([[0], [255]], np.uint8), 16, 0), 32, 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert read(upright, "x.png", exif=exif)[0, 0, 0] == 255


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tiff(value):
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40), value)).save(file, "TIFF")
    return file.getvalue()


def test_unreadable_pictures_are_refused_by_name(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "test" / "b" / "bad.png"
    whole = (tmp_path / "test" / "b" / "0.png").read_bytes()
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(jpeg, "JPEG")
    for content, message in [
        (b"hello", "is not an image: leave it out; in a folder, hide it with a leading dot"),
        (b"", "is empty: replace or remove it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript drawing: convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC picture, Apple's format for photos: convert it"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing: convert"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page, perhaps from a failed download: download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer, not the picture: run"),
        (whole[: len(whole) // 2], "cannot be read ("),
        (jpeg.getvalue()[:-100], "cannot be read ("),
        (
            tiff(np.int32(200)),
            "cannot be read (it has 32 bits per pixel, and does not say which value is white",
        ),
        (tiff(np.float32(0.5)), "cannot be read (it has 32 bits per pixel"),
        (b"Pf\n1 1\n-1.0\n" + np.float32(0.5).tobytes(), "cannot be read (it has 32 bits per pixel"),
        (whole[:-13] + b"\0" + whole[-12:], "cannot be read (its pixels do not match its checksum"),
        (png(10_000, 10_000), "has more than 89,478,485 pixels: scale it down"),
        (png(100_000, 100_000), "has more than 89,478,485 pixels: scale it down"),
    ]:
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for read in (lambda: Source("folder", tmp_path).prepare(), lambda: read_image(path)):
                with pytest.raises(InputError) as error:
                    read()
                assert str(error.value).startswith(f"{path} {message}")
                assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"none\.png does not exist: use an image, or a folder of images"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder that cannot be read: fix it"):
        read_image(tmp_path)


def drawn(kind, size):
    """Returns a large picture: a gradient of colours, noise, or lines of text."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    if kind == "gradient":
        return Image.fromarray(
            np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1).astype(np.uint8)
        )
    if kind == "noise":
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    image = Image.new("RGB", size, (180, 190, 170))
    for top in range(0, height, 20):
        ImageDraw.Draw(image).text((top % 50, top), "The quick brown fox jumps over the lazy dog " * 20, (60, 50, 40))
    return image


@pytest.mark.parametrize("kind", ["gradient", "noise", "text"])
@pytest.mark.parametrize("size", [(1601, 1203), (700, 2100)])
def test_a_large_jpeg_is_decoded_at_reduced_size(tmp_path, monkeypatch, kind, size):
    """Decoding a large JPEG at reduced size changes no value by over 1, even if its size is odd or it is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [tmp_path / name for name in ("a.jpg", "grey.jpg", "turned.jpg")]
    image = drawn(kind, size)
    image.save(paths[0], quality=90)
    image.convert("L").save(paths[1], quality=90)
    image.save(paths[2], quality=90, exif=exif)
    loaded, draft = [], JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(
        "PIL.JpegImagePlugin.JpegImageFile.draft",
        lambda image, *args: (draft(image, *args), loaded.append(min(image.size)))[0],
    )
    part = [read_image(path)[0].astype(int) for path in paths]
    assert len(loaded) == 3
    assert min(loaded) >= 256 > min(size) / 8
    monkeypatch.setattr(decoding, "_reduced", lambda image: None)
    for path, pixels in zip(paths, part, strict=True):
        assert abs(read_image(path)[0] - pixels).max() <= 1
    assert len(loaded) == 3
    upright = part[0].transpose(1, 0, 2)[:, ::-1]
    assert abs(part[2] - upright).max() <= 1


def test_small_jpegs_and_other_kinds_are_decoded_at_full_size(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *args: asked.append(args))
    red = Image.new("RGB", (600, 600), "red")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    red.save(tmp_path / "red.png")
    red.resize((511, 600)).save(tmp_path / "small.jpg", quality=100)
    for path in tmp_path.iterdir():
        assert abs(read_image(path)[0].mean((0, 1)) - [254, 0, 0]).max() < 3
    assert asked == []


def test_large_pictures_are_given_to_threads_one_by_one(tmp_path, monkeypatch):
    """All threads share even a few large pictures, one at a time, and decode only some ahead of those in use."""
    for i in range(24):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    paths, threads, started = sorted(tmp_path.iterdir()), set(), []
    meet = threading.Barrier(3, timeout=60)
    monkeypatch.setattr(reading, "usable_cores", lambda: 3)

    def decode(paths, ask):
        started.append(paths)
        threads.add(threading.get_ident())
        if len(started) <= 3:
            meet.wait()  # until each thread has a picture
        return paths

    monkeypatch.setattr(reading, "_part", decode)
    taken = reading._in_order(paths, 10**9)
    assert next(taken) == ([paths[0]], [paths[0]])
    assert len(threads) == 3
    assert len(started) <= 3 * reading.AHEAD + 1
    assert [path for _, part in taken for path in part] == paths[1:]


@pytest.fixture
def started(monkeypatch):
    """Makes two pictures enough to start helpers, and returns the list of the helpers that are then started."""
    processes, start = [], helpers._start
    monkeypatch.setattr(reading, "usable_cores", lambda: 2)
    monkeypatch.setattr(reading, "WORTH", 1)
    monkeypatch.setattr(reading, "AT_ONCE", 4)
    monkeypatch.setattr(helpers, "_start", lambda: processes.append(start()) or processes[-1])
    return processes


def test_helpers_decode_small_pictures_as_this_process_does(tmp_path, monkeypatch, started):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
    for i in range(30):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "train" / "a" / f"{i:02}.png")
    Image.fromarray(np.full((32, 32), 99, np.uint16)).save(tmp_path / "train" / "a" / "deep.png")
    Image.new("L", (1, 1)).save(tmp_path / "test" / "a" / "x.png")
    here, decode = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path, remarks: here.append(path) or decode(path, remarks))
    decoded = class_folders.read(class_folders.scan(tmp_path, "train"))
    assert decoded.images[:, 0, 0, 0].tolist() == [*range(30), 0]
    assert "deep.png has 16 bits per value, but no value above 99 of 65,535" in decoded.notes[0]
    assert here == []  # the helpers have done it, and have ended
    assert [process.poll() is not None for process in started] == [True, True]

    wrong = tmp_path / "train" / "a" / "07.png"
    wrong.write_text("no image")
    paths = sorted(wrong.parent.iterdir())
    read = list(reading.read_each(paths))
    assert here == list(map(str, paths[4:8]))  # again here, where Pillow may know more formats
    assert [i for i, one in enumerate(read) if isinstance(one, InputError)] == [7]
    assert [one[0][0, 0, 0] for one in read[:30] if not isinstance(one, InputError)] == [*range(7), *range(8, 30)]
    with pytest.raises(InputError, match=r"07\.png"):
        class_folders.read(class_folders.scan(tmp_path, "train"))


@pytest.mark.parametrize("how", ["never begin", "are killed"])
def test_pictures_are_read_without_helpers_that_fail(tmp_path, monkeypatch, started, how):
    for i in range(60):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    if how == "never begin":
        monkeypatch.setattr(helpers, "PROGRAM", "import a_module_that_is_not_there")
    read = reading.read_each(sorted(tmp_path.iterdir()))
    first = next(read)
    if how == "are killed":
        for process in started:
            process.kill()
    assert [pixels[0, 0, 0] for pixels, _ in [first, *read]] == list(range(60))


def test_text_that_a_helper_prints_at_its_start_is_ignored(tmp_path, monkeypatch, started):
    """What a helper's sitecustomize prints is not taken for its answer."""
    for i in range(8):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    here, decode = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path, remarks: here.append(path) or decode(path, remarks))
    # In a pickle, B means as many bytes as the next four say: reading them would wait forever.
    monkeypatch.setattr(helpers, "PROGRAM", f"print('Booting', flush=True); {helpers.PROGRAM}")
    waits = threading.Timer(30, lambda: [process.kill() for process in started])
    waits.start()
    read = list(reading.read_each(sorted(tmp_path.iterdir())))
    waits.cancel()
    assert [pixels[0, 0, 0] for pixels, _ in read] == list(range(8))
    assert here == []


def test_pictures_are_read_in_order_and_only_a_few_in_advance(tmp_path, monkeypatch):
    for i in range(20):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    (tmp_path / "07.png").write_text("no image")
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "none.png"]
    monkeypatch.setattr(reading, "AT_ONCE", 2)
    started, whole = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *args: (started.append(args), whole(*args))[1])
    read = reading.read_each(paths)
    first = next(read)
    assert (first[0] == read_image(paths[0])[0]).all()
    assert len(started) <= 2 * (reading.AHEAD + 1) + 1
    rest = list(read)
    assert [i for i, one in enumerate(rest, 1) if isinstance(one, InputError)] == [7, 20]
    assert [one[0][0, 0, 0] for one in rest if not isinstance(one, InputError)] == [*range(1, 7), *range(8, 20)]
    started.clear()
    read = reading.read_each(paths)
    next(read)
    read.close()
    assert len(started) < len(paths)


def test_an_orientation_stored_after_the_pixels_is_used(tmp_path):
    upright = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 16, 0).repeat(32, 1))
    exif = Image.Exif()
    exif[0x0112] = 3
    file = io.BytesIO()
    upright.save(file, "PNG")
    (tmp_path / "x.png").write_bytes(
        chunked(file.getvalue(), b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"), at=-12)
    )
    assert read_image(tmp_path / "x.png")[0][0, 0, 0] == 255


def test_a_progress_bar_is_shown_only_in_a_terminal(tmp_path, monkeypatch):
    write_folder(tmp_path)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        shutil.rmtree(tmp_path / cache.HIDDEN, ignore_errors=True)
        Source("folder", tmp_path).load("train")
        assert ("reading pictures" in stream.getvalue()) is stream.isatty()
        assert ("4/4" in stream.getvalue()) is stream.isatty()


def test_incomplete_folders_are_refused(tmp_path):
    layout = class_folders.LAYOUT

    def check(message):
        with pytest.raises(InputError) as error:
            Source("folder", tmp_path / "data").prepare()
        assert str(error.value) == message

    data = tmp_path / "data"
    check(f"data_dir {data} does not exist: pass your images as --data.data_dir; {layout}")
    data.touch()
    check(f"data_dir {data} is not a folder, or a file of a known kind: pass your images as --data.data_dir; {layout}")
    data.unlink()
    data.mkdir()
    check(f"data_dir {data} has no folder train/: {layout}")
    (data / "train" / "a").mkdir(parents=True)
    check(f"data_dir {data} has no folder test/: {layout}")
    (data / "test").mkdir()
    check(f"{data / 'test'} lacks the class a, which train/ has: both need the same classes")
    (data / "test" / "a").mkdir()
    check(f"{data / 'train'} has no images: {layout}")
    (data / "test" / "b").mkdir()
    check(f"{data / 'train'} lacks the class b, which test/ has: both need the same classes")
    (data / "train" / "b").mkdir()
    for split in ("train", "test"):
        (data / split / os.fsdecode(b"caf\xe9")).mkdir()
    check(f"{data / 'train'} has a folder 'caf\\udce9' with a name that is not UTF-8: rename it")


def folders(top, **splits):
    """Writes class folders: `train=["cat/1.png", …]`; names of other kinds of files get text, not a picture."""
    for split, files in splits.items():
        for number, name in enumerate(files):
            path = top / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".png", ".jpg", ".webp", "") or path.suffix[1:].isdigit():
                Image.new("RGB", (32, 32), (number, 0, 0)).save(path, "PNG")
            else:
                path.write_text("no picture")


def noted(top, split="train"):
    """Returns what `load` returns, and its warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = Source("folder", top).load(split)
    assert all(warning.category is ImageWarning for warning in said)
    return loaded, [str(warning.message) for warning in said]


def test_pictures_are_found_in_subfolders_at_any_depth(tmp_path):
    train = ("c/1.png", "c/more/2.png", "c/more/again/3.png", "n01/images/n01_0.png", "n01/n01_boxes.txt")
    folders(tmp_path, train=train, test=("c/1.png", "n01/1.png"))
    loaded, said = noted(tmp_path)
    assert loaded.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert loaded.labels.tolist() == [0, 0, 0, 1]
    boxes = tmp_path / "train" / "n01" / "n01_boxes.txt"
    assert said == [f"skipped {boxes}: not a picture by its name, or not in a class folder"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_that_contains_it_is_refused_by_name(tmp_path, target):
    folders(tmp_path, train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"))
    link = tmp_path / "train" / "a" / "up "
    link.symlink_to(target, target_is_directory=True)
    with pytest.raises(InputError) as error:
        Source("folder", tmp_path).prepare()
    assert str(error.value) == f"{str(link)!r} is a link to a folder that contains the link: remove it"
    link.unlink()
    link.symlink_to(link.name)
    with pytest.raises(InputError, match=r"'.*/up ' cannot be read .Too many levels of symbolic links"):
        Source("folder", tmp_path).prepare()


@pytest.mark.parametrize(
    ("dead", "message"),
    [
        (["train/a/2.png"], "train has a broken link, {}/train/a/2.png: fix"),
        (
            ["train/a/deep/3.png", "train/a/deep/2.png"],
            "train has 2 broken links, first {}/train/a/deep/2.png: fix or remove them",
        ),
        (["train/c", "test/c"], "train has a broken link, {}/train/c: fix or remove it"),
        (["test/c"], "test has a broken link, {}/test/c"),
        (["test/a/9.png"], "test has a broken link"),
        (["train"], ": train/ is a broken link"),
        (["val"], ": val/ is a broken link"),
    ],
)
def test_broken_links_are_refused(tmp_path, dead, message):
    folders(tmp_path, train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"))
    for name in dead:
        if name == "train":
            shutil.rmtree(tmp_path / name)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=re.escape(message.format(tmp_path))):
        Source("folder", tmp_path).prepare()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_validation_images_is_used_for_validation(tmp_path, name):
    names = [f"{c}/{i}.png" for c in "ab" for i in range(3)]
    folders(tmp_path, train=names, test=names, **{name: ["b/1.png", "a/1.png", "a/2.png", "b/2.png"]})
    data = CIFAR10DataModule(tmp_path, source="folder", batch_size=2)
    data.prepare_data()
    data.setup("fit")
    images = data.image_set("train")
    assert data.train_indices.tolist() == [*range(6)]
    assert sorted(data.val_indices.tolist()) == [6, 7, 8, 9]
    assert images.images[6:, 0, 0, 0].tolist() == [1, 2, 0, 3]
    assert images.labels[6:].tolist() == [0, 0, 1, 1]
    assert images.labels[data.val_indices[:2]].sort().values.tolist() == [0, 1]  # any part is stratified
    assert sum(len(y) for _, y in data.train_dataloader()) == 6
    assert sum(len(y) for _, y in data.val_dataloader()) == 4
    assert Source("folder", tmp_path).load("test").held_out == 0
    with pytest.raises(InputError, match=r"val_split 0.5: data_dir .* already has a folder of validation images"):
        CIFAR10DataModule(tmp_path, source="folder", val_split=0.5).val_indices  # noqa: B018
    folders(tmp_path, vali=["a/1.png"])
    (tmp_path / "vali").rename(tmp_path / ("val" if name != "val" else "valid"))
    with pytest.raises(InputError, match="both for validation: keep only one"):
        Source("folder", tmp_path).prepare()


def test_validation_images_must_have_the_same_classes(tmp_path):
    folders(tmp_path, train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"), val=("a/1.png",))
    with pytest.raises(InputError, match="val lacks the class b, which train/ has"):
        Source("folder", tmp_path).prepare()
    folders(tmp_path, val=("b/1.png", "c/1.png"))
    with pytest.raises(InputError, match="train lacks the class c, which val/ has"):
        Source("folder", tmp_path).prepare()


def test_files_that_are_no_pictures_are_skipped_and_counted(tmp_path):
    others = ("a/Thumbs.db", "a/desktop.ini", "b/LICENSE.txt", "b/meta.json", "b/clip.mpg")
    folders(tmp_path, train=("a/1.png", "a/without", "b/1.0007", *others), test=("a/1.png", "b/1.png"))
    (tmp_path / "train" / "a" / "Makefile").write_text("all:")
    folders(tmp_path, train=("loose.png",))
    loaded, said = noted(tmp_path)
    assert loaded.labels.tolist() == [0, 0, 1]
    first = tmp_path / "train" / "a" / "Makefile"
    assert said == [f"skipped 7 files, first {first}: not pictures by their names, or not in a class folder"]
    assert noted(tmp_path)[1] == said  # from the cache, too
    assert noted(tmp_path, "test")[1] == []


@pytest.mark.parametrize(
    ("suffix", "kind"), [("heic", "HEIC"), ("SVG", "SVG"), ("jxl", "JPEG XL"), ("eps", "PostScript")]
)
def test_pictures_in_unsupported_formats_are_refused(tmp_path, suffix, kind):
    contents = {"HEIC": b"\0\0\0\x18ftypheic", "SVG": b"<svg/>", "JPEG XL": b"\xff\x0a", "PostScript": b"%!PS"}
    folders(tmp_path, train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"))
    (tmp_path / "train" / "a" / f"2.{suffix}").write_bytes(contents[kind])
    with pytest.raises(InputError, match=f"a/2.{suffix} is an? {kind} (picture|drawing).*: convert it to JPEG or PNG"):
        Source("folder", tmp_path).prepare()


def chunked(png, kind, data, checksum=None, at=33):
    """Returns a PNG with one more chunk, after its header or at byte `at`."""
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return png[:at] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum) + png[at:]


def test_pictures_with_broken_metadata_are_read_with_a_warning(tmp_path):
    folders(tmp_path, train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"))
    picture, red = Image.new("RGB", (32, 32), "red"), [255, 0, 0]
    sound = (tmp_path / "train" / "a" / "1.png").read_bytes()
    (tmp_path / "train" / "a" / "2.png").write_bytes(chunked(sound, b"eXIf", b"Exif, or not"))
    (tmp_path / "train" / "a" / "3.png").write_bytes(chunked(sound, b"tEXt", b"a\0b", checksum=7))
    bomb = b"a\0\0" + zlib.compress(bytes(2**22))
    (tmp_path / "train" / "a" / "4.png").write_bytes(chunked(sound, b"zTXt", bomb))
    (tmp_path / "train" / "a" / "5.png").write_bytes(chunked(sound, b"zTXt", bomb, at=-12))
    picture.save(tmp_path / "train" / "b" / "2.webp", exif=b"Exif\0\0garbage", lossless=True)
    picture.save(tmp_path / "train" / "b" / "3.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0", quality=100)
    loaded, said = noted(tmp_path)
    assert loaded.labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert loaded.images[1:5].sum() == 0
    assert (loaded.images[6:].flatten(2).float().mean(2) - torch.tensor(red)).abs().max() < 3
    first = tmp_path / "train" / "a" / "2.png"
    assert said == [f"the metadata of 5 pictures, first {first}, cannot be read: their pixels are used as stored"]
    assert noted(tmp_path)[1] == said
    pixels, notes = read_image(first)
    assert (pixels == loaded.images[1].permute(1, 2, 0).numpy()).all()
    assert notes == (f"the metadata of {first} cannot be read: the pixels are used as stored",)


def test_warnings_name_files_by_their_present_path(tmp_path, monkeypatch):
    """A moved folder is decoded again only for splits with warnings, which name files by their present path."""
    decoded, read = [], reading.read
    monkeypatch.setattr(reading, "read", lambda *args: (decoded.append(1), read(*args))[1])
    folders(tmp_path / "old", train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"))
    sound = (tmp_path / "old" / "train" / "a" / "1.png").read_bytes()
    (tmp_path / "old" / "train" / "a" / "1.png").write_bytes(chunked(sound, b"tEXt", b"a\0b", checksum=7))
    names = ["old", "new", os.fsdecode(b"caf\xe9")]
    for before, name in zip([None, *names], names, strict=False):
        if before:
            (tmp_path / before).rename(tmp_path / name)
        decoded.clear()
        for _ in range(2):
            Source("folder", tmp_path / name).prepare()
            said = noted(tmp_path / name)[1]
            first = quoted(str(tmp_path / name / "train" / "a" / "1.png"))
            assert said == [f"the metadata of {first} cannot be read: the pixels are used as stored"]
            assert noted(tmp_path / name, "test")[1] == []
        assert len(decoded) == (1 if before else 2)
    decoded.clear()
    (tmp_path / "alias").symlink_to(tmp_path / name)
    assert noted(tmp_path / "alias")[1] == said  # the path of the real folder
    assert decoded == []


def deep(path, brightest, colour):
    """Writes a picture with 16 bits per value and values up to `brightest`, such as 4,095 from a 12-bit camera."""
    values = np.linspace(0, brightest, 1024, dtype=np.uint16).reshape(32, 32)
    if not colour:
        Image.fromarray(values).save(path)
        return
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("name", ["2", "2.png"])
@pytest.mark.parametrize(("side", "why"), [(10**4, "has more than"), (10**5, "has more than"), (9, "cannot be read")])
def test_a_picture_that_is_too_large_or_unreadable_is_refused_by_any_name(tmp_path, monkeypatch, name, side, why):
    """A picture that is too large, or another user's, is refused without Pillow's warning, not skipped for its name."""
    folders(tmp_path, train=("a/1.png",), test=("a/1.png",))
    path = tmp_path / "train" / "a" / name
    path.write_bytes(png(side, side))
    opens = Image.open

    def refusing(file, *args, **kwargs):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return opens(file, *args, **kwargs)

    if side == 9:
        monkeypatch.setattr(Image, "open", refusing)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(InputError, match=f"{path} {why}"):
            Source("folder", tmp_path).load("train")
    assert said == []


@pytest.mark.parametrize("colour", [False, True])
def test_dark_pictures_with_16_bits_get_a_warning(tmp_path, colour):
    folders(tmp_path, train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"))
    for name in ("a/2.png", "b/2.png"):
        deep(tmp_path / "train" / name, 4095, colour)
    loaded, said = noted(tmp_path)
    assert loaded.images.max() == 15
    first = tmp_path / "train" / "a" / "2.png"
    what = "16 bits per value, but no value above 4,095 of 65,535"
    black = "look almost black: scale their values to all 16 bits"
    assert said == [f"2 pictures, first {first}, have {what}, and {black}"]
    black = "looks almost black: scale its values to all 16 bits"
    assert read_image(first)[1] == (f"{first} has {what}, and {black}",)
    deep(tmp_path / "train" / "b" / "3.png", 65535, colour)  # a bright one: so the others are meant to be dark
    loaded, said = noted(tmp_path)
    assert (loaded.images.max(), said) == (255, [])


def test_a_dark_picture_with_16_bits_per_pixel_gets_no_warning(tmp_path):
    head = struct.pack("<IiiHHIIiiIIIII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    start = 14 + len(head)
    path = tmp_path / "dark.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + 4, 0, 0, start) + head + bytes(4))
    pixels, notes = read_image(path)
    assert (pixels.max(), notes) == (0, ())


def test_a_class_name_in_two_unicode_forms_is_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    folders(tmp_path, train=(f"{composed}/1.png", "b/1.png"), test=(f"{decomposed}/1.png", "b/1.png"))
    folders(tmp_path, train=(f"{decomposed}/2.png",))
    loaded, _ = noted(tmp_path)
    assert loaded.classes == ("b", composed) == noted(tmp_path, "test")[0].classes
    assert loaded.labels.tolist() == [0, 1, 1]


def test_a_class_name_that_ends_in_a_space_is_quoted(tmp_path):
    folders(tmp_path, train=("cat /1.png", "dog/1.png"), test=("cat/1.png", "dog/1.png"))
    with pytest.raises(InputError, match="test lacks the class 'cat ', which train/ has"):
        Source("folder", tmp_path).prepare()


def test_class_names_that_are_numbers_are_sorted_as_numbers(tmp_path):
    names = [f"{n}/1.png" for n in range(12)]
    folders(tmp_path, train=names, test=names)
    loaded, _ = noted(tmp_path)
    assert loaded.classes == tuple(map(str, range(12)))
    assert loaded.images[:, 0, 0, 0].tolist() == [*range(12)]
    folders(tmp_path, train=("1a/1.png",), test=("1a/1.png",))
    assert noted(tmp_path)[0].classes[:4] == ("0", "1", "10", "11")


def test_the_cache_notices_changes_that_keep_sizes_and_times(tmp_path):
    names = [f"{c}/{i}.bmp" for c in "ab" for i in range(2)]
    for split in ("train", "test"):
        for number, name in enumerate(names):
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (10 * number, 0, 0)).save(path)
            os.utime(path, (1, 1))
    train = tmp_path / "train"

    def colours():
        return noted(tmp_path)[0].images[:, 0, 0, 0].tolist()

    assert colours() == [0, 10, 20, 30]
    (train / "a" / "0.bmp").rename(train / "t")  # two files swap names
    (train / "b" / "0.bmp").rename(train / "a" / "0.bmp")
    (train / "t").rename(train / "b" / "0.bmp")
    assert colours() == [20, 10, 0, 30]
    (train / "a").rename(train / "t")  # two classes swap names
    (train / "b").rename(train / "a")
    (train / "t").rename(train / "b")
    assert colours() == [0, 30, 20, 10]
    with (train / "a" / "0.bmp").open("r+b") as file:  # other pixels in place, and the time restored
        file.seek(54)
        file.write(bytes([0, 0, 99]) * 1024)
    os.utime(train / "a" / "0.bmp", (1, 1))
    assert colours() == [99, 30, 20, 10]


def test_another_version_of_pillow_invalidates_the_cache(tmp_path, monkeypatch):
    folders(tmp_path, train=("a/1.png", "b/1.png"), test=("a/1.png", "b/1.png"))
    before = class_folders.scan(tmp_path, "train").fingerprint
    assert before == class_folders.scan(tmp_path, "train").fingerprint
    monkeypatch.setattr("PIL.__version__", "99")
    assert class_folders.scan(tmp_path, "train").fingerprint != before


def test_a_run_gives_each_note_once_and_validates_on_the_validation_folder(tmp_path):
    names = [f"{c}/{i}.png" for c in "ab" for i in range(8)]
    folders(
        tmp_path / "pictures",
        train=[*names, "a/Thumbs.db"],
        test=[*names, "b/notes.json"],
        valid=names[:1] + names[8:9],
    )
    data = ("--data.source", "folder", "--data.data_dir", "pictures", "--data.batch_size", 4)
    done = job("fit", *data, "--max_epochs", 1, "--accelerator", "cpu", "--devices", 2, cwd=tmp_path, env=PLAIN)
    assert done.code == 0, done.text
    said = [line for line in done.lines if line.startswith("note:")]
    assert len(said) == 2
    assert "pictures/train/a/Thumbs.db" in said[0]
    assert "pictures/test/b/notes.json" in said[1]
    run = tmp_path / "lightning_logs" / "version_0"
    assert "val_acc" in read_rows(run / "metrics.csv")[-1]
    results = json.loads((run / "results.json").read_text())
    assert (results["test_count"], Path(results["checkpoint"]).name) == (16, "best.ckpt")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such names")
def test_a_folder_whose_name_is_not_utf8_is_read_and_cached(tmp_path):
    """A data folder may have a name that is not UTF-8, as on an old disk."""
    home = tmp_path / os.fsdecode(b"\xff")
    for split in ("train", "test"):
        for name in ("a", "b"):
            (home / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(home / split / name / "1.png")
    for _ in range(2):  # from the pictures, and from the cache
        source = Source("folder", home)
        source.prepare()
        assert len(source.load("train").labels) == 2
