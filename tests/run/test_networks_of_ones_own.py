"""A user's network, named by its import path: how runs use it, and that its code is imported only if it is named."""

import importlib
import os
import sys

import pytest
import torch
from conftest import SYNTHETIC, one_line
from jobs import job
from torch import nn

from cifar_lightning import InputError, evaluate, fit, fit_many, load_model, resume, resume_many
from cifar_lightning.run import many
from cifar_lightning.run.networks import imported, no_unused_parameters
from cifar_lightning.run.settings import read_settings

NETS = """
from pathlib import Path
from torch import nn

Path("imported").touch()


def net(num_classes, width=4):
    return nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, width, 1), nn.Flatten(), nn.Linear(16 * width, num_classes))


class Partial(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3_072, 10))
        self.add_module("unused", nn.Linear(1, 1))

    def forward(self, images):
        return self[1](self[0](images))


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3_072, 10)

    def forward(self, images):
        return self.linear(images.view(images.size(0), -1))


def flat():
    return nn.Flatten()


def needs(depth):
    return nn.Flatten()


def nothing(**kwargs):
    return 3


def narrow():
    return nn.Linear(7, 10)


class NoSuper(nn.Module):
    def __init__(self, num_classes):
        self.linear = nn.Linear(3_072, num_classes)


class TooWide(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(7, 10)

    def forward(self, images):
        return self.linear(images.flatten(1))


class Silent(TooWide):
    def forward(self, images):
        images.flatten(1)


made, value = Viewed(), 3
"""
LINE = {line.strip(): number for number, line in enumerate(NETS.splitlines(), 1)}
DATA = {"source": "synthetic", "synthetic_size": 100, "batch_size": 20}
FIT = (*SYNTHETIC, "--data.synthetic_size", 100, "--data.batch_size", 20, "--max_epochs", 1, "--report", "false")


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Makes a folder with a package of networks, and enters it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text(NETS)
    (tmp_path / "mine" / "broken.py").write_text("import nothing_there")
    (tmp_path / "mine" / "invalid.py").write_text("def net(:\n")
    yield tmp_path
    forget()


