"""export(): the files compute what the model does, in programs that do not use this package."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import onnx
import onnxruntime
import pytest
import torch
from conftest import PROJECT, one_line
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from cifar_lightning import InputError, LitNet, Preprocessing, export, files, fit, load_model
from cifar_lightning.errors import RunError
from cifar_lightning.model.networks import NETWORKS
from cifar_lightning.run.checkpoint import load_checkpoint
from cifar_lightning.run.export import FORMATS
from cifar_lightning.run.saved import data_of

PREPROCESSING = Preprocessing((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
PROGRAMS = ("onnx", "pt2")
FILES = [format for format in FORMATS if format != "hf"]  # hf is a folder: see test_hub.py


def drawn(count, seed=0):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def model_with(net, **arguments):
    """Returns a model whose batch norms have seen images, as after a fit, and whose weights are not all equal."""
    torch.manual_seed(0)
    width = {"width": 8} if isinstance(net, str) else {}
    model = LitNet(net, **{**width, "preprocessing": PREPROCESSING, **arguments})
    images = PREPROCESSING.normalize(drawn(100, seed=1))
    if hasattr(model.net, "init_from_images"):
        model.net.init_from_images(images)
    model.net(images)
    return model.eval()


def program_in(path):
    """Returns a function that runs a file in its own runtime, from images to logits and probabilities."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]

    def run(images):
        values = session.run(None, {"images": images.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def metadata_in(path):
    if path.suffix == ".pt2":
        found = {"cifar_lightning": ""}
        torch.export.load(path, extra_files=found)
    elif path.suffix == ".onnx":
        found = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    else:
        with safe_open(path, "pt") as file:
            found = file.metadata()
    assert list(found) == ["cifar_lightning"]
    return json.loads(found["cifar_lightning"])


def assert_same(path, model, sizes=(1, 7, 500)):
    program = program_in(path)
    for size in sizes:
        images = drawn(size, seed=size)
        outputs, (classes, probabilities) = program(images), model.predict(images)
        assert list(outputs) == ["logits", "probabilities"]
        assert torch.equal(outputs["probabilities"].argmax(1), classes)
        torch.testing.assert_close(outputs["probabilities"], probabilities, atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs["logits"].softmax(1), outputs["probabilities"], atol=1e-6, rtol=0)


# speed54 is exported below, after a training; the others take longer, and add no operations.
SOAK = {"resnet18", "speed54", "speed96"}


@pytest.mark.parametrize("net", [pytest.param(net, marks=pytest.mark.soak) if net in SOAK else net for net in NETWORKS])
def test_exported_programs_equal_the_model_for_any_number_of_images(net, tmp_path):
    model = model_with(net)
    for format in PROGRAMS:
        path = export(model, format, tmp_path / f"model.{format}")
        assert_same(path, model)
        assert str(tmp_path).encode() not in path.read_bytes()
        assert str(PROJECT).encode() not in path.read_bytes()
    assert_plain_onnx(tmp_path / "model.onnx")


def test_load_model_restores_exported_weights(tmp_path):
    classes = [f"class {i}" for i in range(12)]
    for net in NETWORKS:
        model = model_with(net, classes=classes, lr=0.3)
        again = load_model(export(model, "safetensors", tmp_path / f"{net}.safetensors", test_views="mirror"))
        assert not again.training
        assert (again.classes, again.preprocessing) == (classes, PREPROCESSING)
        assert dict(again.hparams) == {**model.hparams, "test_views": "mirror"}
        weights = model.state_dict()
        assert again.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())


def assert_plain_onnx(path):
    file = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(file, full_check=True)
    assert [(opset.domain, opset.version) for opset in file.opset_import] == [("", 18)]
    assert all(weight.data_location == onnx.TensorProto.DEFAULT for weight in file.graph.initializer)
    # a pooling traced for gradients would become these
    assert not {node.op_type for node in file.graph.node} & {"Max", "Where"}
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*file.graph.input, *file.graph.output)
    ]
    assert shapes == [["batch", 3, 32, 32], ["batch", 10], ["batch", 10]]


@pytest.mark.parametrize("format", ["onnx", pytest.param("pt2", marks=pytest.mark.soak)])
def test_six_views_of_a_network_that_nnpack_convolves_can_be_exported(cpu_settings, format, tmp_path):
    model = model_with("tutorial")
    torch._C._set_mkldnn_enabled(False)  # as in a fit with few images per step
    path = export(model, format, tmp_path / f"model.{format}", test_views="six")
    assert model.hparams["test_views"] == "one"
    one = model.predict(drawn(7, seed=7))[1]
    model.hparams["test_views"] = "six"
    assert (model.predict(drawn(7, seed=7))[1] - one).abs().max() > 1e-3
    assert_same(path, model)
    assert metadata_in(path)["test_views"] == "six"


