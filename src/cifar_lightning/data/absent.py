"""Arguments that other data modules have and this one lacks, or lacks on the command line; tells the user why."""

_WORKERS = (
    "there are no workers, for the images lie in memory and batches are made in the training process: leave it out"
)
_LOADER = 'the loaders are its own: for another make DataLoader(data.dataset("train", transform), '
_SIZE = "images have 32 x 32 pixels: for others give, in Python, train_transforms and test_transforms with a v2.Resize"
_TRANSFORM = "training images have theirs, test images theirs: give, in Python, train_transforms and test_transforms"

# argument: reason
WHY = {
    "num_workers": _WORKERS,
    "workers": _WORKERS,
    "persistent_workers": _WORKERS,
    "prefetch_factor": _WORKERS,
    "multiprocessing_context": _WORKERS,
    "pin_memory": "the images lie on the device, and none are copied to it for a batch: leave it out",
    "shuffle": "training images come in a new order in every epoch, and evaluation images in one: leave it out",
    "drop_last": "training batches are always whole, and an evaluation has every image once: leave it out",
    "normalize": "images always are, and data.normalization says by what: give that",
    "transform": _TRANSFORM,
    "transforms": _TRANSFORM,
    "image_size": _SIZE,
    "img_size": _SIZE,
    "resize": _SIZE,
    **{name: f"{_LOADER}{name}=...)" for name in ("sampler", "batch_sampler", "collate_fn")},
    "download": "what is not there is downloaded: leave it out",
}
# arguments whose name here is too different for a guess
NAMED = {"root": "data_dir", "test_batch_size": "eval_batch_size"}

TRANSFORMS = ("train_transforms", "val_transforms", "test_transforms")
NO_FLAGS = ("seed", "device", *TRANSFORMS)  # a run sets the seed and the device; a transform is code
