"""Promises of the matte: it grows to what hangs together with a person, and to nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vivant.export.nets import matte

GREY, SKIN, HAIR = 0.7, 0.4, 0.2


def person() -> Tensor:
    """Logits of a person who fills the left half of the frame."""
    logits = torch.full((1, 1, 64, 64), -8.0)
    logits[..., :32] = 8
    return logits


def photo() -> Tensor:
    """That person before an even wall."""
    picture = torch.full((1, 3, 256, 256), GREY)
    picture[..., :128] = SKIN
    return picture


def test_a_mask_is_widened_by_its_neighbours() -> None:
    """One cell more above, below and beside, nowhere less, and not at the corners."""
    torch.manual_seed(2)
    logits = torch.randn(2, 1, 64, 64)
    around = torch.nn.functional.pad(logits, (1, 1, 1, 1), mode="replicate")[:, 0]
    sides = around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:]
    expected = torch.stack([*sides, logits[:, 0]]).amax(0)
    assert torch.equal(matte.widened(logits)[:, 0], expected)


def test_an_even_background_stays_behind() -> None:
    """Where nothing stands out the matte is the widened mask, to the neighbours of its cells."""
    grown = matte.grown(photo(), person())
    assert (grown[..., 33:] < -2).all()
    assert (grown[..., :33] > 0).all()


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_loose_hair_is_the_persons(noise: float) -> None:
    """A strand that the mask cuts off is taken in as far as the matte may grow, and only that; a
    spot of the same colour that nothing joins to the person stays where it is."""
    torch.manual_seed(0)
    picture = photo()
    picture[..., 100:103, 128:148] = HAIR
    picture[..., 180:183, 170:190] = HAIR
    grown = matte.grown(picture + noise * torch.randn_like(picture), person())
    assert (grown[0, 0, 25, 33:36] > 0.5).all()
    assert (grown[0, 0, 40:50, 38:] < 0).all()
    assert (grown[0, 0, :20, 36:] < 0).all()


def test_a_background_that_varies_is_no_person() -> None:
    """What differs from a wall of stripes no more than its stripes do stays behind."""
    picture = photo()
    stripes = 0.3 * (torch.arange(256) % 6 < 3).float() + 0.4
    picture[..., 128:] = stripes[:, None]
    assert torch.equal(matte.grown(picture, person()) > 0, matte.widened(person()) > 0)


def test_nothing_that_was_the_persons_is_lost() -> None:
    """Whatever the photo shows, the matte only grows, and at most by ``STEPS`` cells."""
    torch.manual_seed(1)
    logits = 4 * torch.randn(3, 1, 64, 64)
    wide = matte.widened(logits)
    grown = matte.grown(torch.rand(3, 3, 256, 256), logits)
    reach = torch.nn.functional.max_pool2d(wide, 2 * matte.STEPS + 1, 1, matte.STEPS)
    assert (grown >= wide).all()
    assert (grown <= torch.maximum(wide, reach)).all()


def test_the_background_is_continued_behind_the_person() -> None:
    """The wall goes on behind a person, with nothing of their colour, and stays what it is."""
    behind = matte.background(photo(), matte.grown(photo(), person()))
    assert behind.shape == (1, 3, 64, 64)
    assert (behind - GREY).abs().max() < 0.02


def outline(picture: Tensor, logits: Tensor) -> Tensor:
    """The share of the person in each pixel, of a mask as it is learned."""
    grown = matte.grown(picture, logits)
    front, _ = matte.foreground(picture, grown, logits)
    behind = matte.background(picture, grown)
    return matte.outlined(picture, grown, front, behind)


@pytest.mark.parametrize("edge", range(125, 135, 3))
def test_the_outline_is_told_to_the_pixel(edge: int) -> None:
    """Where the mask ends a cell beside the person, their colour tells better."""
    picture = photo()
    picture[..., :edge], picture[..., edge:] = SKIN, GREY
    true = (torch.arange(256) < edge).float()
    share = outline(picture, person())
    assert ((share > 0.5) == (true > 0.5)).float().mean() > 0.998
    assert (share - true).abs().mean() < 0.01


def test_an_outline_without_contrast_is_the_masks() -> None:
    """A person of the colour of the wall ends where the learned mask ends, not the widened one."""
    share = outline(torch.full((1, 3, 256, 256), GREY), person())
    assert (share[..., :126] > 0.9).all()
    assert (share[..., 130:] < 0.1).all()


def test_a_spot_of_the_walls_colour_is_no_hole_in_a_person() -> None:
    """What lies well inside a person is theirs, whatever its colour."""
    picture = photo()
    picture[..., 100:140, 40:80] = GREY
    assert (outline(picture, person())[..., :120] == 1).all()


def test_what_lies_beyond_the_matte_is_nobodys() -> None:
    """A wall with spots of the person's colour stays a wall."""
    picture = photo()
    picture[..., 100:140, 180:220] = SKIN
    assert (outline(picture, person())[..., 150:] < 0.01).all()


def test_the_persons_colour_is_continued_beyond_them() -> None:
    """With nothing of the wall's, and so is what else is told of them."""
    told = torch.where(person() > 0, 0.25, -4.0)
    front, told = matte.foreground(photo(), matte.grown(photo(), person()), told)
    assert front.shape == (1, 3, 64, 64)
    assert (front - SKIN).abs().max() < 0.02
    assert (told - 0.25).abs().max() < 0.02


def test_what_is_about_a_cell_is_the_most_within_two_of_half_its_size() -> None:
    """As a window of six tells."""
    torch.manual_seed(0)
    share = torch.rand(2, 1, 64, 64)
    assert torch.equal(matte.about(share), torch.nn.functional.max_pool2d(share, 6, 2, 2))


@pytest.mark.parametrize(("gap", "closed"), [(3, True), (4, True), (5, False), (9, False)])
def test_gaps_narrower_than_a_width_are_sealed(gap: int, closed: bool) -> None:
    """And nothing else changes, outlines neither."""
    share = torch.zeros(1, 1, 40, 40)
    share[..., 8:30, 5:35] = 1
    torn = share.clone()
    torn[..., 18 : 18 + gap] = 0
    mended = matte.sealed(torn, 5)
    assert torch.equal(mended, share if closed else torn)
    assert torch.equal(matte.sealed(mended, 5), mended)


def test_a_person_beside_the_edge_of_the_frame_does_not_reach_it() -> None:
    """Nor is one that the frame cuts off drawn back from it."""
    share = torch.zeros(1, 1, 40, 40)
    share[..., 2:, 10:30] = 1
    assert torch.equal(matte.sealed(share, 9), share)
