"""Sounds of a mouth, nose or throat that are not speech: breath, laughter, coughs, sniffs, hums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

RATE = 16000
"""Hz."""

Sound = Callable[[np.random.Generator], np.ndarray]


def _envelope(points: list[tuple[float, float]], count: int) -> np.ndarray:
    """Straight lines through (share of the length, gain), with their corners rounded."""
    x, y = zip(*points, strict=True)
    line = np.interp(np.linspace(0, 1, count), x, y)
    width = max(1, count // 12)
    return np.convolve(np.pad(line, width, "edge"), np.ones(width) / width, "same")[width:-width]


def _resonate(source: np.ndarray, centre: float, width: float) -> np.ndarray:
    radius = np.exp(-np.pi * width / RATE)
    pole = [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2]
    return lfilter([1 - radius, 0, radius - 1], pole, source)


def _tract(rng: np.random.Generator) -> np.ndarray:
    """Four formants in Hz of a random open vowel in a tract of random length."""
    vowels = ((720, 1250, 2500), (560, 1750, 2500), (620, 1100, 2450), (500, 1500, 2500))
    return np.array([*vowels[rng.integers(4)], 3500]) * rng.uniform(0.88, 1.3)


def _turbulence(count: int, formants: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of air through a mouth or nose: formant bands over a floor."""
    noise = rng.standard_normal(count)
    x = rng.uniform(0.1, 0.5) * noise
    for centre in [*formants, *rng.uniform(3800, 7000, 2)]:
        x += rng.uniform(0.3, 1.6) * _resonate(noise, centre, rng.uniform(150, 600))
    return lfilter([1, rng.uniform(-0.9, 0.2)], [1], x)


