#!/usr/bin/env bash
# glibc-page-faults: on a CPU, every step returns the memory of its large tensors to the system, which clears it again.
#
# Run: torch 2.14.1 on Linux with glibc. Forward and backward pass of two small convolutions with batch norms and GELU,
#   160 images of 32 x 32, in two processes: one unchanged, one after two calls of glibc's mallopt.
# Behaviour: torch takes a CPU tensor's memory from glibc's malloc and frees it after use. For each tensor above 32 MiB
#   (here the maps of 64 channels) glibc maps new memory and unmaps it afterwards; it also returns the free end of its
#   heap. So each step gets all of its memory from the system again, page by page, and the system writes zeros to it:
#   over 100,000 page faults per step, although no step needs more memory than the one before. With M_MMAP_MAX 0 (all
#   tensors on the heap) and M_TRIM_THRESHOLD 2 GB (the heap stays) there are hardly any, and a step takes about a third
#   less time.
# Expected: torch keeps freed memory for the next step, as it does on GPUs; or its documentation says that a step may
#   lose this much time. Its tuning guide recommends other allocators, which must be installed and preloaded.
# What cifar_lightning does: it makes these two calls at the start of a fit on a CPU (run/cpu.py, keep_freed_memory).
# Another way out: MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 in the environment.
# Upstream: https://github.com/pytorch/pytorch/pull/55675 (torch's own allocator for the CPU, not merged),
#   https://github.com/pytorch/pytorch/pull/115990 (THP_MEM_ALLOC_ENABLE=1: larger pages, so fewer faults),
#   https://man7.org/linux/man-pages/man3/mallopt.3.html
#
# The script checks page faults, and only prints times. If transparent huge pages are "always", there are fewer faults.
# Output seen (Python 3.11, 2 cores of an Intel Xeon, with other jobs beside; glibc 2.36):
#   torch 2.14.1+cu130 glibc 2.36 huge pages: always [madvise] never
#   memory as it is     245,786 page faults a step  1.03 s
#   memory kept           1,463 page faults a step  0.61 s
#   as stated: page faults in every step, unless glibc is told to keep freed memory
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cd "$folder"
unset LD_PRELOAD GLIBC_TUNABLES MALLOC_MMAP_MAX_ MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_ MALLOC_TOP_PAD_
unset THP_MEM_ALLOC_ENABLE

cat > steps.py <<'EOF'
import ctypes
import platform
import resource
import statistics
import sys
import time

import torch
from torch import nn


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


keep = sys.argv[1] == "kept"
if keep:
    mallopt = ctypes.CDLL(None).mallopt
    assert mallopt(-4, 0) and mallopt(-1, 2**31 - 1)  # M_MMAP_MAX and M_TRIM_THRESHOLD
else:
    print("torch", torch.__version__, *platform.libc_ver(), "huge pages:", end=" ")
    print(open("/sys/kernel/mm/transparent_hugepage/enabled").read().strip())
layers = [(nn.Conv2d(i, 64, 3, padding=1), nn.BatchNorm2d(64), nn.GELU()) for i in (3, 64)]
net = nn.Sequential(*(module for block in layers for module in block))
images = torch.randn(160, 3, 32, 32)
seconds = []
for step in range(12):
    if step == 5:
        before = faults()
    start = time.perf_counter()
    net(images).square().mean().backward()
    net.zero_grad()
    seconds.append(time.perf_counter() - start)
count = (faults() - before) / 7
print(f"memory {sys.argv[1]:9}  {count:9,.0f} page faults a step  {statistics.median(seconds[5:]):.2f} s", flush=True)
open("count", "w").write(str(round(count)))
EOF

"$folder/venv/bin/python" steps.py "as it is"
given_back=$(cat count)
"$folder/venv/bin/python" steps.py kept
kept=$(cat count)
if ((given_back < 100 || kept * 20 > given_back)); then
    echo "CHANGED: the behaviour is not the one stated in this script"
    exit 1
fi
echo "as stated: page faults in every step, unless glibc is told to keep freed memory"
