"""Rooms, microphones, noise, and sounds that are not speech and must not move the lips."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from vivant.export.synth.speech import vocal

RATE = 16000
"""Hz."""

Make = Callable[[int, np.random.Generator], np.ndarray]
Colour = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def level(samples: np.ndarray, dbfs: float) -> np.ndarray:
    """The samples scaled to an RMS of ``dbfs`` decibels below full scale; silence stays."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    return samples * (10 ** (dbfs / 20) / rms) if rms > 1e-9 else samples


# --- what stands between a mouth and a recording --------------------------------------------


def room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A room: early reflections and an exponentially decaying tail (T60 0.1-1 s)."""
    decay = rng.uniform(0.015, 0.09) if rng.random() < 0.8 else rng.uniform(0.07, 0.15)
    t = np.arange(int(min(6 * decay, 0.6) * RATE)) / RATE
    response = rng.standard_normal(len(t)) * np.exp(-t / decay) * 10 ** rng.uniform(-2.4, -1.15)
    for _ in range(rng.integers(2, 7)):
        at = int(rng.uniform(0.002, 0.03) * RATE)
        if at < len(t):
            response[at] += rng.uniform(-0.4, 0.4)
    response[0] = 1
    return fftconvolve(samples, response)[: len(samples)]


def microphone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A spectral tilt, the band of a headset, phone or laptop, and sometimes clipping."""
    tilt = rng.uniform(-0.6, 0.6)
    x = lfilter([1, tilt], [1], samples)
    if rng.random() < 0.5:
        x = sosfilt(butter(2, rng.uniform(60, 300), "high", fs=RATE, output="sos"), x)
    if rng.random() < 0.35:
        x = sosfilt(butter(4, rng.uniform(3400, 7600), "low", fs=RATE, output="sos"), x)
    if rng.random() < 0.1:
        knee = np.abs(x).max() * rng.uniform(0.3, 0.8) + 1e-9
        x = knee * np.tanh(x / knee)
    return x


