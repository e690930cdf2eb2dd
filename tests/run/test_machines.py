"""Tests jobs on several machines: names that lead nowhere, lost ranks and machines, and elastic jobs.

With `-m soak`, as root, two machines are two network namespaces with a switch between them, whose cable can be pulled.
"""

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from itertools import repeat
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import PLAIN, SCRIPTS
from jobs import SMALL, contents, differences, end, processes_of, start, step_of
from test_cluster import by_name
from torch import multiprocessing
from torch.distributed import HashStore

from cifar_lightning import fake_data, stop
from cifar_lightning.errors import InputError, LostRankError, Stopped
from cifar_lightning.run import machines, presence, process_group, signals, training
from cifar_lightning.run.changes import places_in
from cifar_lightning.run.cluster import Rank, rank_in
from cifar_lightning.run.machines import interface, watched
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.process_group import stopped_together

BROKEN = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer"
LONG = (*SMALL, "--data.synthetic_size", 20_000, "--max_epochs", 50)
namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"), reason="needs root, ip and unshare"
)


@contextmanager
def present(number, store, size=2):
    """A context in which a rank of this process is connected to the others."""
    rank = Rank("the launcher", number, size, 0, 1, "127.0.0.1", rank_in(by_name(0)).port)
    with watched(rank) as presence:
        process_group._connect(presence, rank, store)
        yield


def test_a_script_closes_what_an_earlier_one_in_its_process_left_open(monkeypatch):
    """A script closes the presence of an earlier one in its process, which an error has ended before its ranks met."""
    for name, value in by_name(0).items():
        monkeypatch.setenv(name, value)
    presence.begin()
    before = presence._begun
    presence.begin()
    now = presence._begun
    try:
        assert now is not before
        assert (before._server.fileno(), now.port) == (-1, before.port)
    finally:
        now.leave()
        presence._begun = None


@pytest.fixture
def one_process(monkeypatch):
    """Lets this process have several ranks of one job: otherwise they count as its first, second and third job."""
    monkeypatch.setattr(presence, "_times", repeat(0))


@pytest.mark.parametrize(
    ("name", "itself"),
    [("127.0.1.1", True), ("localhost", True), ("no-such-machine.invalid", True), ("192.0.2.1", False)],
)
def test_names_that_lead_each_machine_to_itself(name, itself):
    assert machines._leads_to_itself(name) is itself


def test_each_machine_uses_its_interface_to_the_other(monkeypatch):
    """Each machine uses its interface to the other, also the first one, whose own address is the meeting point."""
    monkeypatch.setattr(machines, "_leads_to_itself", lambda name: True)
    monkeypatch.setattr(machines, "_here", {"n1": None, "10.0.0.2": "10.0.0.1"}.get)
    monkeypatch.setattr(machines, "_interface_with", {"10.0.0.1": "eth1", "10.0.0.2": "eth2"}.get)
    first, last = (Rank("srun", rank, 4, 0, 2, "n1", 29_500) for rank in (0, 3))
    store = HashStore()
    with monkeypatch.context() as on_the_other:
        on_the_other.setattr(machines, "_here", {"n1": "10.0.0.2"}.get)
        assert interface(last, store) == {"GLOO_SOCKET_IFNAME": "eth2"}
    assert interface(first, store) == {"GLOO_SOCKET_IFNAME": "eth1"}
    monkeypatch.setattr(machines, "_leads_to_itself", lambda name: False)
    assert interface(first, HashStore()) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's way to ask")
def test_interfaces_are_found_by_their_addresses():
    assert machines._interface_with("127.0.0.1") == "lo"
    assert machines._interface_with("192.0.2.1") is None
    assert machines._here("127.0.0.1") is None
    assert machines._here("no-such-machine.invalid") is None


def first_while(other):
    """Breaks the first rank's connection to the other rank, after that one has done `other(store)`."""
    store = HashStore()
    with present(0, store):
        other(store)
        raise RuntimeError(BROKEN)


@pytest.mark.usefixtures("one_process")
def test_a_broken_connection_is_reported_as_the_rank_that_has_ended():
    def fails(store):
        with suppress(OSError), present(1, store):
            raise OSError("no space left")

    with pytest.raises(LostRankError, match=f"rank 1 on {socket.gethostname()} has ended"):
        first_while(fails)


