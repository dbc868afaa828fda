"""What the face networks are trained for. Every target is exact; no network judges another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vivant import latent
from vivant.export.nets.encode import VIEW, Analysis, Encode
from vivant.export.nets.painter import PAINT, first_flow
from vivant.export.nets.pose import load_rig
from vivant.export.nets.render import CELLS, LIGHT, Render
from vivant.export.nets.warp import centres, grid_at, resize, sample
from vivant.export.synth.people.classes import CAVITIES, FACE, HAIR, MOUTH, SURFACES

FRAME = 512
"""Pixels of the frame in which flow and keypoint errors are stated."""
LEFT_WEIGHT = 1.5
"""Further importance of background that a moved person uncovers: what stays there is a ghost."""
HIDDEN_WEIGHT = 0.5
"""Importance of exact flow where a head that turns shows what the photo hides: it leads to what
lies in front of that, a cheek before its side, which looks much like it. Without it background was
fetched there."""
IPD = 0.165 * FRAME
"""Pixels between the pupils in the aligned portrait."""
CODE_KNEE = 0.4
"""Where the penalty of the own code turns from quadratic to linear, normalised units."""
VIEW_KNEE = 1.0
"""The same of perspective, of which a picture tells half and never all."""
BARING = ("jawOpen", "mouthUpperUp", "mouthLowerDown", "mouthSmile")
"""Shapes that show teeth."""
LESS, LESS_SHARE = 0.6, 0.3
"""By how much of themselves, at most, they are made smaller, and how often."""
PATCH = 8
"""Side of the patches, of 256 pixels, whose amount of detail is compared."""
FAR_OFF = 8.0
"""Pixels at most by which paint is judged beside its true place."""
CLASS_WEIGHT = (0.3, 1.0, 0.7, 0.4, 2.0, 4.0, 1.5, 0.7)
"""Importance of background, skin, hair, clothes, eyes, mouth interior, brows, and what is worn."""


class Regions:
    """Importance of each pixel of a driver, from its segmentation and keypoints."""

    def __init__(self, device: torch.device) -> None:
        names = load_rig().names
        self.lips = [k for k, n in enumerate(names) if n.startswith("lip")]
        self.right, self.left = names.index("pupilRight"), names.index("pupilLeft")
        self.table = torch.tensor(CLASS_WEIGHT, device=device)
        weight = torch.ones(len(names), device=device)
        for k, name in enumerate(names):
            if name.startswith(("lip", "lid", "pupil", "brow", "nos")):
                weight[k] = 2.0
            if name.startswith("lipInner"):
                weight[k] = 4.0
            if name.startswith(("skull", "chest", "shoulder", "sternum", "tongue", "teethLower")):
                weight[k] = 0.3
        self.points = weight / weight.mean()
        code = torch.ones(latent.SIZE, device=device)
        for name, k in latent.INDEX.items():
            if name in latent.HEAD[:3]:
                code[k] = 6.0
            elif name.startswith(("gaze", "jaw", "eyeBlink", "mouthUpper", "mouthLower")):
                code[k] = 2.0
        self.code = code / code.mean()

    def blobs(self, points: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Soft regions around mouth and eyes, (B, 1, size, size) each, from (B, K, 3)."""
        grid = centres(size, points)
        pupils = points[:, [self.right, self.left], :2]
        ipd = (pupils[:, 0] - pupils[:, 1]).norm(dim=-1)[:, None].clamp_min(0.06)

        def blob(centre: Tensor, wide: float, high: float) -> Tensor:
            x = (grid - centre[:, 0:1]) / (wide * ipd)
            y = (grid - centre[:, 1:2]) / (high * ipd)
            return torch.exp(-0.5 * (x[:, None, :] ** 2 + y[:, :, None] ** 2))[:, None]

        mouth = blob(points[:, self.lips, :2].mean(1), 0.36, 0.3)
        eyes = torch.maximum(blob(pupils[:, 0], 0.2, 0.14), blob(pupils[:, 1], 0.2, 0.14))
        return mouth, eyes

    def weight(self, segment: Tensor, mouth: Tensor, eyes: Tensor) -> Tensor:
        """(B, H, W) classes and soft regions -> (B, 1, H, W) importance."""
        return self.table[segment.long()][:, None] + 3 * mouth + 3 * eyes


