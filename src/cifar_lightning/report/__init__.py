"""What a test leaves for people and programs: results.json, the table, the figures, the page. Made from plain values.

It may import the ground, `data` and `model`, and knows no Trainer and no run. Read `results.py` first.
"""
