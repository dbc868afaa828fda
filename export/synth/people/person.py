"""One synthetic person: geometry, textures, and posing by the motion latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivant import latent
from vivant.export.synth.people import fit, headwear, keypoints, textures
from vivant.export.synth.people import held as covers
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people import worn as things
from vivant.export.synth.people.pack import Array, Pack
from vivant.export.synth.people.sample import Traits

_INDEX = latent.INDEX


@dataclass
class Posed:
    """A person in one motion: world coordinates, cm."""

    vertices: Tensor  # (V, 3)
    eye_centre: Tensor  # (2, 3), left then right
    eye_axis: Tensor  # (2, 3)
    rotation: Tensor  # (3, 3) of the head
    pupils: Tensor  # (2, 3), left then right
    blink: tuple[float, float]
    jaw: float


@dataclass
class Person:
    """A person ready to be posed and rendered; tensors live on one device."""

    traits: Traits
    neutral: Tensor  # (V, 3)
    faces: Tensor  # (T, 3) opaque
    material: Tensor  # (T,)
    uv: Tensor  # (T, 3, 2)
    blended_faces: Tensor  # (A, 3) lashes and hair
    blended_material: Tensor  # (A,)
    blended_uv: Tensor  # (A, 3, 2)
    face_texture: Tensor  # (S, S, 7)
    scalp_texture: Tensor  # (S/2, S/2, 3)
    labels: tuple[Tensor, Tensor]
    lash_alpha: Tensor  # (h, w)
    hair_light: Tensor  # (h, w, 1)
    hair_alpha: Tensor  # (h, w)
    hair_tangent: Tensor  # (V, 3) strand direction at rest
    garment_texture: Tensor  # (h, w, 3)
    cap_texture: Tensor  # (h, w, 3)
    held_texture: Tensor  # (h, w, 3)
    expressions: Tensor  # (55, V0 * 3)
    rigid: Tensor  # (V,) share of the head's rotation
    carried: Tensor  # (V,) share of the head's translation
    strands: Tensor  # (V,) bool, hair
    mouth_light: Tensor  # (V,) light that reaches the mouth's inside through open lips
    lid_share: Tensor  # (2, V) how much a vertex belongs to the left, right upper lid
    jaw_share: Tensor  # (V,) how much the opening jaw changes what a vertex sees
    eye_centre: Tensor  # (2, 3)
    eye_radius: Tensor  # (2,)
    eye_axis: Tensor  # (2, 3)
    retract: tuple[float, float]
    ipd: float
    eyes_middle: Array  # (3,)
    keypoint_vertex: Tensor  # (K,)

    all_faces: Tensor  # (T + A, 3) opaque, then blended
    faces_cast: Tensor  # (C, 3) those that cast shadows

    def pose(self, motion: Array) -> Posed:
        """Pose by one motion latent (63,)."""
        device = self.neutral.device
        weights = np.asarray(motion[:55], np.float32).copy()
        blink = (float(weights[_INDEX["eyeBlinkLeft"]]), float(weights[_INDEX["eyeBlinkRight"]]))
        for side, closed in zip(("Left", "Right"), blink, strict=True):
            # A closing lid stops at the lower lid, whatever else pulls it down or apart.
            weights[_INDEX[f"eyeLookDown{side}"]] *= 1 - 0.9 * closed
            weights[_INDEX[f"eyeWide{side}"]] *= 1 - closed
            weights[_INDEX[f"eyeLookUp{side}"]] *= 1 - closed
            weights[_INDEX[f"eyeSquint{side}"]] *= 1 - 0.5 * closed
        points = self.neutral.clone()
        head = self.expressions.shape[1] // 3
        points[:head] += (torch.tensor(weights, device=device) @ self.expressions).reshape(-1, 3)
        yaw, pitch = float(motion[55]), float(motion[56])
        turn = torch.tensor(keypoints.rotations(*_floats(yaw, pitch, 0.0)), device=device)
        axis = self.eye_axis @ turn.T
        centre = self.eye_centre.clone()
        for k, ball in enumerate((asset.EYE_LEFT, asset.EYE_RIGHT)):
            c = self.eye_centre[k]
            points[ball] = (points[ball] - c) @ turn.T + c
            back = self.retract[k] * min(1.0, blink[k]) ** 1.5
            points[ball, 2] -= back
            centre[k, 2] -= back
        pupils = centre + keypoints.PUPIL_DEPTH * self.eye_radius[:, None] * axis
        pivot = torch.tensor(keypoints.PIVOT, device=device)
        angles = torch.tensor(np.asarray(motion[57:60], np.float32), device=device)
        shift = torch.tensor(np.asarray(motion[60:63], np.float32) * self.ipd, device=device)
        turned = _turned(points - pivot, self.rigid[:, None] * angles) + pivot
        rotation = torch.tensor(keypoints.rotations(*_floats(*motion[57:60])), device=device)
        return Posed(
            vertices=turned + self.carried[:, None] * shift,
            eye_centre=(centre - pivot) @ rotation.T + pivot + shift,
            eye_axis=axis @ rotation.T,
            rotation=rotation,
            pupils=(pupils - pivot) @ rotation.T + pivot + shift,
            blink=blink,
            jaw=float(weights[_INDEX["jawOpen"]] - 0.8 * weights[_INDEX["mouthClose"]]),
        )

    def keypoints(self, posed: Posed) -> Tensor:
        """World positions of the named keypoints, (K, 3) cm."""
        points = posed.vertices[self.keypoint_vertex.clamp(min=0)]
        points[keypoints.INDEX["pupilLeft"]] = posed.pupils[0]
        points[keypoints.INDEX["pupilRight"]] = posed.pupils[1]
        return points


def _floats(*values: float) -> tuple[Array, ...]:
    return tuple(np.asarray(v, np.float32) for v in values)


def _turned(points: Tensor, angles: Tensor) -> Tensor:
    """Rotate points (V, 3) by Ry(yaw) Rx(-pitch) Rz(-roll), angles (V, 3) in degrees."""
    y, p, r = torch.deg2rad(angles * torch.tensor([1.0, -1.0, -1.0], device=points.device)).T
    x0, y0, z0 = points.T
    x1, y1 = r.cos() * x0 - r.sin() * y0, r.sin() * x0 + r.cos() * y0
    y2, z2 = p.cos() * y1 - p.sin() * z0, p.sin() * y1 + p.cos() * z0
    return torch.stack([y.cos() * x1 + y.sin() * z2, y2, y.cos() * z2 - y.sin() * x1], 1)


class _Mesh:
    """Parts of one mesh as they are put together."""

    def __init__(self) -> None:
        self.points: list[Array] = []
        self.faces: list[NDArray[np.int64]] = []
        self.material: list[NDArray[np.int64]] = []
        self.uv: list[Array] = []
        self.blended: list[bool] = []
        self.count = 0

    def vertices(self, points: Array) -> slice:
        self.points.append(points)
        self.count += len(points)
        return slice(self.count - len(points), self.count)

    def triangles(
        self, faces: NDArray[np.int64], material: NDArray[np.int64], uv: Array, blended: bool
    ) -> None:
        self.faces.append(faces)
        self.material.append(material)
        self.uv.append(uv)
        self.blended.append(blended)

    def part(self, points: Array, faces: NDArray[np.int64], uv: Array | None, kind: int) -> slice:
        span = self.vertices(points)
        if uv is None:
            uv = np.zeros((len(faces), 3, 2), np.float32)
        material = np.full(len(faces), kind, np.int64)
        self.triangles(faces + span.start, material, uv, kind in (asset.HAIR, asset.FLYAWAY))
        return span

    def select(
        self, blended: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        keep = [k for k, b in enumerate(self.blended) if b == blended]
        return (
            np.concatenate([self.faces[k] for k in keep]),
            np.concatenate([self.material[k] for k in keep]),
            np.concatenate([self.uv[k] for k in keep]).astype(np.float32),
        )


def _strand_tangent(points: Array, faces: NDArray[np.int64], uv: Array) -> Array:
    """Direction of growing v at every vertex, (V, 3); zero where there is no hair."""
    corner = points[faces]
    e1, e2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    d1, d2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    det = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    det = np.where(np.abs(det) < 1e-9, 1e-9, det)
    along = (-d2[:, :1] * e1 + d1[:, :1] * e2) / det[:, None]
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    along *= np.linalg.norm(np.cross(e1, e2), axis=1, keepdims=True)
    total = np.zeros_like(points)
    for k in range(3):
        np.add.at(total, faces[:, k], along)
    return (total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-9)).astype(np.float32)


def _head_shape(pack: Pack, traits: Traits) -> Array:
    """Change of the mean head by identity, axes and age, (V0, 3) cm."""
    change = np.tensordot(traits.identity, pack.identity, 1)
    used = np.flatnonzero(traits.axes)
    change = (change + np.tensordot(traits.axes[used], pack.axes[used], 1)).astype(np.float32)
    if traits.child > 0:
        eyes = pack.mean[np.r_[asset.EYE_LEFT, asset.EYE_RIGHT]].mean(0)
        change = fit.ungrown(pack.mean + change, eyes, traits.child) - pack.mean
    return change


def _head_triangles(pack: Pack) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """The head's opaque triangles without the hidden rear molars, cached."""
    if "head" not in pack.cache:
        depth = pack.mean[pack.faces][..., 2].max(1)
        keep = (pack.material != asset.LASH) & ~((pack.material == asset.TOOTH) & (depth < 6.8))
        pack.cache["head"] = (pack.faces[keep], pack.material[keep], pack.uv[keep])
    return pack.cache["head"]


