"""TensorFlow as a judge of metrics that the other tests compare with PyTorch's."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from ptychoflow.metrics.ssim import WEIGHTS, ssim_scores

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("shape", [(176, 192), (201, 235), (191, 177)])
def test_ms_ssim_is_that_of_tensorflow_also_with_odd_sides(shape):
    """D55. Oracle: tf.image.ssim_multiscale, single precision, the paper's weights divided by their sum."""
    rng = np.random.default_rng(5)
    truth = 1 + gaussian_filter(rng.normal(size=shape), 2)
    recon = truth + 0.1 * rng.normal(size=shape) + 0.1 * gaussian_filter(rng.normal(size=shape), 5)
    images = [tf.constant(image[None, ..., None].astype(np.float32)) for image in (recon, truth)]
    weights = tuple(weight / sum(WEIGHTS) for weight in WEIGHTS)
    expected = float(tf.image.ssim_multiscale(*images, 5.0, power_factors=weights)[0])
    assert ssim_scores([(recon, truth)], 5.0)["ms_ssim"].value == pytest.approx(expected, abs=1e-4)