@pytest.mark.usefixtures("one_process")
def test_a_finished_rank_does_not_count_as_lost(monkeypatch):
    """Neither a rank that has finished nor an unknown connection to the first rank's port counts as a lost rank."""
    monkeypatch.setattr(machines, "LEAVE_SECONDS", 0.1)

    def is_done(store):
        socket.create_connection(("127.0.0.1", int(store.get("cifar_lightning/port")))).close()
        with present(1, store):
            pass

    with pytest.raises(RuntimeError, match="by peer") as raised:
        first_while(is_done)
    assert not isinstance(raised.value, LostRankError)


@pytest.mark.parametrize(
    ("error", "signum"), [(Stopped(signal.SIGUSR1), signal.SIGUSR1), (KeyboardInterrupt(), signal.SIGINT)]
)
@pytest.mark.usefixtures("one_process")
def test_a_rank_that_is_told_to_stop_tells_the_others(monkeypatch, error, signum):
    """A rank that is told to stop tells the others, because a scheduler may signal one machine only.

    Ranks do not ask each other during an evaluation. A user's own program raises KeyboardInterrupt instead of Stopped.
    """
    monkeypatch.setattr(signals, "_phase", signals.Phase.DEFERRED)
    monkeypatch.setattr(stop, "requested", 0)

    def first(store):
        with present(0, store), stopped_together():
            with suppress(Stopped, KeyboardInterrupt), present(1, store):
                raise error
            raise RuntimeError(BROKEN)

    with pytest.raises(Stopped) as stopped:
        first(HashStore())
    assert stopped.value.signum == signum


def test_a_signal_to_another_rank_does_not_end_a_users_own_program(monkeypatch):
    """Outside a run, a signal to another rank ends our scripts, but no program that has not installed our handlers."""
    ended = []
    monkeypatch.setattr(signals, "_end", ended.append)
    monkeypatch.setattr(signals, "_phase", signals.Phase.START_UP)
    monkeypatch.setattr(signals, "_handled", ())
    assert not signals.receive(signal.SIGTERM, passed_on=True)
    monkeypatch.setattr(signals, "_handled", (signal.SIGTERM,))
    signals.receive(signal.SIGTERM, passed_on=True)
    assert ended == [signal.SIGTERM]


@pytest.mark.usefixtures("one_process")
def test_rank_0_passes_a_stop_on_to_the_other_ranks(monkeypatch):
    heard, store = [], HashStore()
    monkeypatch.setattr(signals, "receive", lambda *given, **how: heard.append((*given, how)) or True)
    with present(0, store, 3), present(2, store, 3):
        with suppress(Stopped), present(1, store, 3):
            raise Stopped(signal.SIGUSR1)
        deadline = time.monotonic() + 30
        while len(heard) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert heard == [(signal.SIGUSR1, {"passed_on": True})] * 2


