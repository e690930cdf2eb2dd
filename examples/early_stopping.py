"""Stops once the validation loss has not fallen for three epochs, and tests the checkpoint with the best accuracy.

python examples/early_stopping.py
python examples/early_stopping.py --quick    # on a few generated images, in seconds
"""

import argparse

from lightning.pytorch.callbacks import EarlyStopping

from cifar_lightning import fit


def main(quick: bool) -> None:
    """Runs the example."""
    stopping = EarlyStopping("val_loss", patience=1 if quick else 3)
    results = fit(
        data={"source": "synthetic", "synthetic_size": 500, "batch_size": 20, "val_split": 0.2}
        if quick
        else {"batch_size": 128, "augment": True, "val_split": 5_000},
        model={"net": "tutorial" if quick else "speed54", "lr": 0.05},
        max_epochs=6 if quick else 100,
        callbacks=[stopping],
    )
    # To continue an interrupted run: resume("lightning_logs/version_0", callbacks=[EarlyStopping(...)]).
    print(
        f"step {results['step']}: validation accuracy {results['val_acc']:.2%}, test accuracy {results['test_acc']:.2%}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    main(parser.parse_args().quick)
