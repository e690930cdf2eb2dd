"""The commands and the Python code of the README and docs/, as they are printed there, and the headers of recipes."""

import functools
import itertools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT, made_once
from jobs import job
from PIL import Image

from cifar_lightning import fake_data, load_model
from cifar_lightning.data.cifar10 import CLASSES
from cifar_lightning.run import many, resuming, testing, training
from cifar_lightning.settings_file import RECIPES

README = PROJECT / "README.md"
TEXTS = {path: path.read_text() for path in (README, *sorted(PROJECT.glob("docs/*.md")))}


def blocks(language):
    """Returns the different code blocks of a language in all texts, {block: its place}."""
    found = {}
    for path, text in TEXTS.items():
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)):
            found.setdefault(block, f"{path.name}, block {number}")
    return found


LINES = [
    shlex.split(line, comments=True) for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()
]
COMMANDS = [command for number, command in enumerate(LINES) if command and command not in LINES[:number]]
SCRIPTS = [command for command in COMMANDS if command[0] in ("python", "torchrun") and "-m" not in command]
AFTER_TRAINING = {"scripts/evaluate.py", "scripts/predict.py", "scripts/compare.py", "scripts/export.py"}
MEASURING = {line for text in TEXTS.values() for line in re.findall(r"^python benchmarks/.*", text, re.MULTILINE)}
PYTHON = blocks("python")
IMAGES = 1_000


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Makes the folder of a user who has run the README's first command, on fewer images, and has pictures."""
    home = made_once(tmp_path_factory, "readme", _try)
    shutil.copytree(home / "lightning_logs" / "version_0", home / "lightning_logs" / "version_1")
    (home / "holiday").mkdir()
    for name in ("cat.jpg", "holiday/dog.jpg"):
        Image.new("RGB", (320, 200), "orange").save(home / name)
    _write_test_sets(home)
    return home


def _write_test_sets(home):
    """Writes CIFAR-10.1, CINIC-10 and CIFAR-10H with drawn images."""
    drawn = fake_data(IMAGES).image_set("test")
    np.save(home / "cifar10.1_v6_data.npy", drawn.images[:20].permute(0, 2, 3, 1).numpy())
    np.save(home / "cifar10.1_v6_labels.npy", drawn.labels[:20].numpy().astype(np.int32))
    np.save(home / "cifar10h-probs.npy", np.eye(10)[drawn.labels])
    for split, name in itertools.product(("train", "valid", "test"), CLASSES):
        (home / "CINIC-10" / split / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "orange").save(home / "CINIC-10" / split / name / "1.png")


def _try(home):
    first = next(command for command in COMMANDS if "venv" in command)
    words = first[first.index("scripts/fit.py") + 1 :]
    assert words == ["--data.source", "synthetic"]
    done = job("fit", *words, "--data.synthetic_size", IMAGES, cwd=home)
    assert done.code == 0, done.text


def test_the_chinese_readme_has_the_same_commands():
    """docs/zh.md has the same bash commands as the README; only the explanations differ."""
    readme, chinese = (
        [
            shlex.split(line, comments=True)
            for block in re.findall(r"```bash\n(.*?)```", TEXTS[path], re.DOTALL)
            for line in block.splitlines()
        ]
        for path in (README, PROJECT / "docs" / "zh.md")
    )
    assert chinese == readme


def test_the_first_run_is_of_drawn_images():
    """The README's first command uses drawn images, and no later one refers to the run that it makes, version_0."""
    first, *others = re.findall(r"```bash\n(.*?)```", TEXTS[README], re.DOTALL)
    assert "synthetic" in first
    assert not any("version_0" in block for block in others)


def test_commands_and_code_are_found_in_the_docs():
    assert len(SCRIPTS) >= 12
    assert len(MEASURING) >= 12
    assert len(PYTHON) >= 4


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_flags_of_the_scripts(command, call, monkeypatch, tmp_path):
    """Every command's flags are known and reach the function behind the script."""
    calls = []

    def recorded(function):
        @functools.wraps(function)
        def stub(*args, **kwargs):
            calls.append((function.__name__, args, kwargs))

        return stub

    called = ((training, "fit"), (many, "fit_many"), (resuming, "resume"), (testing, "evaluate"))
    for module, name in called:
        monkeypatch.setattr(module, name, recorded(getattr(module, name)))
    monkeypatch.setattr(resuming, "resume_newest", lambda root, changes: None)
    (script,) = [word for word in command if word.endswith(".py")]
    others = {"scripts/data.py", "scripts/ladder.py", "scripts/lesson.py", "benchmarks/benchmark.py"}
    if script in AFTER_TRAINING - {"scripts/evaluate.py"} | others:
        pytest.skip("run for real, below, in test_ladder.py, in test_lesson.py and in test_benchmark.py")
    arguments = command[command.index(script) + 1 :]
    code, _, err = call(Path(script).stem, *arguments)
    assert code == 0, err
    assert len(calls) == 1


