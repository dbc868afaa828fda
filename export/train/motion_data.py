"""Speech shards in, training windows out: mel, motion and conditions of many clips at once.

A shard is an uncompressed ``.npz``: ``mel`` (N, 64) float16 log-mel at 100 Hz, ``motion``
(N / 2, 63) float16 latents at 50 Hz, ``viseme`` (N,) uint8, ``starts`` (C + 1,) clip bounds in mel
frames, ``conditions`` (C, 16) float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivant.errors import UsageError
from vivant.latent import GAZE_DEGREES, HEAD, INDEX, LID_DEGREES, NAMES, SIZE

Array = NDArray[np.float32]

FRAMES = 4
"""Mel frames of a tick."""
SUBFRAMES = 2
"""Motion frames of a tick."""
PRIMING = 2
"""Ticks that ``listen`` hears before tick 0, for the look-ahead."""
AHEAD = 6
"""Mel frames of look-ahead: tick i has heard frames up to 4 i + 9."""
EMOTIONS = (5, 12)
"""First and end index of the emotions among the conditions, with the flag that one is given."""
UNSPOKEN = 2.0
"""How much likelier a tick is where nobody speaks."""
LIVELINESS = 12
"""Index of the condition that tells the head's liveliness, in octaves."""
HEAD_SPEED = (2.3, 5.9)
"""Median speed of the corpus' heads, degrees a second, in clips without and with speech."""
SILENCE = float(np.log(1e-5))
"""Log-mel of digital silence."""

GROUPS: dict[str, tuple[str, ...]] = {
    "mouth": ("jaw", "mouth", "cheekPuff", "tongue"),
    "eyes": ("eye", "gaze", "cheekSquint"),
    "brows": ("brow", "nose"),
    "head": ("head",),
}
"""Channels that move together, by the start of their names."""


def channels(group: str) -> list[int]:
    """Indices of a group's channels in the motion latent."""
    return [i for i, name in enumerate(NAMES) if name.startswith(GROUPS[group])]


@dataclass(frozen=True)
class Corpus:
    """Clips end to end. ``clips`` (C, 2) holds each one's first tick and number of ticks."""

    mel: NDArray[np.float16]  # (N, mels), log power, not normalised
    motion: NDArray[np.float16]  # (N / 2, 63)
    viseme: NDArray[np.uint8]  # (N,)
    clips: NDArray[np.int64]
    conditions: Array  # (C, 16)

    @property
    def hours(self) -> float:
        """Length of all clips."""
        return float(self.clips[:, 1].sum()) / 25 / 3600


def load_corpus(paths: Iterable[Path]) -> Corpus:
    """Read shards; those that are still being written or are damaged are left out.

    Raises UsageError when none can be read.
    """
    mel, motion, viseme, clips, conditions = [], [], [], [], []
    at = 0
    for path in sorted(paths):
        try:
            with np.load(path) as shard:
                part = {key: shard[key] for key in ("mel", "motion", "viseme", "starts")}
                given = shard["conditions"]
        except (OSError, ValueError, KeyError, EOFError):
            continue
        bounds = part["starts"].astype(np.int64) // FRAMES
        mel.append(part["mel"].astype(np.float16))
        motion.append(part["motion"].astype(np.float16))
        viseme.append(part["viseme"].astype(np.uint8))
        conditions.append(given.astype(np.float32))
        clips.append(np.stack([at + bounds[:-1], np.diff(bounds)], axis=1))
        conditions[-1][:, LIVELINESS] = liveliness(motion[-1], viseme[-1], bounds)
        at += len(part["mel"]) // FRAMES
    if not mel:
        raise UsageError(
            "no speech shard can be read",
            expected="speech_*.npz files",
            fix="Make them with: python -m vivant.export.synth.speech.shard",
        )
    return Corpus(
        np.concatenate(mel),
        np.concatenate(motion),
        np.concatenate(viseme),
        np.concatenate(clips),
        np.concatenate(conditions),
    )


