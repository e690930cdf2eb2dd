"""What other libraries call LitNet's arguments, if their names are too unlike ours for a spelling hint to find."""

NAMED = {
    "learning_rate": "lr",
    "num_classes": "classes",
    "class_names": "classes",
    **dict.fromkeys(("model", "network", "backbone", "arch", "architecture"), "net"),
    "wd": "weight_decay",
    "lr_scheduler": "schedule",
}
