"""Close-up painters: what mouths and eyes look like that no photo shows.

A window is square and sampled in its own resolution, and travels rigidly with the head, so that a
tooth or a lid always lies at the same place in it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant.export.nets.encode import PRIOR
from vivant.export.nets.layers import SLOPE, Pack, Steered, conv, films, quiet, upsample
from vivant.export.nets.lids import Lids, arc, beside, fallen, follow_rims, lid_cover, skin_of
from vivant.export.nets.lips import follow_lips, widened
from vivant.export.nets.pose import Posed, Poser, load_rig
from vivant.export.nets.teeth import Rows, Teeth, photographed
from vivant.export.nets.warp import centres, grid_at, planes, sample_grid

PAINT = 256
"""Side of occlusion and paint."""
HEATS = 8
"""Learned mixtures of keypoint heat maps given to the U-Net and to each painter."""
CODE = 128
"""Width of the steering code."""
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
WITHIN = 5.0
"""Teeth set in over the cell and a half about a rim: that many of these distances make one."""
ROUND = 1.0
"""How steeply rims of lips part at the corners of a mouth, of an ellipse's."""
KEPT = 0.8
"""Share by which lips are not painted: they are the photo's, which goes where they go."""


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
    _, fixes = prior.split([1, PRIOR - 1], 1)
    fix = sample_at(fixes, xs, ys, flow)
    shift, depth, share = maps.split([3, 1, 1], 1)
    deeper, other = fix.split(1, 1)
    depth, share = depth + 0.3 * deeper, torch.clamp(share + 0.3 * other, 0.0, 1.0)
    maps = torch.cat([shift, depth, share], 1)
    flow, rigid = poser.flow(posed, xs, ys, maps)
    return First(flow, maps, heats, rigid)


def chain(u: Tensor, v: Tensor, ramp: Tensor, bend: Tensor) -> Tensor:
    """Values ``v`` (B, 2, N, C) at columns ``u`` (B, 2, N, 1), from each to the next, at columns
    ``ramp`` (B or 1, n): (B, 2, C, n). Straight, but for a ``bend`` (1, 1, N - 1, 1): 1 leaves the
    first point steeply and -1 comes to the next so."""
    wide = torch.clamp(u[:, :, 1:] - u[:, :, :-1], NARROW, 2.0)
    # As far along each part as it reaches: a minimum that broadcasts is refused on NPU 3720.
    along = wide - torch.relu(wide - torch.relu(ramp[:, None, None] - u[:, :, :-1]))
    along = along / wide
    along = along + bend * along * (1 - along)
    start, rise = v[:, :, :1].transpose(2, 3), (v[:, :, 1:] - v[:, :, :-1]).transpose(2, 3)
    return start + torch.matmul(rise, along)


def start_shut(layer: nn.Conv2d) -> None:
    """Initial output of a painter's last layer: little weight, and the photo's own colour."""
    bias = torch.zeros(layer.out_channels)
    bias[:4], bias[4:8], bias[20:] = REST, 1.0, REST
    layer.bias = nn.Parameter(bias)


class Window(NamedTuple):
    """Where a painter works, and on what."""

    mix: Tensor
    """(HEATS, K) its mixtures of heat maps."""
    rims: Tensor
    """(2 N, K) picks the keypoints of its opening's upper and lower rim."""
    code: Tensor
    """(B, CODE)."""
    centre: Tensor
    """(B, 2) frame fractions."""
    side: Tensor
    """(B, 1) -1 when mirrored."""
    pupil: Tensor | None = None
    """(1, K) picks the pupil of an eye."""
    shut: Tensor | None = None
    """(B, 1) share of the way from the photo's lids to shut ones that an eye is told to go."""


class Mouth(NamedTuple):
    """What is known of a mouth's inside."""

    rows: Rows
    seen: Tensor
    """(B, 1, n, n) where the photo's upper teeth are seen."""
    stretched: Tensor
    """(B, 1, n, n) where the photo, warped as its lips move, shows them drawn out."""
    inside: Tensor
    """(B, 1, n, n) where it lies open."""
    opened: Tensor
    """(B, 1, n, n) where it lies open further than the photo shows it."""


class Eye(NamedTuple):
    """What is known of an eye."""

    seen: Tensor
    """(B, 1, n, n) where it is as the photo shows it."""
    cover: Tensor
    """(B, 2, n, n) where a fallen lid lies, and its lashes."""
    skin: Tensor
    """(B, 1, n, n) where there is skin beside it."""


class Shot(NamedTuple):
    """One painted window."""

    paint: Tensor
    """(B, 4, n, n) weight, weight * RGB."""
    crop: Tensor
    """(B, 6, n, n) the photo warped with and without expression."""
    xs: Tensor
    """(B, n) frame coordinates of the columns."""
    ys: Tensor
    """(B, n) of the rows."""
    opened: Tensor | None = None
    """(B, 1, n, n) where a mouth lies open further than in the photo."""


