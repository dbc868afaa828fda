"""Measures of talking motion that need no network: closure, lag, visemes, blinks, head, gaze.

They compare generated curves, or mouths tracked in video, with timed phones. On real talkers
(GRID) closure recall is 1.00 at precision 0.77, chance 0.55; the lag is -12 +- 8 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import welch

from vivant import latent
from vivant.export.synth.speech.articulation import aperture
from vivant.export.synth.speech.emotion import PROTOTYPES
from vivant.export.synth.speech.nonverbal import DISTANCE_IPD
from vivant.export.synth.speech.phones import BILABIALS, SILENCE, VISEME, Phone

CLOSED = 0.03
"""Aperture of a motion latent below which lips count as closed, in full jaw openings."""
CLOSED_TRACKED = 0.022
"""The same for a tracked mouth, in interpupillary distances."""
TOLERANCE = 0.04
"""Seconds by which a closure may miss its phone."""
BANDS: tuple[tuple[float, float], ...] = ((0, 0.5), (0.5, 1), (1, 2), (2, 4), (4, 12))
"""Frequency bands of head movement, Hz; public speakers: .81 .06 .07 .04 .02 of the power."""


# --- lips -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Closure:
    """How well closures of the lips go with bilabials."""

    hits: int  # bilabials with a closed frame
    bilabials: int
    right: int  # closures near a bilabial, labiodental, w or pause
    closures: int

    @property
    def recall(self) -> float:
        return self.hits / self.bilabials if self.bilabials else float("nan")

    @property
    def precision(self) -> float:
        return self.right / self.closures if self.closures else float("nan")

    def __add__(self, other: Closure) -> Closure:
        return Closure(
            self.hits + other.hits,
            self.bilabials + other.bilabials,
            self.right + other.right,
            self.closures + other.closures,
        )


def closure(
    gap: np.ndarray, rate: float, phones: Sequence[Phone], threshold: float = CLOSED
) -> Closure:
    """Closures of the aperture ``gap`` (T,) at ``rate`` Hz against the phones.

    A closure is a run of frames below ``threshold`` between the first and the last sound.
    """
    closed = np.asarray(gap) < threshold
    spoken = [p for p in phones if p.name != SILENCE]
    if not spoken:
        return Closure(0, 0, 0, 0)
    hits = bilabials = 0
    allowed: list[tuple[float, float]] = []
    for p in phones:
        span = (p.start - TOLERANCE, p.end + TOLERANCE)
        if p.name in BILABIALS:
            bilabials += 1
            first, last = int(np.floor(span[0] * rate)), int(np.ceil(span[1] * rate)) + 1
            hits += bool(closed[max(0, first) : max(0, last)].any())
        if p.name in BILABIALS | {"f", "v", "w"} or (p.name == SILENCE and p.end - p.start >= 0.08):
            allowed.append(span)
    right = closures = 0
    for start, end in _runs(closed):
        a, b = start / rate, end / rate
        if spoken[0].start <= a and b <= spoken[-1].end:
            closures += 1
            right += any(b > lo and a < hi for lo, hi in allowed)
    return Closure(hits, bilabials, right, closures)


def chance_closure(
    gaps: Sequence[np.ndarray],
    rate: float,
    phones: Sequence[Sequence[Phone]],
    threshold: float = CLOSED,
) -> Closure:
    """Closures of each clip's aperture against every other clip's phones."""
    total = Closure(0, 0, 0, 0)
    for i, gap in enumerate(gaps):
        for j, spoken in enumerate(phones):
            inside = [p for p in spoken if p.end * rate <= len(gap)]
            if i != j and inside:
                total += closure(gap, rate, inside, threshold)
    return total


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def activity(motion: np.ndarray) -> float:
    """Mean speed of the aperture of (T, 63) latents at 50 Hz, in openings per second."""
    return float(np.abs(np.diff(aperture(motion.astype(np.float64)))).mean() * 50)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r of two curves (T,); nan when one is constant."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.std() < 1e-9 or b.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


# --- lag ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lag:
    """Delay of one signal against another, from the peak of their cross-correlation."""

    ms: float  # positive: the first is later
    error_ms: float  # standard error by bootstrap over the pairs
    peak: float  # correlation at the peak
    confidence: float  # peak above the median over lags


def cross_correlation(
    a: np.ndarray, b: np.ndarray, rate: float, limit: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of standardised a and b (T,) at lags of -limit..limit s: lags in ms, values."""
    a = (a - a.mean()) / (a.std() + 1e-9)
    b = (b - b.mean()) / (b.std() + 1e-9)
    most = min(int(limit * rate), len(a) - 2)
    lags = range(-most, most + 1)

    def overlap(k: int) -> float:
        return float(
            np.mean(a[max(0, k) : len(a) + min(0, k)] * b[max(0, -k) : len(b) - max(0, k)])
        )

    return np.array(lags) / rate * 1e3, np.array([overlap(k) for k in lags])


