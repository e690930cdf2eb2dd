"""Jobs under a real SLURM: Debian's, unpacked into a temporary folder. Needs root, and `pytest -n 0 -m soak`."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PLAIN, PROJECT, PROXIES, SCRIPTS
from jobs import SMALL, differences, step_of

from cifar_lightning.run.holder import Holder

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not shutil.which("apt-get") or os.geteuid() != 0, reason="needs Debian's packages, and root"),
]
PACKAGES = ("slurmctld", "slurmd", "slurm-client")
CONFIG = """
ClusterName=tried
SlurmctldHost={host}
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/%n
SlurmdPidFile={home}/%n.pid
SlurmctldPidFile={home}/controller.pid
SlurmctldLogFile={home}/controller.log
SlurmdLogFile={home}/%n.log
SlurmctldPort={ports[0]}
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=32 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=32 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES State=UP PriorityTier=2 PreemptMode=off
PartitionName=preemptible Nodes=n1,n2 State=UP PriorityTier=1 PreemptMode=requeue GraceTime=20
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Starts a cluster of two nodes on this machine; `slurm.call("srun", …)` runs a command in it."""
    home = tmp_path_factory.mktemp("slurm")
    (home / "debs").mkdir()
    simulated = subprocess.run(
        ["apt-get", "install", "-s", "--no-install-recommends", *PACKAGES], capture_output=True, text=True
    )
    names = re.findall(r"^Inst (\S+)", simulated.stdout, re.MULTILINE)
    download = {"cwd": home / "debs", "env": {**os.environ, **PROXIES}, "capture_output": True}
    if subprocess.run(["apt-get", "download", *names], **download).returncode or not names:
        pytest.skip("Debian's packages cannot be had")
    for package in (home / "debs").iterdir():
        subprocess.run(["dpkg", "-x", package, home / "root"], check=True)
    libraries = home / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    config = CONFIG.format(host=socket.gethostname(), home=home, plugins=libraries / "slurm-wlm", ports=ports)
    (home / "slurm.conf").write_text(config)
    env = {
        **{**os.environ, **PLAIN, "SLURM_CONF": str(home / "slurm.conf"), "COLUMNS": "100", "MASTER_ADDR": "127.0.0.1"},
        "LD_LIBRARY_PATH": f"{libraries / 'slurm-wlm'}:{libraries}",
        "PATH": f"{home / 'root' / 'usr' / 'bin'}:{os.environ['PATH']}",
    }

    def call(*command, cwd=home, check=True, **variables):
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**env, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    daemons = home / "root" / "usr" / "sbin"
    node = (daemons / "slurmd-wlm", "-d", daemons / "slurmstepd-wlm", "-N")
    for daemon in ((daemons / "slurmctld-wlm", "-i"), (*node, "n1"), (*node, "n2")):
        subprocess.run(daemon, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    try:
        for _ in range(100):
            if call("sinfo", "-h", "-p", "main", "-o", "%T %D").stdout.split() == ["idle", "2"]:
                break
            time.sleep(0.2)
        yield SimpleNamespace(call=call)
    finally:
        call("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        for pid in home.glob("*.pid"):
            os.kill(int(pid.read_text()), signal.SIGTERM)


FIT = (sys.executable, SCRIPTS / "fit.py", *SMALL)
SCRIPT = re.findall(r"```bash\n(#!.*?)```", (PROJECT / "docs" / "cluster.md").read_text(), re.DOTALL)
ONE, TWO, ARRAY, PREEMPTED, _ = SCRIPT


@pytest.mark.parametrize(
    "command",
    [
        ("srun", "-N1", "--ntasks-per-node=2", *FIT),
        ("salloc", "-J", "interactive", "-n2", "srun", "-n2", *FIT),
        ("srun", "-N2", "--ntasks-per-node=1", *FIT, "--num_nodes", 2),  # as in Lightning's documentation
        ("salloc", "-n8", *FIT, "--devices", 2),  # the process of a shell: it starts its own ranks
        ("sbatch", "--wait", "-n8", "--wrap", " ".join(map(str, (*FIT, "--devices", 2)))),
    ],
    ids=["srun", "interactive", "two nodes", "shell", "batch"],
)
def test_slurm_job_trains_one_run_bit_identical_to_our_launchers(slurm, whole, tmp_path, command):
    done = slurm.call(*command, cwd=tmp_path)
    said = done.stdout + done.stderr + "".join(path.read_text() for path in tmp_path.glob("slurm-*.out"))
    (run,) = (tmp_path / "lightning_logs").iterdir()
    assert differences(run, whole[2]) == []
    assert said.count("Accuracy") == 1
    assert "is not used" not in said


def submit(slurm, home, script, **variables):
    """Submits a script of docs/cluster.md, with small settings; returns the job's number."""
    small = " ".join(map(str, SMALL))
    for theirs, ours in (
        ("python scripts/fit.py", f"{sys.executable} {SCRIPTS / 'fit.py'}"),
        ("--recipe resnet18 --accelerator gpu", small),
        (" --checkpoint_every_n_steps 500", ""),
        ("--cpus-per-task=8", ""),
        ("--ntasks-per-node=4", f"--ntasks-per-node={2 if script is ONE else 1}"),
    ):
        assert theirs in script or theirs.startswith((" --check", "--ntasks"))
        script = script.replace(theirs, ours)
    (home / "job.sh").write_text(re.sub(r"--gpus-per-node=\d", "", script))
    return slurm.call("sbatch", "--parsable", "--output=out", "job.sh", cwd=home, **variables).stdout.strip()