class Painter(nn.Module):
    """Close-up painter of one window: premultiplied RGB and its weight."""

    ramp: Tensor
    taper: Tensor
    place: Tensor
    rims: Tensor
    downward: Tensor
    bend: Tensor

    def __init__(
        self,
        size: int,
        radius: float,
        lower: float,
        width: int,
        rims: tuple[list[str], ...],
        teeth: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.radius, self.lower = size, radius, lower
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
        downward = torch.tensor([0.0, 1.0])[None, :, None, None]
        self.register_buffer("downward", downward, persistent=False)
        bend = torch.zeros(1, 1, len(rims[0]) - 1, 1)
        bend[:, :, 0], bend[:, :, -1] = ROUND, -ROUND
        self.register_buffer("bend", bend, persistent=False)
        act = nn.LeakyReLU(SLOPE)
        self.act = act
        inputs = 3 + 3 + 3 + 2 + HEATS + 3 + 2 + 2 * teeth
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
        self.teeth = Teeth(2 * width, size) if teeth else None
        self.lids = None if teeth else Lids(2 * width, size)

    def axes(self, size: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """Frame coordinates of the window's columns and rows, for the interpupillary distance
        ``size`` (B, 1, 1)."""
        half = self.radius * size[:, :, 0]
        xs = window.centre[:, 0:1] + window.side * half * self.ramp
        ys = window.centre[:, 1:2] + half * (self.ramp + self.lower)
        return xs, ys

    def within(self, xs: Tensor, ys: Tensor, size: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """Frame coordinates (B or 1, N) in half windows, as ``ramp`` counts: undoes ``axes``."""
        half = self.radius * size[:, :, 0]  # (B, 1)
        u = (xs - window.centre[:, 0:1]) / half * window.side
        return u, (ys - window.centre[:, 1:2]) / half - self.lower

    def rim(self, points: Tensor, size: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """Where the ``points`` (B, K, 3) of upper and lower rim lie, half windows, (B, 2, N, 1)
        across and down."""
        across, down, _ = torch.matmul(window.rims, points).split(1, 2)  # (B, 2 N, 1)
        u, v = self.within(across.flatten(1), down.flatten(1), size, window)
        count = u.shape[1] // 2
        return u.reshape(-1, 2, count, 1), v.reshape(-1, 2, count, 1)

    def lines(
        self, points: Tensor, size: Tensor, window: Window, columns: Tensor | None = None
    ) -> Tensor:
        """How high, in half windows, the upper and the lower rim of the opening lie in each of the
        window's columns, or of those (B, N) that are given, (B, 2, 1, n or N): lids bend from one
        of their ``points`` (B, K, 3) to the next, and lips go straight."""
        u, v = self.rim(points, size, window)
        ramp = self.ramp if columns is None else columns
        return arc(u, v, ramp) if self.teeth is None else chain(u, v, ramp, self.bend)

    def lips(
        self,
        posed: Posed,
        window: Window,
        now: Tensor,
        was: Tensor,
        columns: Tensor,
        rows: Tensor,
        flow: Tensor,
    ) -> Tensor:
        """``flow`` (B, 2, H, W) led by ``follow_lips``, over a grid of ``columns`` (B or 1, W) and
        ``rows`` (B or 1, H), half windows, of the ``lines`` of ``posed.points`` and
        ``posed.still`` there."""
        u, _ = self.rim(posed.points, posed.size, window)
        way = torch.matmul(window.rims, (posed.photo - posed.points)[..., :2])  # (B, 2 N, 2)
        led = chain(u, way.reshape(-1, 2, way.shape[1] // 2, 2), columns, self.bend)
        half, aside = self.radius * posed.size[..., None], self.aside(u, columns)
        spin = posed.back[:, :2, 1:2, None] - self.downward
        rows = rows[:, None, :, None]
        return flow + follow_lips(now, was, led, rows, half, aside, spin, flow)

    def aside(self, u: Tensor, columns: Tensor) -> Tensor:
        """How far ``columns`` (B or 1, N) lie from the corners of an opening with rims at ``u``
        (B, 2, N, 1), away from its middle, (B, 1, 1, N), half windows."""
        ramp = columns[:, None, None]
        return torch.maximum(u[:, :1, :1] - ramp, ramp - u[:, :1, -1:])

    def edges(self, lines: Tensor) -> Tensor:
        """How far each pixel lies below the upper and above the lower of ``lines`` (B, 2, 1, n),
        (B, 2, n, n), see EDGE."""
        upper, lower = lines.split(1, 1)
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
        mouth: Mouth | None = None,
        eye: Eye | None = None,
    ) -> Tensor:
        """Window maps, place on the head (B, 3, n, n), the photo warped with and without
        expression (B, 6, n, n), ``edges``, and what is known of a mouth or an eye -> weight and
        weight * RGB (B, 4, n, n)."""
        turn = torch.cat([side, torch.ones_like(side), torch.ones_like(side)], 1)[:, :, None, None]
        place = self.place.expand(crop.shape[0], -1, -1, -1)
        moving, rigid = crop.chunk(2, 1)
        x = [moving - 0.5, first.maps[:, :3] * turn * 4, local * turn, place]
        x += [first.heats, rigid - 0.5, edges]
        x += [] if mouth is None else [mouth.rows.cover]
        film = films(code, [self.high, *self.low, self.last])
        x0 = self.act(self.enter(self.pack(torch.cat(x, 1))))
        x0 = self.high(x0, next(film))
        x1 = self.act(self.down(x0))
        for block in self.low:
            x1 = block(x1, next(film))
        x0 = self.last(self.act(upsample(self.up(x1)) + x0), next(film))
        out = F.pixel_shuffle(self.leave(x0), 2).float()  # (B, 6, n, n)
        weight, keep, paint, fixed = planes(torch.sigmoid(out), [1, 1, 3, 1])
        if self.teeth is not None and mouth is not None:
            paint = self.teeth(mouth.rows, x1, paint)
            # Teeth do not follow lips.
            keep = keep * (1 - mouth.stretched)
        colour = paint + keep * (moving + fixed * (rigid - moving) - paint)
        layers = []
        if mouth is not None:
            weight = weight * (1 - KEPT * (1 - mouth.inside))
            layers = [(mouth.opened, paint), (mouth.stretched, colour), (mouth.seen, rigid)]
        if self.lids is not None and eye is not None:
            # A half-transparent lid is worse than a soft one: what is painted at all is covered.
            weight = weight * (2 - weight)
            layers = [(eye.seen, moving), *self.lids(eye.cover, x1, skin_of(rigid, eye.skin))]
        for over, look in layers:
            weight, colour = weight + over * (1 - weight), colour + over * (look - colour)
        weight = weight * self.taper
        return torch.cat([weight, weight * colour], 1)

    def paste(self, paint: Tensor, size: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """Bilinear placement into the frame, zero outside, as the product of two matrices.

        (B, C, n, n) -> (B, C, PAINT, n), (B, 1, n, PAINT)
        """
        grid = centres(PAINT, paint)
        u, v = self.within(grid, grid, size, window)
        step = self.size / 2
        rows = torch.relu(1 - torch.abs(v[:, :, None] - self.ramp[:, None, :]) * step)
        columns = torch.relu(1 - torch.abs(u[:, None, :] - self.ramp[:, :, None]) * step)
        return torch.matmul(rows[:, None], paint), columns[:, None]

    def shot(
        self,
        poser: Poser,
        posed: Posed,
        photo: Tensor,
        prior: Tensor,
        motion: Tensor,
        window: Window,
    ) -> Shot:
        """A window painted, of a ``photo`` (B, 3, 256, 256) driven by ``motion`` (B, 63); ``prior``
        as for ``first_flow``."""
        xs, ys = self.axes(posed.size, window)
        first = first_flow(poser, posed, xs, ys, prior, window.mix)
        local = poser.local(posed, xs, ys, first.maps[:, 3:4])
        lines = self.lines(posed.points, posed.size, window)
        was = self.lines(posed.still, posed.size, window)
        heights = self.ramp.transpose(0, 1)[None, None]
        edges, moving = self.edges(lines), first.flow
        half = posed.size[..., None] * self.radius
        mouth = eye = None
        if window.pupil is not None and window.shut is not None:
            lines = fallen(lines, was, window.shut[:, :, None, None])
            gaze = torch.matmul(window.pupil, posed.still - posed.points)[..., :2].transpose(1, 2)
            flows = first.flow, first.rigid
            moving, seen = follow_rims(lines, was, heights, half, flows, gaze[..., None])
            u, _ = self.rim(posed.points, posed.size, window)
            between = torch.clamp(-self.aside(u, self.ramp) * EDGE, 0, 1)
            cover = lid_cover(lines, was, heights, between)
            eye = Eye(seen, cover, beside(was, heights, between))
        if self.teeth is not None:
            below, above = torch.clamp(edges * WITHIN + 0.5, 0, 1).split(1, 1)
            inside = below * above
            rows = self.teeth.rows(posed, motion, xs, ys, inside)
            moving = self.lips(posed, window, lines, was, self.ramp, self.ramp, first.flow)
            pixel = self.size / (2 * self.radius)
            step = (moving - first.rigid)[:, 1:] / posed.size[..., None]  # IPD
            seen = inside * photographed(rows.over, pixel, was, heights)
            there = heights + step * (1 / self.radius)
            stretched = photographed(rows.over - step, pixel, was, there)
            opened = inside * widened(lines, was)
            mouth = Mouth(rows, seen, stretched, inside, opened)
        # With and without expression in one call: they lie below each other.
        grid = torch.cat([grid_at(xs, ys, f.detach()) for f in (moving, first.rigid)], 1)
        crop = torch.cat(sample_grid(photo, grid).chunk(2, 2), 1)
        paint = self(first, local, crop, edges, window.code, window.side, mouth, eye)
        return Shot(paint, crop, xs, ys, mouth.opened if mouth else None)
