"""``render``: a motion code and a portrait's features -> backward flow, occlusion and paint.

The first flow is analytic (``pose.py``), cut out by the portrait's own matte. A U-Net at
64/32/16 corrects it and says where the photo has nothing to show; ``rim.py`` keeps what is
stretched over a turned jaw inside the photo's outline. Three close-up painters
(mouth, eyes) work in windows that travel rigidly with the head, where a tooth or a lid always
lies at the same place, and cost a fraction of the same detail over the whole frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant import latent
from vivant.export.nets.encode import BACKGROUND, LEARNED, PHOTO, PRIOR
from vivant.export.nets.layers import SLOPE, Pack, Steered, conv, films, fold, quiet, upsample
from vivant.export.nets.mirror import MOTION_MIRROR
from vivant.export.nets.pose import SCALE, Posed, Poser, load_rig
from vivant.export.nets.rim import Rim
from vivant.export.nets.warp import (
    Double,
    centres,
    grid_at,
    hats,
    planes,
    sample,
    sample_grid,
)

FLOW = 128
"""Side of the flow field."""
PAINT = 256
"""Side of occlusion and paint."""
HEATS = 8
"""Learned mixtures of keypoint heat maps given to the U-Net and to each painter."""
CODE = 128
"""Width of the steering code."""
FETCHED = 0.5
"""Share of what a person uncovers that is fetched from beside them; the rest is painted."""
STILL = 25.0
"""Gate 1 - exp(-STILL |normalised motion change|^2): the photo's own motion returns the photo."""
CHANGED = 10.0
"""The same for the close-ups, over the shapes of the mouth or of the lids alone."""
STEP = 0.025
"""Flow, in frame fractions, of one unit of the residual head: small, so that its noise is."""
LIGHT = 0.5
"""Largest logarithm of what light that has moved makes of the photo."""
CELLS = 32
"""Side of the map of light."""
FAINT = 0.5
"""Light is painted as if it were stronger by this share of the frame's mean, and fainter for it:
else its colour would jump where more light turns into less, and reduced precision with it."""
THIN = 5e-3
"""Weight of paint below which its colour need not be exact: rounding would make noise of it."""
REST = -2.0
"""Initial logit of every occlusion: paint only where learned to."""
LIPS = tuple(
    [f"lipInner{part}" for part in ("CornerRight", *edge, "CornerLeft")]
    for edge in (("UpperRight", "UpperMid", "UpperLeft"), ("LowerRight", "LowerMid", "LowerLeft"))
)
"""Keypoints of the upper and the lower rim of a mouth, from left to right in a picture."""
LIDS = tuple(
    [f"lid{part}Right" for part in ("Outer", *edge, "Inner")]
    for edge in (("Upper0", "Upper1"), ("Lower0", "Lower1"))
)
"""Those of a right eye."""
NARROW = 0.03
"""Least distance of two of them across, half windows. Its clamp is bounded above too: without, the
bound that a conversion adds overflows half precision."""
EDGE = 4.0
"""Distances from a rim are told in half windows times this, and up to 1."""


class Rendered(NamedTuple):
    """What ``render`` tells of a driven frame, and what only its training needs."""

    flow: Tensor
    """(B, 2, 128, 128) frame fractions."""
    occlusion: Tensor
    """(B, 1, 256, 256)."""
    paint: Tensor
    """(B, 3, 256, 256)."""
    first: Tensor
    """(B, 2, 128, 128) the flow before its correction."""
    light: Tensor
    """(B, 1, 32, 32) logarithm of the light on the photo's surfaces, to what it was."""
    bare: tuple[Tensor, Tensor]
    """Occlusion and paint before light."""


class First(NamedTuple):
    """What the analytic prior says over a grid."""

    flow: Tensor
    """(B, 2, H, W) as if everything were the person."""
    maps: Tensor
    """(B, 5, H, W) expression shift (3), depth, rotation share."""
    heats: Tensor
    """(B, HEATS, H, W), or of half the height and width."""
    rigid: Tensor
    """(B, 2, H, W) the flow without expression: what teeth do."""


def sample_at(image: Tensor, xs: Tensor, ys: Tensor, flow: Tensor) -> Tensor:
    """Sample at grid ``xs`` (B, W) x ``ys`` (B, H) plus ``flow`` (B, 2, H, W), border."""
    return sample_grid(image, grid_at(xs, ys, flow))


