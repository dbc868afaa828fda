"""Containers and codecs through FFmpeg's libraries: the only file that imports PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import AudioError, PhotoError, VivantError

if TYPE_CHECKING:
    import av

Floats = NDArray[np.float32]

# Demuxers of self-contained recordings and videos. FFmpeg also knows playlists, which open other
# files and addresses, and formats without a signature, as which anything can be "decoded".
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,wav,w64,aiff,caf,flac,mp3,aac,ac3,eac3,amr,asf,avi,"
    "flv,mpeg,mpegts,au,wv,tta,ape,voc"
)
_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file", "enable_drefs": "0"}

# Sample format (FFmpeg's name without the p of "planar") -> what to subtract, what full scale is.
_SCALES: dict[str, tuple[float, float]] = {
    "u8": (128.0, 128.0),
    "s16": (0.0, 2.0**15),
    "s32": (0.0, 2.0**31),
    "s64": (0.0, 2.0**63),
    "flt": (0.0, 1.0),
    "dbl": (0.0, 1.0),
}


def available() -> bool:
    """Whether PyAV is installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def decode_audio(file: BinaryIO, name: str) -> tuple[int, int, float | None, Iterator[Floats]]:
    """Decode the first sound track of any common recording or video.

    ``name`` begins the error messages. Returns the sampling rate in Hz, the number of channels,
    the length in seconds as the container claims it (None: it does not say), and an iterator of
    (n, channels) float32 blocks, full scale -1..1, that closes ``file`` when it ends. Raises
    AudioError at once when there is no sound to decode, and from the iterator where it is damaged.
    """
    import av

    container = _opened(file, name, AudioError, "a recording, or a video with sound")
    if not container.streams.audio:
        container.close()
        raise AudioError(
            f"{name} has no sound",
            expected="at least one sound track",
            got=f"{len(container.streams)} tracks without sound",
            fix="Choose a recording, or a video with sound.",
        )
    track = container.streams.audio[0]
    seconds = float(container.duration / Fraction(av.time_base)) if container.duration else None
    blocks = _blocks(file, container, track, name)
    try:
        # Some codecs (HE-AAC) know their rate only once they have decoded.
        rate, first = next(blocks)
    except StopIteration:
        raise AudioError(
            f"{name} has an empty sound track", got="0 samples", fix="Record it again."
        ) from None
    return rate, first.shape[1], seconds, _steady(rate, first, blocks, name)


