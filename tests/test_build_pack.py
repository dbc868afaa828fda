"""The asset pack's builder: upstream file formats, registration, texture baking."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vivant.errors import UsageError
from vivant.export.synth.people import bake, build_pack, register, wavefront

SQUARE = """g one
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
f 1/1 2/2 3/3 4/4
g two
f 1/1 3/3 2/2
"""


def ball(rows: int = 24, radius: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and outward triangles (T, 3) of a sphere."""
    a, b = np.meshgrid(
        np.linspace(1e-3, np.pi - 1e-3, rows),
        np.linspace(0, 2 * np.pi, 2 * rows, endpoint=False),
        indexing="ij",
    )
    points = np.stack([np.sin(a) * np.sin(b), np.cos(a), np.sin(a) * np.cos(b)], -1)
    i, k = np.meshgrid(np.arange(rows - 1), np.arange(2 * rows), indexing="ij")
    at, right = i * 2 * rows + k, i * 2 * rows + (k + 1) % (2 * rows)
    first = np.stack([at, at + 2 * rows, right], -1)
    second = np.stack([right, at + 2 * rows, right + 2 * rows], -1)
    return radius * points.reshape(-1, 3), np.concatenate([first, second]).reshape(-1, 3)


def test_meshes_are_read_as_triangles(tmp_path: Path) -> None:
    """Polygons become fans with their own texture corners and groups; targets move vertices."""
    (tmp_path / "m.obj").write_text(SQUARE)
    mesh = wavefront.read_mesh(tmp_path / "m.obj")
    assert mesh.points.shape == (4, 3)
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 1]]
    assert mesh.uv[1].tolist() == [[0, 0], [1, 1], [0, 1]]
    assert [mesh.groups[k] for k in mesh.group] == ["one", "one", "two"]
    (tmp_path / "m.target").write_text("# a comment\n2 0.5 0 -1\n")
    assert wavefront.read_target(tmp_path / "m.target", 4)[2].tolist() == [0.5, 0, -1]


def test_proxies_follow_their_base(tmp_path: Path) -> None:
    """A vertex bound to three of the base lies at their weighted mean plus its scaled offset."""
    (tmp_path / "m.obj").write_text(SQUARE)
    proxy = "obj_file m.obj\nx_scale 0 1 2.0\nverts 0\nmaterial m\n"
    proxy += "0 1 2 0.5 0.25 0.25 1 0 0\n3\ndelete_verts\n7 8\n"
    (tmp_path / "m.mhclo").write_text(proxy)
    base = np.array([[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]], np.float32)
    at = wavefront.read_proxy(tmp_path / "m.mhclo").fitted(base, unit=1.0)
    assert at.tolist() == [[2 + 4 / 2, 1, 0], [0, 4, 0]]


def test_missing_upstream_files_are_named(tmp_path: Path) -> None:
    """A missing mesh and a picture that Git LFS has not fetched say what to do."""
    with pytest.raises(UsageError, match=r"missing.*gone\.obj"):
        wavefront.read_mesh(tmp_path / "gone.obj")
    (tmp_path / "skin.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match="git lfs pull"):
        wavefront.read_picture(tmp_path / "skin.png")


def test_similarity_and_spline_find_the_move() -> None:
    """A known scale, turn and shift is recovered; the spline carries landmarks to their places
    and what lies between them smoothly."""
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (20, 3))
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    scale, rotation, shift = register.similarity(a, 2.5 * a @ turn.T + [1, 2, 3])
    assert scale == pytest.approx(2.5)
    assert np.allclose(rotation, turn)
    assert np.allclose(shift, [1, 2, 3])
    moved = a + 0.1 * np.sin(a)
    spline = register.Spline(a, moved, smooth=0.0)
    assert np.allclose(spline(a), moved, atol=1e-6)
    assert np.abs(spline(a[:1] * 0.9 + a[1:2] * 0.1) - a[0]).max() < 1