def first_flow(
    poser: Poser,
    posed: Posed,
    xs: Tensor,
    ys: Tensor,
    prior: Tensor,
    mix: Tensor,
    halved: bool = False,
) -> First:
    """The analytic flow over a grid, its depth corrected by the portrait's own ``prior`` maps
    (B, PRIOR, 64, 64); ``halved`` gives the heat maps as means over 2x2 cells."""
    spread = poser.spread_halved if halved else poser.spread
    maps, heats = spread(posed, xs, ys, mix)
    flow, _ = poser.flow(posed, xs, ys, maps)
    _, fixes, _ = prior.split([1, 2, PRIOR - 3], 1)
    fix = sample_at(fixes, xs, ys, flow)
    shift, depth, share = maps.split([3, 1, 1], 1)
    deeper, other = fix.split(1, 1)
    depth, share = depth + 0.3 * deeper, torch.clamp(share + 0.3 * other, 0.0, 1.0)
    maps = torch.cat([shift, depth, share], 1)
    flow, rigid = poser.flow(posed, xs, ys, maps)
    return First(flow, maps, heats, rigid)


def relit(
    occlusion: Tensor, ink: Tensor, shown: Tensor, change: Tensor, faint: Tensor
) -> tuple[Tensor, Tensor]:
    """Occlusion (B, 1, H, W) and ``ink``, paint times occlusion (B, 3, H, W), that also multiply
    the photo by 1 + ``change`` (B, 1, H, W).

    It is paint of the photo's colour, as ``shown`` coarsely, made darker or brighter by up to half
    or a little more, in the share that this takes: compositing knows no brighter photo. ``faint``
    (B, 1, 1, 1) is the part of the frame's mean change that paint takes in any case, see FAINT.
    """
    rest, size = 1 - occlusion, torch.abs(change) + faint
    share = 2 * size / (1 + size)
    lit, share = rest * (share + change), rest * share
    return occlusion + share, ink + torch.minimum(lit * shown, share)


def start_shut(layer: nn.Conv2d) -> None:
    """Initial output of a painter's last layer: little weight, and the photo's own colour."""
    bias = torch.zeros(layer.out_channels)
    bias[:4], bias[4:8], bias[20:] = REST, 1.0, REST
    layer.bias = nn.Parameter(bias)


