# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # An image classifier, from the tutorial to Lightning
#
# Ten kinds of small pictures, and a network that learns to tell them apart. First by hand, in the five steps of
# [PyTorch's tutorial](https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html) as it stands since May
# 2026; then the same with Lightning; then what the tutorial leaves to you: GPUs, a wider network, saving, your own
# picture. Half an hour to read, and less than ten minutes to run on two cores.
#
# Install with `pip install -e '.[notebook]' jupyterlab`, run the cells from top to bottom, and change what you like.

# %%
import logging
import time
import warnings

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from PIL import Image, ImageOps
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.utils import make_grid

from cifar_lightning import MEAN, STD, CIFAR10DataModule, LitNet, load_model

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=FutureWarning)  # Lightning 2.6 calls torch by old names
warnings.filterwarnings("ignore", "GPU available but not used")
warnings.filterwarnings("ignore", "IProgress not found")  # without ipywidgets a bar is text

# %% [markdown]
# ## 1. The images
#
# CIFAR-10 has 50,000 images to learn from and 10,000 to be tested on, of 32 × 32 pixels. The next cell fetches them
# into the folder `data` beside this notebook once (170 MB). You have them? Give their folder, such as
# `CIFAR10DataModule("../data")`, here and below. No network? Write `CIFAR10DataModule(source="synthetic")`, and the
# package draws some.
#
# A pixel is three bytes, 0 to 255. `ToImage` makes a tensor of a picture, `ToDtype` scales it to 0…1, and `Normalize`
# takes 0.5 away and divides by 0.5, which leaves −1…1: numbers around zero, with which a network learns more easily.
# (The tutorial's text of before May 2026 has `ToTensor` in place of the first two. The pixels are the same.)

# %%
torch.manual_seed(0)
data = CIFAR10DataModule("data")
transform = v2.Compose(
    [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]
)
trainset = data.dataset("train", transform)  # as torchvision.datasets.CIFAR10 is
testset = data.dataset("test", transform)
trainloader = DataLoader(trainset, batch_size=4, shuffle=True, num_workers=2)
testloader = DataLoader(testset, batch_size=4, num_workers=2)
print(len(trainset), len(testset), *data.classes)

# %%
images, labels = next(iter(DataLoader(trainset, batch_size=16, shuffle=True)))


def show(images, title):
    plt.figure(figsize=(9, 2.6), layout="constrained")
    plt.imshow(make_grid(images / 2 + 0.5, nrow=8).permute(1, 2, 0))  # back to 0…1
    plt.title(title, fontsize=9)
    plt.axis("off")
    plt.show()


names = [data.classes[label] for label in labels]
show(images, ", ".join(names[:8]) + "\n" + ", ".join(names[8:]))

# %% [markdown]
# Why 0.5? It is a round number, and good enough. The images have a mean and a spread of their own, for each colour.
# Asked of the training images, before they were normalised, they are:

# %%
pixels = data.image_set("train").images.float() / 255
print("mean", *[f"{x:.4f}" for x in pixels.mean((0, 2, 3))])
print("std ", *[f"{x:.4f}" for x in pixels.std((0, 2, 3))])
print("CIFAR-10's:", MEAN, STD)

# %% [markdown]
# `CIFAR10DataModule(normalization="dataset")` uses those. (A spread of 0.20, which many scripts have, is another
# thing: the mean of each image's own.)
#
# ## 2. The network
#
# Two convolutions look for patterns in small windows, each followed by a pooling, which keeps the strongest answer of
# every four. Three layers then weigh what was found. What comes out is a number for each class: the larger, the more
# likely.


# %%
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):  # (N, 3, 32, 32)
        x = self.pool(F.relu(self.conv1(x)))  # (N, 6, 14, 14)
        x = self.pool(F.relu(self.conv2(x)))  # (N, 16, 5, 5)
        x = torch.flatten(x, 1)  # (N, 400)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)  # (N, 10)


net = Net()
sum(parameter.numel() for parameter in net.parameters())

