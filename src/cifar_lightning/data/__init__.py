"""Images: where they come from, how they are kept, and the batches that are made of them.

It may import the ground only. Read `datamodule.py` first, then `sources.py` and `loader.py`.
"""
