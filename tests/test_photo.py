"""Photos as people have them: upright, opaque, sRGB, bounded, or one clear line."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from vivant import files
from vivant.errors import PhotoError
from vivant.photo import BACKGROUND, MAX_SIDE, load_photo


def _scene(width: int = 96, height: int = 80) -> np.ndarray:
    """A picture whose four corners differ, so that any turn shows: (H, W, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    red = 40 + 180 * x / (width - 1)
    green = 30 + 200 * y / (height - 1)
    blue = np.full_like(red, 90.0)
    return np.rint(np.stack([red, green, blue], -1)).astype(np.uint8)


def _encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def _close(a: np.ndarray, b: np.ndarray, levels: float) -> None:
    assert a.shape == b.shape
    assert a.dtype == np.uint8
    assert np.abs(a.astype(int) - b.astype(int)).mean() <= levels


@pytest.mark.parametrize(
    ("kind", "options", "levels"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 6),
        ("JPEG", {"quality": 95}, 2),
        ("JPEG", {"quality": 95, "progressive": True}, 2),
        ("JPEG2000", {}, 2),
        ("AVIF", {"quality": 95}, 3),
    ],
)
def test_common_formats(kind: str, options: dict[str, Any], levels: float) -> None:
    """Every usual format gives the same picture."""
    _close(load_photo(_encode(_scene(), kind, **options)), _scene(), levels)


def test_path_bytes_array_and_image_agree(tmp_path: Path) -> None:
    """A path, its bytes, its pixels and a Pillow image are one photo."""
    data = _encode(_scene())
    file = tmp_path / "me.png"
    file.write_bytes(data)
    for source in (file, str(file), data, bytearray(data), _scene(), Image.fromarray(_scene())):
        np.testing.assert_array_equal(load_photo(source), _scene())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    """However the camera was held, the photo comes out upright."""
    upright = _scene()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encode(np.ascontiguousarray(stored), kind, exif=exif.tobytes(), quality=97)
    _close(load_photo(data), upright, 3)


def test_damaged_exif_is_no_obstacle() -> None:
    """Rubbish in the EXIF block does not hide good pixels."""
    exif = b"Exif\0\0II*\0" + b"\xff" * 60
    _close(load_photo(_encode(_scene(), "JPEG", exif=exif, quality=95)), _scene(), 2)


