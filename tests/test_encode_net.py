"""What ``encode`` hands to ``render``."""

from __future__ import annotations

import torch

from vivant.export.nets.encode import PHOTO, Encode


def test_the_matte_takes_a_cell_of_loose_hair_along() -> None:
    """``encode`` gives the person's matte one cell more than it found, above, below and beside,
    nowhere less, and every other feature as found."""
    torch.manual_seed(3)
    net = Encode(width=8).eval()
    portrait = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        found, (features, _, _) = net.analyse(portrait).features, net(portrait)
    person, wide = found[0, PHOTO], features[0, PHOTO]
    around = torch.nn.functional.pad(person[None], (1, 1, 1, 1), mode="replicate")[0]
    sides = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:], person]
    torch.testing.assert_close(wide, torch.stack(sides).amax(0), rtol=0, atol=0)
    others = [k for k in range(features.shape[1]) if k != PHOTO]
    torch.testing.assert_close(features[:, others], found[:, others], rtol=0, atol=0)
