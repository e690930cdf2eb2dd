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
# In this notebook you train a network that sorts small images into ten classes. You first write everything by hand,
# in the five steps of [PyTorch's tutorial](https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html),
# in the version published since May 2026. Then you do the same with Lightning. The last part covers what the tutorial
# leaves to you: GPUs, a wider network, saving, and your own picture. It takes half an hour to read, and less than ten
# minutes to run on two cores.
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
# CIFAR-10 has 50,000 training images and 10,000 test images of 32 × 32 pixels. The next cell downloads them once,
# into the folder `data` beside this notebook (170 MB).
#
# - If you already have them, give their folder here and below, for example `CIFAR10DataModule("../data")`.
# - If you have no internet connection, write `CIFAR10DataModule(source="synthetic")`. The package then generates
#   images itself.
#
# A pixel is three bytes, from 0 to 255. `ToImage` turns a picture into a tensor and `ToDtype` scales it to 0…1.
# `Normalize` subtracts 0.5 and divides by 0.5, which gives −1…1: a network learns more easily from numbers around
# zero. (Before May 2026, the tutorial used `ToTensor` in place of the first two. The pixels are the same.)

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
# Why 0.5? It is a round number, and good enough. Each colour of the images has a mean and a standard deviation of its
# own. This computes them from the training images, before normalisation:

# %%
pixels = data.image_set("train").images.float() / 255
print("mean", *[f"{x:.4f}" for x in pixels.mean((0, 2, 3))])
print("std ", *[f"{x:.4f}" for x in pixels.std((0, 2, 3))])
print("CIFAR-10's:", MEAN, STD)

# %% [markdown]
# `CIFAR10DataModule(normalization="dataset")` uses these values. (Many scripts use a standard deviation of 0.20. That
# is something else: the mean of the standard deviations of the single images.)
#
# ## 2. The network
#
# Two convolutions look for patterns in small windows. Each is followed by a pooling layer, which keeps the largest of
# every four values. Three linear layers then combine what was found. The output is one number per class: the larger
# the number, the more likely the class.


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
# Cross-entropy is large if the right class gets a low probability. A network that has learnt nothing gives each of
# the ten classes about the same probability, and its loss is ln 10 = 2.303. SGD moves every weight a little against
# its gradient. With a momentum of 0.9, each step also keeps nine tenths of the speed of the previous one.

# %%
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

# %% [markdown]
# ## 4. The training
#
# Each step takes four images. Two epochs, that is twice through all images, take one and a half minutes on CIFAR-10,
# most of it spent on loading the images.

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
# The test uses images that the network has never seen. The cell shows a few predictions, then the accuracy of each
# class and of all images. Guessing gets 10 %.

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
# On CIFAR-10 you get about 54 %, and a few points more or less if you train again. Birds, cats and deer are usually
# the hardest.
#
# ## The same in eight lines
#
# Lightning separates what changes from project to project (images, network, loss, optimiser) from what does not
# (loops, devices, logs, checkpoints). `CIFAR10DataModule` provides the loaders, `LitNet` the training and test steps,
# and `Trainer` the loop.

# %%
data = CIFAR10DataModule("data", batch_size=4)
model = LitNet(net="tutorial", lr=0.001, momentum=0.9)
plain = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
bar = TQDMProgressBar(refresh_rate=250)
trainer = Trainer(max_epochs=2, callbacks=[bar], **plain)
trainer.fit(model, data)
figures = trainer.test(model, data)

# %% [markdown]
# This is the same network, trained for the same number of steps. Leave out `**plain` to get a log, checkpoints, and a
# GPU if there is one. A step on four images is so short that most of the time is Lightning's overhead, about a
# millisecond per step. `python scripts/fit.py` does the same without this overhead, in a third of the time of the
# loop above.
#
# ## On a GPU
#
# By hand, you have to move both the network and the images to the GPU. With Lightning, `accelerator="auto"` does this
# for you.

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
# Why is the GPU not faster? With four images per step, it spends its time waiting for the next operation. Larger
# batches keep it busy, but they also need a larger learning rate.
#
# ## On several GPUs
#
# In a notebook, several GPUs can share each batch. Lightning starts one process per GPU, as a copy of the notebook's
# process:
#
# ```python
# trainer = Trainer(max_epochs=2, accelerator="gpu", devices=2, strategy="ddp_notebook")
# trainer.fit(model, data)
# ```
#
# The copies are made by `fork`, which does not work once the process has used CUDA: *Cannot re-initialize CUDA in
# forked subprocess*. So restart the kernel, and run nothing on the GPU before that cell. Windows has no `fork`. A
# script has none of these restrictions, and you can start one from a notebook:
#
# ```
# import sys
# !{sys.executable} -m cifar_lightning fit --accelerator gpu --devices 2
# ```
#
# In this package, `batch_size` is the number of images per step over all devices. Two GPUs therefore learn the same
# as one, in less time.
#
# ## The exercise: a wider network
#
# "Try increasing the width of your network", says the tutorial, and means the channels of the first convolution. What
# does this cost, and what does it bring? The next cell trains three widths for one epoch each, in batches of 32.

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
# When we ran this on a CPU, sixteen times the channels took ten times as long. The accuracies were 46.5, 50.3 and
# 54.2 % (one run each). A GPU computes channels in parallel: if you have one, its line shows the speed-up that the
# tutorial promises. To get further, you have to change more than one layer: try `LitNet(net="resnet18")`, or
# `python scripts/fit.py --recipe quick`.
#
# ## Saving and loading
#
# If you save by hand, the file holds only the weights, and the program that loads it has to build the network first.
# A Lightning checkpoint of a `LitNet` also records which network it is, its classes, and how its images were
# normalised.

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
# Replace `picture.png`, which is a test image, by the file name of your picture. Whatever its size, the network sees
# 32 × 32 pixels. It knows only ten classes, and always answers with one of them.

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
# `python scripts/fit.py --recipe quick` gets past 80 % in a minute, and writes a folder with figures. The README
# shows where to go from there.
