"""``render``: a motion code and a portrait's features -> backward flow, occlusion and paint.

The first flow is analytic (``pose.py``), cut out by the portrait's own matte. A U-Net at
64/32/16 corrects it and says where the photo has nothing to show; ``rim.py`` keeps what is
stretched over a turned jaw inside the photo's outline. Three close-up painters
(``painter.py``: mouth, eyes) work in windows of their own, and cost a fraction of the same detail
over the whole frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant import latent
from vivant.export.nets.encode import COLOURS, LEARNED, OUTLINES, PARTS, PRIOR
from vivant.export.nets.layers import SLOPE, Steered, conv, films, fold, quiet, upsample
from vivant.export.nets.matte import about, sealed
from vivant.export.nets.mirror import MOTION_MIRROR
from vivant.export.nets.painter import (
    CODE,
    HEATS,
    LIDS,
    LIPS,
    PAINT,
    First,
    Painter,
    Shot,
    Window,
    first_flow,
    sample_at,
    start_shut,
)
from vivant.export.nets.pose import SCALE, Posed, Poser, load_rig
from vivant.export.nets.rim import Rim, rise
from vivant.export.nets.warp import centres, hats, planes, sample

FLOW = 128
"""Side of the flow field."""
FETCHED = 0.5
"""Share of what a person uncovers that is fetched from beside them; the rest is painted."""
SEALED = 5
"""Gaps of the person narrower than this, in cells of FLOW, that the flow has torn are closed."""
TORN = (0.05, 0.35)
"""By how much what was the person's is not in a cell where it is torn, and where it is wholly."""
FOLDED = (0.0, 0.3)
"""Area of the photo, to that shown of it, by which the flow folds and by which it surely does not:
where it folds, beside a face that turns further, the person would show twice. Elsewhere background
is not painted over what the flow shows of the person: a network that is not sure of an outline
covers it, and hair was cut narrower by a grey band."""
WITHIN = (0.3, 0.8)
"""Share of a pixel that is the person's from which on, and above which wholly, it is mirrored."""
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
DROOPING = 0.15
"""Least way to shut lids, in ``eyeBlink``: of lids that all but seem shut the rest is no share."""
THIN = 5e-3
"""Weight of paint below which its colour need not be exact: rounding would make noise of it."""


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
    plain: Tensor
    """(B, 2, 128, 128) the flow before what is hidden is led elsewhere."""
    light: Tensor
    """(B, 1, 32, 32) logarithm of the light on the photo's surfaces, to what it was."""
    bare: tuple[Tensor, Tensor]
    """Occlusion and paint before light."""
    drawn: Tensor
    """(B, 1, 256, 256) where the flow alone shows the person, and once."""


class Composed(NamedTuple):
    """Paint before light, (B, C, 256, 256) each."""

    occlusion: Tensor
    ink: Tensor
    """Paint times occlusion, and THIN, where it is left to divide by."""
    shown: Tensor
    """The warped photo."""
    moved: Tensor
    """Where the flow shows the person."""
    drawn: Tensor
    """Where it does not show them twice either."""


def relit(
    occlusion: Tensor, ink: Tensor, shown: Tensor, change: Tensor, faint: Tensor
) -> tuple[Tensor, Tensor]:
    """Occlusion (B, 1, H, W) and ``ink``, paint times occlusion (B, 3, H, W), that also multiply
    the photo by 1 + ``change`` (B, 1, H, W).

    It is paint of the photo's colour, as ``shown`` coarsely, made darker or brighter by up to half
    or a little more, in the share that this takes: compositing knows no brighter photo. ``faint``
    (B, 1, H, W) is the part of the frame's mean change that paint takes in any case, see FAINT.
    """
    rest, size = 1 - occlusion, torch.abs(change) + faint
    share = 2 * size / (1 + size)
    lit, share = rest * (share + change), rest * share
    return occlusion + share, ink + torch.minimum(lit * shown, share)


