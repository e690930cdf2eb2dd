"""A model card: what is known about a trained network, and what is not, as the README.md of a folder to share."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cifar_lightning.console import decimal, percent
from cifar_lightning.data.cifar10 import COUNTS, TITLES
from cifar_lightning.errors import quoted
from cifar_lightning.report.statistics import INTERVAL, wilson

HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "cifar100-coarse": "uoft-cs/cifar100"}
NAMES = {**TITLES, "folder": "the user's own images", "synthetic": "generated images"}
_OFFICIAL = "The training images of {}, except those that the `val_split` below holds out"
DATA = {
    "cifar10": f"{_OFFICIAL.format('CIFAR-10')}.",
    "cifar100": f"{_OFFICIAL.format('CIFAR-100')}.",
    "cifar100-coarse": f"{_OFFICIAL.format('CIFAR-100')}, labelled with the 20 coarse classes.",
    "folder": "The author's own images, converted to 32 × 32 pixels. Nothing more is known about them here.",
    "synthetic": "Images that cifar_lightning generates: coloured shapes named after CIFAR-10's classes. The network "
    "has seen no photographs, and is useless for them.",
}
VIEWS = {
    "one": "each image alone",
    "mirror": "the mean of each image and its mirror image",
    "six": "the mean of six views of each image",
}
USE = """```python
from cifar_lightning import load_model

model = load_model("path/of/this/folder"{own})
labels, probabilities = model.predict(images)  # uint8 (N, 3, {size}, {size})
```

`model.safetensors` has the weights in float32, by their names in the network; `preprocessor_config.json` says how
images are prepared, and `config.json` has the names of the classes."""
OWN = "\n\nThe network itself, `net`, is its author's own code, which is not in this folder."
# Settings that describe the training, besides the arguments of the network and its optimiser.
TRAINED = ("batch_size", "val_split", "augment", "crop_padding", "flip", "cutout", "normalization", "seed")


def model_card(facts: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """Writes the text of the card, which does not depend on where it is written.

    Args:
        facts: The metadata of an exported file; or of weights in the package, which also describe their training.
        trained: `data`, the arguments of the data module; `precision`; `results`, the contents of the results.json of
            this checkpoint's test; `run`, those results of its run that hold for all its checkpoints. Any of these, or
            all, may be missing.
    """
    from huggingface_hub import ModelCard

    data, results = trained.get("data") or {}, trained.get("results") or facts.get("test") or {}
    source, told = str(data.get("source")), facts.get("data") or {}
    official = _is_official(source, data, trained.get("run", results))
    layout = f"images in {TITLES[source]}'s layout" if source in TITLES and not official else ""
    images = told.get("images") or layout or NAMES.get(source, "images unknown")
    net, size = facts["model"].get("net", "A custom network"), facts["image_size"]
    name = f"{net} on {images}"
    own = "net" not in facts["model"]
    parts = [
        f"# {_text(name)}",
        f"A classifier of images of {size} × {size} pixels into {len(facts['classes'])} classes, trained with PyTorch "
        f"Lightning and cifar_lightning, and exported by cifar_lightning {facts['version']}.",
        "## Use",
        USE.format(size=size, own=", net=net" if own else "") + (OWN if own else ""),
        "## Accuracy",
        *(_measured(results) if results else ["Not known: no test of this checkpoint is recorded."]),
        "## Data",
        _data(source, data, told, layout),
        f"A pixel value x from 0 to 255 becomes (x / 255 - mean) / std, with mean {tuple(facts['mean'])} and std "
        f"{tuple(facts['std'])}.",
        "## Training",
        _table(("setting", "value"), _settings(facts, trained, results)),
        "## Limits",
        f"Whatever an image shows, the network names one of these classes: {', '.join(map(_text, facts['classes']))}. "
        "Pictures of another size must be scaled first, and lose the detail that does not fit.",
    ]
    front = _front(name, images, source if official else "", results)
    return str(ModelCard(f"---\n{front}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _is_official(source: str, data: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether the run was trained and tested on a published data set, as far as the numbers of images tell."""
    if source not in TITLES or data.get("sha256") is not None:
        return False
    counts = [told.get(name) for name in ("train_count", "val_count")]  # earlier versions do not record them
    learnt = COUNTS["train"] if None in counts else sum(map(int, filter(None, counts)))
    return (learnt, told.get("test_count")) == (COUNTS["train"], COUNTS["test"])