def lag(pairs: Sequence[tuple[np.ndarray, np.ndarray]], rate: float) -> Lag:
    """Lag pooled over (measured, reference) pairs of equal length, each weighted by it."""
    curves = [cross_correlation(a, b, rate) for a, b in pairs]
    most = min(len(lags) for lags, _ in curves)
    trim = [slice((len(v) - most) // 2, (len(v) + most) // 2) for _, v in curves]
    lags = curves[0][0][trim[0]]
    values = np.stack([v[s] for (_, v), s in zip(curves, trim, strict=True)])
    weights = np.array([len(a) for a, _ in pairs], np.float64)

    def peak(pick: np.ndarray) -> tuple[float, float, float]:
        pooled = np.average(values[pick], axis=0, weights=weights[pick])
        i = int(pooled.argmax())
        shift = 0.0
        if 0 < i < len(pooled) - 1:  # parabola through the three highest points
            below, above = pooled[i - 1], pooled[i + 1]
            shift = 0.5 * (below - above) / (below - 2 * pooled[i] + above)
        at = lags[i] + shift * (lags[1] - lags[0])
        return float(at), float(pooled[i]), float(pooled[i] - np.median(pooled))

    rng = np.random.default_rng(0)
    everything = np.arange(len(pairs))
    again = [peak(rng.integers(len(pairs), size=len(pairs)))[0] for _ in range(200)]
    return Lag(peak(everything)[0], float(np.std(again)), *peak(everything)[1:])


# --- visemes --------------------------------------------------------------------------------

_MOUTH = [i for n, i in latent.INDEX.items() if n.startswith(("mouth", "jaw", "tongue", "cheekP"))]


def viseme_rows(
    motion: np.ndarray, phones: Sequence[Phone], rate: float = 50.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mouth of (T, 63) latents at each phone's centre and 40 ms around: rows (P, F), classes."""
    rows, classes = [], []
    reach = max(1, round(0.04 * rate))
    for p in phones:
        k = round((p.start + p.end) / 2 * rate)
        if reach <= k < len(motion) - reach:
            rows.append(motion[[k - reach, k, k + reach]][:, _MOUTH].ravel())
            classes.append(VISEME[p.name])
    return np.array(rows), np.array(classes)


def viseme_accuracy(
    rows: np.ndarray, classes: np.ndarray, groups: np.ndarray, folds: int = 5
) -> tuple[float, float]:
    """Accuracy of a linear discriminant on unseen groups, and the share of the largest class.

    rows: (P, F); classes: (P,); groups: (P,), the clip of each row. Regularised pooled
    covariance (Fisher 1936).
    """
    names = np.random.default_rng(0).permutation(np.unique(groups))
    folds = min(folds, len(names))
    right = total = 0
    for fold in range(folds):
        test = np.isin(groups, names[fold::folds])
        x, y = rows[~test], classes[~test]
        known = np.unique(y)
        means = np.stack([x[y == c].mean(0) for c in known])
        rest = x - means[np.searchsorted(known, y)]
        covariance = rest.T @ rest / len(rest) + 1e-4 * np.eye(x.shape[1])
        weights = np.linalg.solve(covariance, means.T)  # (F, C)
        prior = np.log([np.mean(y == c) for c in known])
        score = rows[test] @ weights - 0.5 * np.einsum("cf,fc->c", means, weights) + prior
        right += int((known[score.argmax(1)] == classes[test]).sum())
        total += int(test.sum())
    return right / total, float(np.bincount(classes).max() / len(classes))


# --- eyes and head --------------------------------------------------------------------------


def blink_onsets(motion: np.ndarray, threshold: float = 0.4) -> np.ndarray:
    """Frames of (T, 63) latents at which the lids pass the threshold downward."""
    lids = motion[:, [latent.INDEX["eyeBlinkLeft"], latent.INDEX["eyeBlinkRight"]]].mean(1)
    return np.flatnonzero((lids[1:] > threshold) & (lids[:-1] <= threshold)) + 1


def blinks_per_minute(motion: np.ndarray, rate: float = 50.0) -> float:
    """Blink rate; people in conversation blink 10-32 times a minute (Doughty 2001)."""
    return len(blink_onsets(motion)) / (len(motion) / rate / 60)


def head_spread(motion: np.ndarray) -> np.ndarray:
    """(3,) standard deviation of head pitch, yaw and roll in degrees."""
    columns = [latent.INDEX[n] for n in ("headPitch", "headYaw", "headRoll")]
    spread: np.ndarray = motion[:, columns].astype(np.float64).std(0)
    return spread


def head_bands(angle: np.ndarray, rate: float = 50.0) -> np.ndarray:
    """(5,) share of the power of a head angle (T,) in each of BANDS (Welch's method, 6 s)."""
    x = np.asarray(angle, np.float64)
    f, power = welch(x - x.mean(), rate, nperseg=min(len(x), int(6 * rate)))
    power = power / (power.sum() + 1e-12)
    return np.array([power[(f >= a) & (f < b)].sum() for a, b in BANDS])


def beat_alignment(
    motion: np.ndarray, beats: Sequence[float], rate: float = 50.0, sigma: float = 0.1
) -> float:
    """Mean closeness 0..1 of beats (s) to the nearest rest of the head (Li et al. 2021).

    Rests are frequent, so compare with the value for random beats.
    """
    columns = [latent.INDEX[n] for n in ("headPitch", "headYaw", "headRoll")]
    speed = np.linalg.norm(np.diff(motion[:, columns], axis=0), axis=1)
    rests = (np.flatnonzero((speed[1:-1] < speed[:-2]) & (speed[1:-1] <= speed[2:])) + 1) / rate
    if not len(rests) or not len(beats):
        return float("nan")
    away = np.abs(rests[None] - np.asarray(beats)[:, None]).min(1)
    return float(np.exp(-(away**2) / (2 * sigma**2)).mean())


def distances(samples: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(K,) mean distance of each of K performances (K, T, C) of one sound from the others, in the
    spread (C,) of each channel. Their mean is the diversity."""
    x = samples / (spread + 1e-9)
    apart = np.array([[np.sqrt(np.mean((a - b) ** 2)) for a in x] for b in x])
    return np.asarray(apart.sum(1) / (len(x) - 1))


# --- commands -------------------------------------------------------------------------------


def regard(motion: np.ndarray) -> np.ndarray:
    """(T, 2) direction of regard, head and eyes together: yaw, pitch, degrees."""
    i = latent.INDEX
    head = motion[:, [i["headYaw"], i["headPitch"]]]
    directions: np.ndarray = head + motion[:, [i["gazeYaw"], i["gazePitch"]]]
    return directions


def distance_ratio(motion: np.ndarray) -> float:
    """Mean head distance as a ratio of the default, the inverse of the command's mapping."""
    return 1 - float(motion[:, latent.INDEX["headZ"]].mean()) / DISTANCE_IPD


def emotion_scores(motion: np.ndarray, neutral: np.ndarray) -> Mapping[str, float]:
    """Cosine of each emotion's prototype with the mean shapes beyond ``neutral`` (63,).

    motion: (T, 63). Lids are left out: blinks are no emotion.
    """
    offset = _shapes(motion.mean(0) - neutral)
    scores = {}
    for name in PROTOTYPES:
        wanted = _shapes(_prototype(name))
        norm = np.linalg.norm(wanted) * np.linalg.norm(offset) + 1e-9
        scores[name] = float(wanted @ offset / norm)
    return scores


def emotion_strength(motion: np.ndarray, neutral: np.ndarray, name: str) -> float:
    """How much of an emotion's prototype the mean shapes of (T, 63) show beyond ``neutral``."""
    wanted = _shapes(_prototype(name))
    return float(wanted @ _shapes(motion.mean(0) - neutral) / (wanted @ wanted))


def _prototype(name: str) -> np.ndarray:
    return np.array([PROTOTYPES[name].get(shape, 0.0) for shape in latent.NAMES])


def _shapes(values: np.ndarray) -> np.ndarray:
    """The numbers of a latent (63,) that show an emotion."""
    columns = [
        k
        for n, k in latent.INDEX.items()
        if n in latent.ARKIT and not n.startswith(("eyeBlink", "eyeLook"))
    ]
    return values[columns]
