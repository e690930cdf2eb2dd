"""Picture files: which files are pictures, and how many of them are decoded at once. Read `reading.py` first."""
