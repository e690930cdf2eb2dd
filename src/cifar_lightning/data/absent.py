"""Arguments that other data modules have and this one lacks, or lacks on the command line; tells the user why."""

_WORKERS = (
    "there are no workers, because the images are in memory and the training process makes the batches; leave it out"
)
_LOADER = 'the data module makes its own loaders; for another one, use DataLoader(data.dataset("train", transform), '
_SIZE = "images have 32 x 32 pixels; for others, pass train_transforms and test_transforms with a v2.Resize, in Python"
_TRANSFORM = "training and test images have separate transforms; pass train_transforms and test_transforms, in Python"

# argument: reason
WHY = {
    "num_workers": _WORKERS,
    "workers": _WORKERS,
    "persistent_workers": _WORKERS,
    "prefetch_factor": _WORKERS,
    "multiprocessing_context": _WORKERS,
    "pin_memory": "the images are already on the device, and none are copied for a batch; leave it out",
    "shuffle": "training images come in a new order in every epoch, and evaluation images in a fixed one; leave it out",
    "drop_last": "training batches are always full, and an evaluation has every image once; leave it out",
    "normalize": "images are always normalised; use normalization (--data.normalization) to choose the mean and std",
    "transform": _TRANSFORM,
    "transforms": _TRANSFORM,
    "image_size": _SIZE,
    "img_size": _SIZE,
    "resize": _SIZE,
    **{name: f"{_LOADER}{name}=...)" for name in ("sampler", "batch_sampler", "collate_fn")},
    "download": "missing images are downloaded automatically; leave it out",
}
# arguments whose name here is too different for a guess
NAMED = {"root": "data_dir", "test_batch_size": "eval_batch_size"}

TRANSFORMS = ("train_transforms", "val_transforms", "test_transforms")
NO_FLAGS = ("seed", "device", *TRANSFORMS)  # a run sets the seed and the device; a transform is code
