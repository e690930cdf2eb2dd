"""The tests' own helpers, which give the same to every user and on every machine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jobs
import pytest
from conftest import PROJECT, SYNTHETIC, made_once


def beside_another_sitecustomize(*arguments):
    sys.modules["sitecustomize"] = ModuleType("sitecustomize")
    jobs._main(*arguments)


def test_faults_work_beside_another_sitecustomize(tmp_path, monkeypatch):
    """Faults are injected even if Python imported another sitecustomize before the job began, as Debian's does."""
    monkeypatch.setattr(jobs, "_main", beside_another_sitecustomize)
    done = jobs.job("fit", *SYNTHETIC, cwd=tmp_path, fault="crash@-:data:1")
    assert "injected crash" in done.text


def in_conftest(expression, launcher=(), **surroundings):
    """Returns what an expression prints in a new process that has imported conftest."""
    command = [*launcher, sys.executable, "-c", f"from conftest import *; print({expression})"]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **surroundings.pop("env", {})}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, **surroundings)
    return done.stdout.strip()


def test_conftest_resets_the_umask_and_the_proxies():
    proxies = dict.fromkeys(("HTTP_PROXY", "all_proxy", "https_proxy"), "http://127.0.0.1:1")
    code = "oct(os.umask(0)), __import__('urllib.request').request.getproxies(), sorted(PROXIES)"
    found = in_conftest(code, umask=0o077, env=proxies)
    assert found == f"0o22 {{}} {[*proxies]}"


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_root_by_mapping_cannot_become_another_user():
    """Root by a mapping of its own id, as in a rootless container, counts as unable to become another user."""
    if subprocess.run(["unshare", "-r", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces of users here")
    assert in_conftest("os.getuid(), becomes_another_user()", launcher=("unshare", "-r")) == "0 False"


def test_a_shared_folder_that_failed_is_made_again(tmp_path):
    workers = SimpleNamespace(getbasetemp=lambda: tmp_path / "gw0", mktemp=lambda name: tmp_path / "gw0" / name)

    def fail(folder):
        (folder / "begun").touch()
        raise RuntimeError("the reason")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="the reason"):
            made_once(workers, "a", fail)
    copy = made_once(workers, "a", lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in copy.iterdir()) == ["made", "whole"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads TOML")
def test_the_oldest_versions_cover_every_lower_bound():
    """CI's oldest versions are the lower bounds of pyproject.toml, with those of the extras that the tests use."""
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    taken = [*project["dependencies"], *extras["test"], *extras["export"], *extras["matlab"], *extras["parquet"]]
    bounds = {line.partition(",")[0].replace(">=", "==") for line in taken if ">=" in line}
    (function,) = re.findall(r"^oldest\(\) \{$.*?^\}$", (PROJECT / ".ci" / "versions").read_text(), re.M | re.S)
    program = f'python3() {{ {sys.executable} "$@"; }}\n{function}\noldest'
    done = subprocess.run(["bash", "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} == bounds
