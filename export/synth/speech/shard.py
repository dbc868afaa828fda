"""Write shards of synthetic speech with the motion that goes with it.

``python -m vivant.export.synth.speech.shard --text DIR --out DIR --hours H`` writes files
``speech_00000.npz`` and so on, each with many clips one after another: ``mel`` (N, 64) float16
log-mel at 100 Hz, ``motion`` (N/2, 63) float16 latents at 50 Hz, ``viseme`` (N,) uint8 classes,
``closure`` (N/2,) float16, ``starts`` (C+1,) clip bounds in mel frames, ``conditions`` (C, 16)
float32, ``voices`` (C,) names (``none:`` and the sound where nobody speaks). Existing files are
kept, so an interrupted run continues. A shard depends on its number, its length and the seed
alone, given the same programs.

It needs espeak-ng, flite, Festival, FluidSynth and a General MIDI sound font (Debian: ``apt install
espeak-ng flite festival fluidsynth fluid-soundfont-gm``) and Festival's voices, whose packages it
names where they are missing; ``--partial`` goes on without those voices or that music.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from vivant import latent, mel
from vivant.errors import VivantError
from vivant.export.synth.speech import corpus, music, noise, vocal
from vivant.export.synth.speech.midi import MusicError
from vivant.export.synth.speech.performance import Performance, perform, sample_conditions
from vivant.export.synth.speech.phones import SILENCE, VISEME, Phone, joined, shifted
from vivant.export.synth.speech.prosody import Prosody, analyse
from vivant.export.synth.speech.voices import (
    FESTIVAL,
    SynthesisError,
    Utterance,
    Voice,
    missing_voices,
    speak,
)

RATE = 16000
TICK = 640
"""Samples of a tick; clips are whole ticks long."""
SHORTEST, LONGEST = 4.0, 20.0
"""Length of a clip, s."""
UNSPOKEN_SHARE = 0.22
"""Share of clips without speech."""
PIECES_SHARE = 0.4
"""Length of the music rendered for a shard, as a share of the shard's."""
HELD_OUT_FIRST = 90000
"""Number of the first held-out shard."""
MINUTES = 20.0
"""Sound in a shard."""


@dataclass(frozen=True)
class Clip:
    """One clip of a shard."""

    mel: np.ndarray  # (N, 64) log-mel at 100 Hz, N a multiple of 4
    performance: Performance  # N/2 frames
    viseme: np.ndarray  # (N,) uint8
    voice: str