def _glottis(pitch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Voice source: a pulse at each period of ``pitch`` (Hz a sample), its timing uneven."""
    shaken = pitch * (
        1 + 0.03 * np.repeat(rng.standard_normal(len(pitch) // 80 + 1), 80)[: len(pitch)]
    )
    phase = np.cumsum(shaken) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    tilt = rng.uniform(0.75, 0.96)
    return lfilter([1 - tilt], [1, -tilt], lfilter([1, -1], [1, -0.98], 8 * pulses))


def breath(rng: np.random.Generator) -> np.ndarray:
    """An inhalation (swelling), an exhalation (falling), or both; sometimes a pop of air."""
    formants = _tract(rng)
    parts = []
    kind = rng.choice(["in", "out", "pair", "sigh"], p=[0.35, 0.25, 0.3, 0.1])
    if kind in ("in", "pair"):
        n = int(rng.uniform(0.25, 0.9) * RATE)
        shape = _envelope([(0, 0), (0.25, 0.5), (rng.uniform(0.5, 0.85), 1), (1, 0)], n)
        parts.append(_turbulence(n, formants * 1.08, rng) * shape)
    if kind == "pair":
        parts.append(np.zeros(int(rng.uniform(0.02, 0.5) * RATE)))
    if kind in ("out", "pair", "sigh"):
        n = int(rng.uniform(0.4, 1.6) * RATE)
        shape = _envelope([(0, 0), (rng.uniform(0.08, 0.25), 1), (0.6, 0.5), (1, 0)], n)
        air = _turbulence(n, formants * 0.95, rng)
        if kind == "sigh":
            fall = rng.uniform(90, 260) * np.geomspace(1, 0.6, n)
            voice = _glottis(fall, rng)
            air = air + rng.uniform(2, 8) * sum(_resonate(voice, f, 120) for f in formants[:3])
        air = air * shape
        if rng.random() < 0.25:  # air that strikes a near microphone
            m = min(n, int(rng.uniform(0.05, 0.3) * RATE))
            blow = sosfilt(butter(2, 200, "low", fs=RATE, output="sos"), rng.standard_normal(m))
            air[:m] += 12 * blow * np.hanning(m) * rng.uniform(0.3, 1)
        parts.append(air)
    return np.concatenate(parts)


def laugh(rng: np.random.Generator) -> np.ndarray:
    """Aspiration, 2-12 breathy calls at 3.5-7 a second that fall and fade, and an inhalation."""
    calls, rate = int(rng.integers(2, 13)), rng.uniform(3.5, 7)
    formants = _tract(rng)
    start = 10 ** rng.uniform(np.log10(110), np.log10(620))
    drift, bow = rng.uniform(0.9, 1.02), rng.uniform(-0.1, 0.35)
    voiced = rng.random() > 0.2  # else a wheeze or snort
    lead = int(rng.uniform(0, 0.35) * RATE)
    spacing = RATE / rate * np.cumprod(np.full(calls, rng.uniform(1, 1.06)))
    at = lead + np.concatenate([[0], np.cumsum(spacing)]).astype(int)
    x = np.zeros(at[-1])
    fade = rng.uniform(0.82, 0.99)
    air = _turbulence(len(x), formants, rng)
    hush = 10 ** rng.uniform(-2, -0.7)
    steady = np.full(len(x), hush)
    steady[:lead] *= np.linspace(0.3, 1, lead) if lead else 1
    for k in range(calls):
        n = int((at[k + 1] - at[k]) * rng.uniform(0.3, 0.65))
        u = np.linspace(0, 1, n)
        shape = np.sin(np.pi * u**0.8) * fade**k * rng.uniform(0.7, 1.2)
        steady[at[k] : at[k + 1]] *= fade**k
        if voiced:
            pitch = start * drift**k * rng.uniform(0.95, 1.05) * (1 + bow * np.sin(np.pi * u))
            source = _glottis(pitch, rng) + 0.02 * rng.standard_normal(n)
            call = np.zeros(n)
            for f, width in zip(formants, (90, 110, 160, 250), strict=True):
                call += _resonate(source, f * rng.uniform(0.95, 1.05), width) * (500 / f) ** 0.3
            x[at[k] : at[k] + n] += 20 * call * shape
        else:
            steady[at[k] : at[k] + n] += shape
    x = x + air * steady
    if rng.random() < 0.6:
        n = int(rng.uniform(0.3, 0.9) * RATE)
        gasp = _turbulence(n, formants * 1.1, rng) * _envelope(
            [(0, 0), (0.4, 1), (0.8, 0.9), (1, 0)], n
        )
        x = np.concatenate(
            [x, np.zeros(int(rng.uniform(0.02, 0.2) * RATE)), rng.uniform(0.2, 1.2) * gasp]
        )
    return x


def cough(rng: np.random.Generator) -> np.ndarray:
    """One to four bursts with a sharp start, or a throat being cleared."""
    formants = _tract(rng)
    parts = []
    for _ in range(int(rng.integers(1, 5))):
        n = int(rng.uniform(0.12, 0.4) * RATE)
        burst = _turbulence(n, formants, rng) * np.exp(-np.linspace(0, rng.uniform(3, 7), n))
        if rng.random() < 0.6:
            growl = _glottis(np.full(n, rng.uniform(60, 260)), rng) * np.hanning(n)
            burst = burst + rng.uniform(3, 12) * sum(_resonate(growl, f, 200) for f in formants[:3])
        parts += [burst * rng.uniform(0.5, 1), np.zeros(int(rng.uniform(0.03, 0.5) * RATE))]
    return np.concatenate(parts[:-1])


def sniff(rng: np.random.Generator) -> np.ndarray:
    """Short inhalations through the nose."""
    parts = []
    formants = np.array([rng.uniform(900, 1500), rng.uniform(2000, 3200), 4500, 6000])
    for _ in range(int(rng.integers(1, 4))):
        n = int(rng.uniform(0.1, 0.35) * RATE)
        shape = _envelope([(0, 0), (rng.uniform(0.3, 0.8), 1), (1, 0)], n)
        parts += [
            _turbulence(n, formants, rng) * shape,
            np.zeros(int(rng.uniform(0.05, 0.4) * RATE)),
        ]
    return np.concatenate(parts[:-1])


def smack(rng: np.random.Generator) -> np.ndarray:
    """Clicks of lips and tongue, chewing and swallowing."""
    x = np.zeros(int(rng.uniform(0.1, 0.9) * RATE))
    for _ in range(int(rng.integers(1, 7))):
        n = int(rng.uniform(0.004, 0.05) * RATE)
        click = _resonate(rng.standard_normal(n), rng.uniform(700, 4500), rng.uniform(200, 900))
        start = int(rng.integers(0, len(x) - n))
        x[start : start + n] += click * np.exp(-np.linspace(0, 5, n)) * rng.uniform(0.3, 1)
    return x


def whistle(rng: np.random.Generator) -> np.ndarray:
    """A tune or a call whistled: a gliding sine with vibrato and a little air."""
    notes = int(rng.integers(1, 9))
    key = 12 * np.log2(rng.uniform(700, 2200))
    steps = key + np.cumsum(rng.choice([-5, -4, -2, 0, 2, 4, 5], notes))
    lengths = (rng.uniform(0.09, 0.7, notes) * RATE).astype(int)
    line = np.repeat(steps, lengths)
    glide = max(1, int(rng.uniform(0.01, 0.09) * RATE))
    line = np.convolve(np.pad(line, glide, "edge"), np.ones(glide) / glide, "same")[glide:-glide]
    t = np.arange(len(line)) / RATE
    line = line + rng.uniform(0, 0.5) * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
    pitch = np.clip(2 ** (line / 12), 400, 4000)
    gate = np.concatenate(
        [_envelope([(0, 0.1), (0.2, 1), (0.8, 0.9), (1, rng.uniform(0, 1))], n) for n in lengths]
    )
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    return gate * (tone + rng.uniform(0.02, 0.3) * rng.standard_normal(len(tone)))


def hum(rng: np.random.Generator) -> np.ndarray:
    """A tune hummed, or an "mm": a voice through the nose, the lips shut."""
    notes = int(rng.integers(1, 8))
    steps = np.cumsum(rng.choice([-4, -2, -1, 0, 2, 3, 5], notes))
    lengths = (rng.uniform(0.2, 0.9, notes) * RATE).astype(int)
    line = np.repeat(steps, lengths).astype(float)
    glide = int(rng.uniform(0.02, 0.12) * RATE)
    line = np.convolve(np.pad(line, glide, "edge"), np.ones(glide) / glide, "same")[glide:-glide]
    t = np.arange(len(line)) / RATE
    line = line + rng.uniform(0, 0.4) * np.sin(2 * np.pi * rng.uniform(4, 6.5) * t)
    source = _glottis(np.clip(rng.uniform(85, 330) * 2 ** (line / 12), 70, 700), rng)
    nose = (rng.uniform(220, 320), rng.uniform(900, 1300), rng.uniform(2000, 2600))
    x = sum(
        _resonate(source, f, w) * g
        for f, w, g in zip(nose, (60, 200, 300), (1, 0.12, 0.08), strict=True)
    )
    gate = np.concatenate(
        [
            _envelope([(0, rng.uniform(0, 0.9)), (0.15, 1), (0.85, 0.9), (1, 0.2)], n)
            for n in lengths
        ]
    )
    return x * gate * _envelope([(0, 0), (0.05, 1), (0.9, 1), (1, 0)], len(gate))


EVENTS: dict[str, tuple[Sound, float]] = {
    "breath": (breath, 0.36),
    "laugh": (laugh, 0.26),
    "cough": (cough, 0.09),
    "sniff": (sniff, 0.08),
    "smack": (smack, 0.08),
    "whistle": (whistle, 0.05),
    "hum": (hum, 0.08),
}
"""Each sound and its share where any may be heard."""


def event(rng: np.random.Generator, name: str | None = None) -> np.ndarray:
    """(N,) one sound of a mouth, peak 1: of EVENTS by share, or the one named."""
    if name is None:
        shares = np.array([share for _, share in EVENTS.values()])
        name = str(rng.choice(list(EVENTS), p=shares / shares.sum()))
    x = EVENTS[name][0](rng)
    return x / max(1e-9, float(np.abs(x).max()))


def sequence(count: int, rng: np.random.Generator, names: tuple[str, ...]) -> np.ndarray:
    """(count,) sounds of the names given, one after another with pauses, over faint noise."""
    x = rng.standard_normal(count) * 10 ** rng.uniform(-5, -2.5)
    at = int(rng.uniform(0, 1.2) * RATE)
    gap = np.exp(rng.uniform(np.log(0.15), np.log(2.5)))
    loud = rng.uniform(0.3, 1)
    while at < count:
        sound = event(rng, str(rng.choice(names)))
        end = min(count, at + len(sound))
        x[at:end] += sound[: end - at] * np.clip(loud * np.exp(rng.normal(0, 0.4)), 0.05, 1.5)
        at = end + int((0.05 + rng.exponential(gap)) * RATE)
    return x
