"""What a prediction rests on is found where it is known."""

import numpy as np
import pytest

from biofuse.report.occlusion import STEPS, occlude, windows


@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (5, 7), (1, 1)])
def test_every_pixel_is_covered_and_no_window_leaves_the_image(shape: tuple[int, int]) -> None:
    count = np.zeros(shape)
    for window in windows(*shape):
        assert count[window].size > 0
        count[window] += 1
    assert count.min() >= 1
    assert count.sum() == sum(count[window].size for window in windows(*shape))


def test_a_map_is_the_mean_change_over_the_windows_that_cover_a_pixel() -> None:
    image = np.full((64, 48, 3), 40, dtype=np.uint8)
    image[8:24, 8:20] = 240  # what the prediction rests on
    asked: list[int] = []

    def predict(images: list[np.ndarray]) -> np.ndarray:
        asked.append(len(images))
        bright = np.array([each[8:24, 8:20].mean() / 255 for each in images])
        return np.column_stack([1 - bright, bright])

    (for_it, against) = occlude([("a", 1, image), ("b", 0, image)], ("dark", "bright"), predict)
    assert asked == [2 * (STEPS**2 + 1)]
    assert (for_it.called, for_it.probability) == ("bright", pytest.approx(240 / 255))
    np.testing.assert_allclose(for_it.drop, -against.drop)
    assert for_it.drop[8:24, 8:20].min() > 0
    expected = np.zeros((2, 64, 48))
    for window in windows(64, 48):
        hidden = np.zeros((64, 48), dtype=bool)
        hidden[window] = True
        share = hidden[8:24, 8:20].mean()
        expected[:, window[0], window[1]] += np.array([share, 1])[:, None, None]
    grey = image.mean(axis=(0, 1)).round()[0]
    np.testing.assert_allclose(for_it.drop, expected[0] / expected[1] * (240 - grey) / 255, atol=1e-12)
    shown = np.asarray(for_it.picture()).astype(int)
    blue = shown[..., 2] - shown[..., 0]
    assert (blue[for_it.drop > 0] > 0).all()
    assert (blue[for_it.drop == 0] == 0).all()
