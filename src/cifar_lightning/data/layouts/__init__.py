"""The layouts in which people keep images: a file here finds each of them and reads it in place.

`official.py` chooses among those in which the official images are kept, and has the archives' own.
"""
