"""BatchLoader: orders, augmentation, positions to resume from, shares of ranks, and wrong arguments."""

import itertools
import weakref

import numpy as np
import pytest
import torch

from cifar_lightning.data import transforms
from cifar_lightning.data.loader import BatchLoader
from cifar_lightning.errors import InputError

COUNT = 103


@pytest.fixture(scope="module")
def images():
    """Returns random images, each different from all others and from its mirror image, labelled by their indices."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=torch.channels_last), torch.arange(COUNT)


def loader(images, batch_size=8, train=True, **kwargs):
    return BatchLoader(*images, batch_size, mean=(0.5,) * 3, std=(0.5,) * 3, train=train, **kwargs)


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(ours, theirs, strict=True)
    )


AUGMENTED = {"crop_padding": 4, "flip": "random"}


def test_batches_are_normalised_floats_in_channels_last(images):
    x, y = next(iter(loader(images, **AUGMENTED)))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((8, 3, 32, 32), torch.float32, (8,), torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert -1 <= x.min() < -0.9
    assert 0.9 < x.max() <= 1


def test_batches_depend_only_on_seed_and_epoch(images):
    first = loader(images, **AUGMENTED)
    epochs = [list(first) for _ in range(3)]
    assert not same(epochs[0], epochs[1])
    again = loader(images, **AUGMENTED)
    again.set_epoch(2)
    assert same(again, epochs[2])
    again.set_epoch(0)
    assert same(again, epochs[0])
    assert not same(loader(images, seed=1, **AUGMENTED), epochs[0])


def test_many_images_are_augmented_alike_without_a_bordered_copy(images, monkeypatch):
    few = loader(images, cutout=5, **AUGMENTED)
    monkeypatch.setattr("cifar_lightning.data.loader.BORDERED", COUNT - 1)
    many = loader(images, cutout=5, **AUGMENTED)
    assert many.images.data_ptr() == images[0].data_ptr() != few.images.data_ptr()
    assert same(many, few)
    assert torch.equal(many.dataset[3][0], few.dataset[3][0])


def test_an_epoch_has_no_image_twice(images):
    labels = torch.cat([y for _, y in loader(images)])
    assert len(labels) == 96  # 12 batches; the other 7 images wait for another epoch
    assert len(labels.unique()) == 96
    assert labels.tolist() != sorted(labels.tolist())


def test_without_augmentation_images_are_only_normalised(images):
    mean = std = torch.full((3,), 0.5)
    for x, y in loader(images):
        assert torch.equal(x, transforms.normalize(images[0][y].permute(0, 2, 3, 1).contiguous(), mean, std))


def test_crops_are_windows_anywhere_in_the_padded_image(images):
    places = set()
    padded = transforms.reflect_pad(images[0].permute(0, 2, 3, 1), 2)
    mean = std = torch.full((3,), 0.5)
    windows = {
        (top, left): transforms.normalize(padded[:, top : top + 32, left : left + 32].contiguous(), mean, std)
        for top in range(5)
        for left in range(5)
    }
    for x, y in loader(images, crop_padding=2):
        for image, label in zip(x, y, strict=True):
            found = [place for place, window in windows.items() if torch.equal(window[label], image)]
            assert len(found) == 1
            places.add(found[0])
    assert len(places) > 20  # of 25, with 96 images


def test_batches_equal_a_reference_in_numpy(images):
    """Cropped, flipped, normalised and cut out in a batch, each image is what numpy makes of that image alone."""
    mean, std, cutout = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4), 6
    ours = BatchLoader(*images, 8, mean=mean, std=std, train=True, crop_padding=3, flip="random", cutout=cutout)
    pixels, draws = images[0].permute(0, 2, 3, 1).numpy(), zip(*(x.tolist() for x in ours._draws(0, 0)), strict=True)
    found = [(image, int(label)) for x, y in ours for image, label in zip(x, y, strict=True)]
    assert len(found) == 96
    for (image, label), (index, top, left, mirrored, row, column) in zip(found, draws, strict=False):
        assert label == index
        crop = np.pad(pixels[index], ((3, 3), (3, 3), (0, 0)), "reflect")[top : top + 32, left : left + 32]
        expected = ((crop[:, ::-1] if mirrored else crop) / 255 - mean) / std
        expected[max(row, 0) : max(row + cutout, 0), max(column, 0) : max(column + cutout, 0)] = 0
        np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=2e-6)


def test_a_rank_keeps_only_its_own_part_of_the_random_draws(images):
    options = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "train": True, "crop_padding": 3, "flip": "random", "cutout": 6}
    for rank in range(4):
        drawn = BatchLoader(*images, 8, **options, rank=rank, world_size=4)._draw_epoch(0)
        assert sum(x.untyped_storage().nbytes() for x in drawn) == 96 // 4 * (5 * 8 + 1)


def test_a_new_batch_size_is_used_from_the_next_epoch_on(images):
    """A changed batch size is used in the next epoch, although that epoch was drawn in advance with the old size."""
    ours, fresh = loader(images, 8, **AUGMENTED), loader(images, 5, **AUGMENTED)
    list(ours)
    ours.given_batch_size = 5
    fresh.set_epoch(1)
    assert same(ours, fresh)


def flips_of(loader, images):
    """Returns, for the loader's next epoch, {label: whether the image was mirrored}."""
    plain = transforms.normalize(images[0].permute(0, 2, 3, 1).contiguous(), loader.mean, loader.std)
    flips = {}
    for x, y in loader:
        for image, label in zip(x, y, strict=True):
            mirrored = torch.equal(image, plain[label].flip(2))
            assert mirrored or torch.equal(image, plain[label])
            flips[int(label)] = mirrored
    return flips