@pytest.mark.parametrize("format", PROGRAMS)
def test_exported_programs_for_normalised_images(format, tmp_path):
    model = model_with("tutorial", preprocessing=None)
    with pytest.raises(InputError, match="this model does not know how: use input float"):
        export(model, format, tmp_path / f"model.{format}")
    path = export(model, format, tmp_path / f"model.{format}", input="float")
    images = PREPROCESSING.normalize(drawn(5)).contiguous()
    torch.testing.assert_close(program_in(path)(images)["probabilities"], model.predict(images)[1], atol=1e-5, rtol=0)
    assert (metadata_in(path)["input"], metadata_in(path)["mean"]) == ("float", None)


class Own(nn.Module):
    """A user's own network, with a tied weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight
        self.norm = nn.GroupNorm(1, 3)
        self.last = nn.Linear(3 * 16, 4)

    def forward(self, x):
        x = self.norm(self.second(self.first(x).relu()))
        x = nn.functional.adaptive_avg_pool2d(x, 4)
        return self.last(x.reshape(x.shape[0], -1))


def test_users_own_network_can_be_exported(tmp_path):
    model = model_with(Own(), classes=["north", "east", "south", "west"])
    model.train()
    for format in PROGRAMS:
        path = export(model, format, tmp_path / f"model.{format}")
        assert_same(path, model.eval())
        assert metadata_in(path)["classes"] == ["north", "east", "south", "west"]
        model.train()
        export(model, format, path)
        assert model.training
        assert all(weight.requires_grad for weight in model.parameters())
    path = export(model, "safetensors", tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("second.weight"), model.net.first.weight)
    with pytest.raises(InputError, match=r"a network of your own.*: pass --model.net .*, or in Python net="):
        load_model(path)
    again = load_model(path, Own())
    assert torch.equal(again.predict(drawn(5))[1], model.eval().predict(drawn(5))[1])


class Wrapper(nn.Module):
    """A network like many: the names of all its weights begin with "net.", as a LitNet's do."""

    def __init__(self):
        super().__init__()
        self.net = Own()

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("format", ["safetensors", "hf"])
def test_users_own_network_that_wraps_another_is_read_back(tmp_path, format):
    model = model_with(Wrapper(), classes=["north", "east", "south", "west"])
    again = load_model(export(model, format, tmp_path / f"model.{format}"), Wrapper())
    assert torch.equal(again.predict(drawn(5))[1], model.predict(drawn(5))[1])


