"""Recordings of any format and rate become 16 kHz mono, whole or streamed, or one clear line."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from vivant import media
from vivant.audio import (
    RATE,
    Resampler,
    load_audio,
    open_audio,
    stream_audio,
    stream_sound,
)
from vivant.errors import AudioError


def _tone(rate: int, seconds: float = 0.5, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype("f4")


def _file(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def _container(kind: str, codec: str, rate: int, *, picture: bool = False) -> bytes:
    """Half a second of tone in a container that only FFmpeg's libraries read."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as out:
        if picture:
            video = out.add_stream("mpeg4", rate=25)
            video.width = video.height = 64
        sound = out.add_stream(codec, rate=rate, layout="mono")
        sound.bit_rate = 128_000
        packets = []
        if picture:
            black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            packets += [p for _ in range(12) for p in video.encode(black)] + list(video.encode())
        frame = av.AudioFrame.from_ndarray(_tone(rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=sound.format.name, layout="mono", rate=rate, frame_size=sound.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            packets += sound.encode(piece)
        out.mux([*packets, *sound.encode()])
    return buffer.getvalue()


def _pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 17))
    return float(np.argmax(spectrum) * rate / (1 << 17))


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 16000),
        ("WAV", "PCM_U8", 8000),
        ("WAV", "PCM_24", 48000),
        ("WAV", "FLOAT", 44100),
        ("WAV", "DOUBLE", 11025),
        ("WAV", "ULAW", 8000),
        ("WAV", "IMA_ADPCM", 22050),
        ("WAVEX", "PCM_32", 96000),
        ("RF64", "PCM_16", 44100),
        ("W64", "PCM_16", 44100),
        ("FLAC", "PCM_16", 44100),
        ("FLAC", "PCM_24", 192000),
        ("OGG", "VORBIS", 44100),
        ("OGG", "OPUS", 48000),
        ("MP3", "MPEG_LAYER_III", 44100),
        ("AIFF", "PCM_16", 44100),
        ("AU", "PCM_16", 32000),
        ("CAF", "ALAC_16", 44100),
    ],
)
def test_base_formats(kind: str, subtype: str, rate: int) -> None:
    """The base install reads every usual recording, at its pitch, level and length."""
    sound = load_audio(_file(_tone(rate), rate, kind, subtype))
    assert sound.rate == RATE
    assert sound.samples.dtype == np.float32
    assert sound.duration == pytest.approx(0.5, abs=0.08)  # MP3 pads its ends
    assert _pitch(sound.samples, RATE) == pytest.approx(440, abs=2)
    assert 0.44 < np.abs(sound.samples[2000:5000]).max() < 0.58


@pytest.mark.parametrize(
    ("kind", "codec", "rate", "picture"),
    [
        ("ipod", "aac", 44100, False),
        ("adts", "aac", 48000, False),
        ("mp4", "aac", 48000, True),
        ("mov", "pcm_s16le", 44100, True),
        ("mov", "alac", 44100, False),
        ("webm", "libopus", 48000, False),
        ("matroska", "pcm_s24le", 44100, True),
        ("matroska", "pcm_f64le", 44100, False),
        ("asf", "wmav2", 44100, False),
        ("avi", "mp3", 44100, True),
    ],
)
def test_containers(kind: str, codec: str, rate: int, picture: bool) -> None:
    """M4A, WMA, WebM and the sound of videos are read when PyAV is installed."""
    sound = load_audio(_container(kind, codec, rate, picture=picture))
    assert sound.duration == pytest.approx(0.5, abs=0.12)
    assert _pitch(sound.samples, RATE) == pytest.approx(440, abs=2)
    assert 0.42 < np.abs(sound.samples[2000:5000]).max() < 0.6


def test_without_pyav_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base install names the library that reads an M4A."""
    monkeypatch.setattr(media, "available", lambda: False)
    with pytest.raises(AudioError, match="pip install av"):
        load_audio(_container("ipod", "aac", 44100))


def test_a_video_without_sound_says_so() -> None:
    """A silent film is not called damaged."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        out.mux([*video.encode(black), *video.encode()])
    with pytest.raises(AudioError, match="no sound"):
        load_audio(buffer.getvalue())