@pytest.mark.parametrize("line", sorted(MEASURING))
def test_flags_of_the_benchmark(line, monkeypatch, tmp_path):
    """Flags of the benchmark are known, and the named comparisons run; without names all but airbench."""
    monkeypatch.chdir(tmp_path)
    import benchmark

    measured, names = [], [*benchmark.COMPARISONS]
    for name in names:
        monkeypatch.setitem(benchmark.COMPARISONS, name, lambda job, name=name: measured.append(name) or [])
    monkeypatch.setattr(benchmark, "call", lambda name, **arguments: {"gpu": "one", "train_images": IMAGES})
    (tmp_path / "airbench").mkdir()
    for script in benchmark.AIRBENCH:
        (tmp_path / "airbench" / script).touch()
    arguments = shlex.split(line, comments=True)[2:]
    benchmark.script(arguments)
    given = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    assert measured == (given or [name for name in names if name != "airbench"])


@pytest.mark.parametrize("command", [c for c in SCRIPTS if AFTER_TRAINING & {*c}], ids=" ".join)
def test_commands_that_follow_training(command, plain, call, monkeypatch, tried):
    monkeypatch.chdir(tried)
    if "--data.data_dir" in command and "--data.source" not in command:  # in the docs its run is on CIFAR-10
        command = [*command, "--data.source", "cifar10"]
    code, out, err = call(Path(command[1]).stem, *command[2:])
    assert code == 0, err
    assert out


@pytest.mark.parametrize("command", [c for c in SCRIPTS if "scripts/data.py" in c], ids=" ".join)
def test_commands_of_data_py(command, call, tmp_path):
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (320, 200), "orange").save(tmp_path / "pictures" / name / "1.jpg")
    code, out, err = call("data", *command[2:])
    assert code == 0, err
    assert "Flags for fit: --data.source folder --data.data_dir pictures\n" in out


class AnAlbum:
    """Stands for an Albumentations pipeline: takes and returns images as one does."""

    def set_random_seed(self, seed):
        self.mirror = seed % 2

    def __call__(self, image):
        assert image.shape == (32, 32, 3)
        return {"image": image[:, ::-1].copy() if self.mirror else image}


def _makes_batches(names):
    names["data"].setup("fit")
    images, _ = next(iter(names["data"].train_dataloader()))
    assert images.shape[1:] == (3, 32, 32)


def _keeps_a_tenth(few):
    train = few.image_set("train")
    assert torch.equal(10 * train.labels[few.train_indices].bincount(), train.labels.bincount())


def _has_cats_and_dogs(names):
    for split in ("train", "test"):
        whole, pets = names["whole"].image_set(split), names["pets"].image_set(split)
        assert pets.classes == ("cat", "dog")
        for label, name in enumerate(pets.classes):
            same = whole.images[whole.labels == whole.classes.index(name)]
            assert torch.equal(pets.images[pets.labels == label], same)


def _is_long_tailed(names):
    """The sizes are CIFAR-10-LT's: https://github.com/kaidic/LDAM-DRW/blob/master/imbalance_cifar.py."""
    counts = names["tail"].image_set("train").labels.bincount()
    assert counts.tolist() == [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]
    assert torch.equal(names["tail"].image_set("test").images, names["test"].images)


