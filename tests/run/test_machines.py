"""The network between machines: names that lead nowhere, and machines that are gone.

Two machines are two network namespaces, with a switch between them whose cable can be pulled: `-m soak`, as root.
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
import time
from contextlib import suppress

import pytest
import torch
from conftest import PLAIN, SCRIPTS
from jobs import SMALL, differences, end, processes_of, start, step_of
from test_cluster import by_name
from torch.distributed import HashStore

from cifar_lightning import fake_data, stop
from cifar_lightning.errors import InputError, LostRankError, Stopped
from cifar_lightning.run import devices, machines, signals, training
from cifar_lightning.run.cluster import Rank, this_rank
from cifar_lightning.run.devices import stopped_together
from cifar_lightning.run.machines import interface, watched
from cifar_lightning.run.metrics_log import read_rows
from cifar_lightning.run.settings import places_in

BROKEN = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer"
LONG = (*SMALL, "--data.synthetic_size", 20_000, "--max_epochs", 50)
namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"), reason="needs root, ip and unshare"
)


def ranks():
    return [Rank("the launcher", rank, 2, 0, 1, "127.0.0.1", 29_500) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("name", "itself"),
    [("127.0.1.1", True), ("localhost", True), ("no-such-machine.invalid", True), ("192.0.2.1", False)],
)
def test_names_that_mean_another_machine_to_each(name, itself):
    assert machines._leads_to_itself(name) is itself


def test_each_machine_takes_the_interface_that_leads_to_the_other(monkeypatch):
    """Also the first, which finds itself where they meet."""
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
def test_interfaces_are_known_by_their_addresses():
    assert machines._interface_with("127.0.0.1") == "lo"
    assert machines._interface_with("192.0.2.1") is None
    assert machines._here("127.0.0.1") is None
    assert machines._here("no-such-machine.invalid") is None


def first_while(other):
    """What becomes of the first rank, whose connection to the other fails after that one has done this."""
    store = HashStore()
    with watched(ranks()[0], store):
        other(store)
        raise RuntimeError(BROKEN)


def test_an_error_of_a_connection_is_that_of_who_has_left_it():
    def fails(store):
        with suppress(OSError), watched(ranks()[1], store):
            raise OSError("no space left")

    with pytest.raises(LostRankError, match=f"rank 1 on {socket.gethostname()} has ended"):
        first_while(fails)


def test_a_rank_that_is_done_is_not_lost(monkeypatch):
    """Nor is a stranger at the door any rank."""
    monkeypatch.setattr(machines, "LEAVE_SECONDS", 0.1)

    def is_done(store):
        port = json.loads(store.get("cifar_lightning/watch"))["port"]
        socket.create_connection(("127.0.0.1", port)).close()
        with watched(ranks()[1], store):
            pass

    with pytest.raises(RuntimeError, match="by peer") as raised:
        first_while(is_done)
    assert not isinstance(raised.value, LostRankError)


@pytest.mark.parametrize(
    ("error", "signum"), [(Stopped(signal.SIGUSR1), signal.SIGUSR1), (KeyboardInterrupt(), signal.SIGINT)]
)
def test_a_rank_that_is_told_to_stop_tells_the_others(monkeypatch, error, signum):
    """In a test, where they do not ask one another: a scheduler has sent its signal to one machine alone.

    In a program of a user's own the one is raised as the other.
    """
    monkeypatch.setattr(signals, "_phase", signals.Phase.DEFERRED)
    monkeypatch.setattr(stop, "requested", 0)

    def first(store):
        with watched(ranks()[0], store), stopped_together():
            with suppress(Stopped, KeyboardInterrupt), watched(ranks()[1], store):
                raise error
            raise RuntimeError(BROKEN)

    with pytest.raises(Stopped) as stopped:
        first(HashStore())
    assert stopped.value.signum == signum


def test_a_program_of_a_users_own_is_not_ended_by_what_another_rank_is_told(monkeypatch):
    """It has no run now, and nobody has asked for its signals."""
    ended = []
    monkeypatch.setattr(signals, "_end", ended.append)
    monkeypatch.setattr(signals, "_phase", signals.Phase.START_UP)
    monkeypatch.setattr(signals, "_handled", ())
    signals.receive(signal.SIGTERM, passed_on=True)
    monkeypatch.setattr(signals, "_handled", (signal.SIGTERM,))
    signals.receive(signal.SIGTERM, passed_on=True)
    assert ended == [signal.SIGTERM]


def test_the_first_rank_tells_the_others_at_once(monkeypatch):
    heard, store = [], HashStore()
    monkeypatch.setattr(signals, "receive", lambda *given, **how: heard.append((*given, how)))
    first, second, third = (Rank("the launcher", rank, 3, 0, 1, "127.0.0.1", 29_500) for rank in range(3))
    with watched(first, store), watched(third, store):
        with suppress(Stopped), watched(second, store):
            raise Stopped(signal.SIGUSR1)
        deadline = time.monotonic() + 30
        while len(heard) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert heard == [(signal.SIGUSR1, {"passed_on": True})] * 2


def of_one_machine(rank):
    """As srun without `--kill-on-bad-exit` starts them there, and does not care."""
    return {**by_name(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize("launcher", [pytest.param(by_name, marks=pytest.mark.soak), of_one_machine])
def test_who_waits_for_a_rank_that_was_killed_says_which_and_how_to_go_on(tmp_path, launcher):
    both = [start("fit", *SMALL, cwd=tmp_path, env=launcher(rank), fault="kill@1:train:10") for rank in (0, 1)]
    both[0].fault = ""  # the other's
    first, other = [end(rank) for rank in both]
    assert (first.code, other.code) == (1, -9)
    how = "go on with --resume lightning_logs/version_0"
    assert first.lines[-1] == f"error: rank 1 on {socket.gethostname()} has ended; {how}"
    assert "Traceback" not in first.text


def both(script, *arguments, homes, fault="", launcher=by_name):
    """Runs a script as two ranks, in a folder each."""
    ranks = [start(script, *arguments, cwd=home, env=launcher(n), fault=fault) for n, home in enumerate(homes)]
    ranks[0 if "@1:" in fault else 1].fault = ""  # the other's
    return [end(rank) for rank in ranks]


def test_machines_without_a_common_disk(whole, tmp_path):
    """The first reads and writes, and the others are told: a run, its interruption, and its test, to the bit."""
    homes = [tmp_path / "first", tmp_path / "other"]
    for home in homes:
        home.mkdir()
    stopped = both("fit", *SMALL, homes=homes, fault="usr1@1:train:10")
    assert [rank.code for rank in stopped] == [138, 138], stopped[1].text
    assert stopped[0].lines[-1] == "stopped by SIGUSR1; go on with --resume lightning_logs/version_0"
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


@pytest.mark.soak
@pytest.mark.parametrize("launcher", [by_name, of_one_machine])
@pytest.mark.parametrize("place", ["val:1", "test:1"])
def test_the_other_rank_alone_is_told_to_stop(whole, tmp_path, place, launcher):
    """Where no step is left at which they could agree on it: one line, no error, and nothing lost."""
    homes = [tmp_path / "first", tmp_path / "other"]
    for home in homes:
        home.mkdir()
    stopped = both("fit", *SMALL, homes=homes, fault=f"usr1@1:{place}", launcher=launcher)
    assert [rank.code for rank in stopped] == [138, 138], stopped[0].text + stopped[1].text
    assert stopped[0].lines[-1] == "stopped by SIGUSR1; go on with --resume lightning_logs/version_0"
    assert (stopped[1].text, "Traceback" in stopped[0].text) == ("", False)
    assert [rank.code for rank in both("fit", "--resume", "auto", *SMALL, homes=homes)] == [0, 0]
    assert differences(homes[0] / "lightning_logs" / "version_0", whole[2]) == []


def test_each_machine_has_its_images_where_it_says(finished, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda folder, settings, *_: seen.append(settings.data))
    places = places_in({"data.data_dir": "/here", "data.batch_size": 4})
    assert training.run_rank(str(finished.folder), places=places)["test_count"] == 600
    assert (seen[0]["data_dir"], seen[0]["batch_size"]) == ("/here", 20)


def test_what_is_wrong_on_the_first_machine_is_so_on_all(monkeypatch):
    sent, rank = [], 0

    def broadcast(found, *args, **kwargs):
        if rank == 0:
            sent.append(pickle.dumps(found))
        else:
            found[:] = pickle.loads(sent[-1])

    def fails():
        raise InputError("checkpoint none.ckpt does not exist")

    monkeypatch.setattr(devices, "world_size", lambda: 2)
    monkeypatch.setattr(devices.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(devices.dist, "get_rank", lambda: rank)
    monkeypatch.setattr(devices.dist, "broadcast_object_list", broadcast)
    assert devices.on_first_rank(lambda: {"step": torch.tensor(3)}) == {"step": 3}
    rank = 1
    assert devices.on_first_rank(fails) == {"step": 3}  # which it does not call
    rank = 0
    with pytest.raises(InputError, match=r"none.ckpt does not exist"):
        devices.on_first_rank(fails)
    rank = 1
    with pytest.raises(InputError, match=r"none.ckpt does not exist"):
        devices.on_first_rank(lambda: None)


def test_machines_with_other_images_are_named(monkeypatch):
    """By every rank: whichever is heard, it says which one to look at."""
    images = fake_data(100)

    def gather(found, mine, group):
        found[:] = [mine, ([mine[0][0], mine[0][1] + 1], "/there on node2")]

    monkeypatch.setattr(devices, "world_size", lambda: 2)
    for name, value in (("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(devices.dist, name, lambda value=value: value)
    monkeypatch.setattr(devices.dist, "all_gather_object", gather)
    with pytest.raises(InputError, match=r"the images of rank 1 \(/there on node2\) are not those of rank 0 \(.*"):
        devices.check_same_images(images, "train", "test")
    monkeypatch.setattr(
        devices.dist, "all_gather_object", lambda found, mine, group: found.__setitem__(slice(None), [mine] * 2)
    )
    devices.check_same_images(images, "train", "test")


@pytest.mark.soak
def test_the_machine_that_is_left_goes_on(whole, tmp_path):
    """Elastic: agents of torchrun, of which one is killed with its rank; the other starts its own again, alone."""
    endpoint = f"127.0.0.1:{this_rank(by_name(0)).port + 2}"
    shared = ("--nnodes", "1:2", "--nproc-per-node", 1, "--max-restarts", 1, "--rdzv-backend", "c10d")
    note = tmp_path / "note"
    env = {**os.environ, **PLAIN, "FAULT": "kill-all@1:train:10", "FAULT_NOTE": str(note)}
    both = []
    with (tmp_path / "said").open("w") as said:
        for number, host in enumerate(("true", "false")):
            own = ("--rdzv-conf", f"is_host={host},last_call_timeout=5,keep_alive_interval=1")
            own += ("--rdzv-endpoint", endpoint, "--local-addr", f"127.0.0.{number + 1}")  # by which they are ordered
            command = (sys.executable, "-m", "torch.distributed.run", *shared, *own, SCRIPTS / "fit.py", *SMALL)
            command = [*map(str, command), "--resume", "auto"]
            both.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said, stderr=said))
        codes = [process.wait(120) for process in both]
    text = (tmp_path / "said").read_text()
    assert codes == [0, -signal.SIGKILL], text
    assert note.exists()
    assert ": 2 x cpu, batch 20 = 2 x 10" in text
    assert re.search(r"version_0 goes on from step-\d+.ckpt: 1 x cpu, batch 20", text)
    runs = [tmp_path / "lightning_logs" / "version_0", whole[1]]
    rows = [[row["train_loss"] for row in read_rows(run / "metrics.csv")] for run in runs]
    assert rows[0] == pytest.approx(rows[1], abs=1e-5)
    results = [json.loads((run / "results.json").read_text()) for run in runs]
    assert [result["devices"] for result in results] == [1, 1]
    for same in ("images_seen", "test_count", "global_batch_size"):
        assert results[0][same] == results[1][same]


class Machine:
    """Namespaces of its own: a network, a name, and what names lead to."""

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
        """Starts scripts/fit.py there; gives the process, and notes what it says in its name's file."""
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
    """A switch and two machines on it, each of which has its own name for 127.0.1.1, as Debian's installer has it."""
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
def test_machines_whose_names_lead_to_themselves(network, whole, tmp_path, launcher):
    both = start_both(network, tmp_path, SMALL, launcher)
    codes = [process.wait(300) for process in both]
    assert codes == [0, 0], "\n".join(machine.said(tmp_path) for machine in network[1:])
    assert differences(tmp_path / "lightning_logs" / "version_0", whole[2]) == []


