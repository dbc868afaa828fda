"""Synthetic people: children, old people, and how dark their skins are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ball_person import bare_pack

from vivant.export.synth.people import fit, pack, sample, textures
from vivant.export.synth.people.sample import Traits


@pytest.fixture(scope="module")
def people() -> list[Traits]:
    assets = bare_pack()
    return [sample.sample_person(np.random.default_rng([2, k]), assets) for k in range(1500)]


def old(traits: Traits) -> float:
    return float(traits.axes[-1])  # the last axis of the bare pack


def test_children_and_old_people_are_as_many_as_told(people: list[Traits]) -> None:
    """The shares of the sampler are what comes out of it."""
    children = sum(p.child > 0 for p in people) / len(people)
    aged = sum(old(p) >= 0.6 for p in people) / len(people)
    assert children == pytest.approx(sample.CHILDREN, abs=0.03)
    assert aged == pytest.approx(sample.AGED + 0.05, abs=0.05)


def test_children_have_no_signs_of_age(people: list[Traits]) -> None:
    """No beards, grey hair, wrinkles, make-up, bald heads or sunglasses before fifteen."""
    for p in (p for p in people if p.child > 0):
        assert p.beard == 0
        assert p.wrinkles == 0
        assert p.liner == 0
        assert old(p) == 0
        assert p.hair_colour.mean() < 0.1 or p.hair_colour.max() > 1.15 * p.hair_colour.min()
        assert p.hair != "none" or p.cap is not None or p.scarf is not None
        assert p.glasses is None or not p.glasses.dark
        assert all(s.startswith("young") for s in p.skins)


def test_the_old_are_wrinkled_and_mostly_grey(people: list[Traits]) -> None:
    """Old people's lines are deep, and most have lost the colour of their hair."""
    aged = [p for p in people if p.wrinkles > 0 and old(p) > 0.9]
    grey = [p.hair_colour.min() > 0.08 for p in aged]
    assert min(p.wrinkles for p in aged) > 0.4
    assert np.mean(grey) > 0.5


def test_growing_back_keeps_the_eyes_and_shrinks_the_jaw() -> None:
    """Children's heads: same eyes, larger cranium, shorter face, narrow shoulders; adults as is."""
    eyes = np.array([0.0, 3.0, 8.0], np.float32)
    points = np.array([[0, 3, 8], [0, 14, 3], [0, -7.6, 10.4], [12, -18, 1]], np.float32)
    same = fit.ungrown(points, eyes, 0.0)
    small = fit.ungrown(points, eyes, 1.0)
    assert np.allclose(same, points, atol=1e-5)
    assert np.allclose(small[0], eyes, atol=1e-4)
    assert small[1, 1] > 15.0
    assert -6.5 < small[2, 1] < -4.5
    assert small[3, 0] < 9.5


def test_typology_angles_order_skins() -> None:
    """The ColorChecker's light skin is light or intermediate, its dark skin brown or dark."""
    light, dark = (
        textures.linear(np.array(c, np.float32) / 255) for c in ((194, 150, 130), (115, 82, 68))
    )
    assert 28 < textures.tone_angle(light) < 60
    assert textures.tone_angle(dark) < -10


def test_a_third_of_all_skins_is_dark(people: list[Traits]) -> None:
    """Brown and dark skins are drawn for women as often as for men, and span a wide range."""
    base = np.array([0.70, 0.45, 0.32], np.float32)  # the pack's light skins; its dark ones:
    deep = np.array([0.17, 0.08, 0.05], np.float32)
    angles: dict[bool, list[float]] = {True: [], False: []}
    for p in people:
        skin = deep if "dark" in p.skins[0] else base
        angles[p.female].append(textures.tone_angle(skin * np.exp(-textures.absorbance(p))))
    for sex in (True, False):
        shares = np.mean(np.array(angles[sex]) < 10), np.mean(np.array(angles[sex]) < -30)
        assert 0.24 < shares[0] < 0.42
        assert shares[1] > 0.05


def test_pigment_darkens_every_channel(people: list[Traits]) -> None:
    """More melanin never makes skin lighter, and dark skin stays warm."""
    skin = np.array([0.70, 0.45, 0.32], np.float32)
    colours = [
        skin * np.exp(-textures.absorbance(replace(people[0], melanin=m, haemoglobin=0.0)))
        for m in np.linspace(-0.1, 2.0, 12)
    ]
    assert (np.diff(np.array(colours), axis=0) < 0).all()
    assert all(c[0] > c[1] > c[2] for c in colours)


def test_the_pack_needs_no_name_to_be_shifted() -> None:
    """Axes that a pack lacks are left out; those that it has are changed."""
    assets = pack.Pack.__new__(pack.Pack)
    assets.axis_names = ("old", "eyes:l-eye-bag-incr")
    moved = sample._shifted(assets, np.zeros(2, np.float32), l_eye_bag_incr=0.5, nose_point_up=1)
    assert moved.tolist() == [0.0, 0.5]
