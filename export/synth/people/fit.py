"""Fitting of teeth, hair, garments and accessories to one head shape (numpy, centimetres)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vivant import latent
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.pack import Array, Pack
from vivant.export.synth.people.sample import Glasses

LOWER_DROP, UPPER_DROP = 0.34, 0.16
"""How far (cm) the rows of teeth are set below the pack's, which shows too much of the lower one.

At rest adults show 1 to 4 mm of the upper incisors and little of the lower (Vig and Brundo 1978).
"""

Mesh = tuple[Array, NDArray[np.int64]]


def unit_rows(v: Array) -> Array:
    """Vectors (..., 3) scaled to length 1."""
    return v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-9)


def face_normals(points: Array, faces: NDArray[np.int64]) -> Array:
    """Normals of triangles (T, 3), as long as twice their area."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


_CRANIUM = np.array([0.0, 6.0, -1.0], np.float32)
"""About the middle of the brain case."""


def ungrown(points: Array, eyes: Array, child: float) -> Array:
    """The head at the age of a child: points (V, 3) cm of an adult, ``child`` 0 adult to 1 small.

    Growth is a cardioidal strain: what lies at the angle a from the crown moves away from the
    cranium's middle by 1 + k (1 - cos a) (Todd, Mark, Shaw and Pittenger 1980); here k < 0, and
    the whole is scaled so that the eyes (their middle, (3,)) stay where they are. The shoulders
    shrink further.
    """

    def strain(at: Array) -> Array:
        offset = at - _CRANIUM
        crown = offset[..., 1] / (np.linalg.norm(offset, axis=-1) + 1e-6)
        return 1 - 0.18 * child * (1 - crown)

    out = _CRANIUM + (points - _CRANIUM) * (strain(points) / strain(eyes))[..., None]
    low = np.clip((-8.5 - out[..., 1]) / 6, 0, 1)
    out[..., 0] *= 1 - 0.33 * child * low * low * (3 - 2 * low)
    return out.astype(np.float32)


def seal_lips(pack: Pack, head: Array) -> Array:
    """Close lips that the identity has parted further than the mean head's."""
    upper, lower = [5533, 5711, 6216], [5517, 5966, 6470]
    gap = (head - pack.mean)[upper, 1].mean() - (head - pack.mean)[lower, 1].mean()
    close = pack.expressions[latent.INDEX["mouthClose"]]
    reach = close[lower, 1].mean() - close[upper, 1].mean()
    return head + np.float32(np.clip((gap + 0.02) / reach, 0, 0.04)) * close


def fit_teeth(pack: Pack, head: Array) -> Array:
    """Shrink gums, teeth and tongue toward the throat until they stay behind the lips."""
    if "teeth" not in pack.cache:
        skin = pack.faces[pack.material == asset.FACE]
        y, z = pack.mean[skin][..., 1], pack.mean[skin][..., 2]
        near = skin[(y.max(1) < 1.5) & (y.min(1) > -7.5) & (z.min(1) > 2)]
        inside = np.arange(asset.TEETH.start, asset.TEETH.stop)
        front = inside[pack.mean[inside, 2] > 3][::5]
        jaw = pack.expressions[latent.INDEX["jawOpen"]][inside, 1]
        drop = np.where(jaw < -0.3, LOWER_DROP, UPPER_DROP).astype(np.float32)
        pack.cache["teeth"] = (near, inside, front, drop)
    near, inside, front, drop = pack.cache["teeth"]
    normal = unit_rows(face_normals(head, near))
    centre = head[near].mean(1)
    tree = cKDTree(centre)
    head = head.copy()
    head[inside, 1] -= drop
    points = head[inside]
    back = np.array([0.0, points[:, 1].mean(), points[:, 2].min()], np.float32)
    probe = head[front]
    for scale in np.arange(1.0, 0.79, -0.02):
        moved = back + (probe - back) * scale
        distance, j = tree.query(moved, distance_upper_bound=1.5)
        j = np.minimum(j, len(near) - 1)
        outside = ((moved - centre[j]) * normal[j]).sum(1)
        if np.sort(np.where(distance < 1.5, outside, -9))[-8:].mean() < -0.16:
            break
    fitted = head.copy()
    fitted[inside] = back + (points - back) * scale
    return fitted


