"""True pictures for ``evaluate_face``: synthetic people who do exactly what photos are told to.

A tracker errs, most of all at lids and in turns, so a figure of it means little without what it
says of pictures in which a person surely did as told. People whom nobody trained on are rendered
in every pose that ``evaluate_tracked.measure`` commands, and as photos are taken, from as far away
and with the head as low: by a near camera a tracker sees a head turn further, from 10 IPD by a
tenth more than from 20, and of a head that is lowered it sees less of what it is lowered further.
Of a head with long loose hair it sees less of a turn: what it takes for the side of a cheek is hair
that lies further forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from vivant.export.synth.people import motions, pack
from vivant.export.synth.people.camera import framed
from vivant.export.synth.people.flow import to_bytes
from vivant.export.synth.people.render import Scene, reduced, render
from vivant.export.synth.people.sample import Traits
from vivant.export.synth.people.shard import HELD_OUT, make_scene, render_size
from vivant.export.train.evaluate_tracked import Draw
from vivant.latent import INDEX

Array = np.ndarray
SIZE = 512
"""Side of the pictures."""
DISTANCE = 24.0
"""Of the camera from the eyes, IPD, about 1.5 m: the median that ``encode`` tells of ninety-four
photos."""
PITCH = -4.0
"""Of the portrait's head, degrees: the median of the same photos is -4.5 to ``encode`` and -3.5 to
a tracker whose own bias, of true pictures, is taken off."""


def bare(traits: Traits) -> bool:
    """Whether nothing hides a person's eyes and lips, as a hand or sunglasses would."""
    return traits.held is None and not (traits.glasses and traits.glasses.dark)


def picture(scene: Scene, motion: Array) -> Array:
    """A scene's person in a motion (63,), (512, 512, 3) u8."""
    return to_bytes(reduced(render(scene, scene.person.pose(motion)).image, SIZE))


def people(
    assets: Path, count: int, start: int = HELD_OUT, seed: int = 0, hair: str | None = None
) -> Iterator[tuple[Array, Draw]]:
    """The first ``count`` bare people from number ``start`` of the pack ``assets``, or those of one
    style of ``hair``, each as its portrait's code (63,) and what renders it in any motion,
    (512, 512, 3) u8."""
    source = pack.load(assets)
    number = start
    while count:
        scene, rng = make_scene(source, number, seed, render_size(SIZE))
        number += 1
        traits = scene.person.traits
        if not bare(traits) or hair not in (None, traits.hair):
            continue
        scene.camera = framed(scene.person, DISTANCE * float(scene.person.ipd))
        count -= 1
        motion = motions.sample_motion(rng, traits, True)
        motion[INDEX["headPitch"]] = PITCH
        yield motion, partial(picture, scene)
