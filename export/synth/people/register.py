"""Non-rigid registration of the MakeHuman base mesh to the ICT head.

A similarity and a thin-plate spline from paired landmarks come first, then iterated closest
points with a smooth displacement (after Amberg et al. 2007): every vertex that is seen from
outside moves toward the nearest surface that faces its way, its neighbours follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from vivant.export.synth.people import pack as asset
from vivant.export.synth.people import raster
from vivant.export.synth.people.fit import face_normals, unit_rows
from vivant.export.synth.people.light import sphere_directions
from vivant.export.synth.people.pack import Array

Index = NDArray[np.int64]

_MIDDLE = ((343, 1147), (466, 0), (474, 5533), (493, 5517), (492, 5518))
"""Vertices on the middle line, MakeHuman and ICT: nose base and lips, outside and inside."""
_SIDED = (
    (6853, 3742),
    (6803, 3721),
    (11483, 3751),
    (11467, 3756),
    (11477, 3725),
    (11480, 3732),
    (7185, 6213),
    (7219, 4275),
    (7207, 6200),
    (7166, 6346),
    (12012, 6844),
    (12018, 7239),
    (12164, 6834),
    (12027, 7125),
)
"""Pairs on the subject's left: lids, lips, inside of the mouth; mirrored for the right."""
NOSE_TIP, BRIDGE = 4857, 978
STIFFNESS = (*(40, 40, 20, 20, 10, 10, 6, 6, 4, 4, 3, 3, 2, 2), 1.5, 1.5, 1, 1, 0.8, 0.8, 0.6, 0.6)
"""Weight of smoothness in each iteration."""


@dataclass
class Registered:
    """MakeHuman's base mesh in the ICT head's space, cm."""

    points: Array  # (V, 3)
    head: Index  # its head's vertices
    visible: NDArray[np.bool_]  # (len(head),) seen from outside
    scale: float
    rotation: Array  # (3, 3)


def similarity(a: Array, b: Array) -> tuple[float, Array, Array]:
    """Scale, rotation, translation that carry points a to b best (Umeyama 1991)."""
    ma, mb = a.mean(0), b.mean(0)
    u, s, vt = np.linalg.svd((b - mb).T @ (a - ma) / len(a))
    d = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(d) @ vt
    scale = float((s * d).sum() / ((a - ma) ** 2).sum() * len(a))
    return scale, rotation, mb - scale * rotation @ ma


class Spline:
    """Thin-plate spline in space (kernel r), lightly smoothed: moves ``a`` to nearly ``b``."""

    def __init__(self, a: Array, b: Array, smooth: float = 0.3) -> None:
        n = len(a)
        system = np.zeros((n + 4, n + 4))
        system[:n, :n] = np.linalg.norm(a[:, None] - a[None], axis=2) - smooth * np.eye(n)
        system[:n, n], system[n, :n] = 1, 1
        system[:n, n + 1 :], system[n + 1 :, :n] = a, a.T
        self.centres = a
        self.weights = np.linalg.solve(system, np.concatenate([b - a, np.zeros((4, 3))]))

    def __call__(self, points: Array) -> Array:
        n = len(self.centres)
        reach = np.linalg.norm(points[:, None] - self.centres[None], axis=2)
        out: Array = points + reach @ self.weights[:n] + self.weights[n]
        return out + points @ self.weights[n + 1 :]


def seen_outside(
    points: Array, faces: Index, views: int = 40, size: int = 500
) -> NDArray[np.bool_]:
    """Which vertices belong to a triangle that some direction sees first, (V,)."""
    seen = np.zeros(len(points), bool)
    at = torch.tensor(points - points.mean(0), dtype=torch.float32)
    triangles = torch.tensor(faces)
    for direction in sphere_directions(views, torch.device("cpu")):
        across = torch.linalg.cross(direction, torch.tensor([0.0, 1.0, 0.01]))
        across = across / across.norm()
        local = at @ torch.stack([across, torch.linalg.cross(direction, across), direction], 1)
        reach = local[:, :2].abs().max()
        xy = local[:, :2] / reach * size * 0.49 + size / 2
        found = raster.rasterize(xy, 1 / (100 - local[:, 2]), triangles, size, size).triangle
        seen[faces[np.unique(found[found >= 0].numpy())]] = True
    return seen