def test_greyscale_becomes_three_equal_channels() -> None:
    """A grey photo is an RGB photo without colour."""
    grey = np.ascontiguousarray(_scene()[:, :, 0])
    out = load_photo(_encode(grey))
    np.testing.assert_array_equal(out, np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_neutral_grey(mode: str) -> None:
    """What is transparent becomes grey, whatever colour hides beneath it."""
    image = Image.fromarray(_scene()).convert(mode)
    alpha = np.full((80, 96), 255, np.uint8)
    alpha[:, :48] = 0
    image.putalpha(Image.fromarray(alpha))
    out = load_photo(_encode(image))
    assert (out[:, :48] == BACKGROUND).all()
    assert (out[:, 48:] == np.asarray(image.convert("RGB"))[:, 48:]).all()


def test_transparent_palette() -> None:
    """A palette's transparent colour becomes grey too."""
    image = Image.fromarray(_scene()).quantize(16)
    index = image.getpixel((3, 3))
    out = load_photo(_encode(image, "GIF", transparency=index))
    assert tuple(out[3, 3]) == BACKGROUND
    assert tuple(out[70, 90]) != BACKGROUND


def test_fully_transparent_is_refused() -> None:
    """A photo with nothing to see says so."""
    image = Image.new("RGBA", (80, 80), (10, 20, 30, 0))
    with pytest.raises(PhotoError, match="transparent"):
        load_photo(_encode(image))


def test_cmyk() -> None:
    """A print shop's CMYK JPEG keeps its colours roughly."""
    data = _encode(Image.fromarray(_scene()).convert("CMYK"), "JPEG", quality=95)
    _close(load_photo(data), _scene(), 4)


def test_lab_tiff() -> None:
    """A TIFF in CIE Lab is converted by colour science, not by channel names."""
    data = _encode(Image.new("LAB", (80, 80), (255, 128, 128)), "TIFF")
    assert (load_photo(data) >= 250).all()


def test_16_bit_grey_spans_the_whole_range() -> None:
    """16 bits a pixel are scaled, not clipped."""
    grey = (np.arange(80 * 80).reshape(80, 80) * 10).astype(np.uint16)
    expected = np.rint(grey / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        out = load_photo(_encode(Image.fromarray(grey), kind))
        _close(out[:, :, 1], expected, 0)


def test_float_tiff_and_its_nan() -> None:
    """A floating-point TIFF is scaled from 0..1; one with NaN is refused."""
    values = np.linspace(0, 1, 6400, dtype=np.float32).reshape(80, 80)
    out = load_photo(_encode(Image.fromarray(values), "TIFF"))
    assert out[-1, -1].tolist() == [255, 255, 255]
    values[4, 4] = np.nan
    with pytest.raises(PhotoError, match="not numbers"):
        load_photo(_encode(Image.fromarray(values), "TIFF"))


def _swapped_profile() -> bytes:
    """An sRGB profile whose red and blue primaries are exchanged: easy to see when applied."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i
        for i in range(struct.unpack(">I", data[128:132])[0])
    }
    r, b = tags[b"rXYZ"], tags[b"bXYZ"]
    data[r + 4 : r + 12], data[b + 4 : b + 12] = data[b + 4 : b + 12], data[r + 4 : r + 12]
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colour_profile_is_applied(kind: str) -> None:
    """Pixels in another colour space come out as sRGB."""
    image = Image.new("RGB", (80, 80), (200, 20, 20))
    data = _encode(image, kind, icc_profile=_swapped_profile())
    red, _, blue = load_photo(data)[40, 40]
    assert blue > 180
    assert red < 60


def test_profile_with_transparency() -> None:
    """A profile is applied to the colours of a transparent photo as well."""
    data = _encode(Image.new("RGBA", (80, 80), (200, 20, 20, 255)), icc_profile=_swapped_profile())
    assert load_photo(data)[40, 40, 2] > 180


def test_damaged_profile_counts_as_srgb() -> None:
    """A profile that cannot be read does not stop the photo."""
    data = _encode(_scene(), icc_profile=b"not a profile at all" * 20)
    np.testing.assert_array_equal(load_photo(data), _scene())


def test_animation_gives_its_first_frame() -> None:
    """Of an animated GIF the first picture is the portrait."""
    frames = [Image.new("RGB", (80, 80), c) for c in ("red", "lime", "blue")]
    data = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_photo(data)[10, 10].tolist() == [255, 0, 0]


def test_large_photo_is_averaged_down() -> None:
    """A long side beyond the limit is reduced, and the shape kept."""
    out = load_photo(_encode(Image.new("RGB", (6000, 3000), (9, 8, 7))))
    assert out.shape == (2048, MAX_SIDE, 3)
    assert out[5, 5].tolist() == [9, 8, 7]


def test_huge_jpeg_is_reduced_as_it_is_read() -> None:
    """A JPEG of 100 megapixels loads, within the bounds on memory."""
    out = load_photo(_encode(Image.new("L", (10000, 10000), 77), "JPEG"))
    assert out.shape == (MAX_SIDE, MAX_SIDE, 3)
    assert abs(int(out[0, 0, 0]) - 77) <= 1


@pytest.mark.parametrize("size", [(1, 1), (63, 500), (500, 63), (20000, 70)])
def test_too_small_says_what_is_needed(size: tuple[int, int]) -> None:
    """A photo no face fits into names the least size."""
    with pytest.raises(PhotoError, match=r"at least 64 pixels.*got"):
        load_photo(_encode(Image.new("L", size)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_wrong_extension_is_no_obstacle(kind: str, tmp_path: Path) -> None:
    """The content decides, not the name."""
    file = tmp_path / "photo.mp3"
    file.write_bytes(_encode(_scene(), kind))
    assert load_photo(file).shape == (80, 96, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "HEIC.*Most Compatible"),
        (b"%PDF-1.7 " + bytes(200), "PDF"),
        (b"ID3\x04" + bytes(300), "MP3"),
        (b"\0\0\0\x18ftypisom" + bytes(300), "MP4"),
        (b"hello " * 50, "text"),
        (bytes(500), "zeros"),
        (b"<html><body>404</body></html>", "web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "text"),
        (b"", "empty"),
    ],
)
def test_other_files_are_named(data: bytes, words: str) -> None:
    """What is not a photo is called by its name, with what to do."""
    with pytest.raises(PhotoError, match=words):
        load_photo(data)


def test_cut_short_is_said() -> None:
    """A half-copied file is called damaged."""
    data = _encode(_scene(300, 300), "JPEG")
    with pytest.raises(PhotoError, match=r"cut short.*JPEG"):
        load_photo(data[: len(data) // 2])


def test_paths_that_are_no_photo(tmp_path: Path) -> None:
    """Missing files, folders, pipes, empty files, links to nothing and odd names each say so."""
    empty = tmp_path / "empty.jpg"
    empty.touch()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link.jpg"
    link.symlink_to(tmp_path / "nowhere.jpg")
    cases = {
        str(tmp_path / "missing.jpg"): "does not exist",
        str(link): "does not exist",
        str(tmp_path): "folder",
        str(pipe): "pipe",
        str(empty): "empty",
        "bad\0name": "cannot be opened",
        "x" * 5000: "cannot be opened",
        "https://example.org/me.jpg": "local files only",
    }
    for path, words in cases.items():
        with pytest.raises(PhotoError, match=words):
            load_photo(path)


def test_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission is not called missing."""
    file = tmp_path / "me.png"
    file.write_bytes(_encode(_scene()))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.Path, "open", refuse)
    with pytest.raises(PhotoError, match="permissions"):
        load_photo(file)


def test_arrays_of_every_type() -> None:
    """uint8, uint16, bool and float arrays are the same picture."""
    scene = _scene()
    np.testing.assert_array_equal(load_photo(scene.astype(np.uint16) * 257), scene)
    np.testing.assert_array_equal(load_photo(scene / 255.0), scene)
    np.testing.assert_array_equal(
        load_photo((scene / 255).astype(np.float32)[:, ::-1]), scene[:, ::-1]
    )
    assert load_photo(np.ones((70, 70), bool)).max() == 255
    assert load_photo(scene[:, :, :1]).shape == (80, 96, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((80, 80, 5), np.uint8),
        np.zeros((80,), np.uint8),
        np.zeros((2, 80, 80, 3), np.uint8),
        np.zeros((0, 80, 3), np.uint8),
        np.zeros((80, 80, 3), np.int32),
        np.zeros((80, 80, 3), complex),
        np.full((80, 80, 3), np.nan),
        np.full((80, 80, 3), np.inf, np.float32),
        np.full((80, 80, 3), 200.0),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_that_are_no_photo(array: np.ndarray) -> None:
    """Wrong shapes, types and ranges are refused at the door."""
    with pytest.raises(PhotoError, match="expected"):
        load_photo(array)


def test_an_array_without_pixels_is_too_small() -> None:
    """An empty crop is told what a photo needs."""
    with pytest.raises(PhotoError, match="at least 64 pixels"):
        load_photo(np.zeros((0, 0, 3), np.uint8))


def test_other_types_are_refused() -> None:
    """Anything that is not a photo's kind of object is named."""
    with pytest.raises(PhotoError, match="got int"):
        load_photo(7)  # type: ignore[arg-type]