def blink_clearance(pack: Pack, head: Array, closed: Array, centres: Array, radii: Array) -> Array:
    """How far (cm) each eyeball must retract for the closed lids to cover it, (2,)."""
    if "lids" not in pack.cache:
        skin = pack.faces[pack.material == asset.FACE]
        mid = pack.mean[skin].mean(1)
        pack.cache["lids"] = skin[(mid[:, 1] > 1) & (mid[:, 1] < 6.5) & (mid[:, 2] > 6)]
    skin = pack.cache["lids"]
    out = np.zeros(2, np.float32)
    for eye, (globe, centre, radius) in enumerate(zip(asset.GLOBES, centres, radii, strict=True)):
        faces = skin[np.linalg.norm(closed[skin].mean(1) - centre, axis=1) < 1.6 * radius]
        normal = unit_rows(face_normals(closed, faces))
        middle = closed[faces].mean(1)[normal[:, 2] > 0.2]
        points = head[globe]
        front = points[points[:, 2] - centre[2] > 0.75 * radius]
        if len(middle) and len(front):
            distance, j = cKDTree(middle[:, :2]).query(front[:, :2])
            gap = np.where(distance < 0.15, middle[j][:, 2] - front[:, 2], 9.0)
            out[eye] = np.clip(0.05 - gap.min(), 0, 0.45)
    return out


def fit_hair(pack: Pack, style: str, change: Array) -> Array:
    """Vertices of a hair style carried along by the head's shape change (V, 3)."""
    key = f"bind/{style}"
    points = pack.mesh("hair", style)[0]
    if key not in pack.cache:
        distance, j = cKDTree(pack.mean[asset.SKIN]).query(points, k=20)
        weight = np.exp(-((distance / (1.2 * distance[:, :1] + 1.0)) ** 2))
        pack.cache[key] = (j, (weight / weight.sum(1, keepdims=True)).astype(np.float32))
    j, weight = pack.cache[key]
    outward = unit_rows(points - np.array([0, 4.0, 0], np.float32))
    lifted = points + outward * 0.12 * (points[:, 1:2] > 2)  # clear of the scalp
    moved = np.einsum("nk,nkc->nc", weight, change[asset.SKIN][j])
    return (lifted + moved).astype(np.float32)


def subdivided(
    points: Array, faces: NDArray[np.int64], uv: Array, roundness: float = 0.7
) -> tuple[Array, NDArray[np.int64], Array]:
    """One step of Phong tessellation (Boubekeur and Alexa 2008): four triangles for each."""
    normal = face_normals(points, faces)
    smooth = np.zeros_like(points)
    for k in range(3):
        np.add.at(smooth, faces[:, k], normal)
    smooth = unit_rows(smooth)
    pairs = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    edges, index = np.unique(pairs, axis=0, return_inverse=True)
    a, b = points[edges[:, 0]], points[edges[:, 1]]
    na, nb = smooth[edges[:, 0]], smooth[edges[:, 1]]
    middle = (a + b) / 2
    onto_a = middle - ((middle - a) * na).sum(1, keepdims=True) * na
    onto_b = middle - ((middle - b) * nb).sum(1, keepdims=True) * nb
    bent = (onto_a + onto_b) / 2
    alike = np.clip((na * nb).sum(1, keepdims=True), 0, 1)  # folded cards stay as they are
    middle = middle + roundness * alike * (bent - middle)
    m = (len(points) + index.reshape(-1, 3)).astype(np.int64)
    i, j, k = faces.T
    new = np.concatenate(
        [
            np.stack([i, m[:, 0], m[:, 2]], 1),
            np.stack([m[:, 0], j, m[:, 1]], 1),
            np.stack([m[:, 2], m[:, 1], k], 1),
            m,
        ]
    )
    half = (uv + uv[:, [1, 2, 0]]) / 2  # at the middles of edges 01, 12, 20
    new_uv = np.concatenate(
        [
            np.stack([uv[:, 0], half[:, 0], half[:, 2]], 1),
            np.stack([half[:, 0], uv[:, 1], half[:, 1]], 1),
            np.stack([half[:, 2], half[:, 1], uv[:, 2]], 1),
            half,
        ]
    )
    grown = np.concatenate([points, middle]).astype(np.float32)
    return grown, new, new_uv.astype(np.float32)