def of_one_machine(rank):
    """Returns a rank's variables on one machine. Like srun without `--kill-on-bad-exit`, the launcher ends no rank."""
    return {**by_name(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize("launcher", [pytest.param(by_name, marks=pytest.mark.soak), of_one_machine])
def test_the_waiting_rank_names_a_killed_rank_and_how_to_continue(tmp_path, launcher):
    both = [start("fit", *SMALL, cwd=tmp_path, env=launcher(rank), fault="kill@1:train:10") for rank in (0, 1)]
    both[0].fault = ""  # only the other rank has a fault
    first, other = [end(rank) for rank in both]
    assert (first.code, other.code) == (1, -9)
    how = "continue with --resume lightning_logs/version_0"
    assert first.lines[-1] == f"error: rank 1 on {socket.gethostname()} has ended; {how}"
    assert "Traceback" not in first.text


ENDED = r"error: rank {} on \S+ has ended; (continue with --resume \S+|start all ranks again)"


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("kill@1:data:1", 1, ENDED.format(1)),
        ("term@1:data:1", 143, "stopped by SIGTERM.*"),
        pytest.param("kill@0:data:1", 1, ENDED.format(0), marks=pytest.mark.soak),
        pytest.param("usr1@0:data:1", 138, "", marks=pytest.mark.soak),
    ],
)
def test_a_rank_that_ends_during_start_up_ends_the_other(tmp_path, fault, code, said):
    """A rank that ends during start-up is noticed, because ranks connect as they start, long before they meet."""
    ranks = [start("fit", *SMALL, cwd=tmp_path, env=by_name(rank), fault=fault) for rank in (0, 1)]
    struck = int(fault[fault.index("@") + 1])
    ranks[1 - struck].fault = ""
    done = [end(rank, 60) for rank in ranks]
    assert done[1 - struck].code == code, done[1 - struck].text
    assert re.fullmatch(said, done[1 - struck].lines[-1] if said else done[1 - struck].text)
    assert "Traceback" not in done[0].text + done[1].text


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("kill", 1, ENDED.format(1)),
        ("term", 143, r"stopped by SIGTERM(; continue with --resume \S+)?"),  # if the first rank has its folder by then
    ],
)
def test_a_rank_that_ends_while_it_imports_torch_ends_the_other(tmp_path, kind, code, said):
    struck = {"FAULT": f"{kind}@1:import:1", "FAULT_NOTE": str(tmp_path / "note"), "PYTHONPATH": PLAIN["PYTHONPATH"]}
    command = [sys.executable, SCRIPTS / "fit.py", *map(str, SMALL)]
    first, _ = ranks = [
        subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **struck, **by_name(rank)}, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    lines = [rank.communicate(timeout=60)[1].decode().splitlines() for rank in ranks]
    assert (tmp_path / "note").exists()
    assert (first.returncode, lines[1]) == (code, [])
    assert re.fullmatch(said, lines[0][-1])


@pytest.mark.soak
def test_a_rank_that_ends_during_start_up_ends_both_agents_of_torchrun(tmp_path):
    both = [Agent(tmp_path, n, "fit", *SMALL, fault="kill@1:import:1", nodes=2, restarts=0) for n in (0, 1)]
    first, other = [agent.end(60) for agent in both]
    assert (tmp_path / "note").exists()
    assert (first.code, other.code) == (1, 1)
    assert re.match(ENDED.format(1), first.said)


def both(script, *arguments, homes, fault="", launcher=by_name):
    """Runs a script as two ranks, each in its own folder; returns how they have ended."""
    ranks = [start(script, *arguments, cwd=home, env=launcher(n), fault=fault) for n, home in enumerate(homes)]
    ranks[0 if "@1:" in fault else 1].fault = ""  # only the other rank has a fault
    return [end(rank) for rank in ranks]


@pytest.mark.soak
def test_machines_without_a_shared_disk_train_resume_and_evaluate(whole, tmp_path):
    """Only the first machine reads and writes, and an interrupted run still ends bit-identical to a whole one."""
    homes = [tmp_path / "first", tmp_path / "other"]
    for home in homes:
        home.mkdir()
    stopped = both("fit", *SMALL, homes=homes, fault="usr1@1:train:10")
    assert [rank.code for rank in stopped] == [138, 138], stopped[1].text
    assert stopped[0].lines[-1] == "stopped by SIGUSR1; continue with --resume lightning_logs/version_0"
    went_on = both("fit", "--resume", "auto", *SMALL, homes=homes)
    assert [rank.code for rank in went_on] == [0, 0], went_on[1].text
    run = homes[0] / "lightning_logs" / "version_0"
    assert differences(run, whole[2]) == []
    tested = both("evaluate", "lightning_logs/version_0", "--accelerator", "cpu", homes=homes)
    assert [rank.code for rank in tested] == [0, 0], tested[1].text
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, run / "evaluation")]
    assert results[0]["confusion"] == results[1]["confusion"]
    assert results[1]["devices"] == 2
    assert [path.name for path in homes[1].iterdir() if not path.name.startswith("log-")] == []


