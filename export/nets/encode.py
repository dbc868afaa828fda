"""``encode``: what one portrait looks like, where its keypoints are, and its own motion code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant import latent
from vivant.export.nets.layers import SLOPE, Block, conv, quiet, stacked, upsample
from vivant.export.nets.matte import about, background, foreground, grown, outlined
from vivant.export.nets.mirror import MOTION_MIRROR
from vivant.export.nets.pose import PERSPECTIVE, SCALE, Rig, in_camera, load_rig, rotation

PHOTO = 48
"""Leading feature channels: the photo itself, 256 x 256, as ``stacked`` gives it."""
OUTLINES = (16, 4, 1)
"""Then: how much of each pixel is the person's, of 256 x 256 and of 128 x 128, and the most within
two cells about each of 64 x 64."""
OUTLINE = sum(OUTLINES)
PRIOR = 3
"""Then: person-against-background logit, depth and rotation-share corrections. After them, one
channel that is the same everywhere, the perspective of the camera (``pose.PERSPECTIVE``)."""
LEARNED = 28
"""Then: learned appearance."""
COLOURS = 6
"""Last: the background's colour continued behind the person, and the person's beyond them."""
PARTS = (PHOTO, OUTLINE, PRIOR, 1, LEARNED, COLOURS)
"""All of them, in order."""
CHANNELS = sum(PARTS)
SEGMENTS = 8
"""Classes of the auxiliary segmentation head (training only)."""
VIEW = 0.027
"""A typical deviation of perspective, 1/IPD."""
VIEWS = (1 / 32, 1 / 7.5)
"""Perspective of the farthest and the nearest camera, 1/IPD: from two metres to 48 cm."""

UNSEEN = ("skull", "ear", "neck", "chest", "shoulder", "sternum", "teeth", "tongue", "hairline")
"""Keypoints that hair, clothes or lips often hide."""

UPPER = tuple(f"lipInnerUpper{part}" for part in ("Right", "Mid", "Left"))
LOWER = tuple(f"lipInnerLower{part}" for part in ("Right", "Mid", "Left"))
TOUCH = 0.03
"""How far these may be apart in an expressionless face, IPD: .01 +- .008 on synthetic people, and
as much as keypoints err."""
UNSURE = 0.003
"""Deviation of a gap beyond that, IPD: small, so that nearly all of it is explained."""
GAP_DEVIATION = {"jawOpen": 0.06, "mouthUpperUp": 0.03, "mouthLowerDown": 0.03}
"""Shapes that part lips, and how much of an unexplained gap is each one's: deviations of what
their weights err."""
PASSES = 2
"""Times the gap is shared out: a weight that has met its bound leaves its share to others."""

Encoded = tuple[Tensor, Tensor, Tensor]


class Analysis(NamedTuple):
    """Everything the encoder finds in a portrait."""

    prior: Tensor
    """(B, PRIOR, 64, 64)."""
    learned: Tensor
    """(B, LEARNED, 64, 64)."""
    keypoints: Tensor
    """(B, K, 3) frame fractions."""
    motion: Tensor
    """(B, 63), not clamped to the latent's range."""
    perspective: Tensor
    """(B, 1), neither."""
    segment: Tensor
    """(B, SEGMENTS, 64, 64) logits."""
    across: Tensor
    """(B, K, 64) distribution of each keypoint over the columns."""
    down: Tensor
    """(B, K, 64) distribution over the rows."""