@pytest.mark.soak
@namespaces
@pytest.mark.parametrize("launcher", [by_hand, by_torchrun])
def test_a_cable_is_pulled(network, tmp_path, launcher):
    """Within a minute both sides end, and say which machine is not there."""
    both = start_both(network, tmp_path, LONG, launcher)
    step_reached(tmp_path / "lightning_logs" / "version_0", both)
    network[0].do("ip link set n2 down")
    deadline = time.monotonic() + 60
    ends = [f"error: machine {other}, does not answer (" for other in ("n2, of rank 1", "n1, of rank 0")]
    how = "go on with --resume lightning_logs/version_0\n"
    for machine in network[1:]:
        while how not in machine.said(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.5)
    if launcher is by_hand:  # an agent that has lost the other waits on
        assert [process.wait(10) for process in both] == [1, 1]
    for machine, line in zip(network[1:], ends, strict=True):
        said, *_ = machine.said(tmp_path).partition("torch/distributed/elastic/")  # then its agent has a traceback
        assert said.count(line) == said.count(how) == 1, said
        assert "Traceback" not in said, said


@pytest.mark.soak
@namespaces
def test_a_machine_is_killed(network, tmp_path):
    both = start_both(network, tmp_path, LONG, by_hand)
    step_reached(tmp_path / "lightning_logs" / "version_0", both)
    both[1].kill()
    assert both[0].wait(60) == 1
    assert network[1].said(tmp_path).splitlines()[-1].startswith("error: rank 1 on n2 has ended; go on with --resume")