def test_resuming_ignores_a_folder_of_that_name_on_another_machine(whole, tmp_path):
    """Without a shared disk, a folder of that name on another machine may be another run or a group: it is not used."""
    runs = [tmp_path / home / "lightning_logs" / "version_0" for home in ("first", "other")]
    for run in runs:
        shutil.copytree(whole[2], run)
    (runs[0] / "results.json").unlink()
    config = runs[1] / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2", "max_epochs: 5"))
    (runs[1] / "group.yaml").write_text("kind: seeds\nruns: [seed_0]\n")
    before = contents(runs[1])
    command = ("fit", "--resume", "lightning_logs/version_0", "--max_epochs", 2)
    went_on = both(*command, homes=[run.parents[1] for run in runs])
    assert [rank.code for rank in went_on] == [0, 0], went_on[1].text
    assert differences(runs[0], whole[2]) == []
    assert contents(runs[1]) == before


@pytest.mark.soak
@pytest.mark.parametrize("launcher", [by_name, of_one_machine])
@pytest.mark.parametrize("place", ["val:1", "test:1"])
def test_a_signal_to_the_second_rank_alone_stops_both(whole, tmp_path, place, launcher):
    """A signal to the second rank stops both with one line, also in an evaluation, which has no step to agree at."""
    homes = [tmp_path / "first", tmp_path / "other"]
    for home in homes:
        home.mkdir()
    stopped = both("fit", *SMALL, homes=homes, fault=f"usr1@1:{place}", launcher=launcher)
    assert [rank.code for rank in stopped] == [138, 138], stopped[0].text + stopped[1].text
    assert stopped[0].lines[-1] == "stopped by SIGUSR1; continue with --resume lightning_logs/version_0"
    assert (stopped[1].text, "Traceback" in stopped[0].text) == ("", False)
    assert [rank.code for rank in both("fit", "--resume", "auto", *SMALL, homes=homes)] == [0, 0]
    assert differences(homes[0] / "lightning_logs" / "version_0", whole[2]) == []


def test_each_machine_may_have_a_data_dir_of_its_own(finished, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda folder, settings, *_: seen.append(settings.data))
    places = places_in({"data": {"data_dir": "/here"}, "data.batch_size": 4})
    assert training.run_rank(str(finished.folder), places=places)["test_count"] == 600
    assert (seen[0]["data_dir"], seen[0]["batch_size"]) == ("/here", 20)


