"""Promises of light that moves with a turning head, and of codes that training does not trust."""

from __future__ import annotations

import pytest
import torch

from vivant import latent
from vivant.export.nets.encode import OUTLINE, PHOTO, Encode
from vivant.export.nets.render import CELLS, FAINT, LIGHT, THIN, Render, relit
from vivant.export.train.face import example_inputs
from vivant.export.train.face_loss import BARING, believed, moved_light


def composed(photo: torch.Tensor, occlusion: torch.Tensor, paint: torch.Tensor) -> torch.Tensor:
    return photo * (1 - occlusion) + paint * occlusion


def lighted(
    occlusion: torch.Tensor, paint: torch.Tensor, shown: torch.Tensor, change: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Occlusion and paint under changed light, as ``Render`` gives them."""
    faint = FAINT * change.abs().mean((1, 2, 3), keepdim=True)
    whole, ink = relit(occlusion, paint * (occlusion + THIN), shown, change, faint)
    return whole, ink / (whole + THIN)


@pytest.mark.parametrize("bright", [0.6, 1.0, 1.4])
def test_light_multiplies_the_photo_and_leaves_paint_alone(bright: float) -> None:
    """What occlusion and paint show after ``relit`` is the brighter photo under the same paint."""
    torch.manual_seed(0)
    occlusion, paint = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    photo = torch.rand(2, 3, 8, 8) * 0.5
    lit = composed(photo, *lighted(occlusion, paint, photo, torch.full_like(occlusion, bright - 1)))
    wanted = photo * (1 - occlusion) * bright + paint * occlusion
    assert (lit - wanted).abs().max() < 0.01


def test_light_keeps_paint_a_colour() -> None:
    """However bright, paint stays within 0..1, as the compositor's 8 bits need."""
    torch.manual_seed(1)
    occlusion, paint, photo = torch.rand(1, 1, 16, 16), torch.rand(1, 3, 16, 16), torch.ones(1)
    whole, colour = lighted(occlusion, paint, photo, torch.full((1, 1, 16, 16), 0.6))
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert colour.min() >= 0
    assert colour.max() <= 1


def test_known_light_is_found_where_it_is_seen() -> None:
    """A picture 1.3 times as bright tells log 1.3, surely where visible and nowhere else."""
    torch.manual_seed(2)
    photo = torch.rand(1, 3, 256, 256) * 0.4 + 0.2
    visible = torch.zeros(1, 1, 128, 128)
    visible[..., :64] = 1
    ratio, sure = moved_light(photo, photo * 1.3, torch.zeros(1, 2, 128, 128), visible)
    assert ratio.shape == sure.shape == (1, 1, CELLS, CELLS)
    assert (ratio[..., :15] - torch.tensor(1.3).log()).abs().max() < 0.02
    assert sure[..., :15].min() > 0.4
    assert sure[..., 18:].max() == 0


def test_a_network_that_says_so_brightens_the_person_alone() -> None:
    """Light is told for the driven person, within its bound, and never for the own motion."""
    torch.manual_seed(3)
    render = Render().eval()
    assert render.light.bias is not None
    torch.nn.init.constant_(render.light.bias, 9.0)
    features, points, source, motion = example_inputs()["render"]
    features = features.clone()
    person = PHOTO + OUTLINE
    features[:, person] = -20.0
    features[:, person, 16:48, 16:48] = 20.0
    with torch.no_grad():
        driven = render.predict(features, points, source, motion)
        still = render.predict(features, points, source, source)
    assert driven.light.max() <= LIGHT
    assert driven.light[0, 0, 16, 16] > 0.9 * LIGHT
    assert driven.light[0, 0, 2, 2].abs() < 1e-6
    assert still.light.abs().max() == 0
    assert still.occlusion.abs().max() == 0


def test_a_believed_code_keeps_the_true_pose() -> None:
    """Of what the encoder found, only expression and gaze are believed, within their range."""
    torch.manual_seed(4)
    encode = Encode()
    found, code = torch.randn(64, latent.SIZE) * 3, torch.rand(64, latent.SIZE)
    none, every = (believed(encode, found, code, trust) for trust in (0.0, 1.0))
    assert torch.equal(none, code)
    assert torch.equal(every[:, 57:], code[:, 57:])
    weights = every[:, :55]
    assert weights.min() >= 0
    assert weights.max() <= 1
    guess = torch.maximum(torch.minimum(found, encode.high), encode.low)[:, :57]
    parting = torch.tensor([name.startswith(BARING) for name in latent.NAMES[:57]])
    assert torch.equal(every[:, :57][:, ~parting], guess[:, ~parting])
    assert (every[:, :57][:, parting] <= guess[:, parting]).all()
    assert (every[:, :57][:, parting] < guess[:, parting]).any()


def test_more_and_less_light_meet_in_the_colour_of_the_photo() -> None:
    """Paint changes smoothly across a frame of which one side has more light and the other less:
    reduced precision must not make black of white where they meet."""
    shown = torch.full((1, 3, 4, 41), 0.8)
    nothing = torch.zeros(1, 1, 4, 41)
    change = nothing + torch.linspace(-0.2, 0.2, 41)
    paint = lighted(nothing, shown, shown, change)[1]
    assert paint.diff(dim=-1).abs().max() < 0.1
    assert (paint[..., 20] - 0.8).abs().max() < 0.01