def test_random_flip_mirrors_half(images):
    flips = flips_of(loader(images, flip="random"), images)
    assert 30 < sum(flips.values()) < 66


def test_alternating_flip_shows_an_image_mirrored_in_every_other_epoch(images):
    alternating = loader(images, flip="alternating")
    first, second, third = (flips_of(alternating, images) for _ in range(3))
    assert 30 < sum(first.values()) < 66
    for image in first.keys() & second.keys():
        assert first[image] != second[image]
    for image in first.keys() & third.keys():
        assert first[image] == third[image]


def test_repeat_makes_every_epoch_like_the_first(images):
    repeated = loader(images, repeat=True, flip="alternating", crop_padding=2, cutout=4)
    first, second, third = (torch.cat([x for x, _ in repeated]) for _ in range(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_global_batches(images, world_size):
    whole = list(loader(images, **AUGMENTED))
    shares = [loader(images, rank=rank, world_size=world_size, **AUGMENTED) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(whole)}
    joined = [
        (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])) for parts in zip(*shares, strict=True)
    ]
    assert same(joined, whole)


def test_the_chunk_size_does_not_change_the_batches(images, monkeypatch):
    whole = list(loader(images, **AUGMENTED))
    monkeypatch.setattr("cifar_lightning.data.loader.CHUNK", 20)
    assert same(loader(images, **AUGMENTED), whole)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 10, 500])
