"""cifar_lightning in a notebook: copy each part between two `# %%` lines into a Jupyter cell.

VS Code and Jupytext can also open this file as a notebook. If you interrupt the kernel, `fit` saves a checkpoint first.
"""

# %%
from pathlib import Path

from cifar_lightning import evaluate, fit, load_model, resume

data = {"source": "synthetic", "synthetic_size": 300, "batch_size": 20, "val_split": 0.2}  # or {"batch_size": 128}
first = fit(data, {"lr": 0.02}, max_epochs=1, accelerator="cpu")

# %% [markdown]
# A second `fit` in the same kernel starts a second run, in `lightning_logs/version_1`. Settings are named like the
# flags.

# %%
second = fit(data, {"lr": 0.05}, max_epochs=1, accelerator="cpu", report=False)
print(first["val_acc"], second["val_acc"])

# %% [markdown]
# The third run uses two devices. `fit` starts two processes beside the kernel, so you need no
# `if __name__ == "__main__"`, and no `strategy="ddp_notebook"`. These processes do not see what a cell defines, such as
# a callback. To train a network of your own, let a cell write it to a file, and give its import path.

# %%
Path("my_nets.py").write_text("""
from torch import nn


def small(num_classes, width=8):
    return nn.Sequential(nn.Conv2d(3, width, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(49 * width, num_classes))
""")
third = fit(data, {"net": "my_nets:small", "lr": 0.02}, max_epochs=1, accelerator="cpu", devices=2, report=False)
print(third["devices"], "devices")

# %% [markdown]
# Load the trained network, train the run for another epoch, and test it again. The package never imports your code just
# because a run's file names it, so give the import path each time.

# %%
model = load_model("lightning_logs/version_2", net="my_nets:small")
longer = resume("lightning_logs/version_2", {"max_epochs": 2, "devices": 1, "model.net": "my_nets:small"})
again = evaluate("lightning_logs/version_2", net="my_nets:small", accelerator="cpu")
print(longer["step"], again["test_acc"])