class Render(nn.Module):
    """Features, keypoints, own code, driven code -> flow, occlusion, paint."""

    mirror: Tensor
    swap: Tensor
    shapes: Tensor
    scale: Tensor
    twice: Tensor
    twofold: Tensor
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
        self.rim = Rim()
        self.register_buffer("twice", hats(64, FLOW), persistent=False)
        self.register_buffer("twofold", hats(FLOW, PAINT), persistent=False)
        self.register_buffer("fourfold", hats(64, PAINT), persistent=False)
        self.register_buffer("eightfold", hats(CELLS, PAINT), persistent=False)
        self.mouth = Painter(64, 0.68, 0.2, 40, LIPS, teeth=True)
        self.eye = Painter(40, 0.36, 0.0, 24, LIDS)

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
        truth: Tensor | None = None,
    ) -> Rendered:
        """The same, and what only training needs; ``away`` and ``truth`` as for ``Poser``."""
        batch = features.shape[0]
        change = (motion - source) / self.scale
        gate = 1 - torch.exp(-STILL * (change * change).sum(1, keepdim=True))[:, :, None, None]
        blocks = [*self.level32, *self.level16, self.back32, self.back64]
        film = films(self.steer(torch.cat([motion / self.scale, change], 1) * 0.5), blocks)
        stack, outline, prior, view, learned, colours = features.split(PARTS, 1)
        background, front = colours.split(COLOURS // 2, 1)
        posed = self.poser(keypoints, source, motion, view[:, :, 0, 0], away)
        posed = posed if truth is None else self.poser.with_teeth(posed, truth)
        person, _ = prior.split([1, PRIOR - 1], 1)
        photo = stack.reshape(batch, 3, PAINT, PAINT)
        outline, stayed, had = outline.split(OUTLINES, 1)
        outline = outline.reshape(batch, 1, PAINT, PAINT)
        stayed = stayed.reshape(batch, 1, FLOW, FLOW)

        line = centres(FLOW, features).expand(batch, -1)
        windows = self.windows(posed, motion, change)
        first = self.first(posed, prior, line, windows)
        matte = torch.sigmoid(2 * sample_at(person, line, line, first.flow))
        still = torch.sigmoid(2 * self.twice @ person @ self.twice.T)
        # What a person uncovers is fetched from beside them: a flow that faded there would pass
        # over the photo's own hair once more and leave it as a line.
        flow = start = first.flow * torch.maximum(matte, still)
        # Flow is taught by exact flow alone: through pictures its gradient is mostly noise.
        fixed = flow.detach()
        shown = sample(photo, fixed)  # (B, 3, 128, 128)
        halved = F.avg_pool2d(torch.cat([first.maps, fixed, matte, still], 1), 2)
        maps, flow64, matte, still = halved.split([5, 2, 1, 1], 1)
        middle = centres(FLOW // 2, features)
        local = self.poser.local(posed, middle, middle, maps[:, 3:4])
        appearance, front = sample(torch.cat([learned, front], 1), flow64).split([LEARNED, 3], 1)
        x = [appearance, fold(shown - 0.5), maps, local, matte, still]
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
        light = light * F.avg_pool2d(matte, 2) * (LIGHT * gate)

        more = self.residual(x64).float() * (STEP * gate)
        flow = flow + F.pixel_shuffle(more, 2)
        # What this is of the mean of 2x2 cells.
        flow64 = flow64 + torch.cat([part.mean(1, keepdim=True) for part in more.split(4, 1)], 1)
        depth, lean = maps[:, 3:4] * posed.size[..., None], posed.back[:, :2, 2:, None]
        stretched = flow64, depth, lean, person, local, posed.aside
        led = self.rim(*(part.detach() for part in stretched))
        steps = self.twice @ torch.cat([led.step, led.mirrored], 1) @ self.twice.T
        step, mirrored = steps.chunk(2, 1)
        plain, flow = flow, flow + step
        share = sample(outline, flow.detach())
        # What a flow that draws the outline out has torn is mended with the person's colour.
        moved = sealed(share, SEALED)
        # The outline stays where it is, and so do gaps in it.
        within = rise(share, WITHIN)
        flow = flow + within * mirrored
        shown = sample(photo, flow.detach())
        torn = rise(moved - torch.maximum(share, within), TORN)
        reach = about(moved)
        shown = shown + torn * (self.twice @ front @ self.twice.T - shown)
        detail = F.pixel_shuffle(self.detail(x64), 2)  # (B, 16, 128, 128)
        seen = torch.cat([shown - 0.5, moved, stayed], 1)
        detail = self.act(self.blend.parts(detail, seen))
        shots = self.shots(posed, photo, prior, motion, change, windows)
        close = self.close_up(posed.size, shots)  # (B, 4, 256, 256)
        # exp(light) - 1, whose small values 16 bits would round away.
        change = light + light * light * (0.5 + light * (1 / 6))
        faint = FAINT * torch.abs(change).mean((1, 2, 3), keepdim=True)
        change = self.eightfold @ change @ self.eightfold.T
        single = torch.maximum(rise(led.least, FOLDED), led.shown)
        behind = torch.cat([background, single, led.shown, reach, torch.relu(had - reach)], 1)
        person = torch.cat([moved, torn], 1)
        made = self.compose(detail, shown, person, behind, close)
        bare = made.occlusion * gate, made.ink / (made.occlusion + THIN)
        # On the person alone, who ends where they are seen to end.
        change, faint = change * made.moved, faint * made.moved
        occlusion, ink = relit(made.occlusion, made.ink, made.shown, change, faint)
        paint = ink / (occlusion + THIN)
        occlusion = occlusion * gate
        return Rendered(flow, occlusion, paint, start, plain, light, bare, made.drawn)

    def first(
        self, posed: Posed, prior: Tensor, line: Tensor, windows: list[tuple[Painter, Window]]
    ) -> First:
        """The prior over a frame of which ``line`` (B, FLOW) are the columns and rows, lips going
        where their rims do; ``prior`` as for ``first_flow``, ``windows`` as ``windows`` gives."""
        first = first_flow(self.poser, posed, line, line, prior, self.mix, halved=True)
        painter, window = windows[0]
        columns, rows = painter.within(line, line, posed.size, window)
        places = posed.points, posed.still
        now, was = (painter.lines(points, posed.size, window, columns) for points in places)
        flow = painter.lips(posed, window, now, was, columns, rows, first.flow)
        return first._replace(flow=flow)

    def compose(
        self,
        detail: Tensor,
        shown: Tensor,
        person: Tensor,
        behind: Tensor,
        close: Tensor,
    ) -> Composed:
        """Layers of paint. ``shown`` (B, 3, 128, 128) is the warped photo; ``person``
        (B, 2, 128, 128): where they are, and where the flow tears them; ``behind`` (B, 7, 64, 64):
        the background, where the flow does not fold, where it is led inside the outline, how far
        about the person they may be painted over, and where they were and are no more."""
        weights = torch.cat([self.leave.weight, self.reveal.weight])
        biases = torch.cat([self.leave.bias, self.reveal.bias])  # type: ignore[list-item]
        out = F.pixel_shuffle(self.leave.of(detail, weights, biases), 2).float()
        occlusion, keep, colour, reveal = planes(out, [1, 1, 3, 1])
        large = self.twofold @ torch.cat([shown, person], 1) @ self.twofold.T
        shown, moved, torn = large.split([3, 1, 1], 1)
        occlusion, colour = torch.sigmoid(occlusion), torch.sigmoid(colour)
        paint = colour + torch.sigmoid(keep) * (shown - colour)
        behind = self.fourfold @ behind @ self.fourfold.T
        background, single, led, reach, uncovered = behind.split([3, 1, 1, 1, 1], 1)
        # Where the person was and is no more, the background continues, and hardly elsewhere.
        left = torch.sigmoid(reveal + uncovered * 8 - 4)
        theirs = moved * single
        occlusion = occlusion * (1 - theirs * left)
        left = left * (1 - theirs)
        occlusion = occlusion * (1 - FETCHED * torch.clamp(3 * uncovered, 0, 1))
        # What nobody covers stays the photo's: paint there was a haze beside the outline. But what
        # is painted over at the outline is to leave no line.
        near = torch.maximum(moved, uncovered)
        occlusion = occlusion * (near + torch.relu(reach - near) * left)
        paint = paint + (1 - moved * (1 - left)) * (background - paint)
        # What is hidden, and led there, is of the photo's own grain.
        occlusion = occlusion * (1 - moved * led)
        torn = torn * (1 - occlusion)
        paint, occlusion = paint + torn * (shown - paint), occlusion + torn
        weight, premultiplied = close.split([1, 3], 1)
        occlusion = occlusion * (1 - weight)
        ink = paint * (occlusion + THIN) + premultiplied
        return Composed(occlusion + weight, ink, shown, moved, theirs)

    def close_up(self, size: Tensor, shots: list[tuple[Painter, Window, Shot]]) -> Tensor:
        """Mouth and eyes, as ``shots`` gives them, painted over nothing: weight and weight * RGB
        (B, 4, 256, 256); ``size`` (B, 1, 1) is the interpupillary distance, frame fractions.

        Windows overlap at most where both have faded, so that their sum is taken.
        """
        pasted = [painter.paste(shot.paint, size, window) for painter, window, shot in shots]
        # Side by side and one below the other, their product is the sum of theirs.
        left, right = zip(*pasted, strict=True)
        return torch.matmul(torch.cat(left, 3), torch.cat(right, 2))

    def shots(
        self,
        posed: Posed,
        photo: Tensor,
        prior: Tensor,
        motion: Tensor,
        change: Tensor,
        windows: list[tuple[Painter, Window]],
    ) -> list[tuple[Painter, Window, Shot]]:
        """Mouth and eyes as they are painted, and by whom; ``windows`` as ``windows`` gives."""
        # What only turns is warped: a window is painted as far as its own shapes change.
        moved = 1 - torch.exp(-CHANGED * torch.matmul(change * change, self.shapes))  # (B, 2)
        shots = []
        for gate, (painter, window) in zip((0, 1, 1), windows, strict=True):
            shot = painter.shot(self.poser, posed, photo, prior, motion, window)
            on = moved[:, gate, None, None, None]
            if shot.opened is not None:
                on = on + shot.opened * (1 - on)
            shots.append((painter, window, shot._replace(paint=shot.paint * on)))
        return shots

    def windows(self, posed: Posed, motion: Tensor, change: Tensor) -> list[tuple[Painter, Window]]:
        """Mouth, right eye and left eye, and who paints each."""
        side = torch.ones_like(motion[:, :1])
        now = [motion / self.scale, change]
        mirrored = [torch.matmul(part, self.swap) for part in now]
        code, other = (self.steer_close(torch.cat(x, 1) * 0.5) for x in (now, mirrored))
        mouth, right, left = posed.anchors.unbind(1)
        picks = self.eye.mix, self.eye.rims, self.poser.pupils[:1]
        mix, rims, pupil = picks
        # The left eye is painted as a mirrored right one. Neither they nor their codes share a
        # batch: Intel's compiler refuses the maps of two on NPU 3720, and the codes of two, whose
        # parts are concatenated for ``predict`` too, on 5010.
        mirror_mix, mirror_rims, mirror_pupil = (pick[:, self.mirror] for pick in picks)
        one, two = (self.shut(motion, change, name) for name in ("eyeBlinkRight", "eyeBlinkLeft"))
        return [
            (self.mouth, Window(self.mouth.mix, self.mouth.rims, code, mouth, side)),
            (self.eye, Window(mix, rims, code, right, side, pupil, one)),
            (self.eye, Window(mirror_mix, mirror_rims, other, left, -side, mirror_pupil, two)),
        ]

    def shut(self, motion: Tensor, change: Tensor, name: str) -> Tensor:
        """Share (B, 1) of the way from the photo's lids to shut ones, which ``name`` tells."""
        at = slice(latent.INDEX[name], latent.INDEX[name] + 1)
        more = change[:, at] * self.scale[:, at]
        return torch.clamp(more / torch.clamp(1 - motion[:, at] + more, DROOPING, 2.0), 0, 1)
