"""Tunes the learning rate and the weight decay with Optuna, by validation accuracy and never by the test set.

pip install 'cifar-lightning[optuna]'
python examples/optuna_study.py
python examples/optuna_study.py --quick    # on a few generated images, in seconds

The study is stored in study.db. Run the script again to continue it, or in two terminals at once to share the work.
Trials that lag behind are pruned. At the end, the script trains once more, with the best settings and another seed,
and prints the test accuracy of that run.
"""

import argparse
from typing import Any

import optuna
from optuna_integration import PyTorchLightningPruningCallback

from cifar_lightning import NonFiniteError, fit


def settings(trial: optuna.trial.BaseTrial, quick: bool) -> dict[str, Any]:
    """The arguments of `fit` for a trial."""
    return {
        "data": {"source": "synthetic", "synthetic_size": 400, "batch_size": 20, "val_split": 0.2}
        if quick
        else {"batch_size": 128, "augment": True, "val_split": 5_000},
        "model": {
            "net": "tutorial" if quick else "speed54",
            "lr": trial.suggest_float("lr", 1e-3, 1.0, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
            "schedule": "one-cycle",
        },
        "max_epochs": 2 if quick else 10,
        "default_root_dir": "study",
    }


def main(quick: bool) -> None:
    """Runs the study, then a fit with the best settings."""

    def objective(trial: optuna.Trial) -> float:
        pruning = PyTorchLightningPruningCallback(trial, monitor="val_acc")
        try:
            results = fit(**settings(trial, quick), callbacks=[pruning], report=False)
        except NonFiniteError as error:
            raise optuna.TrialPruned(str(error)) from error  # the learning rate was too high
        return float(results["val_acc"])

    study = optuna.create_study(
        direction="maximize",
        study_name="quick" if quick else "speed54",
        storage="sqlite:///study.db",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2 if quick else 5),
    )
    study.optimize(objective, n_trials=4 if quick else 30)
    print(f"best of {len(study.trials)} trials: {study.best_params}, validation accuracy {study.best_value:.2%}")
    results = fit(**settings(optuna.trial.FixedTrial(study.best_params), quick), seed=1)
    print(f"on the test set: {results['test_acc']:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    main(parser.parse_args().quick)
