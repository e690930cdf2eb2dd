"""Whatever the surroundings of a user are, a sound job runs to its end, and says nothing of them."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import PLAIN, SCRIPTS
from PIL import Image

FEW = ("--accelerator", "cpu", "--data.batch_size", 4, "--max_steps", 3)


def run(tmp_path, *arguments, launcher=(), script="fit", **env):
    """Runs a script with an environment of which `env` is changed (None: not set); gives (code, lines on stderr)."""
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
    return done.returncode, done.stderr.splitlines()


@pytest.mark.skipif(not shutil.which("setpriv") or os.getuid() != 0, reason="needs to become a user without a name")
def test_a_user_of_a_container(tmp_path):
    """He has a number only: neither a name nor a home, and a folder of images that he may not write to."""
    for part in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "pets" / part).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), (i * 60, 0, 0)).save(tmp_path / "pets" / part / f"{i}.png")
    (tmp_path / "work").mkdir(mode=0o777)
    (tmp_path / "work").chmod(0o777)
    launcher = ("setpriv", "--reuid", 12_345, "--regid", 12_345, "--clear-groups")
    launcher += (
        "--inh-caps",
        "-all,+dac_read_search",
        "--ambient-caps",
        "-all,+dac_read_search",
    )  # Python may be root's
    names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    env = {**dict.fromkeys(names), "MPLBACKEND": "nonsense"}
    flags = (*FEW, "--data.source", "folder", "--data.data_dir", tmp_path / "pets")
    code, err = run(tmp_path / "work", *flags, launcher=launcher, **env)
    assert code == 0, err
    assert {line.split()[0] for line in err} == {"epoch"}
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lightning_logs"]
    assert {path.name for path in (tmp_path / "pets").iterdir()} == {"train", "test"}
