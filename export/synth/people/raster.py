"""Triangle rasteriser: compiled scan conversion on the CPU, batched tensor code on a GPU.

Pixel centres are at +0.5. Depth is 1/z, so larger is nearer and interpolation in screen space is
linear; barycentrics come back perspective-correct. Both paths follow the same contract and differ
only where two surfaces tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

compiled = numba.njit(cache=True)
"""Compile a function to machine code on first use, kept on disk."""
_inlined = numba.njit(cache=True, inline="always")

_INSIDE = -1e-5  # barycentric tolerance, closes cracks between neighbours
_OPAQUE_ENOUGH = 0.98  # accumulated alpha at which deeper fragments are dropped
_FAINT = 0.02  # fragments below this alpha are dropped


@dataclass
class Surface:
    """Front-most triangle of every pixel."""

    triangle: Tensor  # (H, W) int64, -1 where empty
    barycentric: Tensor  # (H, W, 3) perspective-correct
    inverse_depth: Tensor  # (H, W), 0 where empty


@dataclass
class Fragments:
    """Blended fragments in front of the opaque surface, sorted by pixel, front to back."""

    pixel: Tensor  # (N,) int64 row-major pixel
    triangle: Tensor  # (N,) int64
    barycentric: Tensor  # (N, 3)
    weight: Tensor  # (N,) contribution after the fragments before it


def _candidates(
    xy: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, chunk: int = 4_000_000
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Every (triangle, pixel) hit in chunks: triangle, pixel, barycentrics, 1/z."""
    corner = xy[faces].double()  # (T, 3, 2)
    inverse = depth[faces]  # (T, 3)
    a, b, c = corner.unbind(1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    low, high = corner.amin(1), corner.amax(1)
    x0 = (low[:, 0] - 0.5).ceil().clamp(min=0)
    x1 = (high[:, 0] - 0.5).floor().clamp(max=width - 1)
    y0 = (low[:, 1] - 0.5).ceil().clamp(min=0)
    y1 = (high[:, 1] - 0.5).floor().clamp(max=height - 1)
    w, h = (x1 - x0 + 1).clamp(min=0), (y1 - y0 + 1).clamp(min=0)
    usable = (inverse > 0).all(1) & (area.abs() > 1e-9)
    count = (w * h * usable).long()
    live = count.nonzero().squeeze(1)
    count = count[live]
    total = count.cumsum(0)
    start = 0
    while start < len(live):
        base = int(total[start - 1]) if start else 0
        stop = int(torch.searchsorted(total, torch.tensor(base + chunk, device=xy.device)))
        stop = max(stop, start + 1)
        n = count[start:stop]
        t = torch.repeat_interleave(live[start:stop], n)
        first = torch.repeat_interleave(total[start:stop] - n - base, n)
        k = torch.arange(len(t), device=xy.device) - first
        row = w[t].long()
        px, py = x0[t].long() + k % row, y0[t].long() + torch.div(k, row, rounding_mode="floor")
        fx, fy, q = px + 0.5, py + 0.5, corner[t]
        w0 = (q[:, 1, 0] - fx) * (q[:, 2, 1] - fy) - (q[:, 1, 1] - fy) * (q[:, 2, 0] - fx)
        w1 = (q[:, 2, 0] - fx) * (q[:, 0, 1] - fy) - (q[:, 2, 1] - fy) * (q[:, 0, 0] - fx)
        w0, w1 = w0 / area[t], w1 / area[t]
        share = torch.stack([w0, w1, 1 - w0 - w1], 1)
        hit = (share >= _INSIDE).all(1).nonzero().squeeze(1)
        t, scaled = t[hit], share[hit].float() * inverse[t[hit]]
        z = scaled.sum(1)
        yield t, py[hit] * width + px[hit], scaled / z[:, None], z
        start = stop


def _key(depth: Tensor, index: Tensor) -> Tensor:
    """Order-preserving int64 key: bits of a positive float above an index."""
    return (depth.contiguous().view(torch.int32).long() << 32) | index


def _rasterize_tensor(
    xy: Tensor, depth: Tensor, faces: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    key = torch.zeros(height * width, dtype=torch.int64, device=xy.device)
    kept = []
    for t, pixel, share, z in _candidates(xy, depth, faces, height, width):
        k = _key(z, t)
        key.scatter_reduce_(0, pixel, k, "amax")
        kept.append((pixel, share, k, t, z))
    triangle = torch.full((height * width,), -1, dtype=torch.int64, device=xy.device)
    barycentric = torch.zeros(height * width, 3, device=xy.device)
    inverse = torch.zeros(height * width, device=xy.device)
    for pixel, share, k, t, z in kept:
        won = (key[pixel] == k).nonzero().squeeze(1)
        p = pixel[won]
        triangle[p], barycentric[p], inverse[p] = t[won], share[won], z[won]
    return triangle, barycentric, inverse


@_inlined
def _corners(xy, depth, faces, t, height, width):  # type: ignore[no-untyped-def]
    """A triangle's corners, 1/z of each, 1/area and box of pixels, which is empty if not drawn."""
    i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
    za, zb, zc = depth[i], depth[j], depth[k]
    ax, ay = np.float64(xy[i, 0]), np.float64(xy[i, 1])
    bx, by = np.float64(xy[j, 0]), np.float64(xy[j, 1])
    cx, cy = np.float64(xy[k, 0]), np.float64(xy[k, 1])
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if za <= 0 or zb <= 0 or zc <= 0 or abs(area) <= 1e-9:
        return ax, ay, bx, by, cx, cy, za, zb, zc, 0.0, 0, -1, 0, -1
    x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
    x1 = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
    y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
    y1 = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
    return ax, ay, bx, by, cx, cy, za, zb, zc, 1.0 / area, x0, x1, y0, y1


@_inlined
def _weights(ax, ay, bx, by, cx, cy, inv, x, y):  # type: ignore[no-untyped-def]
    """Barycentric coordinates of a pixel's centre on the screen; covered from _INSIDE on."""
    fx, fy = x + 0.5, y + 0.5
    w0 = ((bx - fx) * (cy - fy) - (by - fy) * (cx - fx)) * inv
    w1 = ((cx - fx) * (ay - fy) - (cy - fy) * (ax - fx)) * inv
    return w0, w1, 1.0 - w0 - w1


@compiled
def _scan(xy, depth, faces, height, width, triangle, barycentric, inverse):  # type: ignore[no-untyped-def]
    for t in range(faces.shape[0]):
        ax, ay, bx, by, cx, cy, za, zb, zc, inv, x0, x1, y0, y1 = _corners(
            xy, depth, faces, t, height, width
        )
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                w0, w1, w2 = _weights(ax, ay, bx, by, cx, cy, inv, x, y)
                if w0 < _INSIDE or w1 < _INSIDE or w2 < _INSIDE:
                    continue
                z = w0 * za + w1 * zb + w2 * zc
                p = y * width + x
                if z > inverse[p]:
                    inverse[p] = z
                    triangle[p] = t
                    barycentric[p, 0] = w0 * za / z
                    barycentric[p, 1] = w1 * zb / z
                    barycentric[p, 2] = w2 * zc / z


@compiled
def _scan_depth(xy, depth, faces, size, nearest, farthest):  # type: ignore[no-untyped-def]
    """Largest and least depth per pixel."""
    for t in range(faces.shape[0]):
        ax, ay, bx, by, cx, cy, za, zb, zc, inv, x0, x1, y0, y1 = _corners(
            xy, depth, faces, t, size, size
        )
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                w0, w1, w2 = _weights(ax, ay, bx, by, cx, cy, inv, x, y)
                if w0 < _INSIDE or w1 < _INSIDE or w2 < _INSIDE:
                    continue
                z = w0 * za + w1 * zb + w2 * zc
                p = y * size + x
                if z > nearest[p]:
                    nearest[p] = z
                if z < farthest[p]:
                    farthest[p] = z


def rasterize(xy: Tensor, inverse_depth: Tensor, faces: Tensor, height: int, width: int) -> Surface:
    """Nearest surface: xy (V, 2) pixels, 1/z (V,) (0 = behind the camera), faces (T, 3)."""
    if xy.is_cuda:
        found = _rasterize_tensor(xy, inverse_depth, faces, height, width)
    else:
        triangle = np.full(height * width, -1, np.int64)
        barycentric = np.zeros((height * width, 3), np.float32)
        inverse = np.zeros(height * width, np.float32)
        _scan(
            xy.numpy(),
            inverse_depth.numpy(),
            faces.numpy(),
            height,
            width,
            triangle,
            barycentric,
            inverse,
        )
        found = tuple(torch.from_numpy(a) for a in (triangle, barycentric, inverse))  # type: ignore[assignment]
    triangle_, barycentric_, inverse_ = found
    return Surface(
        triangle_.reshape(height, width),
        barycentric_.reshape(height, width, 3),
        inverse_.reshape(height, width),
    )


def depth_map(xy: Tensor, nearness: Tensor, faces: Tensor, size: int) -> Tensor:
    """Largest ``nearness`` (positive, linear on screen) per pixel, (size, size); 0 = empty."""
    return depth_range(xy, nearness, faces, size)[0].reshape(size, size)


def depth_range(xy: Tensor, nearness: Tensor, faces: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Largest and least ``nearness`` per pixel, (size * size,) each; 0 and infinity = empty."""
    if xy.is_cuda:
        nearest = torch.zeros(size * size, device=xy.device)
        farthest = torch.full((size * size,), torch.inf, device=xy.device)
        for _, pixel, _, z in _candidates(xy, nearness, faces, size, size):
            nearest.scatter_reduce_(0, pixel, z, "amax")
            farthest.scatter_reduce_(0, pixel, z, "amin")
        return nearest, farthest
    near = np.zeros(size * size, np.float32)
    far = np.full(size * size, np.inf, np.float32)
    _scan_depth(xy.numpy(), nearness.numpy(), faces.numpy(), size, near, far)
    return torch.from_numpy(near), torch.from_numpy(far)


@compiled
def _collect(xy, depth, faces, uv, style, first, second, fixed, behind, height, width, capacity):  # type: ignore[no-untyped-def]
    """Fragments with visible alpha in front of ``behind``: unsorted arrays and their number."""
    pixel = np.empty(capacity, np.int32)
    tri = np.empty(capacity, np.int32)
    share = np.empty((capacity, 3), np.float32)
    near = np.empty(capacity, np.float32)
    alpha = np.empty(capacity, np.float32)
    n = 0
    for t in range(faces.shape[0]):
        ax, ay, bx, by, cx, cy, za, zb, zc, inv, x0, x1, y0, y1 = _corners(
            xy, depth, faces, t, height, width
        )
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                w0, w1, w2 = _weights(ax, ay, bx, by, cx, cy, inv, x, y)
                if w0 < _INSIDE or w1 < _INSIDE or w2 < _INSIDE:
                    continue
                z = w0 * za + w1 * zb + w2 * zc
                p = y * width + x
                if z <= behind[p]:
                    continue
                b0, b1, b2 = w0 * za / z, w1 * zb / z, w2 * zc / z
                if style[t] == 2:
                    value = fixed
                else:
                    texture = first if style[t] == 0 else second
                    th, tw = texture.shape
                    u = b0 * uv[t, 0, 0] + b1 * uv[t, 1, 0] + b2 * uv[t, 2, 0]
                    v = b0 * uv[t, 0, 1] + b1 * uv[t, 1, 1] + b2 * uv[t, 2, 1]
                    u -= np.floor(u)
                    v -= np.floor(v)
                    sx, sy = u * tw - 0.5, (1 - v) * th - 0.5
                    ix, iy = int(np.floor(sx)), int(np.floor(sy))
                    gx, gy = sx - ix, sy - iy
                    xa, xb = min(max(ix, 0), tw - 1), min(max(ix + 1, 0), tw - 1)
                    ya, yb = min(max(iy, 0), th - 1), min(max(iy + 1, 0), th - 1)
                    value = (texture[ya, xa] * (1 - gx) + texture[ya, xb] * gx) * (1 - gy) + (
                        texture[yb, xa] * (1 - gx) + texture[yb, xb] * gx
                    ) * gy
                if value < 0.02 or n >= capacity:
                    continue
                pixel[n], tri[n], near[n], alpha[n] = p, t, z, min(value, 0.995)
                share[n, 0], share[n, 1], share[n, 2] = b0, b1, b2
                n += 1
    return pixel[:n], tri[:n], share[:n], near[:n], alpha[:n]


@compiled
def _blend(pixel, near, alpha, size):  # type: ignore[no-untyped-def]
    """Front-to-back weights: order of the kept fragments, their weights."""
    start = np.zeros(size + 1, np.int64)
    for p in pixel:
        start[p + 1] += 1
    for p in range(size):
        start[p + 1] += start[p]
    slot = start[:-1].copy()
    order = np.empty(len(pixel), np.int64)
    for n in range(len(pixel)):
        order[slot[pixel[n]]] = n
        slot[pixel[n]] += 1
    kept = np.empty(len(pixel), np.int64)
    weight = np.empty(len(pixel), np.float32)
    m = 0
    for p in range(size):
        a, b = start[p], start[p + 1]
        for i in range(a + 1, b):
            item = order[i]
            j = i
            while j > a and near[order[j - 1]] < near[item]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = item
        through = 1.0
        for i in range(a, b):
            kept[m] = order[i]
            weight[m] = through * alpha[order[i]]
            through *= 1.0 - alpha[order[i]]
            m += 1
            if through < 0.02:
                break
    return kept[:m], weight[:m]


def _sample_tensor(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear lookup, texture (h, w, c), uv (n, 2) with v up, wrapping at the tile's border."""
    h, w = texture.shape[:2]
    x, y = (uv[:, 0] % 1.0) * w - 0.5, (1 - uv[:, 1] % 1.0) * h - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    xa, ya = x0.long().clamp(0, w - 1), y0.long().clamp(0, h - 1)
    xb, yb = (x0.long() + 1).clamp(0, w - 1), (y0.long() + 1).clamp(0, h - 1)
    top = texture[ya, xa] * (1 - fx) + texture[ya, xb] * fx
    return top * (1 - fy) + (texture[yb, xa] * (1 - fx) + texture[yb, xb] * fx) * fy


@compiled
def _sample_compiled(texture, uv, out):  # type: ignore[no-untyped-def]
    h, w, c = texture.shape
    for n in range(uv.shape[0]):
        u, v = uv[n, 0] - np.floor(uv[n, 0]), uv[n, 1] - np.floor(uv[n, 1])
        x, y = u * w - np.float32(0.5), (np.float32(1) - v) * h - np.float32(0.5)
        ix, iy = int(np.floor(x)), int(np.floor(y))
        fx, fy = np.float32(x - ix), np.float32(y - iy)
        xa, xb = min(max(ix, 0), w - 1), min(max(ix + 1, 0), w - 1)
        ya, yb = min(max(iy, 0), h - 1), min(max(iy + 1, 0), h - 1)
        for k in range(c):
            top = texture[ya, xa, k] * (1 - fx) + texture[ya, xb, k] * fx
            low = texture[yb, xa, k] * (1 - fx) + texture[yb, xb, k] * fx
            out[n, k] = top * (1 - fy) + low * fy


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear texture lookup: texture (h, w, c), uv (n, 2) with v up, repeating -> (n, c)."""
    if texture.is_cuda:
        return _sample_tensor(texture, uv)
    out = torch.empty(len(uv), texture.shape[2])
    _sample_compiled(texture.numpy(), uv.contiguous().numpy(), out.numpy())
    return out


@compiled
def _interpolate_compiled(values, faces, share, out):  # type: ignore[no-untyped-def]
    for n in range(faces.shape[0]):
        i, j, k = faces[n, 0], faces[n, 1], faces[n, 2]
        a, b, c = share[n, 0], share[n, 1], share[n, 2]
        for d in range(values.shape[1]):
            out[n, d] = values[i, d] * a + values[j, d] * b + values[k, d] * c


def interpolate(values: Tensor, faces: Tensor, barycentric: Tensor) -> Tensor:
    """Vertex values (V, c) at barycentrics (n, 3) of triangles (n, 3) -> (n, c)."""
    if values.is_cuda:
        return (values[faces] * barycentric[..., None]).sum(1)
    out = torch.empty(len(faces), values.shape[1])
    _interpolate_compiled(
        values.contiguous().numpy(), faces.numpy(), barycentric.contiguous().numpy(), out.numpy()
    )
    return out


def fragments(
    xy: Tensor,
    inverse_depth: Tensor,
    faces: Tensor,
    uv: Tensor,
    style: Tensor,
    alphas: tuple[Tensor, Tensor],
    fixed: float,
    surface: Surface,
) -> Fragments:
    """Blended fragments of ``faces`` in front of an opaque surface.

    uv (T, 3, 2); style (T,) picks the alpha: texture 0, texture 1 (each (h, w), 0..1), or 2 for
    the constant ``fixed``.
    """
    height, width = surface.inverse_depth.shape
    if xy.is_cuda:
        return _fragments_tensor(
            xy, inverse_depth, faces, uv, style, alphas, fixed, surface.inverse_depth
        )
    arrays = (xy, inverse_depth, faces, uv, style, *alphas)
    capacity = 12 * height * width
    while True:
        pixel, tri, share, near, alpha = _collect(
            *(a.numpy() for a in arrays),
            fixed,
            surface.inverse_depth.reshape(-1).numpy(),
            height,
            width,
            capacity,
        )  # type: ignore[call-arg]
        if len(pixel) < capacity:
            break
        capacity *= 4
    kept, weight = _blend(pixel, near, alpha, height * width)
    return Fragments(
        torch.from_numpy(pixel[kept].astype(np.int64)),
        torch.from_numpy(tri[kept].astype(np.int64)),
        torch.from_numpy(share[kept]),
        torch.from_numpy(weight),
    )


def _fragments_tensor(
    xy: Tensor,
    depth: Tensor,
    faces: Tensor,
    uv: Tensor,
    style: Tensor,
    alphas: tuple[Tensor, Tensor],
    fixed: float,
    behind: Tensor,
) -> Fragments:
    height, width = behind.shape
    empty = torch.zeros(0, dtype=torch.int64, device=xy.device)
    none = torch.zeros(0, device=xy.device)
    parts = [(empty, empty, none.reshape(0, 3), none, none)]
    for t, pixel, share, z in _candidates(xy, depth, faces, height, width):
        at = interpolate_corners(uv, t, share)
        alpha = torch.full_like(z, fixed)
        for k, texture in enumerate(alphas):
            chosen = (style[t] == k).nonzero().squeeze(1)
            alpha[chosen] = _sample_tensor(texture[..., None], at[chosen])[:, 0]
        keep = ((z > behind.reshape(-1)[pixel]) & (alpha >= _FAINT)).nonzero().squeeze(1)
        parts.append((t[keep], pixel[keep], share[keep], z[keep], alpha[keep].clamp(max=0.995)))
    t, pixel, share, z, alpha = (torch.cat(x) for x in zip(*parts, strict=True))
    order = torch.argsort((pixel << 32) | (0xFFFFFFFF - _key(z, torch.zeros_like(t)) // 2**32))
    t, pixel, share, alpha = t[order], pixel[order], share[order], alpha[order]
    if len(pixel) == 0:
        return Fragments(pixel, t, share, alpha)
    through = torch.log1p(-alpha.double()).cumsum(0)
    before = through - torch.log1p(-alpha.double())
    first = torch.ones_like(pixel, dtype=torch.bool)
    first[1:] = pixel[1:] != pixel[:-1]
    number = torch.arange(len(pixel), device=xy.device)
    head = torch.cummax(torch.where(first, number, torch.zeros_like(number)), 0).values
    light = torch.exp(before - before[head]).float()
    keep = (light >= 1 - _OPAQUE_ENOUGH).nonzero().squeeze(1)
    return Fragments(pixel[keep], t[keep], share[keep], (light * alpha)[keep])


def interpolate_corners(values: Tensor, triangle: Tensor, barycentric: Tensor) -> Tensor:
    """Per-corner values (T, 3, c) at barycentrics (n, 3) of triangles (n,) -> (n, c)."""
    if values.is_cuda:
        return (values[triangle] * barycentric[..., None]).sum(1)
    out = torch.empty(len(triangle), values.shape[2])
    _corners_compiled(
        values.numpy(), triangle.numpy(), barycentric.contiguous().numpy(), out.numpy()
    )
    return out


@compiled
def _corners_compiled(values, triangle, share, out):  # type: ignore[no-untyped-def]
    for n in range(triangle.shape[0]):
        t = triangle[n]
        for d in range(values.shape[2]):
            out[n, d] = (
                values[t, 0, d] * share[n, 0]
                + values[t, 1, d] * share[n, 1]
                + values[t, 2, d] * share[n, 2]
            )


@compiled
def _normals_compiled(points, faces, out):  # type: ignore[no-untyped-def]
    for t in range(faces.shape[0]):
        i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
        ux, uy, uz = (
            points[j, 0] - points[i, 0],
            points[j, 1] - points[i, 1],
            points[j, 2] - points[i, 2],
        )
        vx, vy, vz = (
            points[k, 0] - points[i, 0],
            points[k, 1] - points[i, 1],
            points[k, 2] - points[i, 2],
        )
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for v in (i, j, k):
            out[v, 0] += nx
            out[v, 1] += ny
            out[v, 2] += nz


def vertex_normals(points: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals of (V, 3) points of a mesh (T, 3)."""
    total = torch.zeros_like(points)
    if points.is_cuda:
        a, b, c = (points[faces[:, k]] for k in range(3))
        normal = torch.linalg.cross(b - a, c - a)
        for k in range(3):
            total.index_add_(0, faces[:, k], normal)
    else:
        _normals_compiled(points.contiguous().numpy(), faces.numpy(), total.numpy())
    return torch.nn.functional.normalize(total, dim=1)