def vertex_normals(points: Array, faces: Index) -> Array:
    """Unit normals, (V, 3)."""
    total = np.zeros_like(points)
    normal = face_normals(points, faces)
    for k in range(3):
        np.add.at(total, faces[:, k], normal)
    return unit_rows(total)


def on_surface(
    points: Array, faces: Index, count: int, rng: np.random.Generator
) -> tuple[Index, Array]:
    """Random triangles (n,) in proportion to their area, and barycentrics (n, 3)."""
    area = np.linalg.norm(face_normals(points, faces), axis=1)
    return rng.choice(len(faces), count, p=area / area.sum()), rng.dirichlet([1, 1, 1], count)


def _nearest(points: Array, among: Index, place: Array) -> int:
    return int(among[((points[among] - place) ** 2).sum(1).argmin()])


def _landmarks(body: Array, used: Index, head: Array) -> tuple[Index, Index]:
    """Pairs (L, 2) of corresponding vertices, and those at crown and back of the head (2, 2)."""
    middle = used[np.abs(body[used, 0]) < 1e-4]
    _, y, z = body[middle].T
    nose = middle[np.where((y > 6.8) & (y < 7.3), z, -9).argmax()]
    chin = middle[np.where((y > 6) & (y < 6.6) & (z > 1), z - y, -9).argmax()]
    skin = np.arange(asset.SKIN.stop)
    line = skin[np.abs(head[skin, 0]) < 1e-3]
    _, y, z = head[line].T
    chin_to = line[np.where((y < -5) & (z > 8), z - y, -99).argmax()]
    bridge = _nearest(body, middle, np.array([0, 7.372, 1.5]))
    pairs = [(nose, NOSE_TIP), (chin, chin_to), (bridge, BRIDGE), *_MIDDLE]
    flip = np.array([-1, 1, 1])
    for a, b in _SIDED:
        pairs += [
            (a, b),
            (_nearest(body, used, body[a] * flip), _nearest(head, skin, head[b] * flip)),
        ]
    skull, upper = used[body[used, 1] > 7.0], skin[head[skin, 1] > 0]
    far = [
        (used[body[used, 1].argmax()], skin[head[skin, 1].argmax()]),
        (skull[body[skull, 2].argmin()], upper[head[upper, 2].argmin()]),
    ]
    return np.array(pairs, np.int64), np.array(far, np.int64)