def liveliness(
    motion: NDArray[np.float16], viseme: NDArray[np.uint8], bounds: NDArray[np.int64]
) -> Array:
    """Mean speed of the head in each clip, in octaves above the median for as much speech, (C,).

    ``motion`` (N / 2, 63), ``viseme`` (N,), ``bounds`` (C + 1,) in ticks. Speakers differ by a
    factor of ten. A network that is not told which one it is reads it off its own past, and
    streaming then becomes ever more or ever less lively.
    """
    head = motion[:, [INDEX[name] for name in HEAD[:3]]].astype(np.float32)
    speeds, shares = [], []
    for first, end in pairwise(bounds):
        steps = np.diff(head[SUBFRAMES * first : SUBFRAMES * end], axis=0)
        speeds.append(np.linalg.norm(steps, axis=1).mean() * 50 if len(steps) else 0.0)
        shares.append(np.mean(viseme[FRAMES * first : FRAMES * end] > 0))
    quiet, talking = HEAD_SPEED
    usual = quiet + (talking - quiet) * np.minimum(1, np.array(shares) / 0.6)
    octaves = np.log2(np.maximum(speeds, 1e-3) / usual)
    return np.asarray(octaves.clip(-3, 3), np.float32)


@dataclass
class Statistics:
    """What normalises mel and motion, and the innovation's linear prediction and axes."""

    audio_mean: Array  # (mels,)
    audio_std: Array
    latent_mean: Array  # (63,)
    latent_std: Array
    predict: Array  # (126, 126), last tick (row) -> expected tick, normalised
    basis: Array  # (126, 126), columns are axes, most visible first
    scale: Array  # (126,)
    pace: Array  # (63,) deviation of the step from one motion frame to the next, normalised
    weight: Array  # (126,) loss weight of each axis
    group: NDArray[np.int64]  # (126,) index into GROUPS of each axis
    moods: Array  # (16, 63) what each condition adds to the mean, normalised; emotions only


def least_std() -> Array:
    """Smallest deviation a channel is normalised with, so that a still channel stays small."""
    least = np.full(SIZE, 0.02, np.float32)
    least[INDEX["gazeYaw"] : INDEX["gazePitch"] + 1] = 0.5  # degrees
    least[[INDEX[name] for name in HEAD[:3]]] = 0.5
    least[[INDEX[name] for name in HEAD[3:]]] = 0.01  # IPD
    return least


def visibility() -> Array:
    """How much a unit of each channel shows, (63,): a whole blendshape as 10 degrees of head."""
    seen = np.ones(SIZE, np.float32)
    seen[[INDEX[name] for name in ("gazeYaw", "gazePitch", *HEAD[:3])]] = 0.1
    seen[[INDEX[name] for name in HEAD[3:]]] = 2.0
    return seen


def carried() -> Array:
    """(126,) 1 for channels of a tick that its past helps to tell, 0 for those of the mouth."""
    told = np.ones(SIZE, np.float32)
    told[channels("mouth")] = 0
    return np.tile(told, SUBFRAMES)


def steered(mean: Array, std: Array) -> tuple[Array, Array]:
    """What commands steer as a linear map of a normalised tick: (126, 3) and bias (3,).

    Yaw and pitch of regard (head and eyes together) in 10 degrees, and ``headZ`` in 0.3 IPD, of
    the tick's second frame. ``mean``, ``std`` (63,) normalise the latent.
    """
    table, bias = np.zeros((2 * SIZE, 3), np.float32), np.zeros(3, np.float32)
    parts = (("headYaw", "gazeYaw"), ("headPitch", "gazePitch"), ("headZ",))
    for k, (names, unit) in enumerate(zip(parts, (10.0, 10.0, 0.3), strict=True)):
        for i in (INDEX[name] for name in names):
            table[SIZE + i, k] = std[i] / unit
            bias[k] += mean[i] / unit
    return table, bias


def smooth_step(u: NDArray[np.floating]) -> NDArray[np.floating]:
    """0 before 0, 1 after 1, minimum jerk between (Flash & Hogan 1985)."""
    u = u.clip(0, 1)
    return u**3 * (10 - 15 * u + 6 * u * u)