def flyaway_hairs(
    points: Array,
    faces: NDArray[np.int64],
    uv: Array,
    alpha: Array,
    rng: np.random.Generator,
    number: int,
    segments: int = 6,
) -> tuple[Array, NDArray[np.int64], Array] | None:
    """Thin ribbons that leave the hair along its strands: vertices, triangles, (T, 3, 2) uv."""
    corner = points[faces]
    e1, e2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    normal = np.cross(e1, e2)
    area = np.linalg.norm(normal, axis=1)
    d1, d2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    det = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    det = np.where(np.abs(det) < 1e-9, 1e-9, det)
    strand = unit_rows((d2[:, :1] * e1 - d1[:, :1] * e2) / det[:, None])
    middle, mid_uv = corner.mean(1), uv.mean(1)
    outward = unit_rows(middle - np.array([0, 3.0, 0], np.float32))
    normal = unit_rows(normal)
    normal = normal * np.sign((normal * outward).sum(1, keepdims=True) + 1e-9)
    h, w = alpha.shape
    solid = alpha[
        ((1 - mid_uv[:, 1] % 1) * (h - 1)).astype(int), ((mid_uv[:, 0] % 1) * (w - 1)).astype(int)
    ]
    share = area * (solid > 0.78) * (middle[:, 1] > -12) * ((normal * outward).sum(1) > 0.2)
    if number <= 0 or share.sum() <= 0:
        return None
    chosen = rng.choice(len(faces), number, p=share / share.sum())
    inside = rng.dirichlet([1, 1, 1], number)
    root = (corner[chosen] * inside[..., None]).sum(1)
    along = strand[chosen] + rng.normal(0, 0.25, (number, 3))
    length = rng.uniform(0.8, 3.2, (number, 1, 1))
    lift = rng.gamma(1.2, 0.18, (number, 1, 1)).clip(0, 1.2)
    sag = rng.uniform(0, 0.35, (number, 1, 1))
    s = np.linspace(0, 1, segments)[None, :, None]
    line = root[:, None] + along[:, None] * length * s
    line = line + normal[chosen][:, None] * (lift * np.sin(s * np.pi * 0.75) + 0.02)
    line = line + np.array([0, -1.0, 0]) * sag * s * s * length
    line = line + np.cumsum(rng.normal(0, 0.03, line.shape), 1)
    steep = np.abs(along[:, :1]) > np.abs(along[:, 1:2])
    width = (np.array([0.6, 0, 0]) + np.array([0, 0.8, 0]) * steep)[:, None] * 0.011 * (1 - 0.6 * s)
    return ribbons(line, width, mid_uv[chosen])


def ribbons(line: Array, width: Array, at: Array) -> tuple[Array, NDArray[np.int64], Array]:
    """Thin strips along lines (n, m, 3), half as wide as ``width``: vertices, triangles, uv.

    Each shows one place ``at`` (n, 2) of its texture, whose v grows along the line.
    """
    number, steps = line.shape[:2]
    points = np.stack([line - width, line + width], 2).reshape(-1, 3)
    first = (np.arange(number) * steps * 2)[:, None] + (np.arange(steps - 1) * 2)[None]
    first = first.reshape(-1)
    strips = np.concatenate(
        [
            np.stack([first, first + 1, first + 2], 1),
            np.stack([first + 1, first + 3, first + 2], 1),
        ]
    )
    uv = np.repeat(np.tile(np.repeat(at, steps - 1, 0), (2, 1))[:, None], 3, 1)
    half = len(first)
    tiny = 1e-3 * np.array([[[0, 0], [1, 0], [0, 1]], [[1, 0], [1, 1], [0, 1]]])
    uv[:half] += tiny[0]
    uv[half:] += tiny[1]
    return points.astype(np.float32), strips.astype(np.int64), uv.astype(np.float32)


