"""The callbacks of a run, one file each: they configure the CPU, save, stop, verify and show. training.py uses them."""
