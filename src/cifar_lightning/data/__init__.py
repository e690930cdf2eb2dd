"""Images: where they come from, how they are stored, and how batches are made of them.

Of this package it may import only the modules at the top level. Read `datamodule.py` first, then `sources.py` and
`loader.py`. `layouts/` has a file for each layout in which images are kept, and `pictures/` decodes picture files.
"""
