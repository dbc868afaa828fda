"""What ``render`` computes in a fast form is what the plain form says."""

from __future__ import annotations

import pytest
import torch
from generic_head import NEAR
from torch import Tensor
from torch.nn import functional as F

from vivant import latent
from vivant.export.nets.encode import CHANNELS, OUTLINE, PHOTO, PRIOR
from vivant.export.nets.layers import Pack, conv, fold, stacked
from vivant.export.nets.matte import about
from vivant.export.nets.painter import PAINT
from vivant.export.nets.pose import Posed, Poser, load_rig
from vivant.export.nets.render import FETCHED, THIN, Render, relit
from vivant.export.nets.warp import hats, planes, resize, sample
from vivant.export.train.face import example_inputs


def posed(poser: Poser, batch: int = 2) -> Posed:
    """Some faces, turned, shifted and talking."""
    torch.manual_seed(3)
    generic = torch.from_numpy(load_rig().neutral)[None].repeat(batch, 1, 1)
    points = generic * 0.165 + torch.tensor([0.5, 0.42, 0.0]) + 0.002 * torch.randn(1, 1, 3)
    source, motion = torch.zeros(batch, latent.SIZE), torch.zeros(batch, latent.SIZE)
    motion[:, :55] = 0.4 * torch.rand(batch, 55)
    motion[:, 57:60] = 15 * torch.randn(batch, 3)
    motion[:, 60:] = 0.2 * torch.randn(batch, 3)
    near = torch.linspace(0.04, 0.12, batch)[:, None]
    with torch.no_grad():
        return Posed(*(part.detach() for part in poser(points, source, motion, near)))


def grid(batch: int = 2, count: int = 32) -> tuple[Tensor, Tensor]:
    """Columns and rows, another part of the frame for each face."""
    line = (torch.arange(count) + 0.5) / count
    start = torch.linspace(0.1, 0.3, batch)[:, None]
    return start + 0.5 * line, start + 0.6 * line


def test_a_small_step_is_the_difference_of_two_projections() -> None:
    """The first flow is where a point was projected in the photo, less where it is now; without
    expression it is the head's motion alone."""
    poser = Poser()
    face, (xs, ys) = posed(poser), grid()
    maps, _ = poser.spread(face, xs, ys, torch.zeros(1, poser.count))
    flow, rigid = poser.flow(face, xs, ys, maps.detach())
    face = Posed(*(part.double() for part in face))
    size = face.size[..., None]
    depth, share = maps[:, 3:4].detach().double(), maps[:, 4:].detach().double()
    at = torch.stack(
        [xs[:, None, :].expand(depth[:, 0].shape), ys[:, :, None].expand(depth[:, 0].shape)], 1
    )
    near = face.perspective
    plane = (at - face.axis[:, 0, :, None, None]) / size * (1 - depth * near[..., None])
    point = torch.cat([plane, depth], 1).flatten(2)  # (B, 3, N)

    def column(value: Tensor) -> Tensor:
        return value.transpose(1, 2)

    turned = face.back @ (point - column(face.pivot)) + column(face.pivot_photo)
    carried = point + column(face.travel)
    still = carried + share.flatten(2) * (turned - carried)
    for got, shift in ((flow, maps[:, :3].detach().double().flatten(2)), (rigid, 0.0)):
        back = still - shift
        now, then = (place[:, :2] / (1 - place[:, 2:] * near) for place in (point, back))
        step = then - now
        wanted = (step * face.size).reshape(got.shape)
        assert wanted.abs().max() > 0.02
        torch.testing.assert_close(got.double(), wanted, atol=1e-6, rtol=0)
    local = poser.local(Posed(*(part.float() for part in face)), xs, ys, maps[:, 3:4].detach())
    wanted = face.head.transpose(1, 2) @ (point - column(face.eyes))
    torch.testing.assert_close(local.double(), wanted.reshape(local.shape), atol=1e-5, rtol=0)


