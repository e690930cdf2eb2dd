"""How sure an accuracy is: Wilson's interval for a share of so many images."""

import math

Z = 1.959963984540054  # of the normal distribution: 95 % of it lie within so many deviations


def wilson(right: int, images: int) -> tuple[float, float] | None:
    """The 95 % interval of a share (https://doi.org/10.1080/01621459.1927.10502953), exactly 0 and 1 at the ends.

    It is the error of having tested on these images and not on others like them; another seed is another network.

    Args:
        right: How many of the images count.
        images: How many there are; None is given for none.
    """
    if not images:
        return None
    share, z2 = right / images, Z**2 / images
    middle, width = share + z2 / 2, Z * math.sqrt((share * (1 - share) + z2 / 4) / images)
    low, high = (middle - width) / (1 + z2), (middle + width) / (1 + z2)
    return 0.0 if right == 0 else low, 1.0 if right == images else high