def forget():
    """Removes the imported networks, as if this were another process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_commands_import_a_users_network_only_if_it_is_named(nets, call):
    named = ("--model.net", "mine.nets:net")
    code, _, err = call("fit", *FIT, *named, "--model.width", 8)
    assert code == 0, err
    run = nets / "lightning_logs" / "version_0"
    assert read_settings(run).model["net"] == "mine.nets:net"
    forget()
    (nets / "imported").unlink()
    needs = (
        "has the weights of a network of your own, but not its code: pass --model.net mine.nets:net, or in Python "
        "net=..."
    )
    for command in (("evaluate", run), ("predict", run, "cat.png"), ("export", run, "--format", "pt2")):
        assert needs in one_line(*call(*command))
    again = f"error: {run} trains mine.nets:net, your own code: name it again with --model.net mine.nets:net"
    assert one_line(*call("fit", "--resume", run, "--max_epochs", 2)).startswith(again)
    with pytest.raises(InputError, match="has the weights of a network of your own"):
        load_model(run)
    assert not (nets / "imported").exists()
    model = load_model(run, net="mine.nets:net")
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    sequential = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(128, 10))
    assert torch.equal(load_model(run, net=sequential).predict(images)[1], model.predict(images)[1])
    with pytest.raises(InputError, match="does not fit the network"):
        load_model(run, net="mine.nets:Viewed")
    code, out, err = call("evaluate", run, *named, "--accelerator", "cpu")
    assert code == 0, err
    assert "on 20 test images" in out
    code, _, err = call("fit", "--resume", run, *named, "--max_epochs", 2)
    assert code == 0, err
    assert (run / "checkpoints" / "step-10.ckpt").exists()


def test_two_ranks_import_a_users_network(nets):
    done = job("fit", *FIT, "--model.net", "mine.nets:Viewed", "--devices", 2, cwd=nets)
    assert done.code == 0, done.text
    run = nets / "lightning_logs" / "version_0"
    assert evaluate(run, net="mine.nets:Viewed", accelerator="cpu")["test_count"] == 20
    fit(DATA, max_epochs=1, report=False)
    with pytest.raises(InputError, match="belongs to the network tutorial: leave out net"):
        load_model(nets / "lightning_logs" / "version_1", net="mine.nets:Viewed")


def test_two_ranks_name_the_strategy_for_a_network_with_unused_parts(nets):
    run, named = nets / "lightning_logs" / "version_0", ("--model.net", "mine.nets:Partial")
    done = job("fit", *FIT, *named, "--devices", 2, cwd=nets)
    assert done.code == 1
    assert done.lines[-1].partition(": net ")[2] == (
        "mine.nets:Partial has parameters that a step does not use, which several devices do not allow: add --strategy "
        "ddp_find_unused_parameters_true; continue with --resume lightning_logs/version_0"
    )
    assert "Traceback" not in done.text
    done = job("fit", "--resume", run, *named, "--strategy", "ddp_find_unused_parameters_true", cwd=nets)
    assert done.code == 0, done.text


@pytest.mark.parametrize(
    ("strategy", "error"),
    [
        ("auto", "Expected to have finished reduction in the prior iteration: you can find_unused_parameters=True"),
        ("ddp_find_unused_parameters_true", "your module has parameters that were not used in producing loss"),
    ],
)
def test_similar_errors_are_not_taken_for_unused_parameters(strategy, error):
    with pytest.raises(RuntimeError, match=error), no_unused_parameters("mine:Net", strategy):
        raise RuntimeError(error)


WRONG = {
    "mine.nets:nope": "mine/nets.py has no nope: use a name that it has",
    "mine.nets:": "mine/nets.py has no name after the colon: use a name that it has",
    "mine.broken:net": "mine.broken cannot be imported in mine/broken.py, line 1 (ModuleNotFoundError: No module named "
    "'nothing_there'): fix it",
    "mine.invalid:net": "mine.invalid cannot be imported (SyntaxError: ",
    "nowhere:net": "nowhere cannot be imported (ModuleNotFoundError: No module named 'nowhere'): start in the folder ",
    "mine/nets.py:net": "mine/nets.py is a file, not the name of a module: use mine.nets:net",
    "./mine/../mine/nets.py:net": "is a file, not the name of a module: use mine.nets:net",
    os.path.abspath(
        os.sep + "my/nets.py:net"
    ): "/my/nets.py is a file, not the name of a module: start in /my, and use nets:net",
    "../my/nets.py:net": "../my/nets.py is a file, not the name of a module: start in ../my, and use nets:net",
    "mine.nets:made": "mine.nets:made is of type Viewed: use a class or a function that makes a network",
    "mine.nets:value": "mine.nets:value is of type int: use a class or a function that makes a network",
    "mine.nets:needs": "net mine.nets:needs: needs() fails (TypeError: needs() missing 1 required positional argument",
    "mine.nets:NoSuper": "net mine.nets:NoSuper: NoSuper(num_classes=10) fails in mine/nets.py, line "
    f"{LINE['self.linear = nn.Linear(3_072, num_classes)']} (AttributeError: ",
    "mine.nets:TooWide": "net mine.nets:TooWide fails on images of shape (2, 3, 32, 32) in mine/nets.py, line "
    f"{LINE['return self.linear(images.flatten(1))']} (RuntimeError: ",
    "mine.nets:Silent": "net mine.nets:Silent: its forward returns None: return the logits",
    "mine.nets:nothing": "mine.nets:nothing returns an object of type int: make it return a torch.nn.Module",
    "mine.nets:flat": "returns (2, 3072) for 2 images of 10 classes: make it return logits of shape (2, 10); "
    "its argument ",
    "mine.nets:narrow": "mine.nets:narrow fails on images of shape (2, 3, 32, 32) (RuntimeError: ",
    "cake": "unknown net 'cake': choose from tutorial, ",
}


@pytest.mark.parametrize("net", WRONG)
def test_unusable_networks_are_refused_in_one_line(nets, call, net):
    line = one_line(*call("fit", *FIT, "--model.net", net))
    assert WRONG[net] in line
    assert not (nets / "lightning_logs").exists()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before Python 3.14, annotations are evaluated at once")
def test_annotations_may_name_what_only_a_type_checker_imports(nets):
    (nets / "mine" / "checked.py").write_text(
        "from torch import nn\n"
        "from cifar_lightning import LitNet\n"
        "def net(num_classes: int, sizes: Sequence[int] | None = None) -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))\n"
        "class Own(LitNet):\n"
        "    def __init__(self, sizes: Sequence[int] | None = None, **arguments) -> None:\n"
        "        super().__init__(**arguments)\n"
    )
    assert isinstance(imported("mine.checked:net", 10), nn.Sequential)
    assert importlib.import_module("mine.checked").Own().hparams["net"] == "tutorial"


def test_module_that_was_rewritten_is_imported_again(nets):
    """A module rewritten by a notebook cell is imported again: an old network of equal shapes would go unnoticed."""
    of = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3_072, 10){})\n"
    losses = []
    for changed, more in ((0, ""), (1, ", nn.Softmax(1)"), (1, ", nn.Softmax(1)"), (2, "")):
        (nets / "cell.py").write_text(of.format(more))
        os.utime(nets / "cell.py", (changed, changed))
        losses.append(fit(DATA, {"net": "cell:net"}, max_epochs=1, report=False)["test_loss"])
    assert losses[0] == losses[3] != losses[1] == losses[2]
    evaluated = evaluate(nets / "lightning_logs" / "version_1", net="cell:net", accelerator="cpu")
    assert evaluated["test_loss"] != losses[1]


def test_network_code_that_exits_says_why(nets, call):
    (nets / "mine" / "exits.py").write_text("raise SystemExit('set DEPTH first')")
    assert call("fit", *FIT, "--model.net", "mine.exits:net") == (1, "", "error: set DEPTH first\n")


def test_width_that_the_network_does_not_take_is_refused(nets, call):
    line = one_line(*call("fit", *FIT, "--model.net", "mine.nets:Viewed", "--model.width", 8))
    assert line == "error: width 8: net mine.nets:Viewed does not take a width; leave it out\n"


@pytest.mark.parametrize("net", [nn.Flatten(), nn.Flatten])
def test_fit_refuses_a_torch_module_as_a_setting(net):
    words = "model.net Flatten is code, which config.yaml cannot hold: use its import path, such as my.nets:Flatten; "
    words += "or train LitNet"
    with pytest.raises(InputError) as raised:
        fit(model={"net": net})
    assert str(raised.value).startswith(words)


def test_resume_in_python_needs_the_networks_name_again(nets):
    fit(DATA, {"net": "mine.nets:net"}, max_epochs=1, accelerator="cpu", report=False)
    with pytest.raises(InputError, match=r"name it again with --model\.net mine\.nets:net"):
        resume("lightning_logs/version_0", {"max_epochs": 2})
    resume("lightning_logs/version_0", {"max_epochs": 2, "model.net": "mine.nets:net"})
    resume("lightning_logs/version_0", {"max_epochs": 3, "model": {"net": "mine.nets:net"}})  # written as for fit


@pytest.mark.parametrize(("how", "count"), [("side by side", {"seeds": 2}), ("one after another", {"folds": 2})])
def test_fit_many_trains_a_users_network(nets, monkeypatch, how, count):
    """A network is named once for all runs of a group, and again to resume them."""
    monkeypatch.setattr(many, "usable_cores", lambda: 2)
    if how == "one after another":
        monkeypatch.setattr(many, "SIDE_BY_SIDE_STEP", 0)
    found = fit_many(DATA, {"net": "mine.nets:net"}, **count, max_epochs=1, accelerator="cpu", report=False)
    group = nets / "lightning_logs" / "version_0"
    assert [read_settings(group / run["name"]).model["net"] for run in found["runs"]] == ["mine.nets:net"] * 2
    for folder in (group, group / found["runs"][1]["name"]):
        (folder / "results.json").unlink()
    with pytest.raises(InputError, match=r"name it again with --model\.net mine\.nets:net"):
        resume_many(group)
    assert resume_many(group, {"model.net": "mine.nets:net"}, report=False)["figures"] == found["figures"]