@pytest.mark.parametrize("rate", [1, 7, 999, 8000, 22050, 44100, 48000, 384000, 768000])
def test_every_rate_keeps_the_length(rate: int) -> None:
    """From 1 Hz to 768 kHz, n samples become round(n * 16000 / rate)."""
    n = min(3 * rate, 30011)
    out = load_audio((np.full(n, 0.25), rate)).samples
    assert len(out) == round(n * 16000 / rate)
    assert np.abs(out).max() <= 1
    assert out[len(out) // 2] == pytest.approx(0.25, abs=0.02)


def test_high_frequencies_do_not_fold_back() -> None:
    """A tone above 8 kHz is removed, not aliased into the speech band."""
    out = load_audio((_tone(48000, 0.5, 10000.0), 48000)).samples
    assert np.abs(out[1000:-1000]).max() < 1e-3


def test_channels_are_averaged() -> None:
    """Stereo and 64 channels become their mean; a level of one channel is not lost."""
    stereo = np.stack([np.full(1600, 0.5), np.full(1600, -0.1)], 1)
    np.testing.assert_allclose(load_audio((stereo, 16000)).samples, 0.2, atol=1e-6)
    many = np.zeros((1600, 64))
    many[:, 63] = 0.64
    np.testing.assert_allclose(load_audio(_file(many, 16000, "WAV")).samples, 0.01, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (np.int16, 16384, 0.5),
        (np.int32, -(2**30), -0.5),
        (np.int8, 64, 0.5),
        (np.uint8, 192, 0.5),
        (np.float64, 0.5, 0.5),
        (np.float32, 1.7, 1.0),
    ],
)
def test_sample_types(dtype: type, value: float, expected: float) -> None:
    """Integers are scaled by their type's range; floats beyond -1..1 are clipped."""
    out = load_audio((np.full(500, value, dtype), 16000)).samples
    np.testing.assert_allclose(out, expected)


@settings(max_examples=30, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000, 22050, 44100, 48000, 96000]),
    n=st.integers(1, 9000),
    cuts=st.lists(st.integers(0, 9000), max_size=8),
)
def test_chunked_resampling_equals_whole(rate: int, n: int, cuts: list[int]) -> None:
    """However a stream is cut on its way in, what comes out is the same."""
    x = np.random.default_rng(n).uniform(-1, 1, (n, 1)).astype(np.float32)
    cut = Resampler(rate)
    parts = [cut.push(p) for p in np.split(x, sorted(min(c, n) for c in cuts))] + [cut.finish()]
    np.testing.assert_allclose(
        np.concatenate(parts)[:, 0], load_audio((x, rate)).samples, atol=1e-6
    )


def test_streamed_equals_loaded(tmp_path: Path) -> None:
    """A file read in blocks is the file read at once."""
    file = tmp_path / "a.wav"
    file.write_bytes(_file(np.random.default_rng(0).uniform(-1, 1, 700_000), 48000, "WAV"))
    parts = list(stream_audio(file))
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate(parts), load_audio(file).samples)


