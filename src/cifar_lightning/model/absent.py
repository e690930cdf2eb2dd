"""What has another name in LitNet than elsewhere, and none that is like it: for who looks for it."""

NAMED = {
    "learning_rate": "lr",
    "num_classes": "classes",
    "class_names": "classes",
    **dict.fromkeys(("model", "network", "backbone", "arch", "architecture"), "net"),
    "wd": "weight_decay",
    "lr_scheduler": "schedule",
}
