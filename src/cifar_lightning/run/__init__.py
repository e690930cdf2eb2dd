"""Runs: a folder with settings, checkpoints and a log; the processes that train in it, and what interrupts them.

It may import `data`, `model`, `report` and the top-level modules except `cli` and `flags`. Read `training.py` first,
which follows a fit from its settings to its report; then `loop.py`, `resuming.py` and `testing.py`.
"""