def test_streaming_is_bounded(tmp_path: Path) -> None:
    """An hour of silence streams through a few MiB."""
    file = tmp_path / "hour.flac"
    file.write_bytes(_file(np.zeros(3600 * 8000, np.int16), 8000, "FLAC"))
    tracemalloc.start()
    total = sum(len(block) for block in stream_audio(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 3600 * RATE
    assert peak < 20 << 20


def test_too_long_to_load() -> None:
    """Loading says where its limit lies and that streaming has none."""
    with pytest.raises(AudioError, match=r"at most 1 s.*stream_audio"):
        load_audio((np.zeros(16001), 16000), max_seconds=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 300_000])
def test_not_a_number_names_its_place(bad: float, at: int) -> None:
    """A NaN or infinity is refused with its sample, time and channel."""
    x = np.zeros((400_000, 2), np.float32)
    x[at, 1] = bad
    for source in ((x, 48000), _file(x, 48000, "WAV", "FLOAT")):
        with pytest.raises(AudioError, match=rf"channel 2 at sample {at} \({at / 48000:.3f} s\)"):
            load_audio(source)


@pytest.mark.parametrize(
    ("kind", "rate", "channels", "expected"),
    [
        ("WAV", 48000, 2, (48000, 2)),
        ("WAV", 44100, 1, (44100, 1)),
        ("WAV", 96000, 2, (48000, 2)),
        ("WAV", 384000, 1, (48000, 1)),
        ("WAV", 9000, 1, (11025, 1)),
        ("WAV", 16000, 6, (16000, 1)),
        ("FLAC", 37800, 2, (44100, 2)),
    ],
)
def test_sound_for_the_video_keeps_its_quality(
    kind: str, rate: int, channels: int, expected: tuple[int, int]
) -> None:
    """The output's sound has the input's rate and stereo, as far as AAC has them."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (rate // 4, channels))
    sound = stream_sound(_file(x, rate, kind))
    samples = np.concatenate(list(sound.blocks))
    assert (sound.rate, sound.channels) == expected
    assert len(samples) / sound.rate == pytest.approx(0.25, abs=1e-4)
    if sound.rate == rate and channels <= 2:
        np.testing.assert_allclose(samples, x, atol=1e-4)


def test_both_readings_have_one_length() -> None:
    """What is heard and what is shown last equally long, within a sample."""
    data = _file(_tone(44100, 1.237), 44100, "FLAC")
    shown = stream_sound(data)
    seconds = sum(map(len, shown.blocks)) / shown.rate
    assert load_audio(data).duration == pytest.approx(seconds, abs=1 / 16000)


def test_the_claimed_length_is_a_hint() -> None:
    """A progress bar gets the length from the header."""
    assert open_audio(_file(_tone(8000), 8000, "WAV")).seconds == pytest.approx(0.5)
    assert stream_sound((_tone(8000), 8000)).seconds == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["a.mp3", "a.raw", "a.jpg", "a", "ü 音.wav", "http:a.wav"])
def test_wrong_names_are_no_obstacle(name: str, tmp_path: Path) -> None:
    """The content decides, not the name."""
    file = tmp_path / name
    file.write_bytes(_file(_tone(16000), 16000, "WAV"))
    assert load_audio(file).duration == 0.5


def test_paths_that_are_no_recording(tmp_path: Path) -> None:
    """Missing files, folders, pipes and empty files each say so."""
    empty = tmp_path / "empty.wav"
    empty.touch()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = tmp_path / "speech.wav"
    text.write_text("hello " * 99)
    cases = {
        str(tmp_path / "missing.wav"): "does not exist",
        str(tmp_path): "folder",
        str(pipe): "pipe",
        str(empty): "empty",
        str(text): "not a recording.*text",
        "https://example.org/a.mp3": "local files only",
    }
    for path, words in cases.items():
        with pytest.raises(AudioError, match=words):
            load_audio(path)


@pytest.mark.parametrize(
    "source",
    [
        (np.zeros(0), 16000),
        (np.zeros((2, 48000)), 16000),
        (np.zeros((4, 4, 4)), 16000),
        (np.zeros(100), 0),
        (np.zeros(100), -5),
        (np.zeros(100), float("nan")),
        (np.zeros(100), 16000.5),
        (np.zeros(100), 10**9),
        (np.zeros(100), None),
        (np.zeros(100, complex), 16000),
        (np.array(["a"]), 16000),
        (np.full(100, 20000.0), 16000),
        (np.zeros(100),),
        (1, 2, 3),
        7,
        b"",
        _file(np.zeros(0), 16000, "WAV"),
    ],
    ids=range(17),
)
def test_sound_that_is_none(source: object) -> None:
    """Wrong shapes, types, rates and empty sound are refused at the door."""
    with pytest.raises(AudioError, match=r"expected|empty"):
        stream_audio(source)  # type: ignore[arg-type]


def test_playlists_open_nothing(tmp_path: Path) -> None:
    """A playlist cannot make the reader open other files or addresses."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(_file(_tone(16000), 16000, "WAV"))
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
    ):
        file = tmp_path / "list.m3u8"
        file.write_text(text + "\xa0" * 300, encoding="latin-1")
        with pytest.raises(AudioError, match=r"cannot be decoded|not a recording"):
            load_audio(file)