def test_an_error_on_the_first_rank_is_raised_on_all_ranks(monkeypatch):
    sent, rank = [], 0

    def broadcast(found, *args, **kwargs):
        if rank == 0:
            sent.append(pickle.dumps(found))
        else:
            found[:] = pickle.loads(sent[-1])

    def fails():
        raise InputError("checkpoint none.ckpt does not exist")

    monkeypatch.setattr(process_group, "world_size", lambda: 2)
    monkeypatch.setattr(process_group.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(process_group.dist, "get_rank", lambda: rank)
    monkeypatch.setattr(process_group.dist, "broadcast_object_list", broadcast)
    assert process_group.on_first_rank(lambda: {"step": torch.tensor(3)}) == {"step": 3}
    rank = 1
    assert process_group.on_first_rank(fails) == {"step": 3}  # rank 1 does not call it
    rank = 0
    with pytest.raises(InputError, match=r"none.ckpt does not exist"):
        process_group.on_first_rank(fails)
    rank = 1
    with pytest.raises(InputError, match=r"none.ckpt does not exist"):
        process_group.on_first_rank(lambda: None)


def test_a_rank_with_other_images_is_named(monkeypatch):
    """The error names the rank whose images differ from rank 0's, because any of the ranks may print it."""
    images = fake_data(100)

    def gather(found, mine, group):
        found[:] = [mine, ([mine[0][0], mine[0][1] + 1], "/there on node2")]

    monkeypatch.setattr(process_group, "world_size", lambda: 2)
    for name, value in (("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(process_group.dist, name, lambda value=value: value)
    monkeypatch.setattr(process_group.dist, "new_group", lambda backend, timeout: dist.ProcessGroup(0, 2))
    monkeypatch.setattr(process_group.dist, "all_gather_object", gather)
    with pytest.raises(
        InputError, match=r"the images of rank 1 \(/there on node2\) differ from the images of rank 0 \(.*"
    ):
        process_group.check_same_images(images, "train", "test")
    monkeypatch.setattr(
        process_group.dist, "all_gather_object", lambda found, mine, group: found.__setitem__(slice(None), [mine] * 2)
    )
    process_group.check_same_images(images, "train", "test")


def _reads(rank, meeting, seconds):
    """Runs a rank that needs `seconds[rank]` to get its images, while connections time out after two seconds."""
    process_group.world_size = lambda: 2
    dist.init_process_group("gloo", f"file://{meeting}", timedelta(seconds=2), rank=rank, world_size=2)
    time.sleep(seconds[rank])
    process_group.check_same_images(fake_data(100), "train")


@pytest.mark.soak
def test_a_machine_that_still_downloads_its_images_is_waited_for(tmp_path):
    multiprocessing.spawn(_reads, (tmp_path / "meeting", (0, 5)), 2)


class Agent:
    """An agent of torchrun, which is a machine by its address: torchrun orders machines by these."""

    def __init__(self, home, number, script, *arguments, nodes="1:2", restarts=1, host=0, fault="", **variables):
        self.log = home / f"said-{number}"
        endpoint = f"127.0.0.1:{rank_in(by_name(0)).port + 2}"
        conf = f"is_host={str(number == host).lower()},last_call_timeout=5,keep_alive_interval=1"
        where = ("--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-conf", conf)
        where += ("--local-addr", f"127.0.0.{number + 1}")
        shared = ("--nnodes", nodes, "--nproc-per-node", 1, "--max-restarts", restarts, *where)
        command = (sys.executable, "-m", "torch.distributed.run", *shared, SCRIPTS / f"{script}.py", *arguments)
        once = {"FAULT": fault, "FAULT_ONCE": "1", "FAULT_NOTE": str(home / "note")}
        with self.log.open("w") as said:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=home,
                env={**os.environ, **PLAIN, **once, **variables},
                stdout=said,
                stderr=said,
            )

    def end(self, seconds=120):
        self.code, self.said = self.process.wait(seconds), self.log.read_text()
        return self


def same_but_for_rounding(home, whole, devices):
    run = home / "lightning_logs" / "version_0"
    rows = [[row["train_loss"] for row in read_rows(folder / "metrics.csv")] for folder in (run, whole[devices])]
    assert rows[0] == pytest.approx(rows[1], abs=1e-5)
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, whole[devices])]
    for same in ("devices", "images_seen", "test_count", "global_batch_size"):
        assert results[0][same] == results[1][same]


@pytest.mark.soak
def test_an_elastic_job_goes_on_without_a_killed_machine(whole, tmp_path):
    """If one of two agents of torchrun is killed with its rank, the other restarts its own rank and trains alone."""
    flags = (*SMALL, "--resume", "auto")
    both = [Agent(tmp_path, number, "fit", *flags, fault="kill-all@1:train:10") for number in (0, 1)]
    first, other = (agent.end() for agent in both)
    assert (first.code, other.code) == (0, -signal.SIGKILL), first.said
    assert (tmp_path / "note").exists()
    assert ": 2 x cpu, batch size 20 = 2 x 10" in first.said
    assert re.search(r"version_0 resumes from step-\d+.ckpt: 1 x cpu, batch size 20", first.said)
    same_but_for_rounding(tmp_path, whole, 1)