def assemble(
    utterances: Sequence[Utterance], rng: np.random.Generator
) -> tuple[np.ndarray, list[Phone]]:
    """Utterances one after another with pauses: samples at 16 kHz (whole ticks) and phones.

    All are spoken up to 22 % faster or slower, which changes pitch and formants as well.
    Utterances that would make the clip longer than 20 s are left out.
    """
    speed = float(np.clip(np.exp(rng.normal(0, 0.09)), 0.82, 1.22)) if rng.random() < 0.7 else 1.0
    lead = rng.uniform(0.15, 1.2) if rng.random() < 0.9 else rng.uniform(1.2, 3.5)
    trail = rng.uniform(0.3, 1.5)
    pieces = [np.zeros(int(lead * RATE), np.float32)]
    phones: list[Phone] = []
    at = len(pieces[0])
    for k, said in enumerate(utterances):
        x = soxr.resample(said.samples, said.rate * speed, RATE).astype(np.float32)
        pause = int(np.clip(rng.lognormal(np.log(0.45), 0.6), 0.08, 2.5) * RATE) if k else 0
        if at + pause + len(x) > (LONGEST - trail) * RATE and k:
            break
        pieces += [np.zeros(pause, np.float32), x]
        phones += shifted(said.phones, (at + pause) / RATE, speed)
        at += pause + len(x)
    length = max(at + int(trail * RATE), int(SHORTEST * RATE))
    length = min(-(-length // TICK) * TICK, int(LONGEST * RATE))
    samples = np.zeros(length, np.float32)
    joint = np.concatenate(pieces)[:length]
    samples[: len(joint)] = joint
    inside = [
        Phone(p.start, min(p.end, length / RATE), p.name)
        for p in phones
        if p.start < length / RATE - 0.02
    ]
    return samples, joined(inside, length / RATE)


def viseme_track(phones: Sequence[Phone], frames: int) -> np.ndarray:
    """(frames,) uint8 viseme class at 100 Hz; frame k is judged at the end of its hop."""
    out = np.zeros(frames, np.uint8)
    for phone in phones:
        out[round(phone.start * 100) : round(phone.end * 100)] = VISEME[phone.name]
    return out


def interject(samples: np.ndarray, phones: Sequence[Phone], rng: np.random.Generator) -> np.ndarray:
    """The speech with breaths, laughs, coughs and smacks in its pauses of more than 0.35 s."""
    out = samples.copy()
    peak = float(np.abs(samples).max())
    for phone in phones:
        first, last = int((phone.start + 0.04) * RATE), int((phone.end - 0.06) * RATE)
        if phone.name != SILENCE or last - first < RATE // 4 or rng.random() < 0.5:
            continue
        sound = vocal.event(rng, None if rng.random() < 0.4 else "breath")
        if len(sound) <= last - first:
            start = int(rng.integers(first, last - len(sound) + 1))
            out[start : start + len(sound)] += peak * 10 ** -rng.uniform(0.1, 1.4) * sound
    return out


def spoken_clip(
    texts: corpus.Texts,
    rng: np.random.Generator,
    held_out: bool = False,
    pieces: Sequence[np.ndarray] = (),
    without: Collection[str] = (),
) -> Clip:
    """A clip of one to several sentences by a random voice in a random place.

    pieces: music to play behind some clips; without: voices that are not installed.
    """
    wanted = rng.uniform(SHORTEST - 1, LONGEST - 3)
    while True:
        voice, lines = corpus.sample_voice(texts, rng, held_out, without=without)
        chosen = []
        seconds = 0.0
        while seconds < wanted - 1:
            line = lines[int(rng.integers(len(lines)))]
            chosen.append(line)
            seconds += len(line) / 14 / voice.pace + 0.5
        said = speak(voice, chosen)
        if said and sum(u.unknown for u in said) <= 0.02 * sum(len(u.phones) for u in said):
            break
    samples, phones = assemble(said, rng)
    performance = perform(phones, analyse(samples), len(samples) // 320, *_drawn(rng))
    if rng.random() < 0.5:
        samples = interject(samples, phones, rng)
    return Clip(
        mel.log_mel(noise.record(samples, rng, pieces)),
        performance,
        viseme_track(phones, len(samples) // 160),
        _name(voice),
    )


def unspoken_clip(rng: np.random.Generator, pieces: Sequence[np.ndarray] = ()) -> Clip:
    """A clip of a sound that is not speech, through which the lips rest."""
    ticks = int(rng.uniform(SHORTEST, LONGEST) * RATE) // TICK
    samples, name = noise.unspoken(ticks * TICK, rng, pieces)
    phones = joined([], ticks * TICK / RATE)
    n = ticks * 4
    still = Prosody(np.zeros(n), np.zeros(n), np.zeros(n, bool))
    performance = perform(phones, still, n // 2, *_drawn(rng))
    return Clip(mel.log_mel(samples), performance, np.zeros(n, np.uint8), f"none:{name}")


def _drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.random.Generator]:
    return sample_conditions(rng), rng


def _name(voice: Voice) -> str:
    return f"{voice.engine}:{voice.name}"


def save(path: Path, clips: Sequence[Clip]) -> None:
    """Write a shard whole or not at all."""
    lengths = [len(c.mel) for c in clips]
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        np.savez(
            file,
            mel=np.concatenate([c.mel for c in clips]).astype(np.float16),
            motion=np.concatenate([c.performance.motion for c in clips]).astype(np.float16),
            viseme=np.concatenate([c.viseme for c in clips]),
            closure=np.concatenate([c.performance.closure for c in clips]).astype(np.float16),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            conditions=np.stack([c.performance.conditions for c in clips]),
            voices=np.array([c.voice for c in clips]),
            names=np.array(latent.NAMES),
        )
    partial.replace(path)


@dataclass(frozen=True)
class Job:
    """One shard to write."""

    path: Path
    number: int
    text: Path
    seed: int
    minutes: float
    held_out: bool
    music: bool = False  # with pieces rendered by FluidSynth
    without: frozenset[str] = frozenset()  # voices that are not installed


def write(job: Job) -> float:
    """Write one shard. Returns its length in hours."""
    texts = corpus.load(job.text)
    clips: list[Clip] = []
    frames = 0
    pieces: list[np.ndarray] = []
    if job.music:
        wanted = max(1, round(PIECES_SHARE * job.minutes * 60 / music.SECONDS))
        pieces = list(music.perform(wanted, np.random.default_rng([job.seed, job.number])))
    while frames < job.minutes * 6000:
        rng = np.random.default_rng([job.seed, job.number, len(clips)])
        if rng.random() < UNSPOKEN_SHARE:
            clip = unspoken_clip(rng, pieces)
        else:
            clip = spoken_clip(texts, rng, job.held_out, pieces, job.without)
        clips.append(clip)
        frames += len(clip.mel)
    save(job.path, clips)
    return frames / 360000


def plan(
    out: Path,
    text: Path,
    hours: float,
    seed: int,
    held_out: bool,
    minutes: float = MINUTES,
    first: int = 0,
) -> list[Job]:
    """The shards numbered from ``first`` up that make up ``hours``, without those written.

    Held-out shards are numbered from 90000 + ``first``.
    """
    first += HELD_OUT_FIRST if held_out else 0
    count = max(1, round(hours * 60 / minutes))
    jobs = []
    for number in range(first, first + count):
        path = out / f"speech_{number:05d}.npz"
        if not path.exists():
            jobs.append(Job(path, number, text, seed, minutes, held_out))
    return jobs


def equip(jobs: Sequence[Job], partial: bool) -> list[Job]:
    """The jobs as the installed tools can do them.

    partial: leave out music and voices that are not installed.
    Raises: MusicError or SynthesisError that names what to install, unless ``partial``.
    """
    rendered, without = True, missing_voices()
    if without and not partial:
        raise SynthesisError(
            "voices of Festival are missing",
            got=f"no {', '.join(without)}",
            fix=f"Install them (Debian: apt install {' '.join(FESTIVAL[v][1] for v in without)}), "
            "or go on without them: --partial.",
        )
    try:
        music.perform(1, np.random.default_rng(0))
    except MusicError:
        if not partial:
            raise
        rendered = False
    return [replace(job, music=rendered, without=frozenset(without)) for job in jobs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="vivant.export.synth.speech.shard", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder of text archives")
    parser.add_argument("--out", type=Path, required=True, help="folder for shards")
    parser.add_argument("--hours", type=float, default=1.0, help="length of the whole corpus")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="length of one shard")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument(
        "--partial", action="store_true", help="go on without music or voices not installed"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="voices, languages, texts kept from training"
    )
    a = parser.parse_args(arguments)
    a.out.mkdir(parents=True, exist_ok=True)
    jobs = plan(a.out, a.text, a.hours, a.seed, a.held_out, a.minutes, a.first)
    begin, done = time.monotonic(), 0.0
    try:
        corpus.load(a.text)
        jobs = equip(jobs, a.partial)
        # Fresh processes: espeak-ng's global state must not be shared by a fork.
        with multiprocessing.get_context("spawn").Pool(a.workers, maxtasksperchild=4) as pool:
            for k, hours in enumerate(pool.imap_unordered(write, jobs), 1):
                done += hours
                spent = time.monotonic() - begin
                left = spent / k * (len(jobs) - k)
                print(
                    f"{k}/{len(jobs)} shards, {done:.1f} h, {done * 3600 / spent:.0f}x real time, "
                    f"{left / 60:.0f} min left",
                    file=sys.stderr,
                    flush=True,
                )
    except VivantError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