def _front(name: str, images: str, source: str, results: Mapping[str, Any]) -> str:
    """Writes the card's metadata, in the terms of the Hugging Face Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    evaluation = EvalResult(
        task_type="image-classification",
        dataset_type=HUB_NAMES.get(source, "other"),
        dataset_name=images,
        dataset_split="test",
        metric_type="accuracy",
        metric_value=results.get("test_acc"),
    )
    card = ModelCardData(
        library_name="cifar-lightning",
        pipeline_tag="image-classification",
        tags=["image-classification", "pytorch-lightning"],
        datasets=HUB_NAMES.get(source),
        model_name=name if results else None,
        eval_results=[evaluation] if results else None,
    )
    return str(card.to_yaml())


def _measured(results: Mapping[str, Any]) -> list[str]:
    count, accuracy = results["test_count"], results["test_acc"]
    low, high = wilson(round(accuracy * count), count)
    said = [
        f"{100 * accuracy:.2f} % of {count:,} test images are classified correctly ({INTERVAL} "
        f"{100 * low:.2f} to {100 * high:.2f} %, for the choice of these images only), with a mean cross-entropy of "
        f"{decimal(results['test_loss'])}. "
        f"Computed in {results.get('precision', 'the precision of the training')}, from "
        f"{VIEWS[results.get('test_views', 'one')]}.",
    ]
    if odd := results.get("not_finite"):
        said.append(
            f"The network's logits of {odd:,} of these images are NaN or infinite. An image with NaN counts as the "
            "first class whose logit is NaN, and may count as right for that reason alone."
        )
    if "confusion" not in results:  # the metadata of weights has none
        return said
    images = [sum(row) for row in results["confusion"]]
    rows = [
        (name, f"{total:,}", percent(share))
        for (name, share), total in zip(results["per_class_acc"].items(), images, strict=True)
    ]
    return [*said, _table(("class", "test images", "accuracy"), rows)]


def _data(source: str, data: Mapping[str, Any], told: Mapping[str, Any], layout: str) -> str:
    if told:
        return f"{_text(told['images'])}: {told['train']:,} training images and {told['test']:,} test images."
    words = DATA.get(source, "Not known: the checkpoint does not say.")
    if layout:
        digest = data.get("sha256")
        which = f"that are not the official ones; their SHA-256 digest is {digest}" if digest else "of unknown origin"
        words = f"I{layout[1:]} {which}."
    if labels := data.get("train_labels"):  # a path, of which only the name is of use to others
        words += f" The network was trained on other labels than their own: {_text(Path(labels).name)}."
    return words


def _settings(
    facts: Mapping[str, Any], trained: Mapping[str, Any], results: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    data, run = trained.get("data") or {}, trained.get("run") or {}
    values = {
        "command": facts.get("command"),
        **facts["model"],
        **{name: data[name] for name in TRAINED if name in data},
        "precision": trained.get("precision"),
        "global_batch_size": run.get("global_batch_size"),
        **{f"trainer.{name}": value for name, value in (run.get("trainer") or {}).items()},
        "step of these weights": facts.get("step"),
        "test_views": facts["test_views"],
        "train_count": results.get("train_count"),
        # The tested weights may be from an earlier step, after fewer steps, images and seconds.
        **{f"{name}, of the whole training": results.get(name) for name in ("fit_steps", "images_seen", "fit_seconds")},
        **{name: results.get(name) for name in ("devices", "accelerator")},
        **{f"{name}, in training": results.get(name) for name in ("torch", "lightning", "cifar_lightning")},
    }
    return (
        (name, str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in values.items()
        if value is not None
    )


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [headings, ["---"] * len(list(headings)), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(name: str) -> str:
    """Escapes a name for Markdown."""
    return "".join(f"\\{sign}" if sign in "|\\`*_[]<>#" else sign for sign in quoted(name))