def among(segment: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Where the segmentation (B, H, W) tells one of ``classes``, (B, 1, H, W) bool."""
    return torch.isin(segment, segment.new_tensor(classes))[:, None]


def robust(x: Tensor, knee: float) -> Tensor:
    """Charbonnier penalty: |x| beyond ``knee``, quadratic below."""
    return torch.sqrt(x * x + knee * knee) - knee


def end_point(flow: Tensor, exact: Tensor) -> Tensor:
    """End-point error of a flow (B, 2, H, W), frame fractions: (B, 1, H, W), px."""
    return ((flow - exact) * FRAME).square().sum(1, keepdim=True).sqrt()


def average(x: Tensor, weight: Tensor) -> Tensor:
    return (x * weight).sum() / weight.expand_as(x).sum().clamp_min(1e-6)


def box(x: Tensor, side: int) -> Tensor:
    """Mean over ``side`` by ``side`` pixels, zero outside, a row and a column at a time."""
    across = F.avg_pool2d(x, (1, side), 1, (0, side // 2))
    return F.avg_pool2d(across, (side, 1), 1, (side // 2, 0))


def edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical differences."""
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


def gradient_l1(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Difference of image gradients at two scales."""
    total = a.new_zeros(())
    for scale in (1, 2):
        if scale > 1:
            a, b, weight = (F.avg_pool2d(x, 2) for x in (a, b, weight))
        (ax, ay), (bx, by) = edges(a), edges(b)
        total = total + average((ax - bx).abs(), weight[..., :, 1:])
        total = total + average((ay - by).abs(), weight[..., 1:, :])
    return total


def texture_l1(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Difference of how much detail two pictures have, patch by patch, wherever in it that lies.

    What a photo hides is not known pixel by pixel, and judged pixel by pixel its best guess is a
    haze: stretched hair is wrong too, but looks like hair.
    """
    total = a.new_zeros(())
    known = weight[..., :, 1:], weight[..., 1:, :]
    for ours, true, each in zip(edges(a), edges(b), known, strict=True):
        more = F.avg_pool2d((ours.abs() - true.abs()) * each, PATCH)
        total = total + more.abs().mean() / each.mean().clamp_min(1e-6)
    return total


def uncovered(before: Tensor, now: Tensor) -> Tensor:
    """Where a person's soft outline was in the photo and is no more, (B, 1, H, W) 0..1.

    A photo keeps fine hair there that neither mask knows of, so the masks are blurred first.
    """
    for _ in range(2):
        before, now = (F.avg_pool2d(mask, 5, 1, 2) for mask in (before, now))
    return torch.clamp(3 * (before - now), 0, 1)


def misplaced(flow: Tensor, exact: Tensor, known: Tensor) -> Tensor:
    """From each pixel of our frame to where the true one shows the same point of the photo, frame
    fractions (B, 2, H, W), smoothly continued where that is not ``known`` (B, 1, H, W).

    A lip that is drawn two pixels too low, for no photo tells how far its mouth will open, is no
    mistake of what is painted between the lips. Judged at the true place, paint learns to be
    blurred by what it cannot know: that was 1.4 dB in mouths and 1.1 dB at eyes.
    """
    step = (flow - exact) * known
    moved, sure = torch.zeros_like(step), torch.full_like(known, 1e-4)
    for side, share in ((5, 1.0), (21, 0.05)):  # what is further, where nothing nearer is known
        moved, sure = moved + share * box(step, side), sure + share * box(known, side)
    return moved / sure


def found_at(picture: Tensor, step: Tensor) -> Tensor:
    """``picture`` (B, 3, H, W) at each pixel's place moved by ``step`` (B, 2, H, W), frame
    fractions; bicubic, as what is compared with paint must not be blurred by moving it."""
    at = centres(picture.shape[-1], picture)
    grid = grid_at(at, at, step)
    return F.grid_sample(picture, grid, "bicubic", "border", False).clamp(0, 1)


def as_drawn(batch: dict[str, Tensor], flow: Tensor, close: Tensor) -> Tensor:
    """The drivers' pictures with mouth and eyes, where ``close`` (B, 1, 128, 128) is not small, as
    far from their true place as ``flow`` (B, 2, 128, 128) draws them."""
    known = batch["visible"] * among(batch["target_segment"], SURFACES).float()
    step = misplaced(flow, batch["flow"], known).clamp(-FAR_OFF / FRAME, FAR_OFF / FRAME)
    return found_at(batch["target"], resize(step * torch.clamp(2 * close, 0, 1), PAINT))


def believed(encode: Encode, found: Tensor, code: Tensor, trust: float) -> Tensor:
    """True own codes (B, 63), a share ``trust`` of them with the expression and gaze that the
    encoder has ``found``.

    What is commanded is absolute: a mouth shuts even where its photo's code was misread. Teeth of
    real photos are read too small more often than those of synthetic ones, so some of the shapes
    that part the lips are made smaller still.
    """
    guess = encode.bounded(found)[:, :57]
    draw = torch.rand(3, len(code), 1, device=code.device)
    less = 1 - LESS * draw[1] * (draw[2] < LESS_SHARE)
    parting = code.new_tensor([float(name.startswith(BARING)) for name in latent.NAMES[:57]])
    guess = guess * (1 + parting * (less - 1))
    return torch.cat([torch.where(draw[0] < trust, guess, code[:, :57]), code[:, 57:]], 1)


def moved_light(
    photo: Tensor, target: Tensor, flow: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """How much more light falls on what both pictures show, and how sure that is.

    photo and target (B, 3, 256, 256), exact flow (B, 2, 128, 128), what is visible of the person
    (B, 1, 128, 128) -> logarithm of the smooth ratio, and weight, (B, 1, 32, 32) each.
    """
    step = target.shape[-1] // 2 // CELLS
    before = sample(photo, flow).mean(1, keepdim=True)
    after = F.avg_pool2d(target, 2).mean(1, keepdim=True)

    def smooth(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(x * visible, step), 3, 1, 1)

    sure = smooth(torch.ones_like(visible))
    ratio = torch.log((smooth(after) + 0.02 * sure + 1e-4) / (smooth(before) + 0.02 * sure + 1e-4))
    return ratio.clamp(-LIGHT, LIGHT), sure


def needless(occlusion: Tensor, warped: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Paint over what the warped photo shows rightly: it has twice the paint's resolution."""
    wrong = F.avg_pool2d((warped - target).abs().mean(1, keepdim=True), 5, 1, 2)
    # How wrong is a question of light: a dark eye differs little from its lid.
    dim = torch.clamp(2.5 * box(target.mean(1, keepdim=True), 15), 0.2, 1)
    return average(occlusion * torch.exp(-wrong / (0.04 * dim)), weight)


class Result(NamedTuple):
    """One step's loss and what to log or show."""

    loss: Tensor
    log: dict[str, Tensor]
    show: dict[str, Tensor]


def spread_loss(found: Analysis, points: Tensor) -> Tensor:
    """Cross entropy of the keypoints' column and row distributions against narrow Gaussians.

    It finds the right cell long before the centre of mass does; points outside count nothing.
    """
    cells = 64
    grid = torch.arange(cells, device=points.device) + 0.5
    inside = ((points[..., :2] > 0) & (points[..., :2] < 1)).all(-1)  # (B, K)
    total = points.new_zeros(())
    for axis, got in ((0, found.across), (1, found.down)):
        target = torch.exp(-0.5 * (grid - points[..., axis : axis + 1] * cells) ** 2)
        target = target / target.sum(-1, keepdim=True).clamp_min(1e-6)
        total = total - ((target * torch.log(got + 1e-5)).sum(-1) * inside).mean()
    return total


def maps_loss(found: Analysis, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Matte and perspective of what was found in a batch as for ``encoder_loss``."""
    person = (batch["segment"] > 0).float()[:, None]
    matte = F.binary_cross_entropy_with_logits(2 * found.prior[:, :1], person)
    near = robust((found.perspective - batch["perspective"]) / VIEW, VIEW_KNEE).mean()
    return matte + near, {"matte": matte, "perspective": near}


def encoder_loss(
    regions: Regions, encode: Encode, batch: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor], Analysis]:
    """Keypoints, own motion, perspective, matte and segmentation of the encoder's input: ``seen``
    (N, 3, 256, 256), ``code`` (N, 63), ``points`` (N, K, 3), ``perspective`` (N, 1) and ``segment``
    (N, 64, 64)."""
    seen, code, points, segment = (batch[key] for key in ("seen", "code", "points", "segment"))
    found = encode.analyse(seen)
    error = (found.keypoints - points) * FRAME
    # How far from the camera a head is does not show, and posing it asks for depth from its eyes.
    depth = (error[..., 2] - torch.matmul(encode.pupils, error[..., 2:]).mean(1)).abs()
    plane = torch.sqrt((error[..., :2] ** 2).sum(-1) + 1e-4)
    keypoint = ((plane + 0.5 * depth) * regions.points).mean()
    # Weights are mostly zero: a penalty that is linear near it would never dare to say more.
    known = (robust((found.motion - code) / encode.scale, CODE_KNEE) * regions.code).mean()
    moved = torch.matmul((found.motion - code)[:, :57], encode.delta).view(len(code), -1, 3)
    shift = (robust(moved[..., :2] * IPD, 0.5).sum(-1) * regions.points).mean()
    maps, log = maps_loss(found, batch)
    classes = F.cross_entropy(found.segment.float(), segment.long(), label_smoothing=0.02)
    loss = (
        0.15 * keypoint
        + 4 * known
        + 0.5 * shift
        + maps
        + 0.3 * classes
        + 0.3 * spread_loss(found, points)
    )
    log |= {
        "keypoint_px": (plane * (regions.points > 0.5)).sum()
        / ((regions.points > 0.5).sum() * len(plane)),
        "code": known,
        "shift_px": shift,
    }
    return loss, log, found


def perspective(encode: Encode, found: Analysis, true: Tensor, believe: Tensor) -> Tensor:
    """That of the last cameras of what was found where ``believe`` (N, 1), else the ``true`` one
    (N, 1)."""
    guess = encode.near(found.perspective[-len(true) :].detach())
    return torch.where(believe, guess, true)


def depth_loss(
    encode: Encode, render: Render, found: Analysis, batch: dict[str, Tensor], trust: float
) -> Tensor:
    """Error of the first flow to frames that the encoder alone sees, px: the last of ``found``.

    Heads that turn tell their depth by the flow, and the first flow costs next to nothing.
    """
    count, turns = batch["more_flow"].shape[:2]
    believe = torch.rand(count, 1, 1, device=batch["more_flow"].device) < trust
    points = torch.where(believe, found.keypoints[-count:].detach(), batch["more_points"])
    near = perspective(encode, found, batch["more_perspective"], believe[:, 0])
    away = batch["away"].repeat_interleave(count // len(batch["away"]), 0)[:, None]
    each = points, batch["more_code"], found.prior[-count:], near, away
    points, code, prior, near, away = (x.repeat_interleave(turns, 0) for x in each)
    posed = render.poser(points, code, batch["more_motion"].flatten(0, 1), near, away)
    line = centres(batch["more_flow"].shape[-1], points).expand(count * turns, -1)
    first = first_flow(render.poser, posed, line, line, prior, render.mix, halved=True)
    error = robust((first.flow - batch["more_flow"].flatten(0, 1)) * FRAME, 0.5)
    return average(error.mean(1, keepdim=True), batch["more_told"].flatten(0, 1)[:, None])


def face_loss(
    regions: Regions, encode: Encode, render: Render, batch: dict[str, Tensor], trust: float
) -> Result:
    """The whole loss of one batch (see ``face_data.to_device``).

    ``trust`` is the share of samples rendered from the encoder's own keypoints rather than the
    true ones, and of those rendered from its own code but for the head's pose: where the encoder
    errs in that, another frame would be right, and no target shows that frame.
    """
    sources = len(batch["photo"])
    every = {
        key: torch.cat([batch[key], batch[f"more_{key}"]])
        for key in ("seen", "code", "points", "perspective", "segment")
    }
    if encode.heat.weight.requires_grad:
        total, log, found = encoder_loss(regions, encode, every)
    else:
        found = encode.analyse(every["seen"])
        total, log = maps_loss(found, every)
    turned = depth_loss(encode, render, found, batch, trust)
    total = total + turned
    log["turned_px"] = turned
    found = Analysis(*(part[:sources] for part in found))
    believe = torch.rand(sources, 1, device=total.device) < trust
    points = torch.where(believe[..., None], found.keypoints.detach(), batch["points"])
    near = perspective(encode, found, batch["perspective"], believe)
    # Paint is judged against undamaged pictures, so the photo that paint sees is undamaged too.
    features = encode.features(batch["photo"], found.prior, near, found.learned)
    own = believed(encode, found.motion.detach(), batch["code"], trust)
    drivers = len(batch["motion"]) // sources
    away = batch["away"][:, None]
    many = [x.repeat_interleave(drivers, 0) for x in (features, points, own, batch["photo"], away)]
    features, points, code, photo, away = many
    motion = batch["motion"]
    # Seams that are judged beside their place teach that there are none.
    driven = render.predict(features, points, code, motion, away, batch["target_points"])
    flow, first, final = driven.plain, driven.first, driven.flow.detach()

    segment, visible, target = batch["target_segment"], batch["visible"], batch["target"]
    mouth, eyes = regions.blobs(batch["target_points"], 128)
    weight = regions.weight(segment, mouth, eyes)
    person = (segment > 0).float()[:, None]
    before = resize((batch["segment"] > 0).float()[:, None], 128).repeat_interleave(drivers, 0)
    left = uncovered(before, person)
    weight = weight + LEFT_WEIGHT * left
    # Beside a person what is shown matters, not whence: the rim of the matte moves with the head,
    # and what the head uncovers is fetched from there.
    beside = F.max_pool2d(torch.maximum(before, person), 9, 1, 4) * (1 - person)
    solid = person * (1 - among(segment, CAVITIES).float())
    shown = torch.maximum(visible, HIDDEN_WEIGHT * solid) * weight * (1 - beside)
    flow_error = robust((flow - batch["flow"]) * FRAME, 0.5).mean(1, keepdim=True)
    first_error = robust((first - batch["flow"]) * FRAME, 0.5).mean(1, keepdim=True)
    flow_loss, first_loss = average(flow_error, shown), average(first_error, shown)
    rough = sum(e.abs().mean() for e in edges((flow - first) * FRAME))

    close = torch.maximum(mouth, eyes)
    truth, target = target, as_drawn(batch, final, close)

    warped = sample(photo, resize(final, PAINT))
    out = warped * (1 - driven.occlusion) + driven.paint * driven.occlusion
    occlusion, paint = driven.bare
    # Where the flow draws the outline too far out nothing is to be painted: it would be a haze.
    over = driven.drawn.detach() * (1 - resize(person, PAINT))
    weight256 = resize(weight, PAINT) * (1 - over)
    colour = average(robust(out - target, 0.01), weight256)
    sharp = gradient_l1(out, target, weight256)
    texture = texture_l1(out, target, weight256)
    hidden = resize(torch.maximum(1 - visible, left), PAINT)
    inside = resize(among(segment, CAVITIES).float(), PAINT)
    close = resize(close, PAINT)
    need = torch.clamp(hidden + inside + 0.5 * close, 0, 1) * weight256 + 0.01
    # A mouth's inside is small beside the lips about it, and holds more that no photo shows.
    need = need * (1 + resize(among(segment, (MOUTH,)).float(), PAINT))
    painted = average(robust(paint - target, 0.01), need) + 0.5 * gradient_l1(paint, target, need)
    painted = painted + 2 * texture_l1(paint, target, need)
    tone = F.avg_pool2d((out - target) * weight256, 16) / (F.avg_pool2d(weight256, 16) + 1e-3)
    # In mouth and eyes paint may lie over what is seen; what is hidden it has to cover.
    # What is fetched from beside the person, or from in front of it, needs no paint.
    free = 1 - 0.9 * torch.clamp(close + inside, 0, 1) * (1 - hidden)
    free = free * (1 - resize(torch.maximum(left, (1 - visible) * solid), PAINT)) * (1 - over)
    unsure = F.binary_cross_entropy(
        occlusion.clamp(1e-4, 1 - 1e-4), hidden, weight=free, reduction="mean"
    )
    lazy = needless(occlusion, warped.detach(), target, 0.3 + 2 * close)
    lazy = lazy + (occlusion * over).sum() / (over.sum() + 1)
    total = total + 1.0 * flow_loss + 1.0 * first_loss + 0.02 * rough
    ratio, sure = moved_light(photo, truth, batch["flow"], visible * person)
    light = average(robust(driven.light - ratio, 0.1), sure)
    total = total + 12 * colour + 8 * sharp + 16 * robust(tone, 0.01).mean()
    total = total + 6 * painted + 0.25 * unsure + 1.5 * lazy + 25 * light + 30 * texture
    error = (out.detach() - truth) ** 2
    face = resize(among(segment, (*FACE, HAIR)).float(), PAINT)
    epe, epe_first = (end_point(got.detach(), batch["flow"]) for got in (flow, first))
    log |= {
        "flow_px": average(epe, visible * person),
        "first_px": average(epe_first, visible * person),
        "photo_l1": colour,
        "texture": texture,
        "light": light,
        "light_0": average(robust(ratio, 0.1), sure),
        "psnr_face": -10 * torch.log10(average(error, face)),
        "psnr_mouth": -10 * torch.log10(average(error, resize(mouth, PAINT))),
        "psnr_eyes": -10 * torch.log10(average(error, resize(eyes, PAINT))),
        "occlusion": occlusion.mean(),
        "loss": total,
    }
    show = {"out": out, "flow": flow, "first": first, "occlusion": occlusion, "paint": paint}
    return Result(total, {k: v.detach() for k, v in log.items()}, show)