def test_maps_are_normalised_sums_of_gaussians() -> None:
    """Every keypoint weighs in by a Gaussian of its own reach; in depth and share by a wide one."""
    poser = Poser()
    face, (xs, ys) = posed(poser), grid()
    mix = torch.randn(3, poser.count)
    with torch.no_grad():
        maps, heats = poser.spread(face, xs, ys, mix)
        half, fewer = poser.spread_halved(face, xs, ys, mix)
        reach = torch.exp(poser.reach)[None, :, None, None] * face.size[..., None]

    def bumps(reach: Tensor) -> Tensor:
        x = (xs[:, None, None, :] - face.points[..., 0][..., None, None]) / reach
        y = (ys[:, None, :, None] - face.points[..., 1][..., None, None]) / reach
        return torch.exp(-0.5 * (x * x + y * y))  # (B, K, H, W)

    fine, wide = bumps(reach), bumps(0.7 * face.size[..., None])
    torch.testing.assert_close(heats, torch.einsum("ek,bkhw->behw", mix, fine), atol=1e-4, rtol=0)
    near = fine * face.amplitude[..., None, None]
    far = near + 0.01 * wide * face.amplitude[..., None, None]
    total = far.sum(1, keepdim=True) + 1e-6
    shift = torch.einsum("bkc,bkhw->bchw", face.shift, near) / total
    depth = torch.einsum("bk,bkhw->bhw", face.points[..., 2], far)[:, None] / total
    share = torch.einsum("k,bkhw->bhw", poser.weight[0, :, 0], far)[:, None] / total
    torch.testing.assert_close(maps, torch.cat([shift, depth, share], 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(half, maps, atol=1e-6, rtol=0)
    torch.testing.assert_close(fewer, F.avg_pool2d(heats, 2), atol=1e-5, rtol=0)


def test_rearranged_layers_are_the_plain_ones() -> None:
    """Resizing by products, space to depth, a sum of convolutions and groups of channels
    give what interpolation, slices, a concatenation and a split give."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 16, 16)
    for size in (32, 64):
        weights = hats(16, size)
        torch.testing.assert_close(weights @ x @ weights.T, resize(x, size))
    assert torch.equal(Pack(4)(x), fold(x))
    layer, y = conv(7, 5), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(layer.parts(x, y), layer(torch.cat([x, y], 1)))
    for got, wanted in zip(planes(x, [1, 3]), x.split([1, 3], 1), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_picture_is_composed_as_layers_of_paint(batch: int) -> None:
    """Photo, own colour, background and close-ups lie over each other by their weights."""
    torch.manual_seed(1)
    render = Render(8).eval()
    detail, shown, person = (torch.rand(batch, n, 128, 128) for n in (24, 3, 2))
    behind, close = torch.rand(batch, 7, 64, 64), torch.rand(batch, 4, PAINT, PAINT)
    close[:, 1:] *= close[:, :1]
    with torch.no_grad():
        render.reveal.weight.normal_(0, 0.1)
        made = render.compose(detail, shown, person, behind, close)
        out = F.pixel_shuffle(render.leave(detail), 2)
        reveal = F.pixel_shuffle(render.reveal(detail), 2)
    whole, ink, large = made.occlusion, made.ink, made.shown
    own, keep, colour = torch.sigmoid(out).split([1, 1, 3], 1)
    wanted = resize(shown, PAINT) * keep + colour * (1 - keep)
    moved, torn = resize(person, PAINT).split(1, 1)
    background, single, led, reach, uncovered = resize(behind, PAINT).split([3, 1, 1, 1, 1], 1)
    left = torch.sigmoid(reveal + uncovered * 8 - 4)
    theirs = moved * single
    own, left = own * (1 - theirs * left), left * (1 - theirs)
    near = torch.maximum(moved, uncovered)
    # Beside a person only background is painted, to hide what they leave at the outline.
    own = own * (1 - FETCHED * torch.clamp(3 * uncovered, 0, 1))
    own = own * (near + torch.relu(reach - near) * left)
    left = 1 - moved * (1 - left)
    wanted = wanted * (1 - left) + background * left
    # What is mirrored needs no paint.
    own = own * (1 - moved * led)
    # Where the flow tears, the mended photo shows through what is not painted.
    rest = torn * (1 - own)
    wanted, own = wanted + rest * (resize(shown, PAINT) - wanted), own + rest
    weight, over = close[:, :1], own * (1 - close[:, :1])
    wanted = (wanted * (over + THIN) + close[:, 1:]) / (over + weight + THIN)
    torch.testing.assert_close(ink / (whole + THIN), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole, over + weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(large, resize(shown, PAINT), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.moved, moved, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.drawn, theirs, atol=1e-5, rtol=0)
    nothing = torch.zeros(batch, 1, PAINT, PAINT)
    lit = relit(whole, ink, large, nothing, nothing.mean((2, 3), keepdim=True))
    torch.testing.assert_close(lit, (whole, ink), atol=1e-5, rtol=1e-5)


def test_portraits_of_a_batch_do_not_mix() -> None:
    """Two portraits at once give what each gives alone."""
    torch.manual_seed(2)
    render = Render(8).eval()
    points = torch.from_numpy(load_rig().neutral)[None].repeat(2, 1, 1) * 0.165
    points = points + torch.tensor([0.5, 0.42, 0.0])
    inputs = (torch.rand(2, CHANNELS, 64, 64), points, torch.zeros(2, 63), 0.3 * torch.rand(2, 63))
    with torch.no_grad():
        both = render(*inputs)
        for row in range(2):
            one = render(*(value[row : row + 1] for value in inputs))
            for got, wanted in zip(both, one, strict=True):
                # Paint is a ratio of small weights, which rounding shows in.
                torch.testing.assert_close(got[row : row + 1], wanted, atol=1e-4, rtol=0)


def test_constants_are_not_part_of_a_checkpoint() -> None:
    """A checkpoint holds what is learned; kernels that follow from sizes are made anew."""
    names = {name.rpartition(".")[2] for name in Render(8).state_dict()}
    assert not names & {"kernel", "twice", "twofold", "fourfold", "shapes"}


def test_a_gaze_is_warped_and_a_blink_is_painted() -> None:
    """Eyes that look elsewhere get no paint, which would blur their pupils; lids that fall do."""
    torch.manual_seed(3)
    render = Render(8).eval()
    points = torch.from_numpy(load_rig().neutral)[None] * 0.165 + torch.tensor([0.5, 0.42, 0.0])
    photo, prior = torch.rand(1, 3, 256, 256), torch.zeros(1, PRIOR, 64, 64)
    still = torch.zeros(1, latent.SIZE)
    painted = {}
    for names, value in ((("gazeYaw",), 20.0), (("eyeBlinkLeft", "eyeBlinkRight"), 1.0)):
        code = still.clone()
        for name in names:
            code[0, latent.INDEX[name]] = value
        change = (code - still) / render.scale
        with torch.no_grad():
            posed = render.poser(points, still, code, NEAR)
            windows = render.windows(posed, code, change)
            shots = render.shots(posed, photo, prior, code, change, windows)
            painted[names[0]] = render.close_up(posed.size, shots)[:, :1].max()
    assert painted["gazeYaw"] == 0
    assert painted["eyeBlinkLeft"] > 0.01


def test_paint_ends_where_the_person_does() -> None:
    """A network that would paint everything, light it and turn the head paints the person as they
    are and as they were, background for six cells of the flow beside them, and nothing beyond."""
    torch.manual_seed(4)
    render = Render(8).eval()
    for bias, value in ((render.leave.bias, 9.0), (render.light.bias, 9.0)):
        assert bias is not None
        torch.nn.init.constant_(bias, value)
    features, points, source, motion = example_inputs()["render"]
    person = torch.zeros(1, 1, 256, 256)
    person[..., 40:216, 72:184] = 1
    features = features.clone()
    half = F.avg_pool2d(person, 2)
    features[:, PHOTO : PHOTO + OUTLINE] = torch.cat(
        [stacked(person), stacked(half), about(half)], 1
    )
    features[:, PHOTO + OUTLINE] = torch.logit(F.avg_pool2d(person, 4)[:, 0], 1e-6) / 2
    motion = motion.clone()
    motion[0, latent.INDEX["headYaw"]] = 12.0
    with torch.no_grad():
        driven = render.predict(features, points, source, motion)
        there = sample(person, driven.flow)
    near = F.interpolate(torch.maximum(there, F.avg_pool2d(person, 2)), scale_factor=2.0)
    beyond = F.max_pool2d(near, 25, 1, 12) == 0
    within = -F.max_pool2d(-near, 9, 1, 4) == 1
    assert beyond.float().mean() > 0.3
    assert (driven.occlusion[beyond] < 1e-4).all()
    assert driven.occlusion[within].mean() > 0.8