def test_evaluation_has_every_image_once_in_the_same_batches(images, world_size, batch_size):
    ranks = [
        list(loader(images, batch_size, train=False, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert all(ranks)  # Lightning refuses a rank without batches
    labels = torch.cat([y for batches in ranks for _, y in batches])
    assert labels.sort().values.tolist() == list(range(COUNT))
    batches = sorted((batch for share in ranks for batch in share), key=lambda batch: int(batch[1][0]))
    assert same(batches, loader(images, batch_size, train=False))
    assert max(len(y) for _, y in batches) <= batch_size
    assert [len(share) for share in ranks] == [
        len(loader(images, batch_size, train=False, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_rank_knows_the_images_of_its_evaluation_batches(images, world_size):
    for count in (COUNT, 5):
        few = [x[:count] for x in images]
        shares = [loader(few, 10, train=False, rank=rank, world_size=world_size) for rank in range(world_size)]
        for share in shares:
            assert [index.tolist() for index in share.batch_indices] == [y.tolist() for _, y in share]
    nothing = [x[:0] for x in images]
    assert loader(nothing, train=False).batch_indices == []
    assert not hasattr(loader(images), "batch_indices")


def test_after_set_epoch_all_iterations_are_of_that_epoch(images):
    """After `set_epoch` all iterations are of that epoch, so a callback can look at a batch without taking it away."""
    plain = loader(images, **AUGMENTED)
    epochs = [list(plain) for _ in range(4)]
    told = loader(images, **AUGMENTED)
    for epoch in (2, 0, 1):
        told.set_epoch(epoch)
        for _ in range(2):
            assert same([next(iter(told))], epochs[epoch][:1])
        assert same(told, epochs[epoch])
    told.follow(told)
    assert same(told, epochs[2])
    assert same(told, epochs[3])


def test_each_lap_of_an_epoch_has_its_own_order_and_can_be_resumed(images):
    """A loader combined with a longer one makes several laps in an epoch; each has its own order and can be resumed."""

    def told(epoch):
        told = loader(images, flip="alternating", crop_padding=2)
        told.set_epoch(epoch)
        return told

    def laps(loader):
        return [batch for _ in range(3) for batch in loader]

    orders = {tuple(y.tolist()) for epoch in range(3) for _, y in laps(told(epoch))}
    assert len(orders) == 3 * 3 * 12
    whole = laps(told(1))
    for done in (1, 11, 12, 13, 24, 30):
        first, rest = told(1), loader(images, flip="alternating", crop_padding=2)
        batches = itertools.chain.from_iterable(first for _ in range(3))
        assert same(itertools.islice(batches, done), whole[:done])
        rest.load_state_dict(first.state_dict())
        rest.set_epoch(1)
        assert same(laps(rest)[: 36 - done], whole[done:])


def test_alternating_flip_alternates_between_the_laps_of_an_epoch(images):
    told = loader(images, flip="alternating")
    told.set_epoch(1)
    first, second = flips_of(told, images), flips_of(told, images)
    assert all(first[image] != second[image] for image in first.keys() & second.keys())


@pytest.mark.parametrize("told", [True, False])
def test_looking_at_batches_during_an_iteration_keeps_its_position(images, told):
    """The state is the position of the fit's iteration, even if a callback has taken other batches meanwhile."""
    whole = loader(images)
    if told:
        whole.set_epoch(0)
    for done, _ in enumerate(whole, 1):
        next(iter(whole))
        if done == 5:
            list(whole)
        assert whole.state_dict() == {"epoch": 0, "lap": 0, "position": done}
    whole.set_epoch(1)
    batches = iter(whole)
    list(itertools.islice(batches, 3))
    looking = iter(whole)
    next(looking)
    assert whole.state_dict() == {"epoch": 1, "lap": 0, "position": 3}


@pytest.mark.parametrize("train", [True, False])
def test_an_epoch_can_be_resumed_at_any_position(images, train):
    whole = loader(images, train=train, **AUGMENTED)
    list(whole)  # the first epoch
    batches, states = [], []
    for batch in whole:
        batches.append(batch)
        states.append(whole.state_dict())
    following = list(whole)
    assert len(batches) == len(whole)
    for done, state in enumerate(states, 1):
        resumed = loader(images, train=train, **AUGMENTED)
        resumed.load_state_dict(state)
        if done < len(whole):
            resumed.set_epoch(1)  # Lightning does so
            assert same(resumed, batches[done:])
            resumed.set_epoch(2)
        assert same(resumed, following)


def test_an_iterator_that_is_not_used_takes_no_epoch(images):
    twice = loader(images)
    iter(twice)
    iter(twice)
    assert same(twice, loader(images))


def test_changing_a_batch_changes_no_stored_image_or_label(images):
    for train in (True, False):
        for x, y in loader(images, train=train):
            x.fill_(9)
            y.fill_(9)
    assert images[1].tolist() == list(range(COUNT))
    assert not (next(iter(loader(images, train=False)))[0] == 9).any()


def test_autograd_treats_batches_as_separate_tensors(images):
    """Changing one batch in place affects no other in autograd, although they share memory, as with a DataLoader."""
    scale = torch.ones(1, requires_grad=True)
    net = torch.nn.Conv2d(3, 1, 3)
    batches = iter(loader(images))
    with torch.inference_mode():
        next(batches)  # in inference mode, while the next is trained on
    x, _ = next(batches)
    outputs = net(x).sum()
    y, _ = next(batches)
    y.mul_(scale)
    (outputs + net(y).sum()).backward()
    assert scale.grad is not None
    assert not any(z.requires_grad for z, _ in batches)


@pytest.mark.parametrize("train", [True, False])
def test_a_list_keeps_all_batches_of_an_epoch(images, train):
    kept = list(loader(images, train=train))
    again = loader(images, train=train)
    assert same(kept, again)
    for x, y in again:
        x.add_(1)
        y[0] = 3
    assert same(kept, loader(images, train=train))


def test_in_plain_loops_each_iteration_is_the_next_epoch(images):
    """Without a Trainer each iteration is the epoch after the one begun last, even if that one is not finished."""
    plain = loader(images)
    epochs = [list(plain) for _ in range(5)]
    ours = loader(images)
    assert same(itertools.islice(ours, 3), epochs[0][:3])
    pairs = list(zip(ours, ours, strict=True))
    assert same([first for first, _ in pairs], epochs[1])
    assert same([second for _, second in pairs], epochs[2])
    assert same([next(iter(ours)), next(iter(ours))], [epochs[3][0], epochs[4][0]])
    assert len(ours) == len(epochs[0]) == 12


def test_images_are_freed_with_the_last_reference(images):
    """A loader is freed with its last reference: Python's cycle collector ignores how full a GPU's memory is."""
    gone = weakref.ref(loader(images))
    assert gone() is None


def test_an_evaluation_of_fewer_images_than_ranks_is_refused(images):
    few = (images[0][:3], images[1][:3])
    said = "4 devices are more than the 3 images of an evaluation: use at most 3 devices, or more images"
    with pytest.raises(InputError, match=said):
        loader(few, train=False, rank=0, world_size=4)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "message"),
    [
        (0, 1, "batch_size 0: must be at least 1"),
        (104, 1, "batch_size 104 is more than the 103 training images: use at most 103"),
        (10, 4, "batch_size 10 cannot be shared by 4 devices: .*; use 8 or 12$"),
        (3, 4, "batch_size 3 cannot be shared by 4 devices: .*; use 4$"),
        (103, 4, "batch_size 103 cannot be shared by 4 devices: .*; use 100$"),  # 104 would be more than the images
        (103, 200, "batch_size 103 cannot be shared by 200 devices: .*; use fewer devices, or more images$"),
    ],
)
def test_impossible_batch_sizes_are_refused(images, batch_size, world_size, message):
    with pytest.raises(InputError, match=message):
        loader(images, batch_size, world_size=world_size)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(("images", "batch_size"), [(10_000, 500), (5_000, 500), (10_000, 1_250), (999, 7)])
def test_ranks_evaluate_equally_many_batches(world_size, images, batch_size):
    """All ranks evaluate equally many batches; otherwise a collective in a user's test step would wait forever."""
    x, y = torch.zeros(images, 3, 1, 1, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64)
    shares = [
        BatchLoader(x, y, batch_size, mean=(0.5,) * 3, std=(0.5,) * 3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    sizes = [len(labels) for share in shares for _, labels in share]
    assert sum(sizes) == images
    assert max(sizes) <= batch_size