def from_neutral(frames: Array, rng: np.random.Generator) -> None:
    """Let motion (2 (T + 1), 63) begin at rest, as a stream does, in place.

    The first two frames, which are the past, become neutral; then the head comes to its place in
    about a second, the face in half of one, and regard in a saccade.
    """
    regard = [INDEX["gazeYaw"], INDEX["gazePitch"]]
    facing = [INDEX["headYaw"], INDEX["headPitch"]]
    time = (np.arange(len(frames)) - 1) / 50  # s
    aim = frames[:, regard] + frames[:, facing]
    head = smooth_step(time / rng.uniform(0.6, 1.6)).astype(np.float32)
    frames[:, channels("head")] *= head[:, None]
    face = smooth_step(time / rng.uniform(0.2, 0.6)).astype(np.float32)
    frames[:, channels("brows") + channels("eyes")] *= face[:, None]
    look = smooth_step((time - rng.uniform(0, 0.4)) / 0.05).astype(np.float32)
    eyes = aim * look[:, None] - frames[:, facing]
    eyes[:2] = 0
    frames[:, regard] = eyes
    yaw, pitch = eyes[:, 0] / GAZE_DEGREES, eyes[:, 1] / LID_DEGREES
    for side, sign in (("Left", 1), ("Right", -1)):
        frames[:, INDEX[f"eyeLookOut{side}"]] = (sign * yaw).clip(0, 1)
        frames[:, INDEX[f"eyeLookIn{side}"]] = (-sign * yaw).clip(0, 1)
        frames[:, INDEX[f"eyeLookUp{side}"]] = pitch.clip(0, 1)
        frames[:, INDEX[f"eyeLookDown{side}"]] = (-pitch).clip(0, 1)


def ticks_of(motion: NDArray[np.floating]) -> NDArray[np.floating]:
    """(2 n, 63) motion frames -> (n, 126) ticks."""
    return motion.reshape(-1, SUBFRAMES * motion.shape[-1])


