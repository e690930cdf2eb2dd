"""CIFAR-10 with Lightning on one page: images, a network, training and a test, in a minute or two on a CPU."""

import argparse
import warnings

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.nn import functional as F

from cifar_lightning import CIFAR10DataModule, InputError, LitNet


def network(classes: int) -> nn.Sequential:
    """From images (N, 3, 32, 32) to logits (N, classes): three times, fewer pixels of more channels."""
    layers: list[nn.Module] = []
    for before, after in ((3, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 4 * 4, classes))


class Lesson(LitNet):
    """LitNet brings the optimiser, its schedule and the test's figures; what a step learns from is written here."""

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of a batch. Lightning asks for it, computes its gradients and takes the optimiser's step."""
        images, labels = batch  # float32 (N, 3, 32, 32), from -1 to 1; int64 (N,)
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss


def main() -> None:
    """Trains, tests, prints a table, and ends with an error if the network has learnt less than it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="cifar10", help="source of the images; synthetic needs no download")
    parser.add_argument("--data_dir", default="data", help="folder of the images (downloaded if missing: 170 MB)")
    parser.add_argument("--at_least", type=float, default=0.7, help="the lowest accuracy that is not an error")
    args = parser.parse_args()

    warnings.filterwarnings("ignore", category=FutureWarning)  # Lightning 2.6 calls torch by old names
    torch.manual_seed(0)
    try:
        data = CIFAR10DataModule(args.data_dir, source=args.source, batch_size=128, augment=True)
        data.prepare_data()  # now, for the names of its classes
    except InputError as error:
        parser.error(str(error))
    model = Lesson(network(data.num_classes), lr=0.1, schedule="one-cycle", classes=data.classes)
    trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False)  # on the GPUs, if there are any
    trainer.fit(model, data)
    (figures,) = trainer.test(model, data, verbose=False)
    for name in model.classes:
        print(f"{name:>12}  {figures[f'test_acc/{name}']:6.1%}")
    print(f"{'all':>12}  {figures['test_acc']:6.1%}")
    if figures["test_acc"] < args.at_least:
        raise SystemExit(f"the accuracy {figures['test_acc']:.3f} is below {args.at_least}: something is wrong")


if __name__ == "__main__":
    main()
