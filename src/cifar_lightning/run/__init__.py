"""Runs: a folder with settings, checkpoints and a log; the processes that train in it, and what interrupts them.

This room may import all other rooms (see CONTRIBUTING.md). Read `training.py` first, which follows a fit from its
settings to its report; then `resuming.py` and `testing.py`.
"""
