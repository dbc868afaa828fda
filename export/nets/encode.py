"""``encode``: what one portrait looks like, where its keypoints are, and its own motion code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivant import latent
from vivant.export.nets.layers import SLOPE, Block, conv, fold, quiet, upsample
from vivant.export.nets.pose import SCALE, load_rig

PHOTO = 48
"""Leading feature channels: the photo itself, 4x4 pixels folded into channels."""
PRIOR = 4
"""Then: person-against-background logit, depth and rotation-share corrections, background hint."""
LEARNED = 28
"""Then: learned appearance."""
CHANNELS = PHOTO + PRIOR + LEARNED
SEGMENTS = 8
"""Classes of the auxiliary segmentation head (training only)."""

Encoded = tuple[Tensor, Tensor, Tensor]


class Encode(nn.Module):
    """Portrait -> features, keypoints, own motion code.

    A residual pyramid down to 8x8; a feature pyramid back up to 64x64. Keypoints are the
    centres of mass of 64x64 heat maps (integral regression, Sun et al. 2018) plus a global
    offset, so that those outside the frame can be told too.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        rig = load_rig()
        self.count = len(rig.names)
        w1, w2, w3, w4 = width, 2 * width, int(3.5 * width), 4 * width
        act = nn.LeakyReLU(SLOPE)
        self.stem = nn.Sequential(conv(3, w1 // 2, 5, 2), act, conv(w1 // 2, w1, 3, 2), act)
        self.level64 = nn.Sequential(Block(w1), Block(w1))
        self.level32 = nn.Sequential(conv(w1, w2, 3, 2), act, Block(w2), Block(w2), Block(w2))
        self.level16 = nn.Sequential(conv(w2, w3, 3, 2), act, Block(w3), Block(w3), Block(w3))
        self.level8 = nn.Sequential(conv(w3, w4, 3, 2), act, Block(w4), Block(w4))
        self.lift16, self.side16 = conv(w4, w2, 1), conv(w3, w2, 1)
        self.lift32, self.side32 = conv(w2, w2, 3), conv(w2, w2, 1)
        self.lift64, self.side64 = conv(w2, w1, 3), conv(w1, w1, 1)
        self.mix64 = nn.Sequential(act, Block(w1))
        self.act = act
        self.heat = conv(w1, self.count, 1)
        self.appearance = conv(w1, PRIOR + LEARNED, 3)
        quiet(self.appearance, 0.3)
        self.segment = conv(w1, SEGMENTS, 1)
        self.squeeze = conv(w4, 32, 1)
        self.summary = nn.Sequential(nn.Linear(32 * 64, 256), act)
        self.offset = nn.Linear(256, 3 * self.count)
        quiet(self.offset, 0.05)
        self.regress = nn.Sequential(nn.Linear(256 + 3 * self.count, 256), act, nn.Linear(256, 63))
        self.register_buffer("scale", torch.tensor(SCALE)[None])
        ramp = (torch.arange(64, dtype=torch.float32) + 0.5) / 64
        self.register_buffer("ramp", ramp)
        self.register_buffer("order", torch.arange(PHOTO).view(16, 3).t().reshape(-1))
        self.register_buffer("shape", torch.from_numpy(rig.neutral.copy())[None] * 0.165)
        low = [0.0 if unit == "weight" else -60.0 for unit in latent.UNITS]
        high = [1.0 if unit == "weight" else 60.0 for unit in latent.UNITS]
        self.register_buffer("low", torch.tensor([low]))
        self.register_buffer("high", torch.tensor([high]))

    def analyse(self, portrait: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, 256, 256) -> features, keypoints, motion (unclamped), segmentation logits."""
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
        x_mean = torch.matmul(heat.sum(2), self.ramp)  # (B, K)
        y_mean = torch.matmul(heat.sum(3), self.ramp)
        summary = self.summary(self.squeeze(x8).float().reshape(batch, 32 * 64))
        offset = self.offset(summary).float().reshape(batch, self.count, 3)
        # The centre of mass finds image positions; depth comes from the mean shape.
        depth = self.shape[:, :, 2].expand(batch, -1)
        keypoints = torch.stack([x_mean, y_mean, depth], -1) + 0.1 * offset
        known = (keypoints.detach() - 0.5).reshape(batch, 3 * self.count) * 8
        code = self.regress(torch.cat([summary.float(), known], 1)).float() * self.scale
        features = torch.cat([self.keep(portrait), self.appearance(y64).float()], 1)
        return features, keypoints, code, self.segment(y64)

    def keep(self, portrait: Tensor) -> Tensor:
        """The photo as feature channels, (B, 48, 64, 64), in the order of ``pixel_shuffle``."""
        return torch.index_select(fold(portrait, 4), 1, self.order)

    def forward(self, portrait: Tensor) -> Encoded:
        """portrait (B, 3, 256, 256), RGB 0..1 -> features (B, C, 64, 64), keypoints (B, K, 3) in
        frame fractions, the photo's own motion (B, 63)."""
        features, keypoints, code, _ = self.analyse(portrait)
        return features, keypoints, torch.maximum(torch.minimum(code, self.high), self.low)
