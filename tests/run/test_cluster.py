"""Launchers: the ranks that each of them starts are recognised by its variables, and train one run together."""

import json
import os
import signal
import warnings

import pytest
import torch.distributed as dist
from jobs import SMALL, context, differences, end, job, start
from lightning.fabric.plugins.environments import MPIEnvironment, SLURMEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from cifar_lightning import stop
from cifar_lightning.errors import InputError, Stopped
from cifar_lightning.run import process_group as connection
from cifar_lightning.run.cluster import LIGHTNINGS, first_host, is_first_rank, rank_in, this_rank, world_size
from cifar_lightning.run.devices import devices_and_nodes
from cifar_lightning.run.process_group import on_first_rank, process_group, stopped_together
from cifar_lightning.run.trainer import new_trainer
from cifar_lightning.run.training import fit

# What SLURM 22.05, Open MPI 5.0.11, MPICH 5.0.2 and torchrun 2.14 were seen to set, except what is never read.
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "b.sh", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
BATCH = {**JOB, "SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_TASKS_PER_NODE": "8", "SLURM_CPUS_ON_NODE": "8"}
BATCH |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_GTIDS": "0"}
SHELL = {**JOB, "SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "2", "SLURM_NPROCS": "2"}
STEP = {**JOB, "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}
STEP |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
TWO_NODES = {**STEP, "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "2"}
TWO_NODES |= {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_PROCID": "3"}
ONE_TASK = {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
OPEN_MPI |= {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "prterun-vm-24441@1", "PMIX_RANK": "1"}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2", "PMI_HOSTNAME": "vm"}
KUBEFLOW = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
TORCHRUN = {**KUBEFLOW, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, None),
        (BATCH, None),  # without a step, 8 tasks mean 8 cores
        (SHELL, None),
        (ONE_TASK, None),
        ({**STEP, "SLURM_PTY_PORT": "34989"}, None),  # srun --pty: a shell
        (STEP, ("srun", 1, 2, 1, 2, "127.0.0.1")),
        ({**STEP, "SLURM_JOB_NAME": "interactive"}, ("srun", 1, 2, 1, 2, "127.0.0.1")),
        (TWO_NODES, ("srun", 3, 4, 1, 2, "n1")),
        ({**TWO_NODES, "MASTER_ADDR": "10.0.0.1", "WORLD_SIZE": "4"}, ("srun", 3, 4, 1, 2, "10.0.0.1")),
        ({**STEP, "PMI_RANK": "1", "PMI_SIZE": "2"}, ("srun", 1, 2, 1, 2, "127.0.0.1")),  # --mpi=pmi2
        (OPEN_MPI, ("mpirun", 1, 2, 1, 2, "127.0.0.1")),
        ({**BATCH, **OPEN_MPI}, ("mpirun", 1, 2, 1, 2, "127.0.0.1")),
        ({**ONE_TASK, **HYDRA}, ("mpirun", 1, 2, 1, 2, "127.0.0.1")),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (KUBEFLOW, ("the launcher", 1, 2, 0, 1, "job-master-0")),
        ({**KUBEFLOW, "RANK": "0", "WORLD_SIZE": "1"}, None),
        ({**KUBEFLOW, "LOCAL_RANK": "1"}, ("the launcher", 1, 2, 1, None, "job-master-0")),
        (TORCHRUN, ("torchrun", 1, 2, 1, 2, "job-master-0")),
        ({**TWO_NODES, **TORCHRUN}, ("torchrun", 1, 2, 1, 2, "job-master-0")),  # inside an srun step
    ],
)
def test_rank_is_read_from_the_variables_of_each_launcher(variables, place):
    rank = rank_in(variables)
    if place is None:
        assert rank is None
    else:
        found = (rank.launcher, rank.rank, rank.world_size, rank.local_rank, rank.local_world_size, rank.address)
        assert found == place
        assert 1_024 <= rank.port < 30_000


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({**STEP, "WORLD_SIZE": "4"}, "WORLD_SIZE 4, but srun says that this is rank 1 of 2: unset WORLD_SIZE to use"),
        (
            {**OPEN_MPI, "RANK": "0"},
            "RANK 0, but mpirun says that this is rank 1 of 2: unset RANK to use the values of mpirun, or also set "
            "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT to use the environment's",
        ),
        (
            {name: value for name, value in OPEN_MPI.items() if name != "OMPI_COMM_WORLD_LOCAL_RANK"},
            "the environment has no OMPI_COMM_WORLD_LOCAL_RANK, though it has others that mpirun sets: use mpirun",
        ),
        (
            {name: value for name, value in STEP.items() if name != "SLURM_LOCALID"},
            "the environment has no SLURM_LOCALID, though it has others that srun sets: use srun",
        ),
        ({**KUBEFLOW, "RANK": "2"}, "RANK 2 of WORLD_SIZE 2: RANK must be from 0 to"),
        ({**KUBEFLOW, "RANK": "one"}, "RANK one, which is not a number"),
        *(({name: ""}, f"the environment has {name} , which is not a number: unset {name}") for name in LIGHTNINGS[1:]),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4"}, "does not say where they meet: set MASTER_ADDR, e.g. mpirun -x"),
    ],
)
def test_wrong_or_missing_launcher_variables_are_refused(variables, said):
    with pytest.raises(InputError, match=said):
        rank_in(variables)


def test_lightnings_import_reads_only_the_first_of_its_variables(monkeypatch):
    """Lightning's import ignores a later variable that is not a number, and so do we."""
    for name in LIGHTNINGS:
        monkeypatch.delenv(name, raising=False)
    for i, name in reversed([*enumerate(LIGHTNINGS)]):
        monkeypatch.setenv(name, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            _get_rank()
        monkeypatch.setenv(name, str(i))
        assert _get_rank() == i
    assert rank_in({"LOCAL_RANK": "0", "SLURM_PROCID": ""}) is None


def test_ranks_of_a_job_share_a_port_that_other_jobs_do_not_use():
    ports = [rank_in({**STEP, **change}).port for change in ({}, {"SLURM_PROCID": "0"}, {"SLURM_STEP_ID": "1"})]
    assert ports[0] == ports[1] != ports[2]
    assert rank_in({**OPEN_MPI, "MASTER_PORT": "29500"}).port == 29_500


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[007,012-014],cpu3", "gpu007"),
        ("cpu3,gpu[1-2]", "cpu3"),
        ("rack[2-3]n[4-7].site", "rack2n4.site"),
    ],
)
def test_first_host_is_read_from_slurms_lists_of_hosts(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("variables", "given", "shared"),
    [
        ({}, (None, None), (1, 1)),
        ({}, ("auto", 2), ("auto", 2)),
        (TWO_NODES, (None, None), (2, 2)),
        (TWO_NODES, ("auto", None), (2, 2)),
        (TWO_NODES, ("0,1", None), ("0,1", 2)),
        (TWO_NODES, (4, None), (4, 1)),  # refused later by `check_ranks`
        (KUBEFLOW, (None, None), (1, 2)),
        ({**KUBEFLOW, "LOCAL_RANK": "0"}, (None, 2), (1, 2)),
        ({**KUBEFLOW, "LOCAL_RANK": "0"}, (None, None), (2, 1)),
    ],
)
def test_devices_and_machines_follow_from_the_launcher(monkeypatch, variables, given, shared):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices_and_nodes(*given) == shared