# %% [markdown]
# ## 3. The loss and the optimiser
#
# Cross-entropy is large where the right class has got a small share. Ten classes and no idea give ln 10 = 2.303. SGD
# moves every weight a little against its gradient; the momentum lets it keep nine tenths of its speed.

# %%
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

# %% [markdown]
# ## 4. The training
#
# Four images a step, twice through all of them. On CIFAR-10 it takes one and a half minutes, most of it for the
# loader.

# %%
start, losses = time.perf_counter(), []
for _ in range(2):
    for inputs, labels in trainloader:
        optimizer.zero_grad()
        loss = criterion(net(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
print(f"{len(losses):,} steps in {time.perf_counter() - start:.0f} s")

means = torch.tensor(losses).reshape(40, -1).mean(1)
plt.figure(figsize=(6, 3), layout="constrained")
plt.plot(torch.linspace(0, len(losses), 41)[1:], means)
plt.axhline(2.303, color="grey", linestyle="--", label="no idea: ln 10")
plt.xlabel("step")
plt.ylabel("loss")
plt.legend()
plt.show()

# %% [markdown]
# ## 5. The test
#
# On images that it has never seen: first some to look at, then all of them, class by class. Guessing gets 10 %.

# %%
net.eval()
correct = torch.zeros(10)
count = torch.zeros(10)
with torch.no_grad():
    for images, labels in testloader:
        predicted = net(images).argmax(1)
        for label, prediction in zip(labels, predicted, strict=True):
            count[label] += 1
            correct[label] += label == prediction

    images = torch.stack([testset[i][0] for i in range(8)])
    show(images, ", ".join(data.classes[label] for label in net(images).argmax(1)))
for name, share in zip(data.classes, correct / count, strict=True):
    print(f"{name:>12} {share:6.1%}")
print(f"{'all':>12} {correct.sum() / count.sum():6.1%}")

# %% [markdown]
# About 54 % on CIFAR-10, and a few points more or less another time. Birds, cats and deer are the hardest, mostly.
#
# ## The same in eight lines
#
# Lightning keeps what changes from project to project (images, network, loss, optimiser) apart from what does not
# (loops, devices, logs, checkpoints). `CIFAR10DataModule` has the loaders, `LitNet` the steps, and `Trainer` is the
# loop.

# %%
data = CIFAR10DataModule("data", batch_size=4)
model = LitNet(net="tutorial", lr=0.001, momentum=0.9)
plain = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
bar = TQDMProgressBar(refresh_rate=250)
trainer = Trainer(max_epochs=2, callbacks=[bar], **plain)
trainer.fit(model, data)
figures = trainer.test(model, data)

# %% [markdown]
# The same network and the same number of steps. Leave out `**plain` to have a log, checkpoints, and a GPU if there is
# one. A step of four images takes so little that most of the time is Lightning's own, about a millisecond a step;
# `python scripts/fit.py` does the same without that, and needs a third of the time of the loop above.
#
# ## On a GPU
#
# By hand, network and images both have to get there. With Lightning, `accelerator="auto"` sees to it.

# %%
devices = ["cpu"]
if torch.accelerator.is_available():
    devices.append(torch.accelerator.current_accelerator().type)


def seconds_a_step(net, batch_size, device, steps=10):
    net = net.to(device).train()
    images = torch.randn(batch_size, 3, 32, 32, device=device)
    labels = torch.zeros(batch_size, dtype=torch.long, device=device)
    for step in range(steps + 2):
        if step == 2:  # the first ones are slower
            start = time.perf_counter()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        loss.item()  # waits for the device
    return (time.perf_counter() - start) / steps


for device in devices:
    for batch_size in (4, 64, 512):
        rate = batch_size / seconds_a_step(Net(), batch_size, device)
        print(f"{device:>5}, batches of {batch_size:3}: {rate:9,.0f} images a second")

# %% [markdown]
# Why is the GPU not faster? With four images a step it spends its time waiting for the next order. Larger batches
# give it something to do; they need a larger learning rate too.
#
# ## On several GPUs
#
# A notebook can have them share a batch in processes that are copies of itself:
#
# ```python
# trainer = Trainer(max_epochs=2, accelerator="gpu", devices=2, strategy="ddp_notebook")
# trainer.fit(model, data)
# ```
#
# The copies are made by `fork`, and a process that has used CUDA cannot be copied: *Cannot re-initialize CUDA in
# forked subprocess*. So restart the kernel, and run nothing on the GPU before that cell. Windows has no `fork`. A
# script has no such rules, and starts from a notebook as well:
#
# ```
# import sys
# !{sys.executable} -m cifar_lightning fit --accelerator gpu --devices 2
# ```
#
# Here `batch_size` counts the images of a step over all devices, so that two GPUs learn what one learns, in less
# time.
#
# ## The exercise: a wider network
#
# "Try increasing the width of your network", says the tutorial: the first convolution's channels. What does it cost,
# and what does it bring? Each width gets one epoch, in batches of 32.

# %%
widths = (6, 24, 96)
accuracies = []
for width in widths:
    torch.manual_seed(0)
    data = CIFAR10DataModule("data", batch_size=32)
    model = LitNet(net="tutorial", width=width, lr=0.01)
    trainer = Trainer(max_epochs=1, enable_progress_bar=False, **plain)
    trainer.fit(model, data)
    accuracies.append(100 * trainer.test(model, data, verbose=False)[0]["test_acc"])

figure, (cost, gain) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for device in devices:
    nets = [LitNet(net="tutorial", width=width).net for width in widths]
    cost.plot(widths, [1000 * seconds_a_step(net, 256, device) for net in nets], marker="o", label=device)
cost.set(title="A step of 256 images", ylabel="ms", ylim=(0, None))
cost.legend()
gain.plot(widths, accuracies, marker="o")
gain.set(title="After one epoch", ylabel="test accuracy, %")
for axes in (cost, gain):
    axes.set(xlabel="channels of the first convolution", xticks=widths)
plt.show()

# %% [markdown]
# When we ran this, on a CPU, sixteen times the channels cost ten times the time, and brought 46.5, 50.3 and 54.2 %
# (one run each). A GPU computes channels side by side: there its line shows the speed-up that the tutorial promises.
# To get further, more than one layer has to change: `LitNet(net="resnet18")`, or `python scripts/fit.py --recipe
# quick`.
#
# ## Saving and loading
#
# By hand a file has the weights, and whoever loads it must know the network. A Lightning checkpoint of a `LitNet`
# knows it, and its classes, and how its images were normalised.

# %%
torch.save(net.state_dict(), "cifar_net.pt")
again = Net()
again.load_state_dict(torch.load("cifar_net.pt", weights_only=True))
assert torch.equal(again.eval()(images), net(images))

trainer.save_checkpoint("cifar_net.ckpt")
model = load_model("cifar_net.ckpt")
print(model.preprocessing, *model.classes)

# %% [markdown]
# ## Your own picture
#
# Write the name of yours in place of `picture.png`, which is a test image. Whatever its size, the network sees 32 ×
# 32 pixels; and it knows ten words, one of which it will say.

# %%
data.dataset("test")[0][0].resize((320, 320)).save("picture.png")

picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")  # upright
small = v2.functional.pil_to_tensor(picture.resize((32, 32)))
label, probabilities = model.predict(small)
best = probabilities[0].topk(3)
figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
left.imshow(picture)
left.set_title("the picture")
right.imshow(small.permute(1, 2, 0))
right.set_title("what the network sees")
for axes in (left, right):
    axes.axis("off")
plt.show()
for probability, index in zip(best.values, best.indices, strict=True):
    print(f"{model.classes[index]:>12} {probability:6.1%}")

# %% [markdown]
# ## And now
#
# `python scripts/fit.py --recipe quick` gets past 80 % in a minute, and writes a folder with figures. The README has
# the way from there.
