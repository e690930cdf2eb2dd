"""The script of PyTorch's CIFAR-10 tutorial, for benchmark.py: `tutorial_script.py ARGUMENTS OUTPUT`, both as JSON.

https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html

It is as published, except for the source of the images. Its two versions differ in their transforms (and in a file's
name and the choice of a device, which are left out here). It imports what the original does, and not Lightning.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from cifar_lightning.data.sources import Source

# By the year of the version; the second is from 8 May 2026: https://github.com/pytorch/tutorials/pull/3882
TRANSFORMS: dict[str, Callable[[Image.Image], Tensor]] = {
    "2018": transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]),
    "2026": v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
    ),
}


class Pictures:
    """A data set of PIL images for a DataLoader, like torchvision.datasets.CIFAR10."""

    def __init__(self, data: dict[str, Any], split: str, transform: Callable[[Any], Any], count: int | None) -> None:
        images = Source(data["source"], **{name: data[name] for name in data if name != "source"}).load(split)
        self.pixels = images.images[:count].permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = images.labels[:count].tolist()
        self.classes = images.classes
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.targets[index]


class Net(nn.Module):
    """The tutorial's network, as in its script."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def tutorial_script(
    data: dict[str, Any], images: int | None = None, epochs: int = 2, text: str = "2018"
) -> dict[str, float]:
    """Trains and tests on the images of `data`.

    Args:
        data: The `source` of the images, and `data_dir` or `synthetic_size`.
        images: Training images to use; all by default.
        epochs: Passes over them.
        text: Version of the script, 2018 or 2026.
    """
    transform = TRANSFORMS[text]
    batch_size = 4
    trainset: Any = Pictures(data, "train", transform, images)
    trainloader = torch.utils.data.DataLoader(trainset, batch_size=batch_size, shuffle=True, num_workers=2)
    testset: Any = Pictures(data, "test", transform, None)
    testloader = torch.utils.data.DataLoader(testset, batch_size=batch_size, shuffle=False, num_workers=2)

    net = Net(len(trainset.classes))
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

    start = time.perf_counter()
    for epoch in range(epochs):
        running_loss = 0.0
        for i, batch in enumerate(trainloader, 0):
            inputs, labels = batch
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if i % 2000 == 1999:
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 2000:.3f}")
                running_loss = 0.0
    seconds = time.perf_counter() - start

    correct, total = 0, 0
    with torch.no_grad():
        for batch in testloader:
            inputs, labels = batch
            outputs = net(inputs)
            _, predicted = torch.max(outputs, 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    return {"fit_seconds": seconds, "images_seen": epochs * len(trainset), "test_acc": correct / total}


if __name__ == "__main__":
    _, values, output = sys.argv
    Path(output).write_text(json.dumps(tutorial_script(**json.loads(values))))
