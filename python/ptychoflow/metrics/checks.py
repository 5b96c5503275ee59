"""What every score of two images demands of them before it starts."""

import numpy as np
from jaxtyping import Inexact


def check_pair(
    first: Inexact[np.ndarray, "..."], second: Inexact[np.ndarray, "..."], *, what: str, least_side_px: int = 1
) -> None:
    """Refuse two images that no score can be computed of.

    Args:
        first: (H, W) image.
        second: (H, W) image.
        what: the score, for the message.
        least_side_px: the shorter side must have this many px.

    Raises:
        ValueError: different shapes, too short a side, or values that are NaN or infinite.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"{what}: images of one shape expected, got {first.shape} and {second.shape}; crop by position"
        )
    if min(first.shape) < least_side_px:
        raise ValueError(f"{what}: sides of at least {least_side_px} px expected, got an image of shape {first.shape}")
    for name, image in (("first", first), ("second", second)):
        if not np.isfinite(image).all():
            bad = int((~np.isfinite(image)).sum())
            raise ValueError(f"{what}: {bad} values of the {name} image, of shape {image.shape}, are NaN or infinite")
