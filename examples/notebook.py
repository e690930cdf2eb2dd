"""cifar_lightning in a notebook: what is between these lines goes into cells of Jupyter's, as it is.

VS Code and Jupytext open the file itself as a notebook. Interrupting the kernel saves a checkpoint first.
"""

# %%
from pathlib import Path

from cifar_lightning import evaluate, fit, load_model, resume

data = {"source": "synthetic", "synthetic_size": 300, "batch_size": 20, "val_split": 0.2}  # or {"batch_size": 128}
first = fit(data, {"lr": 0.02}, max_epochs=1, accelerator="cpu")

# %% [markdown]
# A second fit in the same kernel is a second run, in `lightning_logs/version_1`. Settings have the flags' names.

# %%
second = fit(data, {"lr": 0.05}, max_epochs=1, accelerator="cpu", report=False)
print(first["val_acc"], second["val_acc"])

# %% [markdown]
# Two devices: `fit` starts two processes, and the kernel is neither of them. So there is no `if __name__ == "__main__"`
# to write and no `strategy="ddp_notebook"`; but what a cell defines, such as a callback, cannot take part. A network
# can, by its import path, from a file that a cell writes.

# %%
Path("my_nets.py").write_text("""
from torch import nn


def small(num_classes, width=8):
    return nn.Sequential(nn.Conv2d(3, width, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(49 * width, num_classes))
""")
third = fit(data, {"net": "my_nets:small", "lr": 0.02}, max_epochs=1, accelerator="cpu", devices=2, report=False)
print(third["devices"], "devices")

# %% [markdown]
# The network, and the run that goes on for longer. Code is imported for a run only where you name it.

# %%
model = load_model("lightning_logs/version_2", net="my_nets:small")
longer = resume("lightning_logs/version_2", {"max_epochs": 2, "devices": 1, "model.net": "my_nets:small"})
again = evaluate("lightning_logs/version_2", net="my_nets:small", accelerator="cpu")
print(longer["step"], again["test_acc"])
