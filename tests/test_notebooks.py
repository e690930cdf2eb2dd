"""notebooks/: made from their sources, with the same code in two languages; and the tutorial runs."""

import pytest
from conftest import PROJECT

jupytext = pytest.importorskip("jupytext", reason="needs the extra `notebook`")
nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebook`")
pytest.importorskip("ipykernel", reason="needs the extra `notebook`")

FOLDER = PROJECT / "notebooks"
NAMES = ("tutorial", "tutorial.zh")


def cells(path, kind=None):
    """Returns the cells of a notebook or of its source as a reader sees them: without ids, which are random."""
    every = jupytext.read(path).cells
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in every if kind in (None, cell.cell_type)]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_equals_what_its_source_makes(name):
    made, source = FOLDER / f"{name}.ipynb", FOLDER / f"{name}.py"
    assert cells(made) == cells(source), f"jupytext --update --to ipynb {source}"
    assert jupytext.read(made).metadata["kernelspec"] == jupytext.read(source).metadata["kernelspec"]
    assert all(
        not cell.outputs and cell.execution_count is None for cell in jupytext.read(made).cells if "outputs" in cell
    )


def test_both_languages_have_the_same_code_and_headings():
    english, chinese = (cells(FOLDER / f"{name}.py", "code") for name in NAMES)
    assert english == chinese
    prose = [[source for _, source, _ in cells(FOLDER / f"{name}.py", "markdown")] for name in NAMES]
    for one, other in zip(*prose, strict=True):
        assert one.count("#") == other.count("#")
        assert one.count("```") == other.count("```")
        assert any("一" <= letter <= "鿿" for letter in other)


def test_the_tutorial_notebook_runs(tmp_path, monkeypatch):
    """On few drawn images the tutorial runs in a kernel without warnings, shows every figure and writes its files."""
    notebook = jupytext.read(FOLDER / "tutorial.ipynb")
    for cell in notebook.cells:
        cell.source = cell.source.replace('DataModule("data"', 'DataModule(source="synthetic", synthetic_size=400')
    monkeypatch.chdir(tmp_path)
    ran = nbclient.NotebookClient(notebook, timeout=200, coalesce_streams=True).execute()
    outputs = [output for cell in ran.cells for output in cell.get("outputs", ())]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 5
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "200 steps in" in printed
    assert "Epoch 1: 100%" in printed
    assert "cpu, batches of 512:" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar_net.ckpt", "cifar_net.pt", "picture.png"]