def _smoothness(points: Array, faces: Index) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Normalised Laplacian and edge differences over all coordinates."""
    count = len(points)
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    a, b = np.unique(np.sort(sides, 1), axis=0).T
    weight = 1 / np.maximum(np.linalg.norm(points[a] - points[b], axis=1), 0.05)
    data = np.concatenate([weight, weight, -weight, -weight])
    places = (np.concatenate([a, b, a, b]), np.concatenate([a, b, b, a]))
    laplacian = sparse.coo_matrix((data, places), shape=(count, count)).tocsr()
    laplacian = sparse.diags(1 / np.maximum(laplacian.diagonal(), 1e-9)) @ laplacian
    ones, row = np.ones(len(a)), np.arange(len(a))
    edges = sparse.coo_matrix(
        (np.concatenate([ones, -ones]), (np.tile(row, 2), np.concatenate([a, b]))),
        shape=(len(a), count),
    )
    return sparse.kron(laplacian, sparse.eye(3)).tocsr(), sparse.kron(edges, sparse.eye(3)).tocsr()


def drawn(
    start: Array,
    faces: Index,
    at: Index,
    wanted: Array,
    tree: cKDTree,
    normal: Array,
    stiffness: tuple[float, ...] = STIFFNESS,
) -> tuple[Array, NDArray[np.bool_]]:
    """Draw a surface (V, 3) onto the points of ``tree`` with their normals.

    Vertices ``at`` are held at ``wanted``. Returns the vertices and which were seen outside.
    """
    points, count = start.copy(), len(start)
    visible = seen_outside(points, faces)
    laplacian, edges = _smoothness(points, faces)
    moved = np.zeros_like(points)
    target = tree.data
    every = np.arange(count)
    for step, stiff in enumerate(stiffness):
        own = vertex_normals(points, faces)
        away, found = tree.query(points, k=12)
        facing = (normal[found] * own[:, None]).sum(-1)
        best = (away + 9 * (facing < 0.3)).argmin(1)
        near = found[every, best]
        limit = 2.5 if step < 8 else 1.2
        ok = visible & (facing[every, best] > 0.4) & (away[every, best] < limit)
        trust = ok.astype(float)
        gap = target[near] - points
        toward = normal[near]
        plane = sparse.coo_matrix(
            ((toward * trust[:, None]).reshape(-1), (np.repeat(every, 3), np.arange(3 * count))),
            shape=(count, 3 * count),
        )
        hold = 3.0 if step < 16 else 1.5
        rows = np.arange(3 * len(at))
        held = sparse.coo_matrix(
            (np.full(len(rows), hold), (rows, (at[:, None] * 3 + np.arange(3)).reshape(-1))),
            shape=(len(rows), 3 * count),
        )
        system = sparse.vstack(
            [
                plane,
                sparse.diags(np.repeat(trust * 0.25, 3)),
                held,
                stiff * laplacian,
                0.02 * stiff * edges,
            ]
        ).tocsr()
        right = np.concatenate(
            [
                trust * (gap * toward).sum(1),
                (0.25 * trust[:, None] * gap).reshape(-1),
                hold * (wanted - points[at]).reshape(-1),
                -stiff * (laplacian @ moved.reshape(-1)),
                -0.02 * stiff * (edges @ moved.reshape(-1)),
            ]
        )
        square = (system.T @ system + 1e-6 * sparse.eye(3 * count)).tocsc()
        change = spsolve(square, system.T @ right, "MMD_AT_PLUS_A").reshape(-1, 3)
        points, moved = points + change, moved + change
    return points, visible


def register(body: Array, faces: Index, head: Array, head_faces: Index) -> Registered:
    """Carry ``body`` (V, 3), decimetres, with its skin's triangles onto ``head`` (W, 3), cm."""
    body, head = body.astype(np.float64), head.astype(np.float64)
    used = np.unique(faces)
    pairs, far = _landmarks(body, used, head)
    scale, rotation, shift = similarity(body[pairs[:, 0]], head[pairs[:, 1]])
    rough = scale * body @ rotation.T + shift
    a, b = np.concatenate([pairs, far]).T
    spline = Spline(rough[a], head[b])
    kept = used[(body[used, 1] > 5.35) & (np.abs(body[used, 0]) < 1.6)]
    local = np.full(len(body), -1, np.int64)
    local[kept] = np.arange(len(kept))
    triangles = local[faces]
    triangles = triangles[(triangles >= 0).all(1)]

    outer = head_faces[(head_faces < asset.SKIN.stop).all(1)]
    seen = seen_outside(head, outer)
    surface = outer[seen[outer].all(1)]
    normals = vertex_normals(head, outer)
    which, share = on_surface(head, surface, 250_000, np.random.default_rng(0))
    spots = (head[surface[which]] * share[..., None]).sum(1)
    facing = (normals[surface[which]] * share[..., None]).sum(1)
    fitted, visible = drawn(
        spline(rough[kept]),
        triangles,
        local[pairs[:, 0]],
        head[pairs[:, 1]],
        cKDTree(spots),
        facing,
    )
    out = rough.copy()
    out[kept] = fitted
    rest = np.setdiff1d(np.arange(len(body)), kept)
    away, near = cKDTree(rough[kept]).query(rough[rest], k=12)
    weight = 1 / (away**2 + 0.05)
    weight /= weight.sum(1, keepdims=True)
    fade = np.exp(-((np.maximum(away[:, 0] - 0.5, 0) / 12.0) ** 2))
    residual = fitted - rough[kept]
    out[rest] += (residual[near] * weight[..., None]).sum(1) * fade[:, None]
    return Registered(out.astype(np.float32), kept, visible, scale, rotation)