@dataclass
class _GarmentTable:
    binding: NDArray[np.int64]
    weight: Array
    follow: Array
    face: NDArray[np.int64]
    inside: Array
    normal: Array
    from_edge: Array


def _garment_table(pack: Pack, name: str, samples: int = 14000) -> _GarmentTable:
    """What fitting a garment needs and no person changes, cached."""
    key = f"garment/{name}"
    if key not in pack.cache:
        points, faces, _ = pack.mesh("cloth", name)
        normals = face_normals(points, faces)
        smooth = np.zeros_like(points)
        for k in range(3):
            np.add.at(smooth, faces[:, k], normals)
        smooth = unit_rows(smooth)
        distance, j = cKDTree(pack.mean[asset.SKIN]).query(points, k=24)
        weight = np.exp(-((distance / (1.2 * distance[:, :1] + 1.5)) ** 2))
        rng = np.random.default_rng(0)
        high = faces[points[faces][..., 1].max(1) > -24]
        area = np.linalg.norm(face_normals(points, high), axis=1)
        face = high[rng.choice(len(high), samples, p=area / area.sum())]
        inside = rng.dirichlet([1, 1, 1], samples).astype(np.float32)
        at = (points[face] * inside[..., None]).sum(1)
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
        edges, count = np.unique(edges, axis=0, return_counts=True)
        rim = edges[count == 1]
        rim = rim[points[rim][:, :, 1].min(1) > -30]
        steps = np.array([0, 0.25, 0.5, 0.75], np.float32)[:, None, None]
        border = points[rim[:, 0]] * (1 - steps) + points[rim[:, 1]] * steps
        border = border.reshape(-1, 3) if len(rim) else np.full((1, 3), 99.0)
        pack.cache[key] = _GarmentTable(
            binding=j,
            weight=(weight / weight.sum(1, keepdims=True)).astype(np.float32),
            follow=np.exp(-np.maximum(distance[:, :1] - 2.0, 0) / 6.0).astype(np.float32),
            face=face,
            inside=inside,
            normal=unit_rows((smooth[face] * inside[..., None]).sum(1)).astype(np.float32),
            from_edge=cKDTree(border).query(at)[0].astype(np.float32),
        )
    return pack.cache[key]


def fit_garment(
    pack: Pack, name: str, head: Array, change: Array
) -> tuple[Array, Array, NDArray[np.int64], Array]:
    """Garment vertices on this body, and the head with its bust tucked under the garment.

    Also returns which bust vertices moved and how much of the move each took, 0..1.
    """
    table = _garment_table(pack, name)
    points = pack.mesh("cloth", name)[0]
    moved = np.einsum("nk,nkc->nc", table.weight, change[asset.SKIN][table.binding])
    points = (points + moved * table.follow).astype(np.float32)
    at = (points[table.face] * table.inside[..., None]).sum(1)
    bust = np.where(head[asset.SKIN][:, 1] < -8.5)[0]
    distance, j = cKDTree(at).query(head[bust])
    outside = ((head[bust] - at[j]) * table.normal[j]).sum(1)
    weight = np.clip((3.8 - distance) / 1.5, 0, 1) * np.clip(
        (table.from_edge[j] - 0.25) / 1.2, 0, 1
    )
    under = (weight > 0) & (outside > -0.7)
    tucked = head.copy()
    push = table.normal[j] * (outside + 0.7)[:, None]
    tucked[bust[under]] -= push[under] * weight[under, None]
    return points, tucked, bust[under], weight[under].astype(np.float32)