def test_network_that_cannot_be_traced_leaves_no_file(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] * (2 if x.sum() > 0 else 3)

    with pytest.raises(RunError, match=r"the network cannot be exported as pt2 .*: fix that, or use format"):
        export(LitNet(Odd(), preprocessing=PREPROCESSING), "pt2", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


class Keeping(nn.Sequential):
    """A network that keeps a state in its checkpoints that is not a tensor."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3072, 10))

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        assert state == {"seen": 3}


def test_network_state_other_than_tensors_cannot_be_exported_as_weights(tmp_path):
    model = model_with(Keeping())
    for format in ("safetensors", "hf"):
        with pytest.raises(InputError, match="the network keeps _extra_state, which is not a tensor"):
            export(model, format, tmp_path / f"model.{format}")
    assert list(tmp_path.iterdir()) == []
    for format in PROGRAMS:
        assert_same(export(model, format, tmp_path / f"model.{format}"), model)


def test_pt2_program_can_be_moved_to_another_device(tmp_path):
    """No operation of a pt2 program names a device, so that `.module().to("cuda")` moves it."""
    for views in ("one", "six"):
        path = export(model_with("speed54"), "pt2", tmp_path / "model.pt2", test_views=views)
        nodes = torch.export.load(path).graph.nodes
        assert not [node for node in nodes if "device" in node.kwargs]


# --- from runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def finished_copy(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    return tmp_path / "run"


def test_export_of_a_run_by_command_has_the_figures_of_its_test(call, finished_copy):
    results = json.loads((finished_copy / "results.json").read_text())
    saved = load_checkpoint(finished_copy / "checkpoints" / "best.ckpt")
    images = data_of(saved, {}).image_set("test")
    for format in FILES:
        code, out, err = call("export", finished_copy, "--format", format)
        assert (code, err) == (0, "")
        path = finished_copy / f"model.{format}"
        assert out.startswith(f"{path} (0.")
        facts = metadata_in(path)
        assert (facts["checkpoint"], facts["step"]) == ("best.ckpt", results["step"])
        assert {name: results[name] for name in facts["test"]} == facts["test"]
        assert facts["test"]["test_acc"] == results["test_acc"]
        if format in PROGRAMS:
            predicted = program_in(path)(images.images)["probabilities"].argmax(1)
        else:
            predicted = load_model(path).predict(images.images)[0]
        counts = torch.zeros(10, 10, dtype=torch.int64).index_put_((images.labels, predicted), torch.tensor(1), True)
        assert counts.tolist() == results["confusion"]


@pytest.mark.soak
def test_same_network_gives_the_same_bytes_in_any_process(finished_copy, tmp_path):
    """The bytes of an export depend neither on the order of sets in a process nor on what it has exported before."""
    program = f"""
from cifar_lightning import export
for format in {FILES}:
    export({str(finished_copy)!r}, format, f"model.{{format}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for format in FILES:
        here, there = export(finished_copy, format), tmp_path / f"model.{format}"
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (here, there)]
        assert digests[0] == digests[1], format


def test_export_of_an_untested_step_has_no_test_figures(finished_copy):
    """An export has test figures only if a readable results.json is of its checkpoint and its step."""
    for path in (finished_copy / "checkpoints").glob("step-*.ckpt"):
        facts = metadata_in(export(path, "safetensors"))
        assert (facts["checkpoint"], "test" in facts) == (path.name, False)
    results = json.loads((finished_copy / "results.json").read_text())
    others = ("{", "[1]", '{"checkpoint": null, "step": 3}', json.dumps(results | {"step": 250}))
    for text, known in ((json.dumps(results), True), *((text, False) for text in others)):
        (finished_copy / "results.json").write_text(text)
        assert ("test" in metadata_in(export(finished_copy, "safetensors"))) == known


def test_export_after_a_training_in_bfloat16_is_float32(plain, tmp_path):
    data = {"source": "synthetic", "synthetic_size": 200, "batch_size": 20}
    model = {"net": "speed54", "width": 8, "lr": 0.01}
    fit(data, model, precision="bf16-true", max_epochs=1, accelerator="cpu", default_root_dir=tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    (checkpoint,) = (run / "checkpoints").glob("step-10.ckpt")
    assert load_checkpoint(checkpoint)["state_dict"]["net.head.weight"].dtype == torch.bfloat16
    for format in FILES:
        path = export(run, format)
        if format in PROGRAMS:
            assert_same(path, load_model(run))
        else:
            assert {value.dtype for value in load_model(path).parameters()} == {torch.float32}


def test_run_on_two_ranks_can_be_exported(whole, tmp_path):
    assert_same(export(whole[2], "pt2", tmp_path / "model.pt2"), load_model(whole[2]))


# --- mistakes -------------------------------------------------------------------------------------------------

CANNOT = "output run/config.yaml/a.onnx cannot be written (Not a directory): choose another path"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "checkpoint nowhere does not exist: use a run's folder or a .ckpt file"),
        (("run", "--format", "onx"), "unknown --format onx: choose from onnx, pt2, safetensors, hf"),
        (("run", "--output", "run/config.yaml/a.onnx"), CANNOT),
        (("run", "--format", "hf", "--output", "run/config.yaml/hf"), CANNOT.replace("a.onnx", "hf")),
        (("run", "--output", "model.pt2"), "output model.pt2 does not end in .onnx: use model.onnx"),
        (("run", "--output", "deep/model"), "output deep/model does not end in .onnx: use deep/model.onnx"),
        (("run", "--output", "."), "output . is a folder: use a file name, such as model.onnx"),
        (
            ("run", "--format", "pt2", "--output", "run/.."),
            "output run/.. is a folder: use a file name, such as run/../model.pt2",
        ),
        (("run", "--output", "/"), "output / is a folder: use a file name, such as /model.onnx"),
        (
            ("run", "--format", "hf", "--output", "."),
            "output . is the current folder: choose another, such as hf",
        ),
        (
            ("run", "--format", "safetensors", "--input", "float"),
            "input float has no effect on a file of weights: leave it out",
        ),
    ],
)
def test_wrong_arguments_of_export_are_refused_in_one_line(call, finished_copy, arguments, said):
    assert one_line(*call("export", *arguments)) == f"error: {said}\n"