def test_inner_surfaces_are_not_seen() -> None:
    """Of two nested balls every vertex of the outer one is seen from outside, none within."""
    outer, faces = ball()
    inner, _ = ball(radius=0.6)
    seen = register.seen_outside(
        np.concatenate([outer, inner]), np.concatenate([faces, faces + len(outer)]), 12, 200
    )
    assert seen[: len(outer)].mean() > 0.95
    assert not seen[len(outer) :].any()


def test_iterated_closest_points_draw_one_surface_onto_another() -> None:
    """A dented ball is drawn onto a round one while a landmark stays."""
    wanted, faces = ball(20)
    start = wanted.copy()
    start[:, 2] = np.where(start[:, 2] > 0.6, 0.6 + 0.3 * (start[:, 2] - 0.6), start[:, 2])
    which, share = register.on_surface(wanted, faces, 20_000, np.random.default_rng(0))
    spots = (wanted[faces[which]] * share[..., None]).sum(1)
    held = np.array([int(wanted[:, 2].argmax())])
    out, visible = register.drawn(
        start, faces, held, wanted[held], register.cKDTree(spots), spots, (2, 1, 0.6, 0.6)
    )
    assert visible.mean() > 0.95
    away = np.abs(np.linalg.norm(out, axis=1) - 1)
    assert np.abs(np.linalg.norm(start, axis=1) - 1).max() > 0.2
    assert away.max() < 0.08
    assert np.median(away) < 0.01


def test_pictures_are_baked_where_the_skin_lies() -> None:
    """A texel shows what the other mesh shows at its place, and islands bleed over their edge."""
    grid = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uv = grid[faces][..., :2]
    cells = bake.texels(grid, faces, 0.25 + 0.5 * uv, 64)
    assert cells.used[20, 20]
    assert not cells.used[4, 4]
    assert cells.place[47, 16, :2] == pytest.approx([0, 0], abs=0.05)
    skin = bake.Skin(bake.Card(grid, faces, uv), 20_000)
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[:, 64:] = (200, 100, 50)
    out = bake.baked(picture, skin.map(cells), cells.used)
    assert out[32, 44].tolist() == [200, 100, 50]
    assert out[32, 20].tolist() == [0, 0, 0]
    assert out[32, 50].tolist() == [200, 100, 50], "bled beyond the island"
    assert out[32, 63].tolist() == [0, 0, 0]


def test_lashes_thin_out_from_their_roots() -> None:
    """Each strip of lashes is denser at its root than at its tip."""
    alpha = bake.lashes(512).astype(float)
    rows = alpha[int(512 * (1 - 0.988)) : int(512 * (1 - 0.848))].mean(1)
    assert rows[4:12].mean() > 2 * rows[-12:-4].mean()


def test_shapes_survive_their_quantisation() -> None:
    """Stored integers times their scale give the shapes back within half a step."""
    rng = np.random.default_rng(0)
    shapes = rng.normal(0, 1, (3, 50, 3)) * np.array([1, 0.1, 5])[:, None, None]
    table: build_pack.Table = {}
    build_pack.quantised(table, "x", shapes, 8)
    assert table["x"].dtype == np.int8
    back = table["x"].astype(float) * table["x_s"][:, None, None]
    assert (np.abs(back - shapes).max((1, 2)) <= 0.51 * table["x_s"]).all()


def test_garments_are_cut_below_the_frame() -> None:
    """Triangles that reach too low go, with the vertices only they used."""
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -50, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 3, 1]])
    out = build_pack.cut(bake.Card(points, faces, np.zeros((2, 3, 2), np.float32)), -34.0)
    assert len(out.points) == 3
    assert out.faces.tolist() == [[0, 1, 2]]


def test_stored_pictures_decode(tmp_path: Path) -> None:
    """Pictures keep their channels' order through the pack's encoding."""
    image = np.zeros((8, 8, 4), np.uint8)
    image[..., 0], image[..., 3] = 250, 90
    back = cv2.imdecode(build_pack.encoded(image, ".png"), cv2.IMREAD_UNCHANGED)
    assert back[0, 0].tolist() == [0, 0, 250, 90]
    assert build_pack.skin_file("young_lightskinned_male2") == (
        "young_lightskinned_male_diffuse2.png"
    )