def statistics(corpus: Corpus, *, most: int = 400_000, seed: int = 0) -> Statistics:
    """Statistics over at most ``most`` ticks drawn from the corpus."""
    rng = np.random.default_rng(seed)
    pairs = [np.arange(start + 1, start + count) for start, count in corpus.clips if count > 1]
    at = np.concatenate(pairs)
    at = np.sort(rng.choice(at, min(most, len(at)), replace=False))
    mel = corpus.mel.reshape(-1, FRAMES, corpus.mel.shape[1])[at[:: 1 + len(at) // 50_000]]
    motion = ticks_of(corpus.motion)
    now, last = motion[at].astype(np.float32), motion[at - 1].astype(np.float32)
    frames = now.reshape(-1, SIZE)
    mean = frames.mean(0)
    std = np.maximum(frames.std(0), least_std())
    now, last = (
        ((x.reshape(-1, SUBFRAMES, SIZE) - mean) / std).reshape(-1, 2 * SIZE) for x in (now, last)
    )
    step = now[:, SIZE:] - now[:, :SIZE]
    pace = np.maximum(step.std(0), 1e-3)
    predict = linear_prediction(last, now) * carried()
    missed = now - last @ predict
    basis, scale, weight, group = axes(missed, std)
    flat = mel.reshape(-1, mel.shape[-1]).astype(np.float32)
    return Statistics(
        flat.mean(0),
        np.maximum(flat.std(0), 0.1),
        mean,
        std,
        predict,
        basis,
        scale,
        pace,
        weight,
        group,
        moods(corpus, mean, std),
    )


def moods(corpus: Corpus, mean: Array, std: Array) -> Array:
    """(16, 63): clips' mean motion, normalised, as a linear map of their emotion conditions."""
    ticks = ticks_of(corpus.motion)
    first, count = corpus.clips.T
    y = [ticks[a : a + n].astype(np.float32).reshape(-1, SIZE).mean(0) for a, n in corpus.clips]
    spoken = np.maximum.reduceat(corpus.viseme, FRAMES * first) > 0
    felt = slice(EMOTIONS[0], EMOTIONS[1])
    x = np.zeros((len(y), corpus.conditions.shape[1] + 1))
    x[:, felt], x[:, -1] = corpus.conditions[:, felt], 1
    weighted = x * (count * spoken)[:, None]
    ridge = 5 * count.mean() * np.eye(x.shape[1])
    found = np.linalg.solve(x.T @ weighted + ridge, weighted.T @ ((np.stack(y) - mean) / std))
    return found[:-1].astype(np.float32)


def linear_prediction(last: Array, now: Array) -> Array:
    """(126, 126): each channel of a tick from the same channel's two frames of the last tick.

    Least squares, with a ridge that keeps the weights of two nearly equal frames moderate.
    """
    predict = np.zeros((2 * SIZE, 2 * SIZE), np.float32)
    for c in range(SIZE):
        pair = [c, SIZE + c]
        x, y = last[:, pair].astype(np.float64), now[:, pair].astype(np.float64)
        ridge = 1e-4 * len(x) * np.eye(2)
        predict[np.ix_(pair, pair)] = np.linalg.solve(x.T @ x + ridge, x.T @ y)
    return predict


def axes(missed: Array, std: Array) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Principal axes of the prediction's error within each group of channels.

    ``missed`` (n, 126) in normalised units. Returns basis (126, 126), deviation along each axis
    (126,), loss weight (126,) and group (126,), sorted by how much an axis shows.
    """
    seen = np.tile(std * visibility(), SUBFRAMES)
    columns, scales, shows, groups = [], [], [], []
    for g, name in enumerate(GROUPS):
        one = channels(name)
        index = np.array(one + [SIZE + i for i in one])
        part = missed[:, index].astype(np.float64)
        values, vectors = np.linalg.eigh(part.T @ part / len(part))
        scale = np.sqrt(np.maximum(values, 1e-8))
        for k in range(len(index)):
            column = np.zeros(2 * SIZE)
            column[index] = vectors[:, k]
            columns.append(column)
            scales.append(scale[k])
            shows.append(scale[k] * np.linalg.norm(column * seen))
            groups.append(g)
    order = np.argsort(shows)[::-1]
    show = np.array(shows)[order]
    # Between whitened (every axis counts the same) and visible error (only lips would count).
    weight = np.sqrt(show / show[: len(show) // 4].mean()).clip(0.05, 3.0)
    return (
        np.stack(columns, axis=1)[:, order].astype(np.float32),
        np.array(scales, np.float32)[order],
        weight.astype(np.float32),
        np.array(groups)[order],
    )


@dataclass
class Batch:
    """Windows of T ticks. ``mel`` also holds the ticks that prime ``listen``."""

    mel: Array  # (B, 4 (PRIMING + T), mels), log power
    motion: Array  # (B, T + 1, 126), ticks; the first is the one before the window
    viseme: NDArray[np.int64]  # (B, 4 T)
    conditions: Array  # (B, 16)
    valid: Array  # (B, T), 1 where the clip has a tick


class Windows:
    """Draws random windows; ticks are equally likely, but UNSPOKEN times as much where nobody
    speaks.

    Sounds that must leave the lips alone are rarer in the corpus than in life.
    """

    def __init__(self, corpus: Corpus, ticks: int, *, seed: int = 0) -> None:
        self.corpus, self.ticks = corpus, ticks
        self.rng = np.random.default_rng(seed)
        share = corpus.clips[:, 1].astype(np.float64)
        spoken = np.maximum.reduceat(corpus.viseme, FRAMES * corpus.clips[:, 0]) > 0
        share *= np.where(spoken, 1, UNSPOKEN)
        self.share = share / share.sum()
        self.motion = ticks_of(corpus.motion)

    def draw(self, batch: int) -> Batch:
        """A batch of windows; a clip that is shorter than a window is followed by silence."""
        corpus, ticks = self.corpus, self.ticks
        chosen = self.rng.choice(len(self.share), batch, p=self.share)
        mel = np.full((batch, FRAMES * (PRIMING + ticks), corpus.mel.shape[1]), SILENCE, np.float32)
        motion = np.zeros((batch, ticks + 1, self.motion.shape[1]), np.float32)
        viseme = np.zeros((batch, FRAMES * ticks), np.int64)
        valid = np.zeros((batch, ticks), np.float32)
        for b, clip in enumerate(chosen):
            start, count = corpus.clips[clip]
            # A third of the windows begin where the clip does, as every stream does.
            last = max(0, int(count) - ticks)
            first = 0 if self.rng.random() < 1 / 3 else int(self.rng.integers(0, last + 1))
            here = min(ticks, int(count) - first)
            heard = FRAMES * (first - PRIMING) + AHEAD  # first mel frame, in the clip
            low, high = max(heard, 0), min(heard + mel.shape[1], FRAMES * int(count))
            at = FRAMES * int(start)
            mel[b, low - heard : high - heard] = corpus.mel[at + low : at + high]
            at = int(start) + first
            motion[b, 1 : here + 1] = self.motion[at : at + here]
            motion[b, 0] = self.motion[at - 1] if first else np.tile(motion[b, 1, :SIZE], 2)
            motion[b, here + 1 :] = motion[b, here]
            if first == 0:
                from_neutral(motion[b].reshape(-1, SIZE), self.rng)
            viseme[b, : FRAMES * here] = corpus.viseme[FRAMES * at : FRAMES * (at + here)]
            valid[b, :here] = 1
        return Batch(mel, motion, viseme, corpus.conditions[chosen], valid)