@pytest.mark.parametrize("variables", [BATCH, STEP, OPEN_MPI, {}])
def test_lightning_looks_for_no_launcher(monkeypatch, tmp_path, variables):
    """In our Trainer, Lightning neither looks for a launcher nor advertises an srun that did not start this process."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    if not variables:
        with pytest.warns(match="`srun` command is available"):
            SLURMEnvironment.detect()
    for environment in (SLURMEnvironment, MPIEnvironment):
        monkeypatch.setattr(environment, "detect", lambda: pytest.fail("Lightning looks for a launcher"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = new_trainer(
            **{"accelerator": "cpu", "devices": 1, "precision": "32-true", "logger": False},
            enable_checkpointing=False,
        )
        trainer._checkpoint_connector._parse_ckpt_path(
            TrainerFn.TESTING, None, model_provided=True, model_connected=True
        )
    expected = this_rank()
    environment = trainer._accelerator_connector.cluster_environment
    assert environment.creates_processes_externally
    assert (environment.global_rank(), environment.world_size()) == (
        (expected.rank, expected.world_size) if expected else (0, 1)
    )


def a_program_with_a_process_group(home, rank):
    os.chdir(home)
    dist.init_process_group("gloo", f"file://{home}/meet", rank=rank, world_size=2)
    data = {"source": "synthetic", "synthetic_size": 100, "batch_size": 20}
    results = fit(data, accelerator="cpu", max_epochs=1)
    assert dist.get_world_size() == 2  # the program's group is still open
    assert (results["devices"], results["images_seen"], results["test_count"]) == (2, 100, 20)


def test_fit_uses_the_process_group_of_the_calling_program(tmp_path):
    """A process group that the calling program has opened, as Ray Train and Fabric do, is used and left open."""
    ranks = [context.Process(target=a_program_with_a_process_group, args=(str(tmp_path), rank)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert [run.name for run in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]


def as_srun(rank):
    return {**STEP, "SLURM_JOB_ID": str(os.getpid()), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}


def as_mpirun(rank):
    own = {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank)}
    return {**OPEN_MPI, **own, "PMIX_NAMESPACE": f"job-{os.getpid()}"}


def by_name(rank):
    port = str(rank_in(as_srun(0)).port + 1)
    return {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


@pytest.mark.parametrize(
    "launcher", [as_srun, *(pytest.param(other, marks=pytest.mark.soak) for other in (as_mpirun, by_name))]
)
def test_two_ranks_of_a_launcher_train_one_run(whole, tmp_path, launcher):
    """The run is bit-identical to one that our own launcher trains on two devices; config.yaml is not compared."""
    ranks = [start("fit", *SMALL, cwd=tmp_path, env=launcher(rank)) for rank in (0, 1)]
    done = [end(rank) for rank in ranks]
    assert [rank.code for rank in done] == [0, 0], "\n".join(rank.text for rank in done)
    assert sum(rank.text.count("Accuracy") for rank in done) == 1
    assert done[1].lines == []
    (run,) = (tmp_path / "lightning_logs").iterdir()
    assert differences(run, whole[2]) == []


def test_evaluation_uses_all_ranks_that_a_launcher_has_started(finished, tmp_path):
    flags = ("--accelerator", "cpu", "--output_dir", "here")
    ranks = [start("evaluate", finished.folder, *flags, cwd=tmp_path, env=as_srun(rank)) for rank in (0, 1)]
    done = [end(rank) for rank in ranks]
    assert [rank.code for rank in done] == [0, 0], "\n".join(rank.text for rank in done)
    assert [rank.text.count("Accuracy") for rank in done] == [1, 0]
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert results["devices"] == 2
    assert results["confusion"] == json.loads((finished.folder / "results.json").read_text())["confusion"]


def test_fit_in_a_batch_script_starts_its_own_ranks(whole, tmp_path):
    done = job("fit", *SMALL, "--devices", 2, cwd=tmp_path, env=BATCH)
    assert done.code == 0, done.text
    assert differences(tmp_path / "lightning_logs" / "version_0", whole[2]) == []


def test_broken_connection_is_no_error_for_a_rank_told_to_stop(monkeypatch):
    """A rank that stops in its start-up breaks connections, which is no error for another rank told to stop."""
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:15062")
    monkeypatch.setattr(connection, "TOLD_SECONDS", 0.1)

    def with_an_error(error):
        with stopped_together():
            raise error

    with pytest.raises(RuntimeError, match="by peer"):
        with_an_error(broken)
    monkeypatch.setattr(stop, "requested", int(signal.SIGTERM))
    with pytest.raises(Stopped):
        with_an_error(broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        with_an_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_single_process_opens_no_process_group(monkeypatch):
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank()
    assert world_size() == 1
    with process_group():
        assert not dist.is_initialized()
        assert on_first_rank(lambda: ("a", None)) == ("a", None)
