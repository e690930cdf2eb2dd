#!/usr/bin/env bash
# nnpack-16-images: without oneDNN a convolution of 16 images may take less time than one of 15.
#
# Run: torch 2.14.1 on an x86 CPU with AVX2, one thread, torch.backends.mkldnn.enabled = False; the first convolution of
#   PyTorch's CIFAR-10 tutorial (3 to 6 channels, 5 x 5, images of 32 x 32), forward. torch's profiler says which kernel
#   ran. (Such a small network trains faster without oneDNN, which has a fixed cost per call.)
# Behaviour: for 15 images and fewer torch uses its plain convolution (thnn_conv2d), from 16 on NNPACK's. Called
#   directly, torch._nnpack_spatial_convolution computes the same for any number of images: here in less time for 8 and
#   15.
# Expected: the faster kernel at each size, or a setting to choose. The limit is from 2017 and from a benchmark of
#   larger networks. The documentation of torch.backends.nnpack does not mention it.
# What cifar_lightning does: Conv2d in model/networks/conv.py calls NNPACK itself if oneDNN is off, whatever the number
#   of images. A step of the tutorial's network on 4 images takes a tenth less time (docs/experiments.md).
# Upstream: https://github.com/pytorch/pytorch/issues/26396 (open) and, for the limit,
#   https://github.com/pytorch/pytorch/pull/2826
#
# The script checks the kernels and that their results are equal. Times are printed only: they depend on the machine.
# Output seen (Python 3.11, 2 cores of an Intel Xeon with AVX-512, with other jobs beside):
#   torch 2.14.1+cu130
#    4 images: aten::thnn_conv2d                  133 µs; NNPACK called directly  133 µs
#    8 images: aten::thnn_conv2d                  364 µs; NNPACK called directly  270 µs
#   15 images: aten::thnn_conv2d                  692 µs; NNPACK called directly  410 µs
#   16 images: aten::_nnpack_spatial_convolution  459 µs; NNPACK called directly  439 µs
#   as stated: NNPACK from 16 images on, although it computes the same for fewer
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cd "$folder"

"$folder/venv/bin/python" - 2> "$folder/log" <<'EOF' || { tail -n 5 "$folder/log" >&2; exit 1; }
import statistics
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

KERNELS = {"aten::thnn_conv2d", "aten::_nnpack_spatial_convolution", "aten::mkldnn_convolution"}


def kernels(function):
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    return ", ".join(KERNELS & {event.key for event in profiler.key_averages()})


def microseconds(*functions):
    """Median of each, measured in turns."""
    times = [[] for _ in functions]
    for _ in range(500):
        for function, taken in zip(functions, times):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) * 1e6 for taken in times]


torch.set_num_threads(1)
torch.set_grad_enabled(False)
torch.backends.mkldnn.enabled = False
if not torch.backends.nnpack.is_available():
    print("NOT CHECKED: this CPU, or this build of torch, has no NNPACK")
    sys.exit(1)
print("torch", torch.__version__)
conv = torch.nn.Conv2d(3, 6, 5)
seen = {}
for n in (4, 8, 15, 16):
    images = torch.randn(n, 3, 32, 32)
    direct = lambda: torch._nnpack_spatial_convolution(images, conv.weight, conv.bias, padding=0)
    torch.testing.assert_close(conv(images), direct())
    seen[n] = kernels(lambda: conv(images))
    own, nnpack = microseconds(lambda: conv(images), direct)
    print(f"{n:2} images: {seen[n]:33} {own:4.0f} µs; NNPACK called directly {nnpack:4.0f} µs", flush=True)
plain, nnpack = "aten::thnn_conv2d", "aten::_nnpack_spatial_convolution"
if seen != {4: plain, 8: plain, 15: plain, 16: nnpack}:
    print("CHANGED: the behaviour is not the one stated in this script")
    sys.exit(1)
print("as stated: NNPACK from 16 images on, although it computes the same for fewer")
EOF
