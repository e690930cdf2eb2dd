"""The command cifar-lightning, which an installed wheel has in place of scripts/; and recipes in fit()."""

import subprocess
import sys

import pytest
import yaml
from conftest import SCRIPTS, run_script

import cifar_lightning
from cifar_lightning import cli, commands, fit
from cifar_lightning.__main__ import script
from cifar_lightning.run import signals
from cifar_lightning.run.recipe import takes_recipe
from cifar_lightning.settings_file import recipes


def command(*arguments, cwd):
    run = [sys.executable, "-m", "cifar_lightning", *map(str, arguments)]
    done = subprocess.run(run, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", commands.NAMES)
def test_a_script_and_the_command_of_its_name_are_the_same(name, tmp_path):
    (line,) = [
        line for line in (SCRIPTS / f"{name}.py").read_text().splitlines() if "commands" in line and "from" in line
    ]
    assert line == f"from cifar_lightning.commands.{name} import script"
    code, out, err = command(name, "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: cifar-lightning {name} ")
    assert f"\ncifar-lightning {name} " in out  # an example
    assert "scripts/" not in out
    _, by_script, _ = run_script(name, "--help", cwd=tmp_path)
    assert by_script == out.replace(f"cifar-lightning {name}", f"python scripts/{name}.py")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 0, "usage: cifar-lightning COMMAND"),
        (("--help",), 0, "  predict   Names what is in a picture"),
        (("--version",), 0, cifar_lightning.__version__),
        (("evalute",), 2, "error: unknown command evalute: did you mean evaluate?"),
        (
            ("train", "--seed", "1"),
            2,
            "unknown command train: choose from fit, evaluate, predict, compare, export, data, status, or use --help",
        ),
        (("fit", "--max_epoch", "1"), 2, "error: unknown flag --max_epoch: did you mean --max_epochs?"),
    ],
)
def test_a_command_gives_its_exit_code_and_message(monkeypatch, capsys, arguments, code, said):
    monkeypatch.setattr(signals, "install", lambda: None)
    monkeypatch.setattr(sys, "argv", ["cifar-lightning", *arguments])
    assert cli.run(script) == code
    assert said in "".join(capsys.readouterr())


def test_preformatted_help_fits_a_terminal_of_80_columns(capsys):
    """The list of commands fits, and so does the first part of each help, also with the longer names of a checkout."""
    script(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in commands.NAMES:
        doc = sys.modules[commands.load(name).__module__].__doc__
        lines += doc.replace(f"cifar-lightning {name}", f"python scripts/{name}.py").splitlines()
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_the_command_fit_runs_a_whole_job(plain, tmp_path, monkeypatch, capsys, process):
    small = ("--data.source", "synthetic", "--data.synthetic_size", 100, "--max_epochs", 1, "--accelerator", "cpu")
    if process:
        code, out, err = command("fit", *small, cwd=tmp_path)
    else:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(signals, "install", lambda: None)
        monkeypatch.setattr(signals, "installed", lambda: True)
        monkeypatch.setattr(sys, "argv", ["cifar-lightning", "fit", *map(str, small)])
        code, (out, err) = cli.run(script), capsys.readouterr()
    assert code == 0, err
    assert out.startswith("lightning_logs/version_0 starts")


def config(folder, number=0):
    return yaml.safe_load((folder / "lightning_logs" / f"version_{number}" / "config.yaml").read_text())


def test_fit_applies_a_recipe_like_the_command_line(plain, call, tmp_path):
    small = {"source": "synthetic", "synthetic_size": 100, "batch_size": 10}
    fit(small, {"lr": 0.01}, recipe="quick", max_steps=3, accelerator="cpu", default_root_dir=tmp_path)
    flags = [f"--data.{name}={value}" for name, value in small.items()]
    code, _, err = call(
        "fit", "--recipe", "quick", *flags, "--model.lr", 0.01, "--max_steps", 3, "--accelerator", "cpu"
    )
    assert code == 0, err
    by_name, by_flag = config(tmp_path), config(tmp_path, 1)
    assert by_name.pop("default_root_dir") == str(tmp_path)
    assert by_flag.pop("default_root_dir") == "."
    assert by_name == by_flag
    assert (by_name["model"]["net"], by_name["model"]["lr"], by_name["model"]["sizes"]) == ("speed", 0.01, [16, 24])


def test_given_epochs_override_the_max_steps_of_a_recipe(plain, tmp_path):
    small = {"source": "synthetic", "synthetic_size": 100, "batch_size": 50}
    fit(small, recipe="speed54", max_epochs=1, accelerator="cpu", default_root_dir=tmp_path)
    assert config(tmp_path)["max_steps"] == -1


def test_an_unknown_recipe_is_an_error_that_lists_all():
    with pytest.raises(cifar_lightning.InputError, match=f"unknown recipe 'fast': choose from {', '.join(recipes())}"):
        fit(recipe="fast")


def test_given_settings_override_a_recipe_in_every_group():
    @takes_recipe
    def settings(data=None, trainer=None, recipe=None, **others):
        return {"data": data, "trainer": trainer}

    given = settings({"batch_size": 7}, recipe="resnet18", trainer={"limit_train_batches": 2})
    assert given["data"] == {**settings(recipe="resnet18")["data"], "batch_size": 7}
    assert given["trainer"] == {"benchmark": True, "limit_train_batches": 2}
    assert settings(trainer={"limit_train_batches": 2})["trainer"] == {"limit_train_batches": 2}