def _attacks(names):
    """Every pixel stays near and in range, and the loss rises; with one step it is FGSM."""
    model, images, labels, normalize = (names[name] for name in ("model", "images", "labels", "normalize"))

    def loss(pixels):
        return torch.nn.functional.cross_entropy(model(normalize(pixels)), labels)

    worse, once = names["pixels"], names["attacked"](images, labels, steps=1, step=8 / 255)
    pixels = images.clone().requires_grad_()
    loss(pixels).backward()
    torch.testing.assert_close(once, (images + 8 / 255 * pixels.grad.sign()).clamp(0, 1))
    for found in (worse, once):
        assert 0 <= found.min() <= found.max() <= 1
        assert (found - images).abs().max() <= 8 / 255 + 1e-6
    assert loss(images) < loss(once) < loss(worse)


def _distils(names):
    """The fit has left the teacher as it was, and the loss is Hinton's: https://arxiv.org/abs/1503.02531, section 2."""
    teacher, images, labels = names["teacher"], torch.randn(6, 3, 32, 32), torch.arange(6)
    assert not any(module.training for module in teacher.modules())
    before = load_model("quick").state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    student = names["Student"](teacher, temperature=3.0)
    p, q = (model(images).div(3).softmax(1).detach() for model in (teacher, student))
    hard = -student(images).softmax(1)[labels, labels].log().mean()
    soft = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(student.training_step((images, labels), 0), 0.5 * hard + 0.5 * 9 * soft)


def _are_features(names):
    model, features = names["model"], torch.cat(names["features"])
    torch.testing.assert_close(model.net.head(features) / 9, model.logits(names["images"]))  # SpeedNet divides by 9


def _is_simclr(names):
    """Against the definition, one image after another: https://arxiv.org/abs/2002.05709, equation 1."""
    model, (first, second) = names["SimCLR"](), torch.rand(2, 5, 3, 32, 32)
    vectors = torch.nn.functional.normalize(model.net(torch.cat([first, second]))).double()
    likeness = (vectors @ vectors.T / 0.5).exp()
    pairs = [*((i, i + 5) for i in range(5)), *((i + 5, i) for i in range(5))]
    expected = [-(likeness[i, j] / (likeness[i].sum() - likeness[i, i])).log() for i, j in pairs]
    loss = model.training_step(((first, second), None), 0)
    torch.testing.assert_close(loss.double(), torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)


# What else is checked of a block, by a name that it defines.
CHECKS = {
    "augmented": _makes_batches,
    "few": lambda names: _keeps_a_tenth(names["few"]),
    "pets": _has_cats_and_dogs,
    "tail": _is_long_tailed,
    "Student": _distils,
    "attacked": _attacks,
    "features": _are_features,
    "SimCLR": _is_simclr,
}


@pytest.mark.filterwarnings("ignore:Starting from v1.9")  # a stock Trainer warns without TensorBoard
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")  # the text says how many
@pytest.mark.filterwarnings("ignore:Found 41 module")  # as the text says
@pytest.mark.parametrize("block", PYTHON, ids=PYTHON.get)
def test_python_blocks_run(block, plain, tried, monkeypatch, tmp_path):
    """The Python code runs, on drawn images instead of a download, one batch instead of epochs and a narrow network."""
    code = block.replace('("data"', '(source="synthetic"').replace('{"data_dir": "data"', '{"source": "synthetic"')
    code = re.sub(r"Trainer\(max_epochs=(5|30)\)", "Trainer(fast_dev_run=True)", code)
    code = code.replace('net="resnet18",', 'net="resnet18", width=8,')
    shutil.copytree(tried / "lightning_logs", tmp_path / "lightning_logs")
    monkeypatch.chdir(tmp_path)
    for split, name in itertools.product(("train", "test"), ("cats", "dogs")):
        (tmp_path / "pets" / split / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (64, 48), "orange").save(tmp_path / "pets" / split / name / f"{number}.png")
    names: dict = {"album": AnAlbum()}
    exec(compile(code, PYTHON[block], "exec"), names)
    for name, function in names.items():
        if name.startswith("test_"):
            function(tmp_path)
    for name in CHECKS.keys() & names.keys():
        CHECKS[name](names)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_state_their_command_and_accuracy(path):
    """A recipe's header has its command, and its accuracy with n or "not measured"; a table of the docs lists it."""
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert path.read_text().startswith(header)
    assert f"#   python scripts/fit.py --recipe {path.stem}" in header
    measured = re.search(r"\d %.*\(.*n = \d", " ".join(header.split()))  # with the number of runs, n
    assert "not measured" in header or measured
    assert any(f"| `{path.stem}` |" in text for text in TEXTS.values())