@pytest.mark.soak
@pytest.mark.parametrize("joins", [0, 1])
def test_a_machine_can_join_an_elastic_job(whole, tmp_path, joins):
    """A second machine can join an elastic job, as its first or last machine, and takes its share of the batches."""
    flags = (*SMALL, "--resume", "auto")
    shared = {"host": 1 - joins, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # otherwise torch 2.14 lets no machine join
    # The fault suspends the rank, so that the run does not end before the other machine joins.
    alone = Agent(tmp_path, 1 - joins, "fit", *flags, fault="stop@0:train:10", **shared)
    step_reached(tmp_path / "lightning_logs" / "version_0", [alone.process])
    both = [alone.end() for alone in (alone, Agent(tmp_path, joins, "fit", *flags, **shared))]
    assert [agent.code for agent in both] == [0, 0], both[0].said + both[1].said
    assert ": 1 x cpu, batch size 20" in both[0].said
    assert "version_0 resumes from step-7.ckpt: 2 x cpu, batch size 20 = 2 x 10" in both[0].said + both[1].said
    same_but_for_rounding(tmp_path, whole, 2)


@pytest.mark.soak
def test_torchrun_restarts_all_ranks_if_one_is_killed(whole, tmp_path):
    """If a rank is killed, in training or in an evaluation, torchrun restarts all ranks with the same store."""
    flags = (*SMALL, "--resume", "auto")
    run = tmp_path / "lightning_logs" / "version_0"
    for script, arguments, fault in (
        ("fit", flags, "kill@1:train:20"),
        ("evaluate", (run, "--accelerator", "cpu"), "kill@1:test:1"),
    ):
        both = [Agent(tmp_path, number, script, *arguments, fault=fault) for number in (0, 1)]
        assert [agent.end().code for agent in both] == [0, 0], both[0].said
        (tmp_path / "note").unlink()
    assert differences(run, whole[2]) == []
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, run / "evaluation")]
    assert results[0]["confusion"] == results[1]["confusion"]


def test_connected_ranks_are_waited_for_and_missing_ranks_are_named(monkeypatch):
    monkeypatch.setattr(process_group, "RANK_TIMEOUT", timedelta(seconds=0.1))
    first = Rank("the launcher", 0, 4, 0, 1, "127.0.0.1", 29_500)
    with pytest.raises(RuntimeError, match="rank 1, 3 did not arrive within 0 s"):
        process_group._name_of_the_meeting(first, SimpleNamespace(ranks={2}, early=True), HashStore())
    store = HashStore()
    threading.Timer(0.5, process_group._name_of_the_meeting, (replace(first, rank=1), None, store)).start()
    process_group._name_of_the_meeting(replace(first, world_size=2), SimpleNamespace(ranks={1}, early=True), store)


@pytest.mark.parametrize(
    ("each", "early", "absent"),
    [
        (2, True, [1, 3]),  # no rank has connected from the machine of 4 and 5
        (1, True, []),
        (None, True, []),
        (2, False, []),  # a user's own program may do anything before it calls fit
    ],
)
def test_a_rank_missing_on_a_connected_machine_is_waited_for_briefly(each, early, absent):
    """A rank that has not connected, though another of its machine has, was killed at its start: the wait is short."""
    first, there = Rank("srun", 0, 6, 0, each, "127.0.0.1", 29_500), SimpleNamespace(ranks={2}, early=early)
    found = {other: process_group._patience(first, other, there) for other in range(1, 6)}
    assert found.pop(2) == process_group.PATIENCE
    assert [other for other, patience in found.items() if patience == process_group.START_UP] == absent
    assert set(found.values()) <= {process_group.START_UP, process_group.RANK_TIMEOUT}


def test_ranks_can_meet_in_a_store_of_earlier_meetings():
    """Ranks can meet in a store that holds names of earlier ranks: torchrun keeps its store when it restarts them."""
    store, first = HashStore(), Rank("torchrun", 0, 2, 0, 1, "127.0.0.1", 29_500)
    names = []
    for _ in range(2):
        store.set("cifar_lightning/1", "cifar_lightning/one that is gone")
        other = ThreadPoolExecutor().submit(process_group._name_of_the_meeting, replace(first, rank=1), None, store)
        names.append(process_group._name_of_the_meeting(first, None, store))
        assert other.result(10) == names[-1]
    assert names[0] != names[1]