def tube(path: Array, radius: float, closed: bool, sides: int = 6) -> Mesh:
    """A tube of ``sides`` faces along a path (n, 3): vertices and triangles."""
    n = len(path)
    ahead = np.roll(path, -1, 0) if closed else np.concatenate([path[1:], path[-1:]])
    behind = np.roll(path, 1, 0) if closed else np.concatenate([path[:1], path[:-1]])
    tangent = unit_rows(ahead - behind)
    side = unit_rows(np.cross(tangent, np.array([0.31, 0.77, 0.56])))
    other = np.cross(tangent, side)
    turn = np.arange(sides) * 2 * np.pi / sides
    ring = side[:, None] * np.cos(turn)[:, None] + other[:, None] * np.sin(turn)[:, None]
    points = (path[:, None] + radius * ring).reshape(-1, 3)
    rows = n if closed else n - 1
    i, k = np.meshgrid(np.arange(rows), np.arange(sides), indexing="ij")
    a, b = i * sides + k, i * sides + (k + 1) % sides
    c, d = ((i + 1) % n) * sides + k, ((i + 1) % n) * sides + (k + 1) % sides
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([b, d, c], -1)]).reshape(-1, 3)
    return points.astype(np.float32), faces.astype(np.int64)


def joined(parts: list[Mesh]) -> Mesh:
    """Several meshes as one."""
    points, faces, n = [], [], 0
    for p, f in parts:
        points.append(p)
        faces.append(f + n)
        n += len(p)
    return np.concatenate(points), np.concatenate(faces)


def glasses(traits: Glasses, head: Array, pupils: Array) -> Mesh:
    """A spectacle frame before the eyes: two rims, a bridge and two temples."""
    skin = head[asset.SKIN]
    bridge_z = skin[(np.abs(skin[:, 0]) < 0.4) & (np.abs(skin[:, 1] - pupils[0, 1]) < 0.8)]
    depth = max(float(pupils[:, 2].max()) + 0.95, float(bridge_z[:, 2].max()) - 0.1)
    turn = np.arange(40) * 2 * np.pi / 40
    power = 2.0 / traits.squareness
    cos, sin = np.cos(turn), np.sin(turn)
    parts, inner, outer = [], [], []
    for pupil in pupils:
        sign = np.sign(pupil[0])
        gap = 0.75 + traits.half_width
        x = sign * max(abs(pupil[0]) + 0.1, gap)
        x = x + traits.half_width * np.sign(cos) * np.abs(cos) ** power
        y = pupil[1] - 0.25 + traits.half_height * np.sign(sin) * np.abs(sin) ** power
        z = depth - 0.028 * x**2
        rim = np.stack([x, y, z], 1)
        parts.append(tube(rim, traits.tube, True))
        reach = np.abs(x)
        upper = y > pupil[1] - 0.1
        inner.append(rim[np.where(upper, reach, 99).argmin()])
        outer.append(rim[np.where(upper, reach, -99).argmax()])
    s = np.linspace(0, 1, 7)[:, None]
    span = inner[0] * (1 - s) + inner[1] * s
    span[:, 1] += 0.25 * np.sin(np.pi * s[:, 0])
    parts.append(tube(span, traits.tube * 0.9, False))
    for corner in outer:
        sign = np.sign(corner[0])
        beside = skin[(skin[:, 0] * sign > 0) & (np.abs(skin[:, 1] - corner[1]) < 0.8)]
        temple = beside[(beside[:, 2] > 3.0) & (beside[:, 2] < 6.0)]
        width = sign * (np.abs(temple[:, 0]).max() + 0.12)
        hinge = np.array([width, corner[1], corner[2] - 1.0])
        end = np.array([width + sign * 0.3, corner[1] + 0.3, 0.0])
        parts.append(tube(np.stack([corner, hinge, (hinge + end) / 2, end]), traits.tube, False))
    return joined(parts)
