"""What `compared` makes of plain values, whatever runs they are of."""

from cifar_lightning.report import comparison


def run(seed, lr=0.1, **results):
    results = {"test_acc": 0.5 + seed / 1_000, "test_count": 1_000, **results}
    return comparison.Tested(f"run_{lr}_{seed}", results, {"seed": seed, "lr": lr}, None)


def test_seeds_stand_in_the_order_of_numbers():
    seeds = [2, 10, 9, 1]
    found = comparison.compared([*map(run, seeds), run(1, lr=0.2)], set())
    assert found["settings"]["seed"] == {"A": [1, 2, 9, 10], "B": 1}


def test_every_group_has_a_name():
    """Those of one and two letters are 702."""
    found = comparison.compared([run(0, lr=number) for number in range(1, 711)], set())
    assert [one["run"] for one in found["runs"]] == [f"run_{number}_0" for number in range(1, 711)]
    names = [one["name"] for one in found["runs"]]
    assert (names[0], names[25], names[26], names[701], names[702]) == ("A", "Z", "AA", "ZZ", "AAA")


def test_corrupted_images_have_no_predictions_to_ask_for():
    found = comparison.compared([run(0, corruption_acc={}), run(0, lr=0.2, corruption_acc={})], set())
    assert found["comparisons"][0]["why"].startswith("a test on corrupted images keeps no predictions: compare several")