class Machine:
    """A machine made of namespaces: it has its own network, host name and /etc/hosts."""

    def __init__(self, home, name, hosts=""):
        (home / f"hosts-{name}").write_text(f"127.0.0.1 localhost\n{hosts}")
        made = f"hostname {name}; mount --bind {home}/hosts-{name} /etc/hosts; ip link set lo up; echo; exec sleep 600"
        self.process = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", made], stdout=subprocess.PIPE, text=True
        )
        with self.process.stdout as ready:
            ready.readline()
        self.started = []
        self.inside = ("nsenter", "-t", str(self.process.pid), "--net", "--uts", "--mount")

    def do(self, command):
        subprocess.run([*self.inside, *command.split()], check=True)

    def fit(self, home, flags, launcher, env):
        """Starts scripts/fit.py on this machine, with its output in a file (see `said`); returns the process."""
        env = {**os.environ, **PLAIN, **env}
        command = [*self.inside, f"--wd={home}", sys.executable, *launcher, SCRIPTS / "fit.py", *flags]
        with (home / f"said-{self.process.pid}").open("w") as said:
            options = {"env": env, "stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
            self.started.append(subprocess.Popen([*map(str, command)], **options))
        return self.started[-1]

    def said(self, home):
        return (home / f"said-{self.process.pid}").read_text()


@pytest.fixture
def network(tmp_path):
    """Yields a switch and two machines on it whose own names lead to 127.0.1.1, as Debian's installer sets them."""
    names = {"n1": "10.99.0.1", "n2": "10.99.0.2"}
    made = [Machine(tmp_path, "switch")]
    try:
        switch = made[0]
        switch.do("ip link add switch type bridge")
        switch.do("ip link set switch up")
        for name, address in names.items():
            others = "".join(f"{names[other]} {other}\n" for other in names if other != name)
            made.append(Machine(tmp_path, name, f"127.0.1.1 {name}\n{others}"))
            switch.do(f"ip link add {name} type veth peer name eth0 netns {made[-1].process.pid}")
            switch.do(f"ip link set {name} master switch up")
            made[-1].do(f"ip addr add {address}/24 dev eth0")
            made[-1].do("ip link set eth0 up")
        yield made
    finally:
        for pid in processes_of(tmp_path):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for machine in made:
            machine.process.kill()
            for process in (machine.process, *machine.started):
                process.wait()


def by_hand(rank):
    return (), {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}


def by_torchrun(rank):
    rendezvous = ("--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-endpoint", "n1:29500")
    return ("-m", "torch.distributed.run", *rendezvous), {}


def start_both(network, home, flags, launcher):
    return [machine.fit(home, flags, *launcher(rank)) for rank, machine in enumerate(network[1:])]


def step_reached(run, processes, step=7):
    while step_of(run) < step:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.2)


@pytest.mark.soak
@namespaces
@pytest.mark.parametrize("launcher", [by_hand, by_torchrun])
def test_machines_whose_names_lead_to_themselves_train_together(network, whole, tmp_path, launcher):
    both = start_both(network, tmp_path, SMALL, launcher)
    codes = [process.wait(300) for process in both]
    assert codes == [0, 0], "\n".join(machine.said(tmp_path) for machine in network[1:])
    assert differences(tmp_path / "lightning_logs" / "version_0", whole[2]) == []


@pytest.mark.soak
@namespaces
@pytest.mark.parametrize("launcher", [by_hand, by_torchrun])
def test_both_machines_report_a_pulled_cable_within_a_minute(network, tmp_path, launcher):
    """Within a minute after the cable is pulled, the ranks on both sides say which machine does not answer."""
    both = start_both(network, tmp_path, LONG, launcher)
    step_reached(tmp_path / "lightning_logs" / "version_0", both)
    network[0].do("ip link set n2 down")
    deadline = time.monotonic() + 60
    ends = [f"error: machine {other} does not answer (" for other in ("n2 of rank 1", "n1 of rank 0")]
    how = "continue with --resume lightning_logs/version_0\n"
    for machine in network[1:]:
        while how not in machine.said(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.5)
    if launcher is by_hand:  # an agent of torchrun that has lost the other goes on waiting
        assert [process.wait(10) for process in both] == [1, 1]
    for machine, line in zip(network[1:], ends, strict=True):
        said, *_ = machine.said(tmp_path).partition("torch/distributed/elastic/")  # a traceback of its agent follows
        assert said.count(line) == said.count(how) == 1, said
        assert "Traceback" not in said, said


@pytest.mark.soak
@namespaces
def test_a_killed_rank_on_another_machine_is_named(network, tmp_path):
    both = start_both(network, tmp_path, LONG, by_hand)
    step_reached(tmp_path / "lightning_logs" / "version_0", both)
    both[1].kill()
    assert both[0].wait(60) == 1
    assert (
        network[1].said(tmp_path).splitlines()[-1].startswith("error: rank 1 on n2 has ended; continue with --resume")
    )