def _mouth_light(head: Array, count: int) -> Array:
    """Falloff of light entering the mouth with depth behind the lips, per vertex."""
    lips = head[[0, 5518], 2].mean()
    light = np.zeros(count, np.float32)
    for part in (asset.SOCKET, asset.TEETH):
        depth = np.clip(lips - head[part, 2], 0, None)
        light[part] = np.exp(-np.clip(depth - 0.6, 0, None) / 1.5)
    return light


def build(
    pack: Pack,
    traits: Traits,
    device: torch.device | str = "cpu",
    texture: int = 512,
    hair_levels: int = 0,
) -> Person:
    """Make a person from traits.

    ``texture`` is the face texture's size in pixels; ``hair_levels`` subdivides the hair, for
    close portraits.
    """
    rng = np.random.default_rng(traits.seed)
    change = _head_shape(pack, traits)
    head = fit.fit_teeth(pack, fit.seal_lips(pack, pack.mean + change))
    centre, radius, axis = keypoints.eyes(head)
    pupils = centre + keypoints.PUPIL_DEPTH * radius[:, None] * axis
    closed = head + pack.expressions[_INDEX["eyeBlinkLeft"]]
    closed += pack.expressions[_INDEX["eyeBlinkRight"]]
    retract = fit.blink_clearance(pack, head, closed, centre, radius)
    garment, tucked, bust, bust_share = fit.fit_garment(pack, traits.garment, head, change)

    mesh = _Mesh()
    mesh.vertices(tucked)
    mesh.triangles(*_head_triangles(pack), blended=False)
    lash = pack.material == asset.LASH
    mesh.triangles(pack.faces[lash], pack.material[lash], pack.uv[lash], blended=True)
    light = np.ones((2, 2), np.float32)
    alpha = np.zeros((2, 2), np.float32)
    hair_faces: NDArray[np.int64] = np.zeros((0, 3), np.int64)
    hair_uv: Array = np.zeros((0, 3, 2), np.float32)
    if traits.hair != "none":
        if traits.hair in headwear.SHELLS:
            key = f"shell/{traits.hair}"
            if key not in pack.cache:
                pack.cache[key] = headwear.shell_texture(traits.hair)
            light, alpha = pack.cache[key]
            points, faces, hair_uv = headwear.shell_hair(pack, traits.hair, head)
        else:
            light, alpha = textures.hair_texture(pack, traits)
            _, faces, hair_uv = pack.mesh("hair", traits.hair)
            points = fit.fit_hair(pack, traits.hair, change)
        for _ in range(hair_levels):
            points, faces, hair_uv = fit.subdivided(points, faces, hair_uv)
        hair = mesh.part(points, faces, hair_uv, asset.HAIR)
        hair_faces = faces + hair.start
        loose = None
        if traits.hair not in headwear.SHELLS:
            loose = fit.flyaway_hairs(points, faces, hair_uv, alpha, rng, traits.flyaways)
        if loose is not None:
            fly = mesh.part(*loose, asset.FLYAWAY)
            hair_faces = np.concatenate([hair_faces, loose[1] + fly.start])
            hair_uv = np.concatenate([hair_uv, loose[2]])
    _, cloth_faces, cloth_uv = pack.mesh("cloth", traits.garment)
    cloth = mesh.part(garment, cloth_faces, cloth_uv, asset.GARMENT)
    worn = []
    if traits.glasses is not None:
        frame = fit.glasses(traits.glasses, head, pupils)
        worn.append(mesh.part(*frame, None, asset.FRAME))
        if traits.glasses.dark:
            worn.append(mesh.part(*things.lenses(traits.glasses, frame), None, asset.OCCLUDER))
    if traits.earrings > 0 and traits.scarf is None:
        hoops = things.earrings(traits.earrings, head)
        worn.append(mesh.part(*hoops, None, asset.FRAME))
    cap_texture = np.zeros((2, 2, 3), np.float32)
    if traits.cap is not None:
        cap, cap_uv = headwear.cap(pack, head)
        worn.append(mesh.part(*cap, cap_uv, asset.CAP))
        cap_texture = headwear.knitted(traits.seed, traits.cap)
    if traits.scarf is not None:
        cloth_mesh, plane = things.scarf(head, traits.seed)
        mesh.part(*cloth_mesh, plane, asset.CAP)
        cap_texture = things.woven(traits.seed, traits.scarf)
    face, scalp, face_label, scalp_label = textures.skin_textures(pack, traits, texture)
    held, span = None, slice(0, 0)
    if traits.held is not None:
        held = covers.cover(pack, traits.held, head, textures.complexion(pack, face))
        if held is not None:
            span = mesh.vertices(held.points)
            mesh.triangles(held.faces + span.start, held.material, held.uv, blended=False)
        else:
            strand = covers.lock(head, traits.held.seed, traits.held.side)
            fly = mesh.part(*strand, asset.FLYAWAY)
            worn.append(fly)
            hair_faces = np.concatenate([hair_faces, strand[1] + fly.start])
            hair_uv = np.concatenate([hair_uv, strand[2]])

    neutral = np.concatenate(mesh.points).astype(np.float32)
    rigid = keypoints.rigid_weight(neutral)
    rigid[cloth] *= 0.5
    rigid[bust] *= 1 - 0.5 * bust_share
    carried = np.ones(len(neutral), np.float32)
    for part in worn:
        rigid[part] = 1.0
    if held is not None:
        rigid[span] = carried[span] = held.follow
    strands = np.zeros(len(neutral), bool)
    strands[hair_faces] = True
    lids = np.zeros((2, len(neutral)), np.float32)
    for k, side in enumerate(("Left", "Right")):
        size = np.linalg.norm(pack.expressions[_INDEX[f"eyeBlink{side}"]], axis=1)
        lids[k, : len(head)] = np.clip(size / 0.35, 0, 1)
    jaw = np.zeros(len(neutral), np.float32)
    opened = np.linalg.norm(pack.expressions[_INDEX["jawOpen"]], axis=1)
    jaw[: len(head)] = np.clip(opened / 1.5, 0, 1)
    jaw[asset.SOCKET] = jaw[asset.TEETH] = 1.0
    if "lash" not in pack.cache:
        pack.cache["lash"] = pack.image("mask/lash").astype(np.float32) / 255
    lash_alpha = np.clip(pack.cache["lash"] * np.float32(traits.lash), 0, 1)
    flat = pack.expressions.reshape(55, -1)
    key = f"expressions@{device}"
    if key not in pack.cache:
        pack.cache[key] = torch.tensor(flat, device=device)
    opaque, material, uv = mesh.select(False)
    soft, soft_material, soft_uv = mesh.select(True)

    def put(a: NDArray[np.generic] | NDArray[np.float32]) -> Tensor:
        return torch.tensor(np.ascontiguousarray(a), device=device)

    return Person(
        traits=traits,
        neutral=put(neutral),
        faces=put(opaque),
        all_faces=put(np.concatenate([opaque, soft])),
        faces_cast=put(
            np.concatenate(
                [opaque[~np.isin(material, asset.INNER)], soft[soft_material == asset.HAIR]]
            )
        ),
        material=put(material),
        uv=put(uv),
        blended_faces=put(soft),
        blended_material=put(soft_material),
        blended_uv=put(soft_uv),
        face_texture=put(face),
        scalp_texture=put(scalp),
        labels=(put(face_label), put(scalp_label)),
        lash_alpha=put(lash_alpha),
        hair_light=put(light[..., None]),
        hair_alpha=put(alpha),
        hair_tangent=put(_strand_tangent(neutral, hair_faces, hair_uv)),
        garment_texture=put(textures.garment_texture(pack, traits)),
        cap_texture=put(cap_texture),
        held_texture=put(np.zeros((2, 2, 3), np.float32) if held is None else held.texture),
        expressions=pack.cache[key],
        rigid=put(rigid),
        carried=put(carried),
        strands=put(strands),
        mouth_light=put(_mouth_light(head, len(neutral))),
        lid_share=put(lids),
        jaw_share=put(jaw),
        eye_centre=put(centre),
        eye_radius=put(radius),
        eye_axis=put(axis),
        retract=(float(retract[0]), float(retract[1])),
        ipd=float(np.linalg.norm(pupils[0] - pupils[1])),
        eyes_middle=pupils.mean(0),
        keypoint_vertex=put(keypoints.vertices_of(pack.mean).astype(np.int64)),
    )
