"""A user's program, to check types only: .ci/wheel runs mypy and pyright on it."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from cifar_lightning import (
    CLASSES,
    MEAN,
    STD,
    CIFAR10DataModule,
    InputError,
    LitNet,
    NonFiniteError,
    Preprocessing,
    ResNet18,
    TutorialNet,
    compare,
    evaluate,
    export,
    fake_data,
    fit,
    fit_many,
    load_model,
    resume,
    resume_many,
)

data = CIFAR10DataModule(Path("data"), batch_size=128, val_split=0.1, normalization="dataset")
for images, labels in data.train_dataloader():
    print(images.shape, labels.sum())
for images, labels in data.val_dataloader():
    print(images.shape, labels.sum())
for images, labels in data.test_dataloader():
    print(images.shape, labels.sum())
image, label = data.dataset("train")[0]
print(image, label, data.classes[0], data.num_classes, data.dims, len(data.train_dataloader()))


class Mine(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet18(data.num_classes, width=16)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Softer(LitNet):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss / 2


Trainer(max_epochs=1).fit(Mine(), data)
Trainer(max_epochs=1).fit(Softer(), fake_data(batch_size=10))
model = LitNet(net="resnet18", lr=0.1, schedule="one-cycle", preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3))
own = LitNet(TutorialNet(2), classes=["cat", "dog"], preprocessing=Preprocessing(MEAN, STD))
print(own.preprocessing and own.preprocessing.mean, own.classes, CLASSES[0])
trained = load_model(Path("run"))
classes, probabilities = trained.predict(data.image_set("test").images)
print(classes.shape, probabilities.max())
try:
    results: dict[str, Any] = fit({"source": "synthetic"}, recipe="quick", max_epochs=1, default_root_dir=Path("runs"))
except (InputError, NonFiniteError) as error:
    print(error)
else:
    print(results["test_acc"])
resume(Path("run"), {"max_epochs": 3})
print(fit_many({"source": "synthetic"}, seeds=10, recipe="speed54")["figures"]["test_acc"]["mean"])
resume_many(Path("group"), report=False)
evaluate(Path("run"), {"batch_size": 4}, output_dir=Path("out"), test_views="six")
print(compare([Path("run"), "other"])["comparisons"][0]["p"])
print(export(Path("run"), "onnx", Path("model.onnx")).name, export(model, "safetensors", input="uint8"))
print(load_model(export(Path("run"), "hf")).classes, load_model("weights.pth", net="resnet18", width=8).classes)
print(load_model("quick").preprocessing)
