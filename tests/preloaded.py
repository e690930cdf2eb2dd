"""Imports all that the scripts do, out of reach of garbage collection, in the process that jobs.py forks jobs from."""

from cifar_lightning.garbage import freezing

with freezing():
    import docstring_parser  # noqa: F401
    import jsonargparse  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import rich._emoji_codes  # noqa: F401
    import torch._dynamo
    import torch.utils.serialization.config  # noqa: F401

    from cifar_lightning.commands import evaluate, fit, predict  # noqa: F401
    from cifar_lightning.report import table  # noqa: F401
    from cifar_lightning.run import many, resuming, testing, training  # noqa: F401
