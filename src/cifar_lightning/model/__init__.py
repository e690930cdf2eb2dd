"""Networks, and LitNet around them: the training step, the optimiser, the evaluation.

It may import the ground and `data`. Read `lit_net.py` first; a network is a file in `networks/`.
"""