def codec(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A telephone line (300-3400 Hz, 8-bit mu-law), or a low-rate coder that drops weak bands."""
    if rng.random() < 0.4:
        band = butter(
            3, [rng.uniform(150, 350), rng.uniform(3000, 3800)], "band", fs=RATE, output="sos"
        )
        x = np.clip(sosfilt(band, samples), -1, 1)
        coded = np.round(127 * np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)) / 127
        return np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    window = 512
    hops = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (window, window)), window)[
        :: window // 2
    ]
    taper = np.sin(np.pi * (np.arange(window) + 0.5) / window)
    spectrum = np.fft.rfft(hops * taper)
    power = (np.abs(spectrum[:, :256]) ** 2).reshape(len(spectrum), 32, 8).mean(-1)
    masked = power < power.max(1, keepdims=True) * 10 ** -rng.uniform(2.5, 5)
    spectrum[:, :256] *= ~np.repeat(masked, 8, axis=1)
    frames = np.fft.irfft(spectrum, window) * taper
    out = np.zeros((len(frames) + 1) * window // 2)
    halves = frames.reshape(len(frames), 2, window // 2)
    out[: -window // 2] += halves[:, 0].ravel()
    out[window // 2 :] += halves[:, 1].ravel()
    return out[window : window + len(samples)]


def jumps(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) gain that changes now and then by up to 15 dB, within 5-200 ms."""
    changes = int(rng.integers(1, 4))
    decibels = np.concatenate([[0], rng.uniform(-15, 10, changes)])
    places = np.sort(rng.uniform(0, count, changes))
    width = rng.uniform(0.005, 0.2) * RATE
    t = np.arange(count)
    ramps = [np.clip((t - place) / width, 0, 1) for place in places]
    steps = np.diff(decibels)
    return 10 ** (sum(step * ramp for step, ramp in zip(steps, ramps, strict=True)) / 20)


def whispered(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same speech without voice: noise under its smoothed spectrum, the first formant weak."""
    window, hop = 512, 128
    padded = np.pad(np.asarray(samples, np.float64), (window, window + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    taper = np.hanning(window + 1)[:-1]
    logs = np.log(np.abs(np.fft.rfft(frames * taper)) + 1e-6)
    cepstrum = np.fft.irfft(logs)
    cepstrum[:, 30 : window - 29] = 0  # keeps the tract's shape, drops the pitch's harmonics
    envelope = np.exp(np.fft.rfft(cepstrum).real)
    f = np.fft.rfftfreq(window, 1 / RATE)
    envelope *= np.clip(f / rng.uniform(600, 1500), 0.03, 1) ** rng.uniform(0.5, 1.2)
    noise = np.fft.rfft(rng.standard_normal(frames.shape) * taper)
    out = np.zeros(len(padded))
    for k, frame in enumerate(np.fft.irfft(envelope * noise) * taper):
        out[k * hop : k * hop + window] += frame
    return out[window : window + len(samples)]


def record(
    speech: np.ndarray, rng: np.random.Generator, pieces: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Dry speech as some microphone somewhere hears it: -40..-12 dBFS, 0-40 dB above noise.

    pieces: rendered music to play behind a quarter of recordings, 0-30 dB below the speech.
    """
    x = np.asarray(speech, np.float64)
    if rng.random() < 0.05:
        x = whispered(x, rng)
    if rng.random() < 0.45:
        x = room(x, rng)
    if rng.random() < 0.7:
        x = microphone(x, rng)
    loud = rng.uniform(-40, -12)
    x = level(x, loud)
    if rng.random() < 0.75:
        x = x + level(hiss(len(x), rng), loud - rng.uniform(20, 60))
    if rng.random() < 0.3:
        kinds: tuple[Make, ...] = (machine, clicks, music, hum, traffic, tones)
        background = kinds[rng.integers(len(kinds))](len(x), rng)
        x = x + level(background, loud - rng.uniform(4, 30))
    if len(pieces) and rng.random() < 0.25:
        x = x + level(cut(len(x), rng, pieces), loud - rng.uniform(0, 30))
    if rng.random() < 0.12:
        x = x * jumps(len(x), rng)
    if rng.random() < 0.2:
        x = codec(x, rng)
    return np.clip(x, -1, 1).astype(np.float32)


# --- sounds ---------------------------------------------------------------------------------


def hiss(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with a spectrum between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    f = np.arange(len(spectrum)) + 20.0
    return np.fft.irfft(spectrum / f ** rng.uniform(0, 1.1), count)


def hum(count: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum with harmonics."""
    t = np.arange(count) / RATE
    base = rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
    x = 0.02 * rng.standard_normal(count)
    for k in range(1, 12):
        x += rng.uniform(0, 1) / k * np.sin(2 * np.pi * (base * k * t + rng.random()))
    return x


def machine(count: int, rng: np.random.Generator) -> np.ndarray:
    """A fan or motor: coloured noise with slow beats and a whine."""
    t = np.arange(count) / RATE
    beat = 1 + rng.uniform(0, 0.6) * np.sin(2 * np.pi * (rng.uniform(0.3, 12) * t + rng.random()))
    x = level(hiss(count, rng), -20) * beat
    for _ in range(rng.integers(0, 4)):
        x += rng.uniform(0.005, 0.05) * np.sin(2 * np.pi * rng.uniform(90, 3000) * t)
    return x


def traffic(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise that swells and fades, as cars, wind and waves do."""
    x = level(hiss(count, rng), -20)
    points = rng.uniform(0.05, 1, max(3, count // RATE + 2)) ** 2
    swell = np.interp(np.linspace(0, len(points) - 1, count), np.arange(len(points)), points)
    return sosfilt(butter(2, rng.uniform(400, 4000), "low", fs=RATE, output="sos"), x * swell)


def clicks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Keys, steps, knocks, applause: short decaying bursts."""
    x = 1e-4 * rng.standard_normal(count)
    at = 0.0
    gap = np.exp(rng.uniform(np.log(0.02), np.log(1.2)))
    decay, centre = rng.uniform(0.002, 0.05), rng.uniform(200, 5000)
    t = np.arange(int(6 * decay * RATE)) / RATE
    while (start := int(at * RATE)) < count:
        tone = np.sin(2 * np.pi * centre * rng.uniform(0.8, 1.2) * t)
        burst = np.exp(-t / decay) * (0.6 * rng.standard_normal(len(t)) + 0.5 * tone)
        end = min(count, start + len(t))
        x[start:end] += rng.uniform(0.2, 1) * burst[: end - start]
        at += rng.exponential(gap) + 0.005
    return x


def tones(count: int, rng: np.random.Generator) -> np.ndarray:
    """Beeps, sirens and birds: gliding sinusoids that come and go."""
    x = 1e-4 * rng.standard_normal(count)
    at = rng.uniform(0, 0.5)
    low, high = np.sort(np.exp(rng.uniform(np.log(250), np.log(6500), 2)))
    while at < count / RATE:
        lasts = np.exp(rng.uniform(np.log(0.04), np.log(1.5)))
        n = int(lasts * RATE)
        start = int(at * RATE)
        end = min(count, start + n)
        u = np.arange(n) / n
        pitch = rng.uniform(low, high) + (high - low) * rng.uniform(-0.5, 0.5) * u
        pitch = pitch * (1 + rng.uniform(0, 0.1) * np.sin(2 * np.pi * rng.uniform(2, 40) * u))
        tone = np.sin(2 * np.pi * np.cumsum(np.maximum(pitch, 80)) / RATE)
        tone = tone * np.sin(np.pi * u) ** rng.uniform(0.2, 1)
        x[start:end] += rng.uniform(0.3, 1) * tone[: end - start]
        at += lasts + rng.exponential(0.5)
    return x


def _note(pitch: float, seconds: float, brightness: float, pluck: bool) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    k = np.arange(1, max(2, min(16, int(7000 / pitch))))[:, None]
    partials = np.sin(2 * np.pi * pitch * k * t) * k**-brightness
    if pluck:
        partials = partials * np.exp(-t * k * 1.2)
        return partials.sum(0)
    return partials.sum(0) * np.minimum(1, t / 0.05) * np.minimum(1, (seconds - t) / 0.08)


def music(count: int, rng: np.random.Generator) -> np.ndarray:
    """Music-like: chords, a melody and drums on a beat, in a random key, tempo and timbre."""
    x = np.zeros(count + 4 * RATE)
    beat = 60 / rng.uniform(70, 160)
    key = 110 * 2 ** rng.uniform(0, 1)
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.5 else [0, 2, 3, 5, 7, 8, 10])
    bright, pluck = rng.uniform(0.8, 2.2, 2), rng.random(2) < 0.5
    drums, tune = rng.random() < 0.6, rng.random() < 0.8
    degree = 3

    def add(sound: np.ndarray, at: float, gain: float) -> None:
        start = int(at * RATE)
        end = min(len(x), start + len(sound))
        x[start:end] += gain * sound[: end - start]

    for bar in range(int(count / RATE / (4 * beat)) + 1):
        at = 4 * beat * bar
        root = rng.choice([0, 3, 4, 5])
        for step in (0, 2, 4):
            half = scale[(root + step) % 7] + 12 * ((root + step) // 7)
            add(_note(key * 2 ** (half / 12), 3.9 * beat, bright[0], bool(pluck[0])), at, 0.25)
        position = 0.0
        while tune and position < 4:
            length = rng.choice([0.5, 0.5, 1.0, 1.5])
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 13))
            if rng.random() < 0.85:
                half = 12 + scale[degree % 7] + 12 * (degree // 7)
                note = _note(
                    key * 2 ** (half / 12), 0.95 * length * beat, bright[1], bool(pluck[1])
                )
                add(note, at + position * beat, 0.35)
            position += length
        for half_beat in range(8 if drums else 0):
            t = np.arange(int(0.15 * RATE)) / RATE
            if half_beat % 4 == 0:
                hit = np.sin(2 * np.pi * (50 * t + 4 * np.exp(-t / 0.03))) * np.exp(-t / 0.06)
            else:
                hit = rng.standard_normal(len(t)) * np.exp(
                    -t / (0.05 if half_beat % 4 == 2 else 0.012)
                )
            add(hit, at + half_beat * beat / 2, 0.5)
    return x[:count]


def breaths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Breathing, sighing and blowing."""
    return vocal.sequence(count, rng, ("breath",))


def laughter(count: int, rng: np.random.Generator) -> np.ndarray:
    """Laughs, sometimes with breaths and coughs between."""
    between = ("laugh", "laugh", "laugh", "breath", "cough")
    return vocal.sequence(count, rng, between if rng.random() < 0.5 else ("laugh",))


def mouths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Coughs, sniffs, smacks and breaths."""
    return vocal.sequence(count, rng, ("cough", "sniff", "smack", "breath"))


def tunes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Humming or whistling."""
    return vocal.sequence(count, rng, ("hum",) if rng.random() < 0.6 else ("whistle",))


def silence(count: int, rng: np.random.Generator) -> np.ndarray:
    """Digital silence."""
    return np.zeros(count)


SOUNDS: dict[str, tuple[Make, float]] = {
    "silence": (silence, 0.07),
    "hiss": (hiss, 0.11),
    "hum": (hum, 0.03),
    "machine": (machine, 0.07),
    "traffic": (traffic, 0.05),
    "clicks": (clicks, 0.09),
    "tones": (tones, 0.06),
    "music": (music, 0.08),
    "breaths": (breaths, 0.17),
    "laughter": (laughter, 0.15),
    "mouths": (mouths, 0.06),
    "tunes": (tunes, 0.06),
}
"""Sounds that are not speech, and the share of each among clips without speech or recording."""
PIECES_SHARE = 0.42
"""Share of rendered pieces of music among clips without speech, where there are pieces."""


def cut(count: int, rng: np.random.Generator, pieces: Sequence[np.ndarray]) -> np.ndarray:
    """(count,) of a random piece from a random moment on; a shorter piece is repeated."""
    piece = pieces[int(rng.integers(len(pieces)))]
    spare = len(piece) - count
    start = int(rng.integers(0, spare + 1)) if spare >= 0 else 0
    return np.resize(piece[start:], count).astype(np.float64)


def unspoken(
    count: int, rng: np.random.Generator, pieces: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, str]:
    """(count,) float32 of a random sound that is not speech, -75..-12 dBFS, and its name.

    pieces: rendered music, drawn besides the sounds of SOUNDS.
    """
    shares = np.array([share for _, share in SOUNDS.values()])
    if len(pieces) and rng.random() < PIECES_SHARE:
        name, x = "pieces", cut(count, rng, pieces)
    else:
        name = str(rng.choice(list(SOUNDS), p=shares / shares.sum()))
        x = SOUNDS[name][0](count, rng)
    if name != "silence" and rng.random() < 0.15:
        other = str(rng.choice(list(SOUNDS), p=shares / shares.sum()))
        x = level(x, -20) + level(SOUNDS[other][0](count, rng), rng.uniform(-40, -20))
    quiet = -75 if name == "hiss" else -45
    loud = rng.uniform(quiet, -12)
    if rng.random() < 0.3:
        x = room(x, rng)
    if rng.random() < 0.4:
        x = microphone(x, rng)
    x = level(x, loud)
    if rng.random() < 0.7:
        x = x + level(hiss(count, rng), rng.uniform(-85, -50))
    if rng.random() < 0.12:
        x = x * jumps(count, rng)
    if rng.random() < 0.15:
        x = codec(x, rng)
    return np.clip(x, -1, 1).astype(np.float32), name