@pytest.mark.usefixtures("interruptible")
def test_signal_during_export_is_handled_once_the_file_is_whole(monkeypatch, tmp_path):
    """A signal waits for the file: in a script it could leave a part of it, or neither the old folder nor the new."""
    publish = files.publish

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        publish(*args)

    monkeypatch.setattr(files, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT"):
        export(model_with("tutorial"), "safetensors", tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("format", "missing"), [("onnx", "onnx and onnxscript; install them"), ("hf", "huggingface_hub; install it")]
)
def test_a_missing_package_is_named(call, finished_copy, monkeypatch, format, missing):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = one_line(*call("export", "run", "--format", format))
    assert line == f"error: export --format {format} needs {missing} with: pip install 'cifar-lightning[export]'\n"


def test_damaged_or_foreign_safetensors_are_refused(tmp_path):
    model = model_with("tutorial")
    whole = export(model, "safetensors", tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged or not safetensors"):
        load_model(tmp_path / "cut.safetensors")
    save_file(model.net.state_dict(), tmp_path / "strange.safetensors", {"cifar_lightning": "{}"})
    with pytest.raises(InputError, match="does not say which network its weights are for: use one that export wrote"):
        load_model(tmp_path / "strange.safetensors")


def of(model, names):
    """Returns the weights of a model's network, by other names."""
    return {names.format(name): weight.contiguous() for name, weight in model.net.state_dict().items()}


def test_load_model_reads_a_bare_state_dict(tmp_path):
    """load_model reads the state_dict of a network or a LitNet, also of one wrapped by DDP or torch.compile."""
    classes = [f"class {i}" for i in range(12)]
    model = model_with("speed54", classes=classes)
    told = {"width": 8, "classes": classes, "preprocessing": PREPROCESSING}
    for names in ("{}", "net.{}", "module.{}", "module._orig_mod.net.{}", "net._orig_mod.{}"):
        torch.save(of(model, names), tmp_path / "a.pth")
        again = load_model(tmp_path / "a.pth", net="speed54", **told)
        assert not again.training
        assert again.classes == classes
        assert torch.equal(again.predict(drawn(5))[1], model.predict(drawn(5))[1])
    wrapper = model_with(Wrapper(), classes=classes[:4])
    for names in ("{}", "net.{}", "module.{}", "module._orig_mod.net.{}", "net._orig_mod.{}"):
        torch.save(of(wrapper, names), tmp_path / "wrapper.pth")
        again = load_model(tmp_path / "wrapper.pth", Wrapper(), classes=classes[:4], preprocessing=PREPROCESSING)
        assert torch.equal(again.predict(drawn(5))[1], wrapper.predict(drawn(5))[1])
    save_file(of(model, "{}"), tmp_path / "a.safetensors", {"format": "pt"})
    again = load_model(tmp_path / "a.safetensors", "speed54", **told)
    assert torch.equal(again.predict(drawn(5))[1], model.predict(drawn(5))[1])
    again = load_model(tmp_path / "a.pth", "speed54", width=8, classes=classes)
    with pytest.raises(InputError, match="are not normalised, and this model does not know how"):
        again.predict(drawn(5))
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(
            InputError, match=rf"{name} is a bare state_dict, .*: load it in Python with load_model\(path, net="
        ):
            load_model(tmp_path / name)
    with pytest.raises(
        InputError, match=r"a.pth does not fit the network 'tutorial': .* the arguments it was made with"
    ):
        load_model(tmp_path / "a.pth", "tutorial")
    with pytest.raises(InputError, match=r"^depth is not an argument of LitNet"):
        load_model(tmp_path / "a.pth", "speed54", depth=3)


def test_a_wrong_argument_of_load_model_is_not_the_files():
    with pytest.raises(InputError, match=r"^lr 0: must be more than 0"):
        load_model("quick", lr=0)


def test_arguments_of_load_model_override_the_files(finished, tmp_path):
    one, six = load_model(finished.folder), load_model(finished.folder, test_views="six")
    assert (one.hparams["test_views"], six.hparams["test_views"]) == ("one", "six")
    other = Preprocessing((0.1,) * 3, (0.2,) * 3)
    assert load_model(finished.folder, preprocessing=other).preprocessing == other