# Not at once: a node refuses a job that begins in the second in which it was told to end it ("credential revoked").
SOON = "StartTime=now+3"


def wait(slurm, home):
    """Waits until no job is left; has requeued jobs, which SLURM would put off by two minutes, begin soon."""
    deadline, ended = time.monotonic() + 300, 0
    while ended < 3:  # for a moment a requeued job looks like one that has ended
        assert time.monotonic() < deadline, (home / "out").read_text()
        jobs = slurm.call("squeue", "-h", "-o", "%i %S %T %r", check=False)
        later = (datetime.now() + timedelta(seconds=30)).isoformat()
        for name, begins, *state in map(str.split, jobs.stdout.splitlines()):
            if state == ["PENDING", "BeginTime"] and begins > later:
                slurm.call("scontrol", "update", f"JobId={name}", SOON, check=False)
        ended = 0 if jobs.stdout or jobs.returncode else ended + 1
        time.sleep(1)


@pytest.mark.parametrize("script", [ONE, TWO], ids=["one", "two"])
def test_warned_job_is_requeued_until_its_run_has_finished(slurm, whole, tmp_path, script):
    """A job warned at the tenth step of each start is requeued until done; ranks agree to stop some steps later."""
    number = submit(slurm, tmp_path, script, FAULT="usr1@-:train:10")
    wait(slurm, tmp_path)
    said = (tmp_path / "out").read_text()
    assert said.count(f"job {number} is requeued") in (2, 3), said
    (run,) = (tmp_path / "lightning_logs").iterdir()
    assert differences(run, whole[2]) == []


def test_warned_tasks_of_an_array_resume_their_own_runs(slurm, whole, tmp_path):
    number = submit(slurm, tmp_path, ARRAY, FAULT="usr1@-:train:15")
    wait(slurm, tmp_path)
    said = (tmp_path / "out").read_text()
    assert [said.count(f"job {number}_{task} is requeued") for task in (0, 1)] == [2, 2], said
    runs = {Holder.of(run).job: run for run in (tmp_path / "lightning_logs").iterdir()}
    assert set(runs) == {f"{number}_0", f"{number}_1"}
    assert differences(runs[f"{number}_0"], whole[1]) == []
    assert json.loads((runs[f"{number}_1"] / "results.json").read_text())["seed"] == 1


def test_preempted_job_resumes_its_run(slurm, tmp_path):
    longer = ("--data.synthetic_size", 20_000, "--data.batch_size", 2, "--max_epochs", 1)
    script = PREEMPTED.replace("--resume auto", f"{' '.join(map(str, longer))} --resume auto")
    number = submit(slurm, tmp_path, script)
    run = tmp_path / "lightning_logs" / "version_0"
    while step_of(run) < 7:
        time.sleep(0.2)
    slurm.call("srun", "--partition=main", "--nodes=2", "--exclusive", "true")
    saved = step_of(run)
    said = (tmp_path / "out").read_text()
    assert "stopped by SIGTERM; continue with --resume lightning_logs/version_0" in said
    assert saved > 7
    slurm.call("scontrol", "update", f"JobId={number}", SOON)
    while f"resumes from step-{saved}.ckpt" not in (tmp_path / "out").read_text():
        time.sleep(0.5)
    slurm.call("scancel", number)
    wait(slurm, tmp_path)
    assert (tmp_path / "out").read_text().count("stopped by SIGTERM") == 2


def test_batch_scripts_are_found_in_the_docs():
    assert len(SCRIPT) == 5
    assert [Path(part).name for part in FIT[:2]] == [Path(sys.executable).name, "fit.py"]
