"""Generated hostile recordings: each ends in finite sound or in one typed line, within bounds."""

from __future__ import annotations

import faulthandler
import io
import resource
import struct
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from mutate import flipped, truncated

from vivant.audio import MAX_CHANNELS, Recording, load_audio, stream_sound
from vivant.errors import AudioError

MEMORY = 1 << 30  # bytes that the process may grow by while it reads all of them
SECONDS = 60.0  # longest recording loaded here: a bomb must stop there


def _save(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def _mux(kind: str, codec: str, rate: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as out:
        sound = out.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(_noise(rate // 4, 2).T.copy(), "fltp", "stereo")
        frame.sample_rate = rate
        packets = []
        fit = av.AudioResampler(sound.format.name, "stereo", rate, sound.frame_size or 1024)
        for piece in [*fit.resample(frame), *fit.resample(None)]:
            packets += sound.encode(piece)
        out.mux([*packets, *sound.encode()])
    return buffer.getvalue()


def _noise(n: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(n).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)


@cache
def _good() -> dict[str, bytes]:
    """A quarter of a second of each kind of recording that people have."""
    sound = _noise(11025, 2)
    return {
        "wav": _save(sound, 44100, "WAV", "PCM_16"),
        "wav-float": _save(sound, 44100, "WAV", "FLOAT"),
        "wav-adpcm": _save(sound, 44100, "WAV", "MS_ADPCM"),
        "wavex": _save(sound, 44100, "WAVEX", "PCM_24"),
        "rf64": _save(sound, 44100, "RF64", "PCM_16"),
        "flac": _save(sound, 44100, "FLAC", "PCM_16"),
        "vorbis": _save(sound, 44100, "OGG", "VORBIS"),
        "opus": _save(_noise(12000, 2), 48000, "OGG", "OPUS"),
        "mp3": _save(sound, 44100, "MP3"),
        "aiff": _save(sound, 44100, "AIFF", "PCM_16"),
        "au": _save(sound, 44100, "AU", "PCM_16"),
        "caf": _save(sound, 44100, "CAF", "ALAC_16"),
        "m4a": _mux("ipod", "aac", 44100),
        "adts": _mux("adts", "aac", 44100),
        "webm": _mux("webm", "libopus", 48000),
        "mov": _mux("mov", "pcm_s16le", 44100),
        "avi": _mux("avi", "mp3", 44100),
    }


def _mislabelled() -> Iterator[tuple[str, bytes]]:
    goods = list(_good().items())
    for (kind, data), (other, body) in zip(goods, goods[1:] + goods[:1], strict=True):
        yield f"{kind} head on {other} body", data[:32] + body[32:]
        yield f"{kind} after 600 zeros", bytes(600) + data
        yield f"{kind} twice", data + data
        yield f"{kind} followed by rubbish", data + b"\xff\xfb\x90" * 900


def _wav(
    rate: int, channels: int, bits: int, data: bytes, tag: int = 1, claim: int | None = None
) -> bytes:
    """A WAV file that says of itself whatever it is told to."""
    frame = channels * bits // 8
    form = struct.pack(
        "<HHIIHH", tag, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits
    )
    claim = len(data) if claim is None else claim
    body = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", claim) + data
    return b"RIFF" + struct.pack("<I", min(claim + 36, 0xFFFFFFFF)) + b"WAVE" + body


def _headers() -> Iterator[tuple[str, bytes]]:
    data = (_noise(3000) * 20000).astype("<i2").tobytes()
    for rate in (0, 1, 2, 100, 384000, 768000, 2**31 - 1, 2**32 - 1):
        yield f"wav of {rate} Hz", _wav(rate, 1, 16, data)
    for channels in (0, 3, 64, 256, 1000, 65535):
        yield f"wav of {channels} channels", _wav(16000, channels, 16, data)
    for bits in (0, 1, 7, 12, 64, 65535):
        yield f"wav of {bits} bits", _wav(16000, 1, bits, data)
    for tag in (0, 2, 3, 0x11, 0x55, 0xFF, 0x161, 0xFFFE, 0xFFFF):
        yield f"wav with codec {tag:#x}", _wav(16000, 1, 16, data, tag)
    for claim in (0, 1, 7, 2**31, 2**32 - 1):
        yield f"wav that claims {claim} bytes", _wav(16000, 1, 16, data, claim=claim)
    flac = bytearray(_good()["flac"])
    flac[21:26] = bytes([flac[21] | 15, 255, 255, 255, 255])  # STREAMINFO: 2**36 - 1 samples
    yield "flac that claims 2**36 samples", bytes(flac)
    aiff = bytearray(_good()["aiff"])
    at = aiff.index(b"COMM") + 10
    aiff[at : at + 4] = b"\xff" * 4
    yield "aiff that claims 2**32 samples", bytes(aiff)


def _contents() -> Iterator[tuple[str, bytes]]:
    for name, value in (("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf), ("huge", 3e38)):
        for at in (0, 5000):
            bad = _noise(6000)
            bad[at] = value
            for subtype in ("FLOAT", "DOUBLE"):
                yield f"{subtype} with {name} at {at}", _save(bad, 16000, "WAV", subtype)
    yield "only huge values", _save(np.full(4000, 1e30), 16000, "WAV", "DOUBLE")
    yield "denormals", _save(np.full(4000, 1e-310), 16000, "WAV", "DOUBLE")
    for n in (0, 1, 2, 3):
        for kind in ("WAV", "FLAC", "OGG", "AIFF"):
            yield f"{kind} of {n} samples", _save(np.zeros(n), 16000, kind)
    silence = np.zeros(16000, np.int16)
    yield "silence", _save(silence, 16000, "FLAC")
    yield "64 channels", _save(_noise(4000, 64), 16000, "WAV")
    yield f"{MAX_CHANNELS + 1} channels", _save(_noise(100, MAX_CHANNELS + 1), 16000, "WAV")
    yield "384 kHz", _save(_noise(38400), 384000, "WAV")
    yield "1 Hz for a day", _save(np.zeros(86400, np.int16), 1, "WAV")
    yield "an hour of silence in a small file", _save(np.zeros(8000 * 3600, np.int16), 8000, "FLAC")
    yield "ten minutes of 48 kHz", _save(np.zeros(48000 * 600, np.int16), 48000, "FLAC")


def _strangers() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2)
    for size in (1, 16, 5000):
        yield f"{size} zeros", bytes(size)
        yield f"{size} random bytes", rng.bytes(size)
    yield "nothing", b""
    for kind, data in _good().items():
        yield f"{kind} signature and noise", data[:16] + rng.bytes(3000)
    yield "mp3 tag of 256 MiB", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + _good()["mp3"]
    yield "mp4 box of 2**63 bytes", b"\0\0\0\x01ftypisom" + b"\x7f" + b"\xff" * 7 + bytes(900)
    yield "mp4 boxes in boxes", b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\1\0\0moov" * 3000
    yield "mkv elements in elements", b"\x1aE\xdf\xa3\x80" + b"\x18S\x80g\x01\xff\xff\xff" * 3000
    yield "ogg pages of nothing", (b"OggS\0\x02" + bytes(20) + b"\x01\0") * 500
    for text in (
        "#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n",
        "ffconcat version 1.0\nfile '/dev/zero'\n",
        "<?xml version='1.0'?><MPD></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "RIFF but text",
    ):
        yield text[:20], text.encode() + b"\xa0" * 600


CASES = [
    *truncated(_good(), (0.005, 0.1, 0.5, 0.97)),
    *flipped(_good(), 48, 300),
    *_mislabelled(),
    *_headers(),
    *_contents(),
    *_strangers(),
]


@pytest.fixture(scope="module", autouse=True)
def _bounded() -> Iterator[None]:
    """Abort the run when decoding hangs; compare the memory before and after."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    faulthandler.dump_traceback_later(180, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < MEMORY


def _shown(data: bytes, max_seconds: float) -> Recording:
    """The sound for the video, up to a length."""
    sound = stream_sound(data)
    parts, count = [], 0
    for block in sound.blocks:
        parts.append(block[: int(max_seconds * sound.rate) - count])
        count += len(parts[-1])
        if count == int(max_seconds * sound.rate):
            break
    return Recording(np.concatenate(parts), sound.rate)


def _check(read: Any, data: Path | bytes) -> None:
    try:
        sound = read(data, max_seconds=SECONDS)
    except AudioError as error:
        line = str(error)
        assert "\n" not in line
        assert 20 < len(line) < 400
    else:
        assert sound.samples.dtype == np.float32
        assert 0 < sound.duration <= SECONDS
        assert np.isfinite(sound.samples).all()
        assert np.abs(sound.samples).max() <= 1


@pytest.mark.parametrize("data", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_hostile_recording(data: bytes, tmp_path: Path) -> None:
    """A hostile file is finite sound or an AudioError of one readable line, never anything else."""
    file = tmp_path / "recording"
    file.write_bytes(data)
    _check(load_audio, file)
    _check(_shown, data)


def test_there_are_enough() -> None:
    """At least 200 hostile recordings are tried, and the untouched ones do load."""
    assert len(CASES) >= 200
    for data in _good().values():
        assert load_audio(data).duration == pytest.approx(0.25, abs=0.1)
