"""The layouts in which people keep images: a file here finds and reads each of them, and unpacks nothing.

`class_folders.py` has the user's own pictures; `official.py` chooses among those of the official images.
"""
