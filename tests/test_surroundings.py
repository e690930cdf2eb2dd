"""Jobs in unusual environments: users without a name or home, odd variables, a deleted folder, no fcntl."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import PLAIN, SCRIPTS, SYNTHETIC
from jobs import job
from PIL import Image

FEW = ("--accelerator", "cpu", "--data.batch_size", 4, "--max_steps", 3)


def run(tmp_path, *arguments, launcher=(), script="fit", **env):
    """Runs a script with variables `env` (None: not set); returns (code, stdout, stderr), the last two as lines."""
    whole = {**os.environ, **PLAIN, **env}
    done = subprocess.run(
        [str(part) for part in (*launcher, sys.executable, SCRIPTS / f"{script}.py", *arguments)],
        cwd=tmp_path,
        env={name: value for name, value in whole.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def make_pets(home):
    for part in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (home / "pets" / part).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), (i * 60, 0, 0)).save(home / "pets" / part / f"{i}.png")


@pytest.mark.skipif(not shutil.which("setpriv") or os.getuid() != 0, reason="needs to become a user without a name")
def test_a_user_without_a_name_or_home_can_train(tmp_path):
    """fit runs without warnings for a user id without name or home, who may not write to the folder of images."""
    make_pets(tmp_path)
    (tmp_path / "work").mkdir(mode=0o777)
    (tmp_path / "work").chmod(0o777)
    launcher = ("setpriv", "--reuid", 12_345, "--regid", 12_345, "--clear-groups")
    launcher += (
        "--inh-caps",
        "-all,+dac_read_search",
        "--ambient-caps",
        "-all,+dac_read_search",
    )  # only root may be able to read Python
    if subprocess.run([*map(str, launcher), "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs to hand on a right, which a container's root may not have")
    names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    env = {**dict.fromkeys(names), "MPLBACKEND": "nonsense"}
    flags = (*FEW, "--data.source", "folder", "--data.data_dir", tmp_path / "pets")
    code, _, err = run(tmp_path / "work", *flags, launcher=launcher, **env)
    assert code == 0, err
    assert {line.split()[0] for line in err} == {"epoch"}
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lightning_logs"]
    assert {path.name for path in (tmp_path / "pets").iterdir()} == {"train", "test"}


WARNS = """
import builtins, warnings
real = builtins.__import__
def warning(name, *rest, **named):
    if name == "torchmetrics":
        warnings.warn("torchmetrics is old", DeprecationWarning)
    return real(name, *rest, **named)
builtins.__import__ = warning
"""


@pytest.mark.soak
def test_odd_environment_variables_do_not_disturb_a_run(tmp_path):
    """A run prints its table despite COLUMNS=0, a missing temporary folder, the C locale and PYTHONWARNINGS=error."""
    env = {
        "COLUMNS": "0",
        "TMPDIR": str(tmp_path / "gone"),
        "LC_ALL": "C",
        "PYTHONWARNINGS": "error",
        "FAULT_PLAIN": "",
    }
    env |= with_sitecustomize(tmp_path, WARNS)
    code, out, err = run(tmp_path, *SYNTHETIC, *FEW, "--data.synthetic_size", 100, **env)
    assert code == 0, err
    assert any("DeprecationWarning: torchmetrics is old" in line for line in err)  # shown, but not as an error
    assert err[-1].startswith("epoch 1/2")
    assert {"Accuracy", "airplane", "truck"} <= {line.split()[0] for line in out if line}


def with_sitecustomize(home, source):
    """Returns an environment in which Python runs `source` as it starts."""
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(source)
    return {"PYTHONPATH": os.pathsep.join([str(home / "site"), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("script", ["fit", "evaluate", "predict"])
def test_a_deleted_current_folder_is_an_error_of_one_line(tmp_path, script):
    command = [
        "sh",
        "-c",
        'mkdir gone; cd gone; rmdir ../gone; exec "$0" "$@"',
        sys.executable,
        SCRIPTS / f"{script}.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the current folder has been deleted: cd to another folder\n"


# --- a system without fcntl: Windows ---------------------------------------------------------------------

NO_FCNTL = """
import builtins, os, signal
del signal.SIGHUP
real = builtins.__import__
def without(name, globals=None, *rest, **named):
    if name == "fcntl" and str((globals or {}).get("__name__")).startswith("cifar_lightning"):
        raise ModuleNotFoundError("No module named 'fcntl'")
    assert name != "torch" or not os.environ.get("NO_TORCH")
    return real(name, globals, *rest, **named)
builtins.__import__ = without
"""
ANEW = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "cifar_lightning"]:
    del sys.modules[name]
"""
WITHOUT_RUNS = """
import torch
from cifar_lightning import CIFAR10DataModule, LitNet, load_model
data = CIFAR10DataModule("pets", source="folder", batch_size=2)
data.prepare_data()
data.setup("fit")
images, labels = next(iter(data.train_dataloader()))
assert LitNet(classes=data.classes)(images).shape == (2, 2)
for name in ("fit", "resume", "evaluate"):
    try:
        exec(f"from cifar_lightning import {name}")
    except ImportError as error:
        print(error)
"""
NEEDS = (
    "runs and scripts need Linux or macOS, and this system has no fcntl: use WSL, or CIFAR10DataModule, LitNet and "
    "load_model from Python"
)


@pytest.fixture
def no_fcntl(tmp_path):
    return with_sitecustomize(tmp_path, NO_FCNTL)


@pytest.mark.parametrize("script", ["fit", "evaluate", "predict"])
def test_scripts_without_fcntl_say_so_before_they_import_torch(tmp_path, no_fcntl, script):
    code, _, err = run(tmp_path, "--seed", 1, script=script, **no_fcntl, NO_TORCH="1")
    assert (code, err) == (2, [f"error: {NEEDS}"])


def test_images_and_networks_work_without_fcntl(tmp_path):
    make_pets(tmp_path)
    (tmp_path / "program.py").write_text(ANEW + NO_FCNTL + WITHOUT_RUNS)
    done = job(tmp_path / "program.py", cwd=tmp_path)
    assert done.code == 0, done.text
    assert done.lines == [NEEDS] * 3
    assert (tmp_path / "pets" / ".cifar_lightning" / "folder-train.npz").exists()
