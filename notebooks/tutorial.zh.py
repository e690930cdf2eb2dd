# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 图像分类器：从官方教程到 Lightning
#
# 十类小图片，一个学着把它们区分开的网络。先照着
# [PyTorch 官方教程](https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html)的五个步骤自己写一遍，
# 按照 2026 年 5 月以来的版本；再用 Lightning 做同样的事；最后是教程留给读者的问题：
# GPU、更宽的网络、保存、你自己的图片。
# 读完大约半小时，在双核 CPU 上运行不到十分钟。
#
# 先安装 `pip install -e '.[notebook]' jupyterlab`，然后从上到下运行各个单元，想改什么就改什么。

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
# ## 1. 图像
#
# CIFAR-10 有 50,000 张训练图像和 10,000 张测试图像，每张 32 × 32 像素。
# 下一个单元会把它们下载到笔记本旁边的 `data` 文件夹（170 MB，只下载一次）。
# 已经有了？在这里和后面都写上它的位置，例如 `CIFAR10DataModule("../data")`。
# 没有网络？写成 `CIFAR10DataModule(source="synthetic")`，它会自己画一些图像。
#
# 一个像素是三个字节，取值 0 到 255。`ToImage` 把图片变成张量，`ToDtype` 把它缩放到 0…1，
# `Normalize` 减去 0.5 再除以 0.5，
# 得到 −1…1：数值在零附近，网络学起来更容易。（2026 年 5 月以前的教程用 `ToTensor` 代替前两步，得到的像素是一样的。）

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
# 为什么是 0.5？因为它是个整齐的数，而且够用。每个颜色通道其实有自己的均值和标准差。用归一化之前的训练图像算一下：

# %%
pixels = data.image_set("train").images.float() / 255
print("mean", *[f"{x:.4f}" for x in pixels.mean((0, 2, 3))])
print("std ", *[f"{x:.4f}" for x in pixels.std((0, 2, 3))])
print("CIFAR-10's:", MEAN, STD)

# %% [markdown]
# `CIFAR10DataModule(normalization="dataset")` 用的就是它们。（很多脚本里写的标准差 0.20 是另一回事：
# 那是每张图像各自标准差的平均。）
#
# ## 2. 网络
#
# 两个卷积层在小窗口里寻找图案，每个卷积层后面的池化从每四个结果里留下最强的一个。随后三个全连接层权衡找到的东西。
# 输出是每个类别一个数：数越大，可能性越大。


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
# ## 3. 损失函数和优化器
#
# 正确的类别得到的概率越小，交叉熵就越大。有十个类别而毫无头绪时，它等于 ln 10 = 2.303。
# SGD 让每个权重沿着梯度的反方向移动一点；
# 动量让它保留上一步速度的十分之九。

# %%
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

# %% [markdown]
# ## 4. 训练
#
# 每步四张图像，全部图像过两遍。在 CIFAR-10 上大约要一分半钟，大部分时间花在读取数据上。

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
# ## 5. 测试
#
# 用网络从没见过的图像：先看几张，再按类别统计全部图像。瞎猜的准确率是 10 %。

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
# 在 CIFAR-10 上大约 54 %，换一次可能高几个或低几个百分点。最难的多半是鸟、猫和鹿。
#
# ## 八行代码做同样的事
#
# Lightning 把每个项目都不同的部分（图像、网络、损失、优化器）和总是一样的部分（循环、设备、日志、检查点）分开。
# `CIFAR10DataModule` 提供数据，`LitNet` 规定每一步做什么，`Trainer` 就是循环。

# %%
data = CIFAR10DataModule("data", batch_size=4)
model = LitNet(net="tutorial", lr=0.001, momentum=0.9)
plain = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
bar = TQDMProgressBar(refresh_rate=250)
trainer = Trainer(max_epochs=2, callbacks=[bar], **plain)
trainer.fit(model, data)
figures = trainer.test(model, data)

# %% [markdown]
# 同样的网络，同样多的步数。去掉 `**plain`，就会有日志、检查点，有 GPU 时还会用上 GPU。四张图像的一步用时极短，
# 大部分时间是 Lightning 自己的开销，每步约一毫秒；`python scripts/fit.py` 做同样的事而没有这个开销，
# 只要上面那个循环三分之一的时间。
#
# ## 用 GPU
#
# 自己写的话，网络和图像都要搬到 GPU 上。用 Lightning 时，`accelerator="auto"` 会替你做好。

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
# GPU 为什么没有更快？每步只有四张图像时，它的时间都花在等下一条指令上。批次大一些，它才有事可做；学习率也要相应调大。
#
# ## 用多块 GPU
#
# 笔记本可以让几个进程（它自己的副本）分担一个批次：
#
# ```python
# trainer = Trainer(max_epochs=2, accelerator="gpu", devices=2, strategy="ddp_notebook")
# trainer.fit(model, data)
# ```
#
# 副本由 `fork` 产生，而用过 CUDA 的进程不能这样复制，否则会报错 *Cannot re-initialize CUDA in forked subprocess*。
# 所以要重启内核，在这个单元之前不要在 GPU 上运行任何东西。Windows 没有 `fork`。脚本没有这些限制，
# 也可以从笔记本里启动：
#
# ```
# import sys
# !{sys.executable} -m cifar_lightning fit --accelerator gpu --devices 2
# ```
#
# 这里的 `batch_size` 是所有设备每步图像数的总和，所以两块 GPU 学到的和一块 GPU 一样，只是用时更少。
#
# ## 练习：更宽的网络
#
# 教程说“试着增加网络的宽度”，也就是第一个卷积层的通道数。代价是什么，好处又是什么？每种宽度训练一轮，每批 32 张。

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
# 我们在 CPU 上运行时，十六倍的通道用了十倍的时间，准确率是 46.5、50.3 和 54.2 %（各运行一次）。
# GPU 会并行计算各个通道：
# 教程许诺的加速，就看 GPU 那条线。要再往前走，只改一层是不够的：试试 `LitNet(net="resnet18")`，或者
# `python scripts/fit.py --recipe quick`。
#
# ## 保存和加载
#
# 手动保存的文件里只有权重，加载的人必须知道网络的结构。`LitNet` 的 Lightning 检查点知道网络结构，
# 也知道类别名称和图像的归一化方式。

# %%
torch.save(net.state_dict(), "cifar_net.pt")
again = Net()
again.load_state_dict(torch.load("cifar_net.pt", weights_only=True))
assert torch.equal(again.eval()(images), net(images))

trainer.save_checkpoint("cifar_net.ckpt")
model = load_model("cifar_net.ckpt")
print(model.preprocessing, *model.classes)

# %% [markdown]
# ## 你自己的图片
#
# 把 `picture.png`（一张测试图像）换成你的图片的文件名。不管原图多大，网络看到的都是 32 × 32 像素；它只认识十个词，
# 总会说出其中一个。

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
# ## 接下来
#
# `python scripts/fit.py --recipe quick` 一分钟就能超过 80 %，并写出一个带图表的文件夹。后面的路见 README。
