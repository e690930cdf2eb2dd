"""Runs: a folder with settings, checkpoints and a log; the processes that train in it, and what interrupts them.

It may import all other rooms. Read `training.py` first, the story of a fit from its settings to its report; then
`resuming.py` and `testing.py`.
"""
