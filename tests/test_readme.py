"""What the README says can be done: its commands and its Python, as they are printed there."""

import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import made_once, run_script
from PIL import Image

from cifar_lightning.run import resuming, testing, training
from cifar_lightning.settings_file import RECIPES

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]

SCRIPTS = [command for command in COMMANDS if command[0] in ("python", "torchrun") and "-m" not in command]
AFTER_TRAINING = {"scripts/evaluate.py", "scripts/predict.py", "scripts/export.py"}
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """The folder of someone who has run the README's first command."""
    home = made_once(tmp_path_factory, "readme", _try)
    (home / "holiday").mkdir()
    for name in ("cat.jpg", "holiday/dog.jpg"):
        Image.new("RGB", (320, 200), "orange").save(home / name)
    return home


def _try(home):
    first = next(command for command in COMMANDS if "venv" in command)
    words = first[first.index("scripts/fit.py") + 1 :]
    assert words == ["--data.source", "synthetic"]
    code, _, err = run_script("fit", *words, cwd=home)
    assert code == 0, err


def test_the_readme_has_commands_and_code():
    assert len(SCRIPTS) >= 12
    assert len(PYTHON) >= 4


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_flags(command, call, monkeypatch, tmp_path):
    """Every command's flags are known and reach the function behind the script."""
    calls = []

    def recorded(function):
        @functools.wraps(function)
        def stub(*args, **kwargs):
            calls.append((function.__name__, args, kwargs))

        return stub

    for module, name in ((training, "fit"), (resuming, "resume"), (testing, "evaluate")):
        monkeypatch.setattr(module, name, recorded(getattr(module, name)))
    monkeypatch.setattr(resuming, "resume_newest", lambda root, changes: None)
    (script,) = [word for word in command if word.endswith(".py")]
    if script in ("scripts/predict.py", "scripts/export.py", "benchmarks/benchmark.py"):
        pytest.skip("run for real, below and in test_benchmark.py")
    arguments = command[command.index(script) + 1 :]
    code, _, err = call(Path(script).stem, *arguments)
    assert code == 0, err
    assert len(calls) == 1


@pytest.mark.parametrize("command", [c for c in SCRIPTS if AFTER_TRAINING & {*c}], ids=" ".join)
def test_after_training(command, call, monkeypatch, tried):
    monkeypatch.chdir(tried)
    code, out, err = call(Path(command[1]).stem, *command[2:])
    assert code == 0, err
    assert out


@pytest.mark.filterwarnings("ignore:Starting from v1.9")  # a stock Trainer's, where no TensorBoard is installed
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python(number, tried, monkeypatch, tmp_path):
    """The Python runs, on drawn images in place of a download, one batch in place of 30 epochs, a narrow network."""
    code = PYTHON[number].replace('("data"', '(source="synthetic"')
    code = code.replace("Trainer(max_epochs=30)", "Trainer(fast_dev_run=True)")
    code = code.replace('net="resnet18",', 'net="resnet18", width=8,')
    shutil.copytree(tried / "lightning_logs", tmp_path / "lightning_logs")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, f"README.md, block {number}", "exec"), names)
    for name, function in names.items():
        if name.startswith("test_"):
            function(tmp_path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_say_what_to_expect(path):
    """Their command, which the README's table names too, and figures that were measured or none."""
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert path.read_text().startswith(header)
    assert f"#   python scripts/fit.py --recipe {path.stem}" in header
    measured = re.search(r"\d %.*\(.*n = \d", " ".join(header.split()))  # with the number of runs
    assert "not measured" in header or measured
    assert f"| `{path.stem}` |" in README
