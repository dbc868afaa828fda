"""Promises of the sharp backgrounds that synthetic people are set before while training."""

from __future__ import annotations

import numpy as np

from vivant.export.train.face_background import SIDE, sample_texture, with_background


def test_textures_are_pictures_with_detail() -> None:
    """Every draw is a finite RGB picture, none flat, and no two alike."""
    rng = np.random.default_rng(0)
    drawn = [sample_texture(rng) for _ in range(12)]
    for picture in drawn:
        assert picture.shape == (SIDE, SIDE, 3)
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert np.abs(np.diff(picture, axis=0)).mean() > 1e-3
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)


def test_a_background_leaves_the_person_as_they_are() -> None:
    """Behind a person everything changes, and on them nothing, to a cell from the outline."""
    segment = np.zeros((128, 128), np.uint8)
    segment[40:, 40:90] = 1
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    out = with_background(image, segment, np.zeros((SIDE, SIDE, 3), np.float32))
    assert (out[86:, 86:174] == 200).all()
    assert (out[:70] < 3).all()
    assert (out[:, :70] < 3).all()
