"""A ball in a person's place, and the people it takes to sample one, for tests without assets."""

from __future__ import annotations

import numpy as np
import torch

from vivant import latent
from vivant.export.synth.people import camera, keypoints, light, pack
from vivant.export.synth.people.light import Light, unit
from vivant.export.synth.people.person import Person
from vivant.export.synth.people.render import Scene


def motion(**weights: float) -> np.ndarray:
    out = np.zeros(latent.SIZE, np.float32)
    for name, value in weights.items():
        out[latent.INDEX[name]] = value
    return out


class _Traits:
    lid, oily = 0.0, 0.0
    glasses = None
    gum = tongue = tooth = np.ones(3, np.float32)


def ball(rows: int = 80) -> Person:
    """A textured ball in a person's place: head of 8 cm radius, everything else absent."""
    lat = torch.linspace(0.02, np.pi - 0.02, rows)
    lon = torch.linspace(-np.pi, np.pi, rows)
    a, b = torch.meshgrid(lat, lon, indexing="ij")
    points = torch.stack([a.sin() * b.sin(), a.cos(), a.sin() * b.cos()], -1).reshape(-1, 3) * 8
    i, k = torch.meshgrid(torch.arange(rows - 1), torch.arange(rows - 1), indexing="ij")
    at = (i * rows + k).reshape(-1)
    faces = torch.cat(
        [
            torch.stack([at, at + rows, at + 1], 1),
            torch.stack([at + 1, at + rows, at + rows + 1], 1),
        ]
    )
    uv = torch.stack([b / (2 * np.pi) + 0.5, 1 - a / np.pi], -1).reshape(-1, 2)[faces]
    g = torch.Generator().manual_seed(1)
    noise = torch.rand(1, 3, 24, 24, generator=g)
    noise = torch.nn.functional.interpolate(noise, size=(256, 256), mode="bicubic")
    texture = torch.cat([noise[0].permute(1, 2, 0).clamp(0.05, 0.9), torch.zeros(256, 256, 4)], -1)
    nothing, count = torch.zeros(0, 3, dtype=torch.int64), len(points)
    return Person(
        traits=_Traits(),  # type: ignore[arg-type]
        neutral=points,
        faces=faces,
        all_faces=faces,
        faces_cast=faces,
        material=torch.full((len(faces),), pack.FACE),
        uv=uv,
        blended_faces=nothing,
        blended_material=torch.zeros(0, dtype=torch.int64),
        blended_uv=torch.zeros(0, 3, 2),
        face_texture=texture,
        scalp_texture=torch.zeros(2, 2, 3),
        labels=(torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)),
        lash_alpha=torch.zeros(2, 2),
        hair_light=torch.zeros(2, 2, 1),
        hair_alpha=torch.zeros(2, 2),
        hair_tangent=torch.zeros(count, 3),
        garment_texture=torch.zeros(2, 2, 3),
        cap_texture=torch.zeros(2, 2, 3),
        held_texture=torch.zeros(2, 2, 3),
        expressions=torch.zeros(55, count * 3),
        rigid=torch.ones(count),
        carried=torch.ones(count),
        strands=torch.zeros(count, dtype=torch.bool),
        mouth_light=torch.zeros(count),
        lid_share=torch.zeros(2, count),
        jaw_share=torch.zeros(count),
        eye_centre=torch.tensor([[3.0, 0.0, 7.0], [-3.0, 0.0, 7.0]]),
        eye_radius=torch.tensor([1.5, 1.5]),
        eye_axis=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
        retract=(0.0, 0.0),
        ipd=6.0,
        eyes_middle=np.array([0.0, 0.0, 8.68], np.float32),
        keypoint_vertex=torch.zeros(keypoints.COUNT, dtype=torch.int64),
    )


def staged(person: Person, size: int) -> Scene:
    """Even white light from everywhere, before grey."""
    lamp = Light(
        key=unit(0, 0, 1),
        key_colour=np.zeros(3, np.float32),
        key_size=0.1,
        soft=[],
        top=np.ones(3, np.float32),
        middle=np.ones(3, np.float32),
        bottom=np.ones(3, np.float32),
    )
    return Scene(
        person=person,
        camera=camera.framed(person),
        light=lamp,
        ambient=light.ambient_visibility(person, 8, 64),
        background=torch.full((size, size, 3), 0.2),
        size=size,
    )


def bare_pack() -> pack.Pack:
    """A pack with the names that sampling asks for, and a smooth symmetric head of points."""
    rng = np.random.default_rng(0)
    count = 26719
    half = rng.normal(0, 1, (count // 2 + 1, 3)).astype(np.float32)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    half = half * np.array([7.5, 10.5, 9.5], np.float32) + np.array([0, 3.0, 1.0], np.float32)
    mean = np.stack([half, half * np.array([-1, 1, 1], np.float32)], 1).reshape(-1, 3)[:count]
    table = keypoints.keypoint_basis()
    known = table.vertex >= 0
    flat = table.neutral * np.array([1, 1, 1], np.float32)
    flat = 0.5 * (flat + flat[list(keypoints.MIRROR)] * np.array([-1, 1, 1], np.float32))
    mean[table.vertex[known]] = (flat * table.ipd + np.array([0, 3.5, 9.0]))[known]
    return pack.Pack(
        mean=mean,
        identity=np.zeros((0, count, 3), np.float32),
        expressions=np.zeros((55, count, 3), np.float32),
        axis_names=("male_minus_female", "caucasian", "asian", "african", "old"),
        axes=np.zeros((5, 1, 3), np.float32),
        faces=np.zeros((0, 3), np.int64),
        material=np.zeros(0, np.int64),
        uv=np.zeros((0, 3, 2), np.float32),
        tables={"cloths": np.array(["male_a", "female_a"])},
    )
