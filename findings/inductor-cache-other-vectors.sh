#!/usr/bin/env bash
# inductor-cache-other-vectors: half of a compiled function's results are uninitialised memory if torch.compile's cache
# on disk was filled by a process with wider vectors.
#
# Run: torch 2.14.1 on a CPU with AVX-512, with g++. One program, three times with one TORCHINDUCTOR_CACHE_DIR, as in a
#   home or a cluster's network folder: with AVX-512, with AVX2 (which an older machine has, and
#   ATEN_CPU_CAPABILITY=avx2 selects on a newer one), and with AVX-512 again; then with AVX2 and an empty cache. It
#   compiles 2 * sigmoid(x) + x and compares 4,096 results with those of eager torch.
# Behaviour: with AVX2, 2,048 results are whatever was in memory, NaN or any number, without a warning: always the last
#   eight of sixteen. It seems that the cached code of the graph still advances by sixteen numbers, and is compiled
#   again for vectors of eight. With an empty cache all results are right.
# Expected: the vectors are part of the cache's key, as the number of threads is since
#   https://github.com/pytorch/pytorch/pull/184444.
# What cifar_lightning does: by default it compiles nothing on a CPU; --model.compile does, and docs/train.md says what
#   the cache then needs.
# Upstream: we know of no issue.
#
# Output seen (Python 3.11, Linux, AMD EPYC):
#   torch 2.14.1+cu130, an empty cache, AVX512: 0 of 4096 are wrong
#   torch 2.14.1+cu130, the same cache, AVX2: 2048 of 4096 are wrong
#   torch 2.14.1+cu130, the same cache, AVX512: 0 of 4096 are wrong
#   torch 2.14.1+cu130, a cache of its own, AVX2: 0 of 4096 are wrong
#   as stated: with a cache that was filled with AVX-512, half of AVX2's results are wrong
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cd "$folder"

cat > program.py <<'PYTHON'
import sys

import torch

torch.set_num_threads(1)
x = torch.linspace(-3, 3, 4096)


def f(x):
    return 2 * x.sigmoid() + x


wrong = ~torch.isclose(torch.compile(f)(x), f(x))
print(f"torch {torch.__version__}, {sys.argv[1]}, {torch.backends.cpu.get_cpu_capability()}: {int(wrong.sum())} of {len(x)} are wrong")
PYTHON

ask() { # description, folder of the cache, vectors (optional)
    env ${3:+ATEN_CPU_CAPABILITY=$3} TORCHINDUCTOR_CACHE_DIR="$folder/$2" venv/bin/python program.py "$1" 2>errors ||
        { cat errors; exit 1; }
}

{
    ask "an empty cache" shared
    ask "the same cache" shared avx2
    ask "the same cache" shared
    ask "a cache of its own" own avx2
} | tee said
case "$(grep -o 'AVX.*' said | paste -sd' ')" in
"AVX512: 0 of 4096 are wrong AVX2: 2048 of 4096 are wrong AVX512: 0 of 4096 are wrong AVX2: 0 of 4096 are wrong")
    echo "as stated: with a cache that was filled with AVX-512, half of AVX2's results are wrong" ;;
AVX2*) echo "this needs a CPU with AVX-512" && exit 2 ;;
*) echo "CHANGED: the behaviour is not the one stated in this script" && exit 1 ;;
esac
