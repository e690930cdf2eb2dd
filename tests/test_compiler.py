"""torch's compiler, before and after it is imported, and a fit, which does not import it until it compiles."""

import inspect
import subprocess
import sys
from importlib import import_module
from threading import Event, Thread
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn

from cifar_lightning import compiler


def test_only_a_compiled_network_is_an_instance_of_compiled():
    """Checked with the compiler imported, which Lightning has done in this process."""
    net = nn.Linear(1, 1)
    assert not isinstance(net, compiler._Compiled)
    assert isinstance(torch.compile(net), compiler._Compiled)


def test_an_excluded_function_keeps_its_name_and_signature():
    """Lightning inspects the signature of a step to see whether it takes a batch index."""

    def training_step(self, batch):
        """A user's step."""

    kept = compiler._disable(fn=training_step, recursive=True)
    assert inspect.signature(kept) == inspect.signature(training_step)
    assert kept.__name__ == "training_step"
    assert not is_param_in_hook_signature(kept, "batch_idx", min_args=2)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")  # in torch 2.11, for list.append
def test_an_excluded_function_is_never_compiled(monkeypatch):
    runs = []
    function = compiler._disable(lambda x: runs.append(torch.compiler.is_compiling()) or x + 1, True, wrapping=False)
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "compiler", lambda: None)
        assert function(1) == 2
    compiled = torch.compile(lambda x: function(x) * 2, backend="eager")
    assert compiled(torch.ones(1)).item() == 4
    assert runs == [False, False]


HALF = "import events; events.started.set(); events.go_on.wait(); value = 1"


def test_compiler_waits_while_another_thread_imports_it(tmp_path, monkeypatch):
    (tmp_path / "half.py").write_text(HALF)
    events, found = SimpleNamespace(started=Event(), go_on=Event()), []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "events", events)
    monkeypatch.setattr(compiler, "NAME", "half")
    imports = Thread(target=import_module, args=("half",))
    asks = Thread(target=lambda: found.append(compiler.compiler().value))
    assert compiler.compiler() is None
    imports.start()
    events.started.wait()
    asks.start()
    asks.join(0.5)  # enough time to fail if it did not wait
    events.go_on.set()
    for thread in (imports, asks):
        thread.join()
    del sys.modules["half"]
    assert found == [1]


JOB = """
import sys
from cifar_lightning.startup import importing
with importing():
    from cifar_lightning.run.training import fit
small = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20}
fit(small, {"muon_lr": 0.1}, max_epochs=1, accelerator="cpu", report=False)
assert not {"sympy", "torch._dynamo.exc"} & {*sys.modules}, "imported"
results = fit(small, {"compile": "default"}, max_epochs=1, accelerator="cpu", report=False)
assert "compiled (default)" in results["computed"], results["computed"]
import torch, torch._dynamo
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
assert torch._dynamo is sys.modules["torch._dynamo"]
"""


@pytest.mark.soak
def test_a_fit_imports_the_compiler_only_if_it_compiles(tmp_path):
    subprocess.run([sys.executable, "-c", JOB], check=True, timeout=300, cwd=tmp_path)
