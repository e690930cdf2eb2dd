#!/usr/bin/env bash
# rich-pipe-exit: if nobody reads the output any more, a line printed with rich ends the process, and `except Exception`
# does not catch this.
#
# Run: rich 15.0.0. A loop of 20 steps that reports each step, by print or by rich's Console.print, with its output in
#   `| head -n 1`. It catches any Exception from a report, sends its output to /dev/null and goes on with its work.
# Behaviour: with print there is a BrokenPipeError, and the loop completes its 20 steps, exit code 0. rich catches that
#   error itself and raises SystemExit(1), which is not an Exception: the loop ends at once, with 1 and no message.
# Expected: an OSError, as from print and from any other write; or a setting. Console.on_broken_pipe can be overridden,
#   but only by code that makes the Console, not by code that calls a library that does. Lightning 2.6 uses rich for its
#   summary and progress bar if rich is installed, so a fit whose output nobody reads any more ends like this; without
#   rich it ends with a BrokenPipeError, which a script can catch (lightning 2.6.6, tried by hand).
# What cifar_lightning does: it prints with rich only within `printing` (console.py), which catches OSError and
#   SystemExit, sends later output nowhere, and lets the run go on.
# Upstream: https://github.com/Textualize/rich/pull/3468 (where this was added),
#   https://github.com/Textualize/rich/pull/3233 (where its author doubts that a library should end the program),
#   https://github.com/Lightning-AI/pytorch-lightning/pull/20896 (rich by default)
#
# Output seen (Python 3.11, Linux):
#   step 1 rich 15.0.0
#   print: caught BrokenPipeError(32, 'Broken pipe')
#   print: 20 of 20 steps, exit code 0, 1 lines on standard error
#   step 1 rich 15.0.0
#   rich: 2 of 20 steps, exit code 1, 0 lines on standard error
#   as stated: rich ends the process, print does not
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rich==15.0.0
cd "$folder"

cat > loop.py <<'EOF'
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

show = print if sys.argv[1] == "print" else Console().print
for step in range(1, 21):
    time.sleep(0.1)
    Path("steps").write_text(str(step))
    try:
        show("step", step, "rich", version("rich"))
        sys.stdout.flush()
    except Exception as error:
        print(f"{sys.argv[1]}: caught {error!r}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
EOF

declare -A steps code
for how in print rich; do
    set +e
    "$folder/venv/bin/python" loop.py "$how" 2> log | head -n 1
    code[$how]=${PIPESTATUS[0]}
    set -e
    cat log
    steps[$how]=$(cat steps)
    echo "$how: ${steps[$how]} of 20 steps, exit code ${code[$how]}, $(wc -l < log) lines on standard error"
done
if ((steps[print] != 20 || code[print] != 0 || steps[rich] == 20 || code[rich] != 1)) || [[ -s log ]]; then
    echo "CHANGED: the behaviour is not the one stated in this script"
    exit 1
fi
echo "as stated: rich ends the process, print does not"
