"""Music, sounds of the mouth and recorded voices of the speech corpus, without their programs."""

from __future__ import annotations

import stat
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from vivant.controls import CONDITIONS
from vivant.export.synth.speech import corpus, metrics, midi, music, noise, shard, vocal, voices
from vivant.export.synth.speech.articulation import aperture
from vivant.export.synth.speech.midi import MusicError
from vivant.export.synth.speech.phones import SILENCE, Phone, expand, from_festival, joined
from vivant.export.synth.speech.voices import FESTIVAL, SynthesisError, Voice, festival


def program(folder: Path, name: str, text: str) -> str:
    """An executable Python script."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def decode(data: bytes) -> tuple[list[tuple[float, bytes]], float]:
    """Messages (s, bytes) and length (s) of a one-track Standard MIDI File at 120 beats/min."""
    assert data[:4] == b"MThd"
    assert data[14:18] == b"MTrk"
    second = 2 * int.from_bytes(data[12:14], "big")
    body, at, tick = data[22:], 0, 0
    assert len(body) == int.from_bytes(data[18:22], "big")
    found: list[tuple[float, bytes]] = []
    while True:
        delta = 0
        while True:
            byte = body[at]
            at += 1
            delta = delta << 7 | byte & 127
            if byte < 128:
                break
        tick += delta
        if body[at] == 0xFF:
            kind, size = body[at + 1], body[at + 2]
            at += 3 + size
            if kind == 0x2F:
                assert at == len(body)
                return found, tick / second
            continue
        size = 2 if body[at] & 0xF0 == midi.PROGRAM else 3
        found.append((tick / second, body[at : at + size]))
        at += size


# --- music ----------------------------------------------------------------------------------


@pytest.mark.parametrize("genre", music.GENRES)
@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_playable(genre: str, seed: int) -> None:
    """A piece of every genre plays notes throughout its 20 s, in valid messages, seed by seed."""
    piece = music.compose(np.random.default_rng(seed), genre)
    assert piece == music.compose(np.random.default_rng(seed), genre)
    assert piece != music.compose(np.random.default_rng(seed + 100), genre)
    found, length = decode(midi.encode(piece, music.SECONDS))
    assert length == pytest.approx(music.SECONDS)
    assert len(found) == len(piece)
    assert all(m[0] >= 0x80 and max(m[1:]) < 128 for _, m in found)
    presses = [t for t, m in found if m[0] & 0xF0 == midi.NOTE_ON]
    assert min(presses) < 5
    assert max(presses) > 8


def test_midi_files_hold_what_was_written() -> None:
    """Messages come back in order of time, a release before a press; late ones are left out."""
    events = [*midi.note(0.5, 0.5, 60, 90), *midi.note(1.0, 9.0, 60, 200), midi.bend(0.25, 1.0)]
    found, length = decode(midi.encode(events, 3.0))
    assert length == pytest.approx(3.0)
    assert found == [
        (0.25, bytes([0xE0, 127, 127])),
        (0.5, bytes([0x90, 60, 90])),
        (1.0, bytes([0x80, 60, 0])),
        (1.0, bytes([0x90, 60, 127])),
    ]


FAKE_FLUIDSYNTH = """\
    import sys
    import numpy as np
    raw = sys.argv[sys.argv.index("-F") + 1]
    rate = int(sys.argv[sys.argv.index("-r") + 1])
    steps = np.repeat([0.0, 0.1, 0.2, 0.3], [rate // 10, 2 * rate, 2 * rate, 2 * rate])
    (np.repeat(steps, 2) * 32768).astype("<i2").tofile(raw)
"""


def test_rendered_pieces_are_cut_apart(tmp_path: Path) -> None:
    """Pieces rendered by one process come back each with its own sound and length."""
    font = tmp_path / "font.sf2"
    font.touch()
    pieces = [[*midi.note(0, 1, 60, 90)]] * 3
    sound = midi.render(pieces, 2.0, font, program(tmp_path, "fluidsynth", FAKE_FLUIDSYNTH))
    assert sound.shape == (3, 32000)
    for row, value in zip(sound, (0.1, 0.2, 0.3), strict=True):
        np.testing.assert_allclose(row[200:-200], value, atol=0.01)


def test_missing_music_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without FluidSynth, without a sound font, and after too short a sound, the error tells."""
    piece = [[*midi.note(0, 1, 60, 90)]]
    with pytest.raises(MusicError, match="apt install fluidsynth fluid-soundfont-gm"):
        midi.render(piece, 2.0, tmp_path / "font.sf2", "no-such-program")
    with pytest.raises(MusicError, match="rendered too little"):
        midi.render(piece, 2.0, tmp_path / "font.sf2", program(tmp_path, "mute", ""))
    monkeypatch.setattr(midi, "SOUND_FONTS", (tmp_path / "none.sf2",))
    with pytest.raises(MusicError, match="apt install fluid-soundfont-gm"):
        midi.render(piece, 2.0)


# --- sounds of the mouth --------------------------------------------------------------------


@pytest.mark.parametrize("name", vocal.EVENTS)
def test_sounds_of_the_mouth(name: str) -> None:
    """Each sound is finite, 20 ms to 12 s long, of peak 1, and depends on its seed alone."""
    for seed in range(8):
        x = vocal.event(np.random.default_rng(seed), name)
        assert np.isfinite(x).all()
        assert 320 <= len(x) <= 12 * 16000
        assert np.abs(x).max() == pytest.approx(1)
        np.testing.assert_array_equal(x, vocal.event(np.random.default_rng(seed), name))


def test_laughs_come_at_the_rate_of_laughter() -> None:
    """The loudness of laughs swings 3 to 8 times a second."""
    rates = []
    for seed in range(20):
        x = vocal.laugh(np.random.default_rng(seed))[: 4 * 16000]
        power = np.convolve(x**2, np.ones(320) / 320, "same")[::160]
        swing = np.abs(np.fft.rfft(power - power.mean(), 4096))
        band = np.fft.rfftfreq(4096, 0.01)
        swing[(band < 2) | (band > 20)] = 0
        rates.append(band[swing.argmax()])
    assert 3 < np.median(rates) < 8


def test_interjections_fall_into_pauses() -> None:
    """Breaths and laughs are heard in pauses alone: speech stays sample for sample."""
    rng = np.random.default_rng(0)
    phones = joined([Phone(0.5, 1.5, "a"), Phone(3.5, 4.5, "a")], 8.0)
    samples = np.zeros(8 * 16000, np.float32)
    spoken = np.zeros(len(samples), bool)
    for p in phones:
        spoken[int(p.start * 16000) : int(p.end * 16000)] = p.name != SILENCE
    samples[spoken] = 0.1 * rng.standard_normal(spoken.sum())
    heard = [shard.interject(samples, phones, np.random.default_rng(s)) for s in range(12)]
    assert all((x[spoken] == samples[spoken]).all() for x in heard)
    assert sum(bool(np.abs(x[~spoken]).max() > 0) for x in heard) >= 6


# --- recording ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [noise.codec, noise.whispered, noise.room])
def test_colour_keeps_time_and_length(change: noise.Colour) -> None:
    """Coders, whispering and rooms change the sound of a burst, not its moment."""
    pulse = np.zeros(16001)
    pulse[8000:8800] = 0.1 * np.random.default_rng(0).standard_normal(800)
    for seed in range(10):
        x = change(pulse, np.random.default_rng(seed))
        assert len(x) == len(pulse)
        assert np.isfinite(x).all()
        energy = np.convolve(x**2, np.ones(800), "valid")
        assert abs(int(energy.argmax()) - 8000) < 200


def test_music_plays_behind_speech() -> None:
    """Pieces given to a recording are heard, in about a quarter of recordings, and never alone."""
    t = np.arange(32000) / 16000
    piece = np.sin(2 * np.pi * 1000 * t).astype(np.float32)
    speech = 0.1 * np.random.default_rng(0).standard_normal(32000)
    with_music = 0
    for seed in range(200):
        power = np.abs(np.fft.rfft(noise.record(speech, np.random.default_rng(seed), [piece]))) ** 2
        with_music += power[1990:2011].max() > 100 * np.median(power[1800:2200])
    assert 20 < with_music < 80


def test_sounds_without_speech_rest_the_lips() -> None:
    """Music rendered or synthetic, laughter, breath: no lips move, no phone is labelled."""
    pieces = [0.1 * np.random.default_rng(k).standard_normal(5 * 16000) for k in range(3)]
    kinds = set()
    for seed in range(36):
        clip = shard.unspoken_clip(np.random.default_rng(seed), pieces)
        kinds.add(clip.voice)
        assert not clip.viseme.any()
        assert metrics.activity(clip.performance.motion) < 0.02
        if not clip.performance.conditions[CONDITIONS.index("emotion_given")]:
            assert aperture(clip.performance.motion.astype(np.float64)).max() < 0.01
    assert {"none:pieces", "none:laughter", "none:breaths"} <= kinds


# --- recorded voices ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "labels", "phones"),
    [
        ("en", "pau m ay pau", "sil m a ɪ sil"),
        ("it", "# tS a1 m O1 J #", "sil t ʃ a m ɔ ɲ sil"),
        ("cs", "# r~* e: _ ch c~ p #", "sil r ʃ ɛ ʔ x t ʃ p sil"),
        ("fi", "# @: m: y: 7 ##", "sil æ m y ø sil"),
        ("ca", "pau E1 rr ax b pau", "sil ɛ r ə b sil"),
        ("ru", "pau pp oo sch ay bb pau", "sil p o ʃ ə b sil"),
        ("hi", "pau bh aa tth oo pau", "sil b a t o sil"),
    ],
)
def test_labels_of_each_language(language: str, labels: str, phones: str) -> None:
    """Festival's labels in each language become our phones; an unknown one is counted."""
    unknown: dict[str, int] = {}
    timed = [(0.2 * k, 0.2 * k + 0.2, label) for k, label in enumerate([*labels.split(), "qq"])]
    got = [p.name for p in expand(timed, from_festival(language), unknown)]
    assert got == [*phones.split(), "ə"]
    assert unknown == {"qq": 1}


FAKE_FESTIVAL = """\
    import re, sys, wave
    script = open(sys.argv[2], encoding="iso-8859-2").read()
    assert "(voice_czech_dita)" in script and "\\u0159" in script
    out = re.search(r'utt.save.wave u "(.*?)"', script).group(1)
    with wave.open(out, "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(32000)
        w.writeframes(b"\\0\\1" * 19200)
    with open(re.search(r'fopen "(.*?)"', script).group(1), "w") as f:
        f.write("#:0.1\\np:0.2\\na::0.4\\n#:0.6\\n")
"""


def test_festival_is_told_in_the_voice_s_encoding(tmp_path: Path) -> None:
    """A Czech voice reads Czech letters, and its phones come back with their times."""
    fake = program(tmp_path, "festival", FAKE_FESTIVAL)
    (said,) = festival(["Tři."], Voice("festival", "voice_czech_dita"), fake)
    assert (said.rate, said.unknown) == (32000, 0)
    assert [p.name for p in said.phones] == [SILENCE, "p", "a", SILENCE]
    assert said.phones[2].end == pytest.approx(0.4)


def test_missing_voices_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices that Festival lacks stop the command with their packages, or are left out if asked."""
    names = [name.removeprefix("voice_") for name in FESTIVAL if "czech" not in name]
    fake = program(tmp_path, "festival", f"print('({' '.join(names)})')")
    lacking = voices.missing_voices(fake)
    assert lacking == [name for name in FESTIVAL if "czech" in name]
    with pytest.raises(SynthesisError, match="apt install no-such-program"):
        voices.missing_voices("no-such-program")

    def no_music(*_: object) -> np.ndarray:
        raise MusicError("no FluidSynth")

    monkeypatch.setattr(shard, "missing_voices", lambda: lacking)
    monkeypatch.setattr(shard.music, "perform", no_music)
    jobs = [shard.Job(tmp_path / "a.npz", 0, tmp_path, 0, 1.0, False)]
    with pytest.raises(SynthesisError, match=r"festvox-czech-dita.*--partial"):
        shard.equip(jobs, partial=False)
    (job,) = shard.equip(jobs, partial=True)
    assert not job.music
    assert job.without == set(lacking)


def test_voices_not_installed_do_not_speak() -> None:
    """espeak-ng speaks in place of Festival's voices that are left out."""
    lines = [f"Sentence {chr(97 + k)}." for k in range(20)]
    texts = corpus.Texts(lines, dict.fromkeys(corpus.LANGUAGES, lines))
    for held_out in (False, True):
        for kind in ("festival", "festival-en"):
            rng = np.random.default_rng(0)
            some = {corpus.sample_voice(texts, rng, held_out, kind)[0].name for _ in range(200)}
            assert some == {
                name
                for name, (language, _) in FESTIVAL.items()
                if (language == "en") == (kind == "festival-en")
                and (name in corpus.HELD_OUT_FESTIVAL) == held_out
            }
            voice, _ = corpus.sample_voice(texts, rng, held_out, kind, without=list(FESTIVAL))
            assert voice.engine == "espeak"
