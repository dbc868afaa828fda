"""Random pieces of music for a General MIDI synthesiser, in many genres and for many solo voices.

A network that hears speech alone moves the lips through music as well. The hardest are lone
instruments that glide and swell at the rate of syllables, so these are a third of the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vivant.export.synth.speech import midi
from vivant.export.synth.speech.midi import DRUMS, Event, bend, bend_range, control, note, program

SECONDS = 20.0
"""Length of a piece: that of the longest clip."""

SCALES: tuple[tuple[int, ...], ...] = (
    (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 1, 4, 5, 7, 8, 11),
    (0, 2, 4, 7, 9), (0, 3, 5, 6, 7, 10), (0, 2, 4, 6, 8, 10),
)  # fmt: skip
"""Half-tones: major, minor, dorian, double harmonic, pentatonic, blues, whole-tone."""
CHORDS = (*range(0, 8), *range(16, 32), *range(44, 56), *range(61, 64), *range(88, 104))
"""Programs that play chords: keyboards, organs, guitars, strings, choirs, brass, pads."""
BASSES = (*range(32, 40), 43, 58, 70)
LEADS = (
    *range(8, 16), *range(40, 44), *range(52, 88), *range(104, 112), 22, 21, 26, 27, 30, 114,
)  # fmt: skip
"""Programs that carry a tune: bells, bowed strings, voices, brass, reeds, pipes, leads, folk."""
VOICE_LIKE = (
    40, 41, 42, 52, 53, 54, 56, 57, 58, 59, 60, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 75, 77,
    78, 79, 80, 81, 85, 21, 22, 26, 29, 30, 110, 111,
)  # fmt: skip
"""Programs whose lone line is nearest to a voice."""
EFFECTS = range(119, 128)
"""Reverse cymbal, fret noise, breath noise, sea shore, bird, telephone, helicopter, applause,
gunshot."""
KITS = (0, 8, 16, 24, 25, 32, 40)

Compose = Callable[[np.random.Generator], list[Event]]


class _Harmony:
    """A key, a scale and a chord for each bar."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.scale = SCALES[rng.choice(len(SCALES), p=[0.3, 0.25, 0.12, 0.05, 0.14, 0.1, 0.04])]
        self.root = float(rng.integers(36, 48))
        self.beat = 60 / np.exp(rng.uniform(np.log(55), np.log(190)))
        self.metre = int(rng.choice([3, 4, 4, 4, 5, 6]))
        self.bars = rng.integers(0, len(self.scale), int(rng.choice([2, 4, 4, 8])))

    def key(self, degree: int) -> float:
        """MIDI key of a scale degree over the root; degrees wrap into octaves."""
        octave, step = divmod(degree, len(self.scale))
        return self.root + 12 * octave + self.scale[step]

    def chord(self, bar: int) -> int:
        return int(self.bars[bar % len(self.bars)])

    def starts(self) -> np.ndarray:
        """Times of the bars."""
        return np.arange(0, SECONDS, self.beat * self.metre)


def _set_up(channel: int, instrument: int, rng: np.random.Generator, loud: float) -> list[Event]:
    tuning = int(np.clip(64 + 10 * rng.standard_normal(), 0, 127))  # fine tuning, 100/64 cents
    return [
        program(0, instrument, channel),
        control(0, 7, loud, channel),
        control(0, 10, rng.uniform(20, 107), channel),
        control(0, 91, rng.uniform(0, 110), channel),
        control(0, 93, rng.uniform(0, 60), channel),
        control(0, 101, 0, channel),
        control(0, 100, 1, channel),
        control(0, 6, tuning, channel),
    ]