def decode_video(file: BinaryIO, name: str) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a video's first picture track, (H, W, 3) uint8 RGB.

    Closes ``file`` at the end. Raises PhotoError: at once when it is no video, later where it is
    damaged.
    """
    container = _opened(file, name, PhotoError, "an image or a video")
    if not container.streams.video:
        container.close()
        raise PhotoError(f"{name} has no pictures", expected="an image or a video")
    return _pictures(file, container, name)


def _pictures(
    file: BinaryIO, container: av.container.InputContainer, name: str
) -> Iterator[NDArray[np.uint8]]:
    count = 0
    try:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            count += 1
    except Exception as cause:
        raise PhotoError(f"{name} is damaged after {count} frames", got=_reason(cause)) from cause
    finally:
        container.close()
        file.close()


def _opened(
    file: BinaryIO, name: str, error: type[VivantError], expected: str
) -> av.container.InputContainer:
    import av

    try:
        return av.open(file, "r", options=_OPTIONS, metadata_errors="ignore")
    except Exception as cause:  # FFmpeg's errors derive from OSError, ValueError, LookupError...
        file.close()
        raise error(
            f"{name} cannot be decoded", expected=expected, got=_reason(cause), fix="Convert it."
        ) from cause


def _blocks(
    file: BinaryIO, container: av.container.InputContainer, track: av.AudioStream, name: str
) -> Iterator[tuple[int, Floats]]:
    """The rate and the samples of every decoded frame."""
    done = 0.0  # seconds
    try:
        for frame in container.decode(track):
            block = _samples(frame)
            if len(block):
                yield frame.sample_rate, block
                done += len(block) / frame.sample_rate
    except Exception as cause:
        raise AudioError(
            f"{name} is damaged after {done:.2f} s",
            expected="sound that decodes to its end",
            got=_reason(cause),
            fix="Copy the file again, or convert it to WAV and cut it there.",
        ) from cause
    finally:
        container.close()
        file.close()


def _steady(
    rate: int, first: Floats, rest: Iterator[tuple[int, Floats]], name: str
) -> Iterator[Floats]:
    """The blocks, as long as rate and channels stay what they were."""
    yield first
    for now, block in rest:
        if now != rate or block.shape[1] != first.shape[1]:
            raise AudioError(
                f"{name} changes its format on the way",
                expected=f"{rate} Hz, {first.shape[1]} channels throughout",
                got=f"{now} Hz, {block.shape[1]} channels",
                fix="Convert it to WAV.",
            )
        yield block


def _samples(frame: av.AudioFrame) -> Floats:
    """A decoded frame as (n, channels) float32, full scale -1..1."""
    raw = frame.to_ndarray()  # planar: (channels, n); packed: (1, n * channels)
    if not frame.format.is_planar:
        raw = raw.reshape(-1, frame.layout.nb_channels).T
    offset, scale = _SCALES[frame.format.name.removesuffix("p")]
    return ((raw.T - offset) / scale).astype(np.float32) if scale != 1 else raw.T.astype(np.float32)


def _reason(cause: Exception) -> str:
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return str(text)[:80]


class Mp4Writer:
    """Writes an H.264/AAC MP4: 4:2:0, BT.709, constant frame rate, index at the front.

    ``size``: width and height, even. ``sound``: sampling rate (one that AAC knows, see
    ``audio.stream_sound``) and channels (1 or 2), or ``None``. Errors: ``OSError`` with the
    system's reason when the file cannot be written; call ``close(complete=False)`` after one.
    """

    def __init__(
        self,
        path: str,
        *,
        size: tuple[int, int],
        fps: Fraction,
        sound: tuple[int, int] | None,
        metadata: dict[str, str],
    ) -> None:
        import av

        self._av, self._rate, self._frame_time = av, sound[0] if sound else 0, 1 / fps
        self._frames = self._samples = 0
        with _system_errors(av):
            self._out = av.open(path, "w", format="mp4", options={"movflags": "faststart"})
            self._out.metadata.update(metadata)
            video = self._out.add_stream("libx264", rate=fps)
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            # H.273: BT.709 primaries and matrix, sRGB transfer, limited range.
            video.color_primaries, video.color_trc, video.colorspace = 1, 13, 1
            video.color_range = 1
            # A fixed number of threads gives the same bytes on every machine; two are enough for
            # 512x512 at 5 ms a frame.
            video.options = {"preset": "veryfast", "crf": "18", "threads": "2"}
            self._video = video
            self._sound = None
            if sound:
                self._sound = self._out.add_stream("aac", rate=sound[0])
                self._sound.layout = "mono" if sound[1] == 1 else "stereo"
                # An AAC frame holds at most 6144 bits a channel for its 1024 samples.
                most = sound[0] * 6144 // 1024 * sound[1]
                self._sound.bit_rate = min(128_000 * sound[1], most * 3 // 4)

    def picture(self, rgb: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 (H, W, 3)."""
        with _system_errors(self._av):
            frame = self._av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame = frame.reformat(
                format="yuv420p",
                src_colorspace="ITU709",
                dst_colorspace="ITU709",
                src_color_range="JPEG",
                dst_color_range="MPEG",
            )
            frame.pts, frame.time_base = self._frames, self._frame_time
            self._frames += 1
            self._out.mux(self._video.encode(frame))

    def sound(self, samples: Floats) -> None:
        """Append sound, float32 (n, channels), full scale -1..1."""
        if self._sound is None or not len(samples):
            return
        planes = np.ascontiguousarray(samples.T, np.float32)
        with _system_errors(self._av):
            frame = self._av.AudioFrame.from_ndarray(planes, "fltp", self._sound.layout.name)
            frame.sample_rate = self._rate
            frame.pts, frame.time_base = self._samples, Fraction(1, self._rate)
            self._samples += len(samples)
            self._out.mux(self._sound.encode(frame))

    def close(self, complete: bool = True) -> None:
        """Finish the file; with ``complete=False`` only let go of it, and never raise."""
        try:
            with _system_errors(self._av):
                if complete:
                    self._out.mux(self._video.encode())
                    if self._sound is not None:
                        self._out.mux(self._sound.encode())
                self._out.close()
        except OSError:
            if complete:
                raise


@contextmanager
def _system_errors(av: Any) -> Iterator[None]:
    """FFmpeg's errors as ``OSError`` with errno and reason."""
    try:
        yield
    except av.FFmpegError as cause:
        raise OSError(cause.errno, cause.strerror) from cause
