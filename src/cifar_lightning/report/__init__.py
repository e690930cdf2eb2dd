"""The reports of a test, for people and programs: results.json, table, figures and page, made from plain values.

It may import the top-level modules, `data` and `model`, and knows no Trainer and no run. Read `results.py` first.
"""