def _chords(h: _Harmony, channel: int, rng: np.random.Generator) -> list[Event]:
    """Held, struck on the beat or broken."""
    events = _set_up(channel, int(rng.choice(CHORDS)), rng, rng.uniform(50, 110))
    way, octave = rng.choice(["held", "struck", "broken"]), len(h.scale) * int(rng.integers(1, 3))
    voices = [0, 2, 4] + ([6] if rng.random() < 0.3 else [])
    step = h.beat * rng.choice([0.25, 0.5, 0.5, 1.0])
    loud = rng.uniform(40, 110)
    for bar, at in enumerate(h.starts()):
        keys = [h.key(h.chord(bar) + v + octave) for v in voices]
        length = h.beat * h.metre
        if way == "held":
            for key in keys:
                events += note(at, 0.98 * length, key, loud, channel)
        elif way == "struck":
            for beat in range(h.metre):
                if rng.random() < 0.8:
                    for key in keys:
                        hit = at + beat * h.beat + rng.normal(0, 0.006)
                        events += note(
                            max(0, hit), 0.6 * h.beat, key, loud + rng.normal(0, 8), channel
                        )
        else:
            for k in range(int(length / step)):
                key = keys[k % len(keys)] + 12 * (k // len(keys) % 2)
                events += note(at + k * step, 1.2 * step, key, loud + rng.normal(0, 8), channel)
    return events


def _bass(h: _Harmony, channel: int, rng: np.random.Generator) -> list[Event]:
    events = _set_up(channel, int(rng.choice(BASSES)), rng, rng.uniform(60, 115))
    pattern = rng.random(2 * h.metre) < rng.uniform(0.3, 0.9)
    pattern[0] = True
    for bar, at in enumerate(h.starts()):
        for k in np.flatnonzero(pattern):
            degree = h.chord(bar) + int(rng.choice([0, 0, 0, 4, 2]))
            key = h.key(degree) - (12 if h.root > 41 else 0)
            events += note(at + k * h.beat / 2, 0.45 * h.beat, key, rng.normal(85, 10), channel)
    return events


def _drums(h: _Harmony, rng: np.random.Generator, dense: float = 0.5) -> list[Event]:
    """A pattern a bar on kick, snare, hats, toms and hand drums, varied as it repeats."""
    events = [program(0, int(rng.choice(KITS)), DRUMS), control(0, 7, rng.uniform(60, 120), DRUMS)]
    slots = 4 * h.metre
    odds = np.array([1, 0.15, 0.5, 0.15] * h.metre)
    keys = [36, 38, 42, 46, *rng.integers(39, 82, int(rng.integers(0, 5)))]
    lines = [(int(k), rng.random(slots) < dense * odds * rng.uniform(0.4, 1.6)) for k in keys]
    for at in h.starts():
        for key, line in lines:
            for slot in np.flatnonzero(line ^ (rng.random(slots) < 0.03)):
                hit = max(0.0, at + slot * h.beat / 4 + rng.normal(0, 0.004))
                events += note(hit, 0.1, key, rng.normal(88, 16), DRUMS)
    return events


def _tune(h: _Harmony, channel: int, rng: np.random.Generator) -> list[Event]:
    """A melody on the beat with rests."""
    events = _set_up(channel, int(rng.choice(LEADS)), rng, rng.uniform(70, 125))
    degree = len(h.scale) * 2
    at, unit = 0.0, h.beat * rng.choice([0.25, 0.5, 0.5, 1])
    while at < SECONDS:
        length = unit * rng.choice([1, 1, 1, 2, 2, 3, 4])
        degree = int(np.clip(degree + rng.integers(-3, 4), 8, 26))
        if rng.random() < 0.85:
            events += note(at, 0.95 * length, h.key(degree), rng.normal(90, 14), channel)
        at += length
    return events


def ensemble(rng: np.random.Generator) -> list[Event]:
    """A band or orchestra: some of chords, bass, drums, tunes and counter-tunes."""
    h = _Harmony(rng)
    events: list[Event] = []
    for channel in range(int(rng.integers(1, 4))):
        events += _chords(h, channel, rng)
    if rng.random() < 0.7:
        events += _bass(h, 4, rng)
    if rng.random() < 0.65:
        events += _drums(h, rng, rng.uniform(0.3, 1))
    for channel in range(5, 5 + int(rng.integers(0, 3))):
        events += _tune(h, channel, rng)
    if rng.random() < 0.25:
        events += _fade(range(8), rng)
    return events


def solo(rng: np.random.Generator) -> list[Event]:
    """One instrument in phrases at the rate of syllables, gliding, swelling and trembling."""
    events: list[Event] = []
    channels = 1 if rng.random() < 0.75 else 2
    for channel in range(channels):
        events += _line(channel, int(rng.choice(VOICE_LIKE)), rng)
    if rng.random() < 0.25:
        h = _Harmony(rng)
        events += _drums(h, rng, 0.5) if rng.random() < 0.5 else _chords(h, 4, rng)
    return events


def _line(channel: int, instrument: int, rng: np.random.Generator) -> list[Event]:
    wheel = int(rng.choice([2, 4, 7, 12]))
    events = [
        *_set_up(channel, instrument, rng, rng.uniform(90, 127)),
        *bend_range(0, wheel, channel),
    ]
    h = _Harmony(rng)
    rate = np.exp(rng.uniform(np.log(1.2), np.log(9)))  # notes a second
    vibrato, speed = rng.uniform(0, 0.9), rng.uniform(3.5, 7.5)  # half-tones, Hz
    glide = rng.uniform(0, 1.0)
    slurred = rng.uniform(0.5, 1.02)
    low = int(rng.integers(2, 18))
    degree = low + 4
    at = float(rng.exponential(0.4))
    while at < SECONDS:
        for _ in range(int(rng.integers(2, 16))):
            length = float(np.clip(rng.lognormal(-np.log(rate), 0.45), 0.05, 3))
            degree = int(np.clip(degree + rng.integers(-3, 4), low, low + 12))
            events += note(at, slurred * length, h.key(degree), rng.normal(92, 16), channel)
            slide = glide * rng.normal(0, 1.5) if rng.random() < 0.5 else 0.0
            rise = rng.uniform(0.03, 0.2)
            steps = np.arange(at, at + length, 0.02)
            u = steps - at
            wander = slide * np.exp(-u / rise)
            wander = wander + vibrato * np.sin(2 * np.pi * speed * u) * np.minimum(1, u / 0.25)
            events += [bend(t, w / wheel, channel) for t, w in zip(steps, wander, strict=True)]
            swell = 127 * (
                0.45 + 0.55 * np.sin(np.pi * np.minimum(1, u / length)) ** rng.uniform(0.2, 2)
            )
            events += [control(t, 11, v, channel) for t, v in zip(steps, swell, strict=True)]
            at += length
        at += float(np.clip(rng.lognormal(-0.7, 0.7), 0.05, 3))
    return events


def keyboard(rng: np.random.Generator) -> list[Event]:
    """Two hands on one piano, organ, harp, guitar or mallet instrument, with its pedal."""
    h = _Harmony(rng)
    instrument = int(rng.choice([*range(0, 29), 45, 46, 104, 105, 106, 107, 108]))
    events = _set_up(0, instrument, rng, rng.uniform(80, 120))
    for hand, (low, share) in enumerate(((0, 0.7), (2 * len(h.scale), 0.85))):
        at, step = 0.0, h.beat / float(rng.choice([1, 2, 2, 4]))
        while at < SECONDS:
            if rng.random() < share:
                stack = 1 + (rng.random(3) < (0.5, 0.15)[hand]).sum()
                first = low + int(rng.integers(0, 9))
                loud = rng.normal(75, 18)
                for k in range(int(stack)):
                    events += note(at, 1.5 * step, h.key(first + 2 * k), loud, 0)
            at += step
    if rng.random() < 0.6:
        for at in h.starts():
            events += [control(at, 64, 0), control(at + 0.05, 64, 127)]
    return events


def section(rng: np.random.Generator) -> list[Event]:
    """Choir, strings, brass or pads in slow chords that swell."""
    h = _Harmony(rng)
    events: list[Event] = []
    choices = (
        [52, 53, 54, 91, 85],
        [48, 49, 44, 50],
        [61, 62, 60, 57],
        range(88, 96),
        [16, 19, 20],
    )
    family = choices[rng.integers(len(choices))]
    parts = int(rng.integers(2, 5))
    for channel in range(parts):
        events += _set_up(channel, int(rng.choice(list(family))), rng, rng.uniform(70, 120))
        at = 0.0
        while at < SECONDS:
            length = h.beat * rng.choice([1, 2, 4, 8])
            degree = h.chord(int(at / h.beat / h.metre)) + 2 * channel + len(h.scale)
            events += note(at, 0.97 * length, h.key(degree), rng.normal(80, 12), channel)
            at += length
    return events + _fade(range(parts), rng)


def _fade(channels: Sequence[int], rng: np.random.Generator) -> list[Event]:
    """Expression that wanders, in all channels together."""
    points = np.clip(rng.normal(95, 30, 12), 15, 127)
    times = np.arange(0, SECONDS, 0.1)
    values = np.interp(times, np.linspace(0, SECONDS, 12), points)
    return [control(t, 11, v, c) for c in channels for t, v in zip(times, values, strict=True)]


def percussion(rng: np.random.Generator) -> list[Event]:
    """Drums alone."""
    return _drums(_Harmony(rng), rng, rng.uniform(0.4, 1.4))


def effects(rng: np.random.Generator) -> list[Event]:
    """Applause, sea, helicopters, birds, telephones, breath and fret noise, each for a while."""
    events: list[Event] = []
    for channel in range(int(rng.integers(1, 3))):
        events += _set_up(channel, int(rng.choice(EFFECTS)), rng, rng.uniform(80, 127))
        at = float(rng.uniform(0, 2))
        while at < SECONDS:
            length = float(rng.uniform(0.3, 8))
            events += note(at, length, int(rng.integers(36, 90)), rng.uniform(60, 127), channel)
            at += length + float(rng.exponential(0.7))
    return events


GENRES: dict[str, tuple[Compose, float]] = {
    "ensemble": (ensemble, 0.30),
    "solo": (solo, 0.33),
    "keyboard": (keyboard, 0.10),
    "section": (section, 0.12),
    "percussion": (percussion, 0.07),
    "effects": (effects, 0.08),
}
"""Each genre and its share of pieces."""


def compose(rng: np.random.Generator, genre: str | None = None) -> list[Event]:
    """A piece of SECONDS in a genre of GENRES, drawn by share unless named."""
    if genre is None:
        shares = np.array([share for _, share in GENRES.values()])
        genre = str(rng.choice(list(GENRES), p=shares / shares.sum()))
    return [e for e in GENRES[genre][0](rng) if 0 <= e.time < SECONDS]


def perform(count: int, rng: np.random.Generator, font: Path | None = None) -> np.ndarray:
    """(count, SECONDS * 16000) float32 of random pieces.

    Raises: MusicError when FluidSynth or its sound font is missing.
    """
    return midi.render([compose(rng) for _ in range(count)], SECONDS, font)
