#!/usr/bin/env bash
# triton-gc-freeze: Triton 3.9 reports leaks at the end of a process that has called gc.freeze().
#
# Run: triton 3.8.0 and 3.9.0, each alone. A process imports it, calls gc.freeze() or not, and ends.
# Behaviour: with 3.9.0 and gc.freeze(), the process prints thirty lines to standard error at its end, "nanobind: leaked
#   4 instances! … 64 types! … 513 functions!", and the exit code is 0. Without gc.freeze(), and with 3.8.0, it prints
#   nothing. Triton's bindings have been made with nanobind since 3.9; at the end of a process nanobind reports objects
#   that are still alive, and Python does not free frozen objects.
# Expected: nothing. gc.freeze() is in the standard library, for processes that keep what they have imported; an object
#   that has lived as long as its process has not leaked. `import torch` 2.15.0 and Lightning import Triton, so a
#   program that freezes after its imports, as pre-forking servers do, sees this without a line of Triton's.
# What cifar_lightning does: it freezes what torch and Lightning import (startup.py), which saves a second of a short
#   job. Its scripts end by os._exit, after the atexit handlers (cli.py, main), so that nothing looks for leaks.
# Upstream: https://nanobind.readthedocs.io/en/latest/refleaks.html explains such reports; we know of no issue about
#   gc.freeze.
#
# Output seen (Python 3.11, Linux, x86_64):
#   triton 3.8.0, objects kept: exit code 0, 0 lines on standard error:
#   triton 3.8.0, objects frozen: exit code 0, 0 lines on standard error:
#   triton 3.9.0, objects kept: exit code 0, 0 lines on standard error:
#   triton 3.9.0, objects frozen: exit code 0, 30 lines on standard error: nanobind: leaked 4 instances!
#   as stated: only frozen objects of triton 3.9.0 are reported as leaks
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

declare -A lines
for version in 3.8.0 3.9.0; do
    "${PYTHON:-python3}" -m venv "$version"
    "$version/bin/pip" install --quiet "triton==$version"
    for how in kept frozen; do
        freeze=$([[ $how == frozen ]] && echo "gc.freeze()" || echo "pass")
        "$version/bin/python" -c "import gc, triton._C.libtriton; $freeze" 2> log
        lines[$version-$how]=$(wc -l < log)
        echo "triton $version, objects $how: exit code 0, ${lines[$version-$how]} lines on standard error: $(head -n 1 log)"
    done
done
if ((lines[3.8.0-kept] || lines[3.8.0-frozen] || lines[3.9.0-kept] || lines[3.9.0-frozen] < 10)); then
    echo "CHANGED: the behaviour is not the one stated in this script"
    exit 1
fi
echo "as stated: only frozen objects of triton 3.9.0 are reported as leaks"
