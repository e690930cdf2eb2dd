#!/usr/bin/env bash
# torch-flop-counter: torch's FLOP counter finds no operations in a transformer encoder in evaluation without gradients,
# and ten times too many in the backward pass of MobileNetV2.
#
# Run: torch 2.14.1, torchvision 0.29.1, on a CPU. FlopCounterMode over torch's TransformerEncoder of 65 tokens (six
#   layers, 192 wide) and torchvision's VisionTransformer of as many, in training, in evaluation, and in evaluation
#   under no_grad; and over the forward and backward pass of torchvision's MobileNetV2 and of one convolution. Beside it
#   the number by hand: two operations for each product of a convolution or linear layer, by its shapes, 4 x tokens² x
#   width for attention; and twice as many in the backward pass, without the gradient of the images. Attention is
#   computed by SDPBackend.MATH, because until 2.15 the counter does not know the CPU's own kernel.
# Behaviour: (1) in evaluation without gradients, TransformerEncoderLayer and MultiheadAttention with an even number of
#   heads use their fast path, one operator for all of their work, which the counter does not know: it counts nothing of
#   the encoder, and of torchvision's network everything except attention. (2) The gradient of the weights of a grouped
#   convolution is counted as if there were no groups. Both are the same in 2.15.0.
# Expected: one number for one network, and twice as many in the backward pass as in the forward pass; or a warning.
#   Operations in papers and the utilisation of a GPU in training are taken from such counters.
# What cifar_lightning does: it counts a forward pass without gradients to choose threads; for that it switches the fast
#   path off (run/cpu.py, plain_attention), so that a vision transformer is not taken for a network without work.
# Upstream: https://github.com/pytorch/pytorch/pull/183405 divides by the groups (not in 2.15.0); we know of no issue
#   about the fast path. https://github.com/pytorch/pytorch/issues/195460 is about attention on a CPU.
#
# Output seen (Python 3.11, Linux):
#   torch 2.14.1+cu130 torchvision 0.29.1+cu130
#   TransformerEncoder: training 729.0, evaluation 729.0, evaluation and no_grad 0.0; by hand 729.0 million
#   VisionTransformer: training 731.4, evaluation 731.4, evaluation and no_grad 462.4; by hand 731.4 million
#   MobileNetV2: forward 24.500 million, by hand 24.500; backward 476.553, by hand 48.115
#   a depthwise convolution: forward 0.147 million, by hand 0.147; backward 9.437, by hand 0.147
#   as stated: the fast path of attention is not counted, the gradient of grouped convolutions is overcounted
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
cd "$folder"

"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer, mobilenet_v2

print("torch", torch.__version__, "torchvision", torchvision.__version__)
torch.manual_seed(0)


def counted(run):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def by_hand(net, images):
    """The operations of the forward pass of each convolution and linear layer, in their order."""
    found = []

    def note(layer, inputs, output):
        found.append(2 * output.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(note) for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    net(images)
    for hook in hooks:
        hook.remove()
    return found


images = torch.randn(2, 3, 32, 32)
width, layers, tokens = 192, 6, 65
attention = 2 * tokens * 4 * width**2 + 4 * tokens**2 * width
encoder = len(images) * layers * (attention + 2 * tokens * 8 * width**2)
seen, right = {}, {}
layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
for name, net, data, ends in (
    ("TransformerEncoder", nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), torch.randn(2, tokens, width), 0),
    ("VisionTransformer", VisionTransformer(32, 4, layers, 4, width, 4 * width, num_classes=10), images, 64 * 48 + 10),
):
    right[name] = encoder + len(images) * 2 * ends * width  # the patches and the head
    seen[name] = [counted(lambda: net.train()(data)), counted(lambda: net.eval()(data))]
    with torch.no_grad():
        seen[name].append(counted(lambda: net(data)))
    numbers = "training {}, evaluation {}, evaluation and no_grad {}".format(*(f"{flops / 1e6:.1f}" for flops in seen[name]))
    print(f"{name}: {numbers}; by hand {right[name] / 1e6:.1f} million")

shares = {}
depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
for name, net, data in (
    ("MobileNetV2", mobilenet_v2(num_classes=10), images),
    ("a depthwise convolution", depthwise, torch.randn(2, 64, 8, 8)),
):
    forward = by_hand(net, data)
    backward = 2 * sum(forward) - forward[0]  # the images need no gradient
    flops = [counted(lambda: net(data)), counted(lambda: net(data).sum().backward())]
    flops[1] -= flops[0]
    shares[name] = flops[0] / sum(forward), flops[1] / backward
    print(f"{name}: forward {flops[0] / 1e6:.3f} million, by hand {sum(forward) / 1e6:.3f};", end=" ")
    print(f"backward {flops[1] / 1e6:.3f}, by hand {backward / 1e6:.3f}")
without = {"TransformerEncoder": 0, "VisionTransformer": right["VisionTransformer"] - len(images) * layers * attention}
as_stated = all(seen[name] == [right[name], right[name], without[name]] for name in seen)
if not as_stated or shares["a depthwise convolution"] != (1, 64) or shares["MobileNetV2"][1] < 5:
    print("CHANGED: the behaviour is not the one stated in this script")
    sys.exit(1)
print("as stated: the fast path of attention is not counted, the gradient of grouped convolutions is overcounted")
PYTHON
