"""examples/: each runs as a user would run it, on a few drawn images."""

import re
import runpy
import sqlite3
import sys

import pytest
from conftest import PROJECT
from jobs import job

EXAMPLES = PROJECT / "examples"


@pytest.fixture
def example(plain, monkeypatch, tmp_path, capsys):
    """Runs an example to its end in the test's folder; returns what it prints."""

    def run(name):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, "--quick"])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_tested_and_in_the_docs():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {"early_stopping.py", "notebook.py", "optuna_study.py"}
    page = (PROJECT / "docs" / "project.md").read_text()
    assert all(f"examples/{name}" in page for name in names)


def test_early_stopping(example):
    assert re.search(r"^step \d+: validation accuracy .*, test accuracy ", example("early_stopping.py"), re.M)


def test_optuna_study(example, tmp_path):
    pytest.importorskip("optuna_integration")
    out = example("optuna_study.py")
    with sqlite3.connect(tmp_path / "study.db") as database:
        states = [state for (state,) in database.execute("select state from trials")]
    runs = {path.name: path for path in (tmp_path / "study" / "lightning_logs").iterdir()}
    assert len(states) == 4
    assert len(runs) == 5  # four trials, and a last run with the best settings
    assert {*states} <= {"COMPLETE", "PRUNED"}
    finished = sum((path / "results.json").exists() for path in runs.values())
    assert finished == states.count("COMPLETE") + 1
    assert "best of 4 trials: {'lr': " in out
    assert "on the test set: " in out


CELLS = [cell for cell in re.split(r"^# %%", (EXAMPLES / "notebook.py").read_text(), flags=re.M)[1:] if cell[0] == "\n"]


AS_A_KERNEL = f"""
names = {{"__name__": "__main__"}}
for cell in {CELLS!r}:
    exec(compile(cell, "a cell", "exec"), names)
assert names["longer"]["test_acc"] == names["again"]["test_acc"]
"""


def test_notebook(tmp_path):
    """The cells of notebook.py run one after another in one process, as in a kernel."""
    (tmp_path / "kernel.py").write_text(AS_A_KERNEL)
    done = job(tmp_path / "kernel.py", cwd=tmp_path)
    assert done.code == 0, done.text
    assert "2 devices" in done.lines
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 3


def test_notebook_in_a_kernel(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell["outputs"]]
    printed = "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "Accuracy " in printed
    assert "2 devices" in printed