class Encode(nn.Module):
    """Portrait -> features, keypoints, own motion code.

    A residual pyramid down to 8x8; a feature pyramid back up to 64x64. Keypoints are the
    centres of mass of 64x64 heat maps (integral regression, Sun et al. 2018) plus a global
    offset, so that those outside the frame can be told too; their depth is the generic head's
    in the pose found, plus an offset.
    """

    scale: Tensor
    ramp: Tensor
    delta: Tensor
    pivot: Tensor
    pupils: Tensor
    facial: Tensor
    neutral: Tensor
    low: Tensor
    high: Tensor
    between: Tensor
    parted: Tensor
    share: Tensor
    mirror: Tensor
    swap: Tensor
    aside: Tensor
    turned: Tensor
    turned64: Tensor

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        rig = load_rig()
        self.count = len(rig.names)
        w1, w2, w3, w4 = width, 2 * width, int(3.5 * width), 4 * width
        act = nn.LeakyReLU(SLOPE)
        self.stem = nn.Sequential(conv(3, w1 // 2, 5, 2), act, conv(w1 // 2, w1, 3, 2), act)
        self.level64 = Block(w1)
        self.level32 = nn.Sequential(conv(w1, w2, 3, 2), act, Block(w2), Block(w2))
        self.level16 = nn.Sequential(conv(w2, w3, 3, 2), act, Block(w3), Block(w3))
        self.level8 = nn.Sequential(conv(w3, w4, 3, 2), act, Block(w4), Block(w4))
        self.lift16, self.side16 = conv(w4, w2, 1), conv(w3, w2, 1)
        self.lift32, self.side32 = conv(w2, w2, 3), conv(w2, w2, 1)
        self.lift64, self.side64 = conv(w2, w1, 3), conv(w1, w1, 1)
        self.mix64 = nn.Sequential(act, conv(w1, w1), act)
        self.act = act
        self.heat = conv(w1, self.count, 1)
        self.appearance = conv(w1, PRIOR + LEARNED, 3)
        quiet(self.appearance, 0.3)
        self.segment = conv(w1, SEGMENTS, 1)
        self.squeeze = conv(w4, 32, 1)
        self.summary = nn.Sequential(nn.Linear(32 * 64, 256), act)
        self.offset = nn.Linear(256, 3 * self.count)
        quiet(self.offset, 0.25)
        self.linear = nn.Linear(2 * self.count, 63)
        quiet(self.linear, 0.0)
        self.regress = nn.Sequential(nn.Linear(256 + 2 * self.count, 256), act, nn.Linear(256, 63))
        self.view = nn.Linear(2 * self.count, 1)
        quiet(self.view, 0.0)
        self.review = nn.Sequential(nn.Linear(256 + 2 * self.count, 64), act, nn.Linear(64, 1))
        self.register_buffer("scale", torch.tensor(SCALE)[None])
        ramp = (torch.arange(64, dtype=torch.float32) + 0.5) / 64
        self.register_buffer("ramp", ramp)
        self.register_buffer("delta", torch.from_numpy(rig.delta.reshape(57, -1).copy()))
        self.register_buffer("pivot", torch.from_numpy(rig.pivot.copy())[None, None])
        pupils = torch.zeros(2, self.count)
        pupils[0, rig.names.index("pupilRight")] = pupils[1, rig.names.index("pupilLeft")] = 1
        self.register_buffer("pupils", pupils)
        seen = [float(not name.startswith(UNSEEN)) for name in rig.names]
        self.register_buffer("facial", torch.tensor([seen]) / sum(seen))
        self.register_buffer("neutral", torch.from_numpy(rig.neutral.copy())[None])
        # Where a head stands shows in its framing alone: a photo's own translation is zero.
        bounds = {"weight": (0.0, 1.0), "degree": (-60.0, 60.0), "ipd": (0.0, 0.0)}
        low, high = zip(*(bounds[unit] for unit in latent.UNITS), strict=True)
        self.register_buffer("low", torch.tensor([list(low)]))
        self.register_buffer("high", torch.tensor([list(high)]))
        between, parted, share = lips(rig)
        self.register_buffer("between", between, persistent=False)
        self.register_buffer("parted", parted, persistent=False)
        self.register_buffer("share", share, persistent=False)
        # What a mirror image shows, as matrices.
        mirrors = {
            "mirror": torch.eye(self.count)[torch.from_numpy(rig.mirror.astype("int64"))],
            "swap": torch.from_numpy(MOTION_MIRROR.copy()),
            "aside": torch.tensor([-1.0, 1.0, 1.0]),
            "turned": torch.eye(256).flip(0),
            "turned64": torch.eye(64).flip(0),
        }
        for name, matrix in mirrors.items():
            self.register_buffer(name, matrix, persistent=False)

    def analyse(self, portrait: Tensor) -> Analysis:
        """(B, 3, 256, 256) -> everything, with what only training needs."""
        x = self.stem(portrait - 0.5)
        x64 = self.level64(x)
        x32 = self.level32(x64)
        x16 = self.level16(x32)
        x8 = self.level8(x16)
        y16 = self.act(upsample(self.lift16(x8)) + self.side16(x16))
        y32 = self.act(upsample(self.lift32(y16)) + self.side32(x32))
        y64 = self.mix64(upsample(self.lift64(y32)) + self.side64(x64))  # (B, w1, 64, 64)
        batch = portrait.shape[0]
        heat = self.heat(y64).float().reshape(batch, self.count, 64 * 64)
        heat = torch.softmax(heat, -1).reshape(batch, self.count, 64, 64)
        across, down = heat.sum(2), heat.sum(3)  # (B, K, 64)
        x_mean, y_mean = torch.matmul(across, self.ramp), torch.matmul(down, self.ramp)  # (B, K)
        summary = self.summary(self.squeeze(x8).float().reshape(batch, 32 * 64))
        offset = self.offset(summary).float().reshape(batch, self.count, 3)
        plane = torch.stack([x_mean, y_mean], -1) + 0.02 * offset[..., :2]
        known = self.relative(plane.detach())
        looks = torch.cat([summary.float(), known], 1)
        code = self.linear(known) + self.regress(looks).float()
        code = code * self.scale
        depth = self.depth(plane, code).detach() + 0.02 * offset[..., 2]
        keypoints = torch.cat([plane, depth[..., None]], -1)
        view = PERSPECTIVE + VIEW * (self.view(known) + self.review(looks).float())
        prior, learned = self.appearance(y64).float().split([PRIOR, LEARNED], 1)
        return Analysis(prior, learned, keypoints, code, view, self.segment(y64), across, down)

    def features(
        self, portrait: Tensor, prior: Tensor, perspective: Tensor, learned: Tensor
    ) -> Tensor:
        """All that the renderer is told of a portrait (B, 3, 256, 256), (B, C, 64, 64)."""
        person, fixes = prior.split([1, PRIOR - 1], 1)
        view = perspective[..., None, None].expand(-1, -1, 64, 64)
        person = grown(portrait, person)
        fixed = person.detach()
        depth, follows = fixes.split(1, 1)
        behind, (front, on) = background(portrait, fixed), foreground(portrait, fixed, follows)
        # Nobody is beside a person, so that nothing there follows their head: strands that the mask
        # has missed would stay behind, and what is next to them would show twice.
        follows = torch.maximum(follows, on)
        share = outlined(portrait, fixed, front, behind)
        half = F.avg_pool2d(share, 2)
        outline = stacked(share), stacked(half), about(half)
        parts = person, depth, follows, view, learned, behind, front
        return torch.cat([stacked(portrait), *outline, *parts], 1)

    def relative(self, plane: Tensor) -> Tensor:
        """Image positions of the keypoints (B, K, 2) less place and size, (B, 2K)."""
        away = plane - torch.matmul(self.facial, plane)
        size = torch.sqrt(torch.matmul((away * away).sum(-1), self.facial[0]) + 1e-6)
        return (away / size[:, None, None]).reshape(plane.shape[0], 2 * self.count)

    def depth(self, plane: Tensor, code: Tensor) -> Tensor:
        """Depth the generic head would have in this pose and expression, (B, K), frame."""
        turn = rotation(code[:, 57:60])  # (B, 3, 3)
        moved = torch.matmul(code[:, :57], self.delta).view(-1, self.count, 3)
        arm = self.neutral + moved - self.pivot
        posed = torch.matmul(arm, turn[:, 2, :, None])[..., 0] + self.pivot[..., 2]  # (B, K) IPD
        pair = torch.matmul(self.pupils, plane)
        gap = pair[:, 1] - pair[:, 0]
        across = turn[:, 0, 0] * turn[:, 0, 0] + turn[:, 1, 0] * turn[:, 1, 0]
        size = torch.sqrt(((gap * gap).sum(-1) + 1e-6) / (across + 1e-3))
        return posed * size[:, None]

    def closing(self, keypoints: Tensor, motion: Tensor, perspective: Tensor) -> Tensor:
        """A code (B, 63) within its bounds that also says why the lips of the keypoints (B, K, 3)
        are apart: without expression, lips touch.

        A network that is unsure of how far a mouth is open says too little, and what it leaves
        out stays open when the mouth is told to close. The gap beyond ``TOUCH`` that is left to
        an expressionless face is shared out among the shapes that part lips (a linear estimate
        with known deviations). A smaller gap, or none, changes nothing.
        """
        photo, _, _ = in_camera(keypoints, self.pupils, perspective[..., None])
        apart = torch.matmul(self.between, photo)  # (B, 3, 3) IPD
        down = rotation(motion[:, 57:60])[:, :, 1]  # (B, 3) the head's own axis
        gap = (apart * down[:, None]).sum(-1) - TOUCH  # (B, 3)
        for _ in range(PASSES):
            motion = self.bounded(motion)
            left = torch.relu(gap - torch.matmul(motion, self.parted))
            motion = motion + torch.matmul(left, self.share)
        return self.bounded(motion)

    def bounded(self, motion: Tensor) -> Tensor:
        """A code (B, 63) brought within what a photo's own code can be."""
        return torch.maximum(torch.minimum(motion, self.high), self.low)

    def near(self, perspective: Tensor) -> Tensor:
        """Perspective (B, 1) brought within what cameras can have."""
        return torch.clamp(perspective, *VIEWS)

    def forward(self, portrait: Tensor) -> Encoded:
        """portrait (B, 3, 256, 256), RGB 0..1 -> features (B, C, 64, 64), keypoints (B, K, 3) in
        frame fractions, the photo's own motion (B, 63).

        The mirror image is looked at too, and of what both say the mean is taken: keypoints err a
        tenth less. What is learned of the appearance has no mirror image.
        """
        batch = portrait.shape[0]
        both = self.analyse(torch.cat([portrait, portrait @ self.turned]))
        prior, other = both.prior.split(batch)
        prior = 0.5 * (prior + other @ self.turned64)
        keypoints, other = both.keypoints.split(batch)
        other = torch.matmul(self.mirror, other)
        keypoints = 0.5 * (keypoints + other * self.aside + 0.5 * (1 - self.aside))
        motion, other = both.motion.split(batch)
        motion = 0.5 * (motion + torch.matmul(other, self.swap))
        view, other = both.perspective.split(batch)
        view = self.near(0.5 * (view + other))
        learned, _ = both.learned.split(batch)
        features = self.features(portrait, prior, view, learned)
        return features, keypoints, self.closing(keypoints, motion, view)


def lips(rig: Rig) -> tuple[Tensor, Tensor, Tensor]:
    """What ``Encode.closing`` needs of the generic head: differences of keypoints across the lips
    (3, K), what each latent does to them (63, 3), IPD, and what a gap says of each latent (3, 63).
    """
    between = np.zeros((3, len(rig.names)))
    for row, pair in enumerate(zip(LOWER, UPPER, strict=True)):
        between[row, [rig.names.index(name) for name in pair]] = 1, -1
    parted = np.zeros((latent.SIZE, 3))
    parted[:57] = rig.delta[..., 1] @ between.T
    spread = np.zeros(latent.SIZE)
    for k, name in enumerate(latent.NAMES):
        spread[k] = GAP_DEVIATION.get(name.removesuffix("Left").removesuffix("Right"), 0.0)
    both = parted.T * spread**2  # (3, 63)
    share = np.linalg.solve(both @ parted + UNSURE**2 * np.eye(3), both)
    first, second, third = (torch.from_numpy(x).float() for x in (between, parted, share))
    return first, second, third
