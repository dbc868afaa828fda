"""Promises of the true pictures that trackers are compared on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vivant.export.synth.people.sample import Glasses
from vivant.export.train import evaluate_rendered
from vivant.latent import SIZE


def test_people_who_hide_their_face_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers go on until so many show eyes and lips, sunglasses and hands among them not, or have
    the hair that is asked for; each is drawn in the motion it is told, whoever was made last."""
    dark = Glasses(2, 1.5, 2, 0.1, np.zeros(3, np.float32), dark=True)
    worn = {
        5: (dark, None),
        6: (None, "hand"),
        7: (replace(dark, dark=False), None),
        8: (None, None),
    }
    asked, made = [], []

    def make_scene(assets: object, number: int, seed: int, size: int) -> tuple[object, object]:
        asked.append(number)
        glasses, held = worn[number]
        hair = "long01" if number > 7 else "none"
        traits = SimpleNamespace(glasses=glasses, held=held, hair=hair, grey=0.1 * number)
        person = SimpleNamespace(traits=traits, pose=lambda motion: traits.grey * motion[0])
        person.ipd, person.eyes_middle = torch.tensor(6.0), torch.tensor([1.0, 2.0, 3.0])
        made.append(SimpleNamespace(person=person))
        return made[-1], None

    def grey(rng: object, traits: SimpleNamespace, source: bool) -> np.ndarray:
        return np.full(SIZE, traits.grey, np.float32)

    monkeypatch.setattr(evaluate_rendered.pack, "load", lambda path: None)
    monkeypatch.setattr(evaluate_rendered, "make_scene", make_scene)
    monkeypatch.setattr(evaluate_rendered.motions, "sample_motion", grey)
    monkeypatch.setattr(
        evaluate_rendered,
        "render",
        lambda scene, posed: SimpleNamespace(image=torch.full((640, 640, 3), float(posed))),
    )
    (first, draw), (second, other) = evaluate_rendered.people(Path("pack"), 2, start=5)
    assert asked == [5, 6, 7, 8]
    asked.clear()
    ((longhaired, _),) = evaluate_rendered.people(Path("pack"), 1, start=5, hair="long01")
    assert asked == [5, 6, 7, 8]
    assert longhaired[0] == pytest.approx(0.8)
    camera = made[-1].camera
    assert camera.distance - 3 == pytest.approx(6 * evaluate_rendered.DISTANCE)
    assert (camera.x, camera.y) == pytest.approx((1, 2))
    assert (first[0], second[0]) == pytest.approx((0.7, 0.8))
    half = np.full(SIZE, 0.5, np.float32)
    assert draw(half).shape == (512, 512, 3)
    assert draw(half).dtype == np.uint8
    assert (draw(half) == round(0.35 * 255)).all()
    assert (other(half) == round(0.4 * 255)).all()
    assert (draw(2 * half) > draw(half)).all()
