"""Networks, and LitNet around them: the training step, the optimiser, the evaluation.

It may import the top-level modules and `data`. Read `lit_net.py` first; a network is a file in `networks/`.
"""
