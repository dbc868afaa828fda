"""Standard MIDI files, and their sound by FluidSynth with a General MIDI sound font."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from vivant.errors import VivantError

RATE = 16000
"""Hz of rendered sound."""
RENDER_RATE = 32000
"""Hz at which FluidSynth renders: it does not filter what folds over half its rate."""
TICKS = 1000
"""MIDI ticks a second: 500 a beat at 120 beats a minute."""
SOUND_FONTS: tuple[Path, ...] = tuple(
    Path("/usr/share", name)
    for name in (
        "sounds/sf2/FluidR3_GM.sf2",
        "soundfonts/FluidR3_GM.sf2",
        "soundfonts/default.sf2",
        "sounds/sf2/default-GM.sf2",
    )
)
"""Where distributions put a General MIDI sound font."""
TIME_LIMIT = 300.0
"""Seconds that FluidSynth may take."""

NOTE_OFF, NOTE_ON, CONTROL, PROGRAM, BEND = 0x80, 0x90, 0xB0, 0xC0, 0xE0
DRUMS = 9
"""The channel whose keys are percussion instruments."""


class MusicError(VivantError):
    """FluidSynth or its sound font is missing, or it failed on a piece."""


class Event(NamedTuple):
    """One MIDI message."""

    time: float  # s
    data: tuple[int, ...]  # status byte and one or two data bytes


def note(
    start: float, length: float, key: float, velocity: float, channel: int = 0
) -> tuple[Event, Event]:
    """A key pressed at ``start`` and released ``length`` seconds later; values are clipped."""
    k, v = int(np.clip(round(key), 0, 127)), int(np.clip(round(velocity), 1, 127))
    return (
        Event(start, (NOTE_ON | channel, k, v)),
        Event(start + length, (NOTE_OFF | channel, k, 0)),
    )


def control(time: float, number: int, value: float, channel: int = 0) -> Event:
    """A controller set to 0..127."""
    return Event(time, (CONTROL | channel, number, int(np.clip(round(value), 0, 127))))


def program(time: float, number: int, channel: int = 0) -> Event:
    """A General MIDI instrument, 0..127."""
    return Event(time, (PROGRAM | channel, number))


def bend(time: float, share: float, channel: int = 0) -> Event:
    """The pitch wheel at -1..1 of its range, which is 2 semitones unless set otherwise."""
    value = int(np.clip(round(8192 + 8192 * share), 0, 16383))
    return Event(time, (BEND | channel, value & 127, value >> 7))


def bend_range(time: float, semitones: int, channel: int = 0) -> list[Event]:
    """The pitch wheel's range (registered parameter 0)."""
    return [
        control(time, number, value, channel)
        for number, value in ((101, 0), (100, 0), (6, semitones), (38, 0), (101, 127), (100, 127))
    ]


def reset(time: float) -> list[Event]:
    """Every channel silent, its wheel centred and its controllers at their start."""
    return [
        event
        for channel in range(16)
        for event in (
            control(time, 120, 0, channel),
            control(time, 121, 0, channel),
            *bend_range(time, 2, channel),
        )
    ]


def _variable(value: int) -> bytes:
    out = [value & 127]
    while value := value >> 7:
        out.append(value & 127 | 128)
    return bytes(reversed(out))


def encode(events: Sequence[Event], seconds: float) -> bytes:
    """A Standard MIDI File of type 0 that ends after ``seconds``; later events are left out."""
    track = bytearray(b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big"))
    at, end = 0, round(seconds * TICKS)
    # A release sorts before a press of the same moment, or a repeated note would be cut.
    for event in sorted(events, key=lambda e: (round(e.time * TICKS), e.data[0] & 0xF0 == NOTE_ON)):
        tick = round(event.time * TICKS)
        if tick <= end:
            track += _variable(tick - at) + bytes(event.data)
            at = tick
    track += _variable(end - at) + b"\xff\x2f\x00"
    header = (
        b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1]) + (TICKS // 2).to_bytes(2, "big")
    )
    return header + b"MTrk" + len(track).to_bytes(4, "big") + bytes(track)


def sound_font() -> Path:
    """The installed General MIDI sound font. Raises: MusicError when there is none."""
    for path in SOUND_FONTS:
        if path.exists():
            return path
    raise MusicError(
        "no General MIDI sound font was found",
        expected=str(SOUND_FONTS[0]),
        got="no such file",
        fix="Install it (Debian: apt install fluid-soundfont-gm).",
    )


def render(
    pieces: Sequence[Sequence[Event]],
    seconds: float,
    font: Path | None = None,
    executable: str = "fluidsynth",
) -> np.ndarray:
    """(len(pieces), seconds * 16000) float32 sound of pieces of equal length, by one process.

    font: a SoundFont 2 file, else the installed one. A piece's last notes are cut at its end.
    Raises: MusicError when FluidSynth or its sound font is missing or renders too little.
    """
    font = font or sound_font()
    lead = 0.1  # so that the first reset is over when the first piece starts
    joint = [event for k in range(len(pieces) + 1) for event in reset(k * seconds + 0.9 * lead)]
    for k, piece in enumerate(pieces):
        joint += [
            Event(e.time + k * seconds + lead, e.data)
            for e in piece
            if 0 <= e.time < seconds - lead
        ]
    total = len(pieces) * seconds + lead
    count = len(pieces) * round(seconds * RATE)
    with tempfile.TemporaryDirectory() as folder:
        score, raw = Path(folder, "score.mid"), Path(folder, "sound.raw")
        score.write_bytes(encode(joint, total))
        command = [
            executable, "-n", "-i", "-q", "-F", str(raw), "-T", "raw", "-O", "s16",
            "-r", str(RENDER_RATE), "-g", "0.4", "-o", "synth.dynamic-sample-loading=1",
            str(font), str(score),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
            )
        except FileNotFoundError as error:
            raise MusicError(
                f"the music synthesiser {executable} was not found",
                got=str(error),
                fix="Install it (Debian: apt install fluidsynth fluid-soundfont-gm).",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise MusicError(f"{executable} took longer than {TIME_LIMIT:g} s") from error
        stereo = np.fromfile(raw, "<i2") if raw.exists() else np.zeros(0, np.int16)
    mono = stereo[: len(stereo) // 2 * 2].reshape(-1, 2).astype(np.float32).mean(1) / 32768
    sound = soxr.resample(mono, RENDER_RATE, RATE)[round(lead * RATE) :][:count]
    if len(sound) < count - RATE // 10:
        raise MusicError(
            f"{executable} rendered too little",
            expected=f"{count} samples",
            got=f"{len(sound)}; {done.stderr.strip()[:200]}",
        )
    return np.pad(sound, (0, count - len(sound))).reshape(len(pieces), -1).astype(np.float32)
