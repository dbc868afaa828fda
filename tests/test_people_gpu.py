"""Synthetic people on a GPU: the tensor path draws what the compiled one does, device by device."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from ball_person import ball, motion, staged
from pretend_gpu import GPU, Away, DeviceMistake, PretendGpu

from vivant.export.synth.people import flow, pack, raster
from vivant.export.synth.people.person import Person
from vivant.export.synth.people.render import reduced, render

SIZE = 96


def haired() -> Person:
    """The ball with a cap of loose hair, so that every part of the renderer has work."""
    person = ball()
    g = torch.Generator().manual_seed(4)
    high = person.neutral[person.faces][..., 1].amin(1) > 2
    faces = person.faces[high] + len(person.neutral)
    return replace(
        person,
        neutral=torch.cat([person.neutral, person.neutral * 1.06]),
        all_faces=torch.cat([person.faces, faces]),
        blended_faces=faces,
        blended_material=torch.full((len(faces),), pack.HAIR),
        blended_uv=person.uv[high].contiguous(),
        hair_alpha=torch.rand(16, 16, generator=g),
        hair_light=torch.rand(16, 16, 1, generator=g),
        hair_tangent=torch.tensor([0.0, 1.0, 0.0]).repeat(2 * len(person.neutral), 1),
        expressions=torch.zeros(55, 3 * len(person.neutral)),
        **{
            name: torch.cat([getattr(person, name)] * 2, -1)
            for name in ("rigid", "carried", "strands", "mouth_light", "lid_share", "jaw_share")
        },
    )


def sent(person: Person) -> Person:
    """A person whose tensors are on the GPU."""

    def put(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.to(GPU)
        return tuple(put(v) for v in value) if isinstance(value, tuple) else value

    return replace(person, **{f.name: put(getattr(person, f.name)) for f in fields(person)})


def drawn(person: Person) -> list[np.ndarray]:
    """Picture, classes, keypoints, flow and visibility of two frames of a person."""
    person.traits.hair_colour = person.traits.brow_colour = np.full(3, 0.2, np.float32)
    scene = staged(person, SIZE)
    scene.background = scene.background.to(person.neutral.device)
    scene.light.key_colour = np.full(3, 0.02, np.float32)
    out = []
    frames = []
    for turn in ({"headYaw": 15.0}, {"gazeYaw": 9.0, "headPitch": -8.0}):
        posed = person.pose(motion(**turn))
        frames.append(render(scene, posed))
        out.append(flow.to_bytes(reduced(frames[-1].image, SIZE * 2 // 3)))
        out.append(flow.segmentation(person, frames[-1], 48).cpu().numpy())
        out.append(scene.camera.fractions(person.keypoints(posed)).cpu().numpy())
    field, seen = flow.surface_flow(person, frames[0], frames[1], 48)
    return [*out, field.cpu().numpy(), seen.cpu().numpy()]


@pytest.mark.parametrize("make", [haired, lambda: ball()], ids=["hair", "nothing blended"])
def test_a_gpu_draws_the_same_people(make: object) -> None:
    """No tensor of the CPU meets one of the GPU, and both paths give the same frames and flow."""
    here = drawn(make())  # type: ignore[operator]
    with PretendGpu():
        there = drawn(sent(make()))  # type: ignore[operator]
    for a, b in zip(here, there, strict=True):
        assert a.dtype == b.dtype
        if a.dtype == np.uint8 and a.ndim == 3:
            difference = np.abs(a.astype(int) - b.astype(int))
            assert np.percentile(difference, 99) <= 2
            assert difference.mean() < 0.3
        elif a.dtype == np.float32:
            assert np.percentile(np.abs(a - b), 99) < 1e-3
        else:
            assert (a != b).mean() < 0.005


def test_the_pretended_gpu_refuses_what_a_real_one_would() -> None:
    """Tensors of two devices do not meet, and a GPU's do not become arrays, but scalars may."""
    with PretendGpu():
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        assert isinstance(there + 1, Away)
        assert isinstance(there + torch.tensor(2.0), Away)
        assert (there * 2).is_cuda
        assert not here.is_cuda
        assert there.device.type == "cuda"
        assert there.cpu().numpy().sum() == 3
        with pytest.raises(DeviceMistake):
            _ = here + there
        with pytest.raises(DeviceMistake):
            _ = there[torch.zeros(2, dtype=torch.int64)]
        with pytest.raises(DeviceMistake):
            there.numpy()
        with pytest.raises(DeviceMistake):
            np.asarray(there)


def test_both_paths_reduce_by_area() -> None:
    """A picture's mean survives an odd reduction, and every pixel counts by its area."""
    g = torch.Generator().manual_seed(0)
    image = torch.rand(48, 48, 3, generator=g)
    here = reduced(image, 32)
    with PretendGpu():
        there = reduced(image.to(GPU), 32).cpu()
    assert torch.allclose(here, there, atol=1e-5)
    assert torch.allclose(there.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    weights = torch.tensor([1.0, 0.5]) / 1.5
    corner = torch.einsum("i,ijc,j->c", weights, image[:2, :2], weights)
    assert torch.allclose(there[0, 0], corner, atol=1e-5)


def test_depth_ranges_bound_every_surface() -> None:
    """Nearest and farthest nearness per pixel, alike on both paths, equal where one layer lies."""
    xy = torch.tensor([[2.0, 2], [30, 2], [2, 30]]).repeat(2, 1)
    depth = torch.tensor([0.3] * 3 + [0.5] * 3)
    faces = torch.arange(6).reshape(2, 3)
    near, far = raster.depth_range(xy, depth, faces, 32)
    with PretendGpu():
        away = raster.depth_range(xy.to(GPU), depth.to(GPU), faces.to(GPU), 32)
    assert torch.allclose(near, away[0].cpu())
    assert torch.allclose(far, away[1].cpu())
    at = 5 * 32 + 5
    assert near[at] == pytest.approx(0.5)
    assert far[at] == pytest.approx(0.3)
    assert near[-1] == 0
    assert torch.isinf(far[-1])
    assert torch.equal(near.reshape(32, 32), raster.depth_map(xy, depth, faces, 32))