class Painter(nn.Module):
    """Close-up painter of one window: premultiplied RGB and its weight.

    A window is square, travels rigidly with the head and is sampled in its own resolution.
    """

    ramp: Tensor
    taper: Tensor
    place: Tensor
    rims: Tensor

    def __init__(
        self,
        size: int,
        radius: float,
        lower: float,
        width: int,
        rims: tuple[list[str], ...],
        cover: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.radius, self.lower, self.cover = size, radius, lower, cover
        names = load_rig().names
        picks = [[float(name == other) for other in names] for rim in rims for name in rim]
        self.register_buffer("rims", torch.tensor(picks), persistent=False)
        self.mix = nn.Parameter(0.3 * torch.randn(HEATS, len(names)))
        ramp = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
        self.register_buffer("ramp", ramp[None])
        edge = torch.clamp((1 - ramp.abs()) * 4, 0, 1)
        self.register_buffer("taper", (edge[:, None] * edge[None, :])[None, None])
        place = torch.stack([ramp[None, :].expand(size, size), ramp[:, None].expand(size, size)])
        self.register_buffer("place", place[None].clone())
        act = nn.LeakyReLU(SLOPE)
        self.act = act
        inputs = 3 + 3 + 3 + 2 + HEATS + 3 + 2
        self.pack = Pack(inputs)
        self.enter = conv(4 * inputs, width)
        self.high = Steered(width, CODE)
        self.down = conv(width, 2 * width, 3, 2)
        self.low = nn.ModuleList([Steered(2 * width, CODE) for _ in range(2)])
        self.up = conv(2 * width, width)
        self.last = Steered(width, CODE)
        self.leave = conv(width, 6 * 4)
        quiet(self.leave, 0.3)
        start_shut(self.leave)

    def axes(self, centre: Tensor, size: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """Frame coordinates of the window's columns and rows; ``side`` -1 mirrors it."""
        half = self.radius * size[:, :, 0]
        xs = centre[:, 0:1] + side * half * self.ramp
        ys = centre[:, 1:2] + half * (self.ramp + self.lower)
        return xs, ys

    def within(
        self, xs: Tensor, ys: Tensor, centre: Tensor, size: Tensor, side: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Frame coordinates (B or 1, N) in half windows, as ``ramp`` counts: undoes ``axes``."""
        half = self.radius * size[:, :, 0]  # (B, 1)
        return (xs - centre[:, 0:1]) / half * side, (ys - centre[:, 1:2]) / half - self.lower

    def edges(
        self, points: Tensor, centre: Tensor, size: Tensor, side: Tensor, rims: Tensor
    ) -> Tensor:
        """How far each pixel lies below the upper and above the lower rim of the opening, (B, 2, n,
        n), see EDGE. A rim goes straight from one of its ``points`` (B, K, 3) to the next, as
        ``rims`` (2 N, K) picks them, and level beyond the last."""
        across, down, _ = torch.matmul(rims, points).split(1, 2)  # (B, 2 N, 1)
        u, v = self.within(across.flatten(1), down.flatten(1), centre, size, side)
        u, v = (x.reshape(len(x), 2, -1, 1) for x in (u, v))  # (B, 2, N, 1)
        wide = torch.clamp(u[:, :, 1:] - u[:, :, :-1], NARROW, 2.0)
        steep = (v[:, :, 1:] - v[:, :, :-1]) / wide
        # As far along each part as it reaches: a minimum that broadcasts is refused on NPU 3720.
        along = wide - torch.relu(wide - torch.relu(self.ramp[None, None] - u[:, :, :-1]))
        line = v[:, :, :1] + (steep * along).sum(2, keepdim=True)  # (B, 2, 1, n)
        upper, lower = line.split(1, 1)
        rows = self.ramp.transpose(0, 1)[None, None]
        return torch.clamp(torch.cat([rows - upper, lower - rows], 1) * EDGE, -1, 1)

    def forward(
        self,
        first: First,
        local: Tensor,
        crop: Tensor,
        edges: Tensor,
        code: Tensor,
        side: Tensor,
    ) -> Tensor:
        """Window maps, place on the head (B, 3, n, n), the photo warped with and without
        expression (B, 6, n, n) and ``edges`` -> weight and weight * RGB (B, 4, n, n)."""
        turn = torch.cat([side, torch.ones_like(side), torch.ones_like(side)], 1)[:, :, None, None]
        place = self.place.expand(crop.shape[0], -1, -1, -1)
        moving, rigid = crop.chunk(2, 1)
        x = [moving - 0.5, first.maps[:, :3] * turn * 4, local * turn, place]
        x += [first.heats, rigid - 0.5, edges]
        film = films(code, [self.high, *self.low, self.last])
        x0 = self.act(self.enter(self.pack(torch.cat(x, 1))))
        x0 = self.high(x0, next(film))
        x1 = self.act(self.down(x0))
        for block in self.low:
            x1 = block(x1, next(film))
        x0 = self.last(self.act(upsample(self.up(x1)) + x0), next(film))
        out = F.pixel_shuffle(self.leave(x0), 2).float()  # (B, 6, n, n)
        weight, keep, paint, fixed = planes(torch.sigmoid(out), [1, 1, 3, 1])
        # A half-transparent lid is worse than a soft one: what is painted at all is covered.
        if self.cover:
            weight = weight * (2 - weight)
        weight = weight * self.taper
        colour = paint + keep * (moving + fixed * (rigid - moving) - paint)
        return torch.cat([weight, weight * colour], 1)

    def paste(
        self, window: Tensor, centre: Tensor, size: Tensor, side: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Bilinear placement into the frame, zero outside, as the product of two matrices.

        (B, C, n, n) -> (B, C, PAINT, n), (B, 1, n, PAINT)
        """
        grid = centres(PAINT, window)
        u, v = self.within(grid, grid, centre, size, side)
        step = self.size / 2
        rows = torch.relu(1 - torch.abs(v[:, :, None] - self.ramp[:, None, :]) * step)
        columns = torch.relu(1 - torch.abs(u[:, None, :] - self.ramp[:, :, None]) * step)
        return torch.matmul(rows[:, None], window), columns[:, None]


class Shot(NamedTuple):
    """One painted window."""

    painter: Painter
    paint: Tensor
    """(B, 4, n, n) weight, weight * RGB."""
    crop: Tensor
    """(B, 6, n, n) the photo warped with and without expression."""
    centre: Tensor
    """(B, 2) frame fractions."""
    side: Tensor
    """(B, 1) -1 when mirrored."""
    xs: Tensor
    """(B, n) frame coordinates of the columns."""
    ys: Tensor
    """(B, n) of the rows."""


class Render(nn.Module):
    """Features, keypoints, own code, driven code -> flow, occlusion, paint."""

    mirror: Tensor
    swap: Tensor
    shapes: Tensor
    scale: Tensor
    twice: Tensor
    fourfold: Tensor
    eightfold: Tensor

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        rig = load_rig()
        self.poser = Poser()
        w1, w2, w3 = width, int(1.75 * width), int(2.25 * width)
        act = nn.LeakyReLU(SLOPE)
        self.act = act
        self.mix = nn.Parameter(0.3 * torch.randn(HEATS, len(rig.names)))
        self.register_buffer("mirror", torch.from_numpy(rig.mirror.astype("int64")))
        self.register_buffer("swap", torch.from_numpy(MOTION_MIRROR.copy()))
        self.register_buffer("scale", torch.tensor(SCALE)[None])
        # Eyes that look elsewhere are warped: paint of them is blurred and hides the pupil.
        groups = [("jaw", "mouth", "tongue"), ("eyeBlink", "eyeSquint", "eyeWide")]
        shapes = [[float(name.startswith(group)) for group in groups] for name in latent.NAMES]
        self.register_buffer("shapes", torch.tensor(shapes), persistent=False)
        self.steer = nn.Sequential(nn.Linear(126, CODE), act, nn.Linear(CODE, CODE), act)
        self.steer_close = nn.Sequential(nn.Linear(126, CODE), act, nn.Linear(CODE, CODE), act)
        inputs = LEARNED + 12 + 5 + 3 + 2 + 2 + HEATS
        self.enter = conv(inputs, w1)
        self.down32 = conv(w1, w2, 3, 2)
        self.level32 = nn.ModuleList([Steered(w2, CODE) for _ in range(2)])
        self.down16 = conv(w2, w3, 3, 2)
        self.level16 = nn.ModuleList([Steered(w3, CODE) for _ in range(2)])
        self.up32 = conv(w3, w2)
        self.back32 = Steered(w2, CODE)
        self.up64 = conv(w2, w1)
        self.back64 = Steered(w1, CODE)
        self.light = conv(w2, 1)
        quiet(self.light)
        self.residual = conv(w1, 2 * 4)
        quiet(self.residual, 0.2)
        self.detail = conv(w1, 16 * 4)
        self.blend = conv(16 + 3 + 2, 24)
        self.leave = conv(24, 5 * 4)
        quiet(self.leave, 0.3)
        start_shut(self.leave)
        self.reveal = conv(24, 4)
        quiet(self.reveal, 0.1)
        self.enlarge = Double(4, FLOW)
        self.rim = Rim()
        self.register_buffer("twice", hats(64, FLOW), persistent=False)
        self.register_buffer("fourfold", hats(64, PAINT), persistent=False)
        self.register_buffer("eightfold", hats(CELLS, PAINT), persistent=False)
        self.mouth = Painter(64, 0.68, 0.2, 40, LIPS)
        self.eye = Painter(40, 0.36, 0.0, 24, LIDS, cover=True)

    def forward(
        self, features: Tensor, keypoints: Tensor, source: Tensor, motion: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """features (B, C, 64, 64), keypoints (B, K, 3), source and motion (B, 63) -> flow
        (B, 2, 128, 128) in frame fractions, occlusion (B, 1, 256, 256), paint (B, 3, 256, 256)."""
        return self.predict(features, keypoints, source, motion)[:3]

    def predict(
        self,
        features: Tensor,
        keypoints: Tensor,
        source: Tensor,
        motion: Tensor,
        away: Tensor | None = None,
    ) -> Rendered:
        """The same, and what only training needs; ``away`` as for ``Poser``."""
        batch = features.shape[0]
        change = (motion - source) / self.scale
        gate = 1 - torch.exp(-STILL * (change * change).sum(1, keepdim=True))[:, :, None, None]
        blocks = [*self.level32, *self.level16, self.back32, self.back64]
        film = films(self.steer(torch.cat([motion / self.scale, change], 1) * 0.5), blocks)
        posed = self.poser(keypoints, source, motion, away)
        folded, prior, learned, background = features.split([PHOTO, PRIOR, LEARNED, BACKGROUND], 1)
        person, _ = prior.split([1, PRIOR - 1], 1)
        photo = F.pixel_shuffle(folded, 4)  # (B, 3, 256, 256)

        line = centres(FLOW, features).expand(batch, -1)
        first = first_flow(self.poser, posed, line, line, prior, self.mix, halved=True)
        matte = torch.sigmoid(2 * sample_at(person, line, line, first.flow))
        still = torch.sigmoid(2 * self.twice @ person @ self.twice.T)
        # What a person uncovers is fetched from beside them: a flow that faded there would pass
        # over the photo's own hair once more and leave it as a line.
        flow = start = first.flow * torch.maximum(matte, still)
        # Flow is taught by exact flow alone: through pictures its gradient is mostly noise.
        fixed = flow.detach()
        shown = sample(photo, fixed)  # (B, 3, 128, 128)
        half = F.avg_pool2d
        maps, flow64, middle = half(first.maps, 2), half(fixed, 2), centres(FLOW // 2, features)
        local = self.poser.local(posed, middle, middle, maps[:, 3:4])
        appearance = sample(learned, flow64)
        x = [appearance, fold(shown - 0.5), maps, local, half(matte, 2), half(still, 2)]
        x64 = self.act(self.enter(torch.cat([*x, flow64 * 8, first.heats], 1)))
        x32 = self.act(self.down32(x64))
        for block in self.level32:
            x32 = block(x32, next(film))
        x16 = self.act(self.down16(x32))
        for block in self.level16:
            x16 = block(x16, next(film))
        x32 = self.back32(self.act(upsample(self.up32(x16)) + x32), next(film))
        x64 = self.back64(self.act(upsample(self.up64(x32)) + x64), next(film))
        # Light that has moved shows on the person alone.
        light = 2 * torch.sigmoid(2 * self.light(x32).float()) - 1
        light = light * F.avg_pool2d(matte, 4) * (LIGHT * gate)

        flow = flow + F.pixel_shuffle(self.residual(x64), 2).float() * (STEP * gate)
        stretched = half(flow, 2), half(first.flow, 2), person, local
        step = self.rim(*(part.detach() for part in stretched))
        flow = flow + self.twice @ step @ self.twice.T
        shown = sample(photo, flow.detach())
        detail = F.pixel_shuffle(self.detail(x64), 2)  # (B, 16, 128, 128)
        seen = torch.cat([shown - 0.5, matte, still], 1)
        detail = self.act(self.blend.parts(detail, seen))
        close = self.close_up(posed, photo, prior, motion, change)  # (B, 4, 256, 256)
        # exp(light) - 1, whose small values 16 bits would round away.
        change = light + light * light * (0.5 + light * (1 / 6))
        faint = FAINT * torch.abs(change).mean((1, 2, 3), keepdim=True)
        change = self.eightfold @ change @ self.eightfold.T
        cover, ink, shown = self.compose(detail, shown, still - matte, background, close)
        bare = cover * gate, ink / (cover + THIN)
        occlusion, ink = relit(cover, ink, shown, change, faint)
        return Rendered(flow, occlusion * gate, ink / (occlusion + THIN), start, light, bare)

    def compose(
        self,
        detail: Tensor,
        shown: Tensor,
        uncovered: Tensor,
        background: Tensor,
        close: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Occlusion (B, 1, 256, 256), paint times it (and THIN, where it is left to divide by) and
        ``shown`` enlarged, (B, 3, 256, 256) each."""
        weights = torch.cat([self.leave.weight, self.reveal.weight])
        biases = torch.cat([self.leave.bias, self.reveal.bias])  # type: ignore[list-item]
        out = F.pixel_shuffle(self.leave.of(detail, weights, biases), 2).float()
        occlusion, keep, colour, reveal = planes(out, [1, 1, 3, 1])
        shown, uncovered = planes(self.enlarge(torch.cat([shown, uncovered], 1)), [3, 1])
        occlusion, colour = torch.sigmoid(occlusion), torch.sigmoid(colour)
        paint = colour + torch.sigmoid(keep) * (shown - colour)
        # Where the person was and is no more, the background continues.
        left = torch.sigmoid(reveal + uncovered * 8 - 4)
        occlusion = occlusion * (1 - FETCHED * torch.clamp(3 * uncovered, 0, 1))
        background = self.fourfold @ background @ self.fourfold.T
        paint = paint + left * (background - paint)
        weight, premultiplied = close.split([1, 3], 1)
        occlusion = occlusion * (1 - weight)
        return occlusion + weight, paint * (occlusion + THIN) + premultiplied, shown

    def close_up(
        self, posed: Posed, photo: Tensor, prior: Tensor, motion: Tensor, change: Tensor
    ) -> Tensor:
        """Mouth and eyes painted over nothing: weight and weight * RGB (B, 4, 256, 256).

        Windows overlap at most where both have faded, so that their sum is taken.
        """
        # What only turns is warped: a window is painted as far as its own shapes change.
        moved = 1 - torch.exp(-CHANGED * torch.matmul(change * change, self.shapes))  # (B, 2)
        pasted = [
            shot.painter.paste(
                shot.paint * moved[:, gate, None, None, None], shot.centre, posed.size, shot.side
            )
            for gate, shot in zip(
                (0, 1, 1), self.shots(posed, photo, prior, motion, change), strict=True
            )
        ]
        # Side by side and one below the other, their product is the sum of theirs.
        left, right = zip(*pasted, strict=True)
        return torch.matmul(torch.cat(left, 3), torch.cat(right, 2))

    def shots(
        self, posed: Posed, photo: Tensor, prior: Tensor, motion: Tensor, change: Tensor
    ) -> list[Shot]:
        """The painted windows: mouth, right eye, left eye."""
        windows = self.windows(posed, motion, change)
        return [self.window(posed, photo, prior, *window) for window in windows]

    def windows(
        self, posed: Posed, motion: Tensor, change: Tensor
    ) -> list[tuple[Painter, Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """What ``window`` takes to paint each of them."""
        side = torch.ones_like(motion[:, :1])
        now = [motion / self.scale, change]
        mirrored = [torch.matmul(part, self.swap) for part in now]
        code, other = (self.steer_close(torch.cat(x, 1) * 0.5) for x in (now, mirrored))
        mouth, right, left = posed.anchors.unbind(1)
        # The left eye is painted as a mirrored right one. Neither they nor their codes share a
        # batch: Intel's compiler refuses the maps of two on NPU 3720, and the codes of two, whose
        # parts are concatenated for ``predict`` too, on 5010.
        return [
            (self.mouth, self.mouth.mix, self.mouth.rims, code, mouth, side),
            (self.eye, self.eye.mix, self.eye.rims, code, right, side),
            (
                self.eye,
                *(x[:, self.mirror] for x in (self.eye.mix, self.eye.rims)),
                other,
                left,
                -side,
            ),
        ]

    def window(
        self,
        posed: Posed,
        photo: Tensor,
        prior: Tensor,
        painter: Painter,
        mix: Tensor,
        rims: Tensor,
        code: Tensor,
        centre: Tensor,
        side: Tensor,
    ) -> Shot:
        """One painted window, its heat maps mixed by ``mix`` (HEATS, K), its opening between
        ``rims`` (2 N, K)."""
        xs, ys = painter.axes(centre, posed.size, side)
        first = first_flow(self.poser, posed, xs, ys, prior, mix)
        local = self.poser.local(posed, xs, ys, first.maps[:, 3:4])
        # With and without expression in one call: they lie below each other.
        grid = torch.cat([grid_at(xs, ys, f.detach()) for f in (first.flow, first.rigid)], 1)
        crop = torch.cat(sample_grid(photo, grid).chunk(2, 2), 1)
        edges = painter.edges(posed.points, centre, posed.size, side, rims)
        paint = painter(first, local, crop, edges, code, side)
        return Shot(painter, paint, crop, centre, side, xs, ys)
