"""Random people: which traits a synthetic person has. Drawn from ranges, never from a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vivant.export.synth.people.pack import UNPROVEN, Array, Pack

MALE_SKINS = (
    "young_lightskinned_male",
    "young_lightskinned_male2",
    "young_lightskinned_male3",
    "middleage_lightskinned_male",
    "middleage_lightskinned_male2",
    "young_darkskinned_male",
    "middleage_darkskinned_male",
    "old_darkskinned_male",
)
FEMALE_SKINS = (
    "young_lightskinned_female2",
    "young_lightskinned_female3",
    "middleage_lightskinned_female2",
)
HAIR_COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.012, 0.010, 0.009),
    "dark brown": (0.035, 0.022, 0.014),
    "brown": (0.075, 0.042, 0.022),
    "light brown": (0.15, 0.09, 0.05),
    "blond": (0.34, 0.23, 0.12),
    "red": (0.20, 0.07, 0.025),
    "grey": (0.28, 0.27, 0.26),
    "white": (0.50, 0.49, 0.47),
}
IRIS_COLOURS: dict[str, tuple[float, float, float]] = {
    "brown": (0.16, 0.075, 0.03),
    "dark": (0.07, 0.035, 0.018),
    "hazel": (0.20, 0.14, 0.05),
    "green": (0.16, 0.20, 0.09),
    "blue": (0.14, 0.24, 0.36),
    "grey": (0.24, 0.28, 0.31),
}
FEMALE_HAIR = (
    "long01",
    "long01",
    "long01",
    "ponytail01",
    "ponytail01",
    "braid01",
    "short04",
    "short04",
    "short01",
    "short02",
)
MALE_HAIR = (*("short01", "short02", "short04") * 4, "short03", "none", "none")

TONES = (0.24, 0.42, 0.34)
"""Light, middle and dark skins; see ``MELANIN_OF``."""
MELANIN_OF = {"light": (-0.06, 0.12), "mid": (0.15, 0.8), "dark": (0.6, 1.9)}
"""Pigment added to the pack's light skins."""
CHILDREN, AGED = 0.12, 0.14
"""Shares of children up to about fourteen years and of people beyond about sixty."""

SHELL_STYLES = ("afro", "curls", "crop")
"""Styles grown from the scalp instead of taken from the pack."""
SHELL_SCALP = "short04"
"""The style whose scalp mask bounds them."""
HAIR_STYLES = tuple(sorted({*FEMALE_HAIR, *MALE_HAIR, *SHELL_STYLES} - set(UNPROVEN)))
"""Every style that people have, but for a rare one."""


@dataclass
class Glasses:
    """Spectacle frame: centimetres, and linear RGB."""

    half_width: float
    half_height: float
    squareness: float
    """Exponent of the superellipse: 2 round, 4 nearly rectangular."""
    tube: float
    colour: Array
    dark: bool = False
    """Sunglasses, whose lenses hide the eyes."""


HELD = {
    "cheek": 0.12,
    "fist": 0.08,
    "chin": 0.09,
    "think": 0.08,
    "lips": 0.12,
    "hush": 0.05,
    "hair": 0.08,
    "brow": 0.04,
    "wave": 0.05,
    "cup": 0.07,
    "phone": 0.04,
    "call": 0.04,
    "microphone": 0.06,
    "headset": 0.03,
    "lock": 0.03,
    "collar": 0.02,
}
"""What covers parts of a face, and how often among those faces: nine hands, then things."""


@dataclass
class Held:
    """What covers a part of a person's face. Colours are linear RGB."""

    kind: str
    """A key of HELD."""
    side: float
    """1: the subject's left, -1: the right."""
    leaning: bool
    """Whether it follows the head; otherwise it stays where it is in the world."""
    size: float
    """Size of the hand, 1 for a large adult's."""
    seed: int
    nails: Array  # (3,)
    colours: Array
    """Sleeve, two of the thing, cloth, (4, 3)."""


@dataclass
class Traits:
    """Everything that makes a person, except light, camera and motion. Colours are linear RGB."""

    seed: int
    female: bool
    identity: Array
    """Identity mode coefficients, (100,), unit variance."""
    axes: Array
    """Semantic axis coefficients, (A,)."""
    skins: tuple[str, str]
    skin_mix: float
    melanin: float
    haemoglobin: float
    blush: float
    detail: float
    """Gain of the skin's fine texture."""
    oily: float
    liner: float
    lip_tint: Array
    lip_dark: float
    shadow: Array
    """Eye shadow, log reflectance added around the lids."""
    freckles: int
    moles: int
    brow: str
    brow_density: float
    brow_colour: Array
    hair: str
    """Style of the pack, shell style, or ``none``."""
    scalp: str
    """Style whose scalp is painted in hair colour, or ``none``."""
    hair_colour: Array
    flyaways: int
    beard: float
    beard_length: float
    beard_density: float
    iris: tuple[float, float, float]
    pupil: float
    sclera: Array
    tooth: Array
    gum: Array
    tongue: Array
    garment: str
    garment_tint: Array
    garment_mix: float
    """0 keeps the garment's own colours, 1 dyes it."""
    pattern: float
    """Strength of the woven stripes or checks."""
    lash: float
    lid: float
    """Resting eyeBlink."""
    squint: float
    """Resting eyeSquint."""
    skew: Array
    """Left minus right gain of paired shapes, (55,)."""
    rest: Array
    """Resting expression without the lids, (55,)."""
    glasses: Glasses | None
    cap: Array | None
    """Colour of a knitted cap; none for most persons."""
    scarf: Array | None
    """Colour of a headscarf; none for most persons."""
    earrings: float
    """Radius of the hoops, cm; 0 for none."""
    metal: Array
    """Colour of the earrings."""
    wrinkles: float
    """Depth of the lines in the skin, 0..1."""
    held: Held | None
    """What covers a part of the face; none for most persons."""
    child: float
    """0 adult, 1 a small child."""


def hsv(hue: float, saturation: float, value: float) -> Array:
    """Colour of hue in degrees, saturation and value 0..1, as RGB (3,)."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)


def _colour(rng: np.random.Generator, *ranges: tuple[float, float]) -> Array:
    return np.array([rng.uniform(*r) for r in ranges], np.float32)


def _rest(rng: np.random.Generator) -> Array:
    from vivant import latent

    rest = np.zeros(55, np.float32)
    for name, spread in (
        ("mouthSmile", 0.10),
        ("mouthFrown", 0.09),
        ("browDown", 0.10),
        ("browOuterUp", 0.08),
        ("mouthPress", 0.07),
    ):
        if rng.random() < 0.4:
            value, tilt = abs(rng.normal(0, spread)), rng.normal(0, 0.25)
            rest[latent.INDEX[name + "Left"]] = value * (1 + tilt)
            rest[latent.INDEX[name + "Right"]] = value * (1 - tilt)
    if rng.random() < 0.3:
        rest[latent.INDEX["browInnerUp"]] = abs(rng.normal(0, 0.08))
    return np.clip(rest, 0, 0.3)


def _axes(rng: np.random.Generator, pack: Pack, female: bool, tone: str, old: float) -> Array:
    value = dict.fromkeys(pack.axis_names, 0.0)
    for name in value:
        if ":" in name:
            value[name] = float(rng.normal(0, 0.10))
    value["male_minus_female"] = -rng.uniform(0.5, 1.05) if female else rng.uniform(0.0, 0.5)
    if tone == "dark":
        value["african"] = rng.uniform(0.4, 1.2)
    elif tone == "mid":
        name = rng.choice(["asian", "african", "caucasian"], p=[0.6, 0.2, 0.2])
        value[str(name)] = rng.uniform(0.3, 1.1)
    else:
        value[str(rng.choice(["caucasian", "asian"], p=[0.7, 0.3]))] = rng.uniform(0.2, 1.0)
    value["old"] = old
    return np.array([value.get(name, 0.0) for name in pack.axis_names], np.float32)


def _glasses(rng: np.random.Generator, shaded: bool) -> Glasses:
    dark = rng.random() < 0.7
    return Glasses(
        half_width=rng.uniform(2.35, 2.85),
        half_height=rng.uniform(1.6, 2.3),
        squareness=rng.uniform(2.0, 4.5),
        tube=rng.uniform(0.06, 0.19),
        colour=_colour(rng, *[(0.004, 0.04)] * 3)
        if dark
        else hsv(rng.uniform(0, 360), rng.uniform(0, 0.7), rng.uniform(0.1, 0.6)) ** 2.2,
        dark=shaded,
    )


def sample_held(rng: np.random.Generator, female: bool, haired: bool) -> Held:
    """Draw what covers a part of a face; only hair from the pack falls into it."""
    kinds = {kind: share for kind, share in HELD.items() if haired or kind != "lock"}
    kind = str(rng.choice(list(kinds), p=np.array(list(kinds.values())) / sum(kinds.values())))
    touching = kind in ("cheek", "fist", "chin", "think", "lips", "hush", "hair", "brow")
    colours = np.stack([hsv(*rng.uniform((0, 0, 0.05), (360, 0.6, 0.95))) ** 2.2 for _ in range(4)])
    if kind in ("phone", "call", "microphone", "headset") and rng.random() < 0.75:
        colours[1:3] = rng.uniform(0.01, 0.06) * np.ones(3)
    polished = female and rng.random() < 0.4
    nails = hsv(*rng.uniform((0, 0.4, 0.1), (360, 0.9, 0.8))) ** 2.2 if polished else None
    return Held(
        kind=kind,
        side=float(rng.choice([-1.0, 1.0])),
        leaning=kind in ("call", "headset") or (touching and rng.random() < 0.75),
        size=rng.uniform(0.84, 0.94) if female else rng.uniform(0.92, 1.04),
        seed=int(rng.integers(1 << 30)),
        nails=np.array([0.62, 0.40, 0.34], np.float32) if nails is None else nails,
        colours=colours.astype(np.float32),
    )


def _shifted(pack: Pack, axes: Array, **changes: float) -> Array:
    """Axes with some of them changed; names without their group, ``-`` written as ``_``."""
    out = axes.copy()
    for k, name in enumerate(pack.axis_names):
        out[k] += changes.get(name.split(":")[-1].replace("-", "_"), 0.0)
    return out


def _younger(rng: np.random.Generator, pack: Pack, traits: Traits) -> Traits:
    """The same person as a child of about three to fourteen years."""
    child = rng.uniform(0.25, 1.0)
    sex, old = pack.axis_names.index("male_minus_female"), pack.axis_names.index("old")
    axes = traits.axes * 0.7
    axes[old], axes[sex] = 0.0, rng.uniform(-0.75, -0.35)
    axes = _shifted(
        pack,
        axes,
        l_eye_scale_incr=0.8 * child,
        l_eye_height2_incr=0.4 * child,
        eyebrows_trans_up=0.5 * child,
        eyebrows_angle_up=0.3 * child,
        eyebrows_trans_forward=-0.5 * child,
        nose_scale_vert_incr=-0.5 * child,
        nose_scale_depth_incr=-0.45 * child,
        nose_scale_horiz_incr=-0.25 * child,
        nose_point_up=0.4 * child,
        nose_hump_incr=-0.3 * child,
        mouth_scale_horiz_incr=-0.3 * child,
        chin_bones_incr=-0.5 * child,
        chin_prominent_incr=-0.3 * child,
        chin_cleft_incr=-0.2,
        l_cheek_volume_incr=0.5 * child,
        l_cheek_bones_incr=-0.4 * child,
        mouth_laugh_lines_out=-0.3,
        neck_scale_horiz_incr=-0.6 * child,
        neck_scale_depth_incr=-0.5 * child,
        forehead_trans_forward=0.2 * child,
    )
    skins = tuple(k for k in MALE_SKINS + FEMALE_SKINS if k.startswith("young"))
    fair = [k for k in skins if "light" in k]
    chosen = traits.skins[0] if "dark" in traits.skins[0] else ""
    drawn = [chosen or str(rng.choice(fair)) for _ in range(2)]
    if chosen:
        drawn = ["young_darkskinned_male"] * 2
    hair = traits.hair_colour
    if hair.mean() > 0.08 and hair.max() < 1.2 * hair.min():  # no grey children
        hair = np.asarray(HAIR_COLOURS["dark brown"], np.float32)
    styles = FEMALE_HAIR if traits.female else ("short01", "short02", "short04", "short04")
    bare = traits.hair == "none" and traits.cap is None and traits.scarf is None
    style = str(rng.choice(styles)) if bare else traits.hair
    glasses = traits.glasses
    held = traits.held
    return replace(
        traits,
        child=child,
        identity=traits.identity * np.float32(1 - 0.45 * child),
        axes=axes.astype(np.float32),
        skins=(drawn[0], drawn[1]),
        detail=rng.uniform(0.35, 0.7),
        oily=traits.oily * 0.5,
        blush=rng.uniform(0.2, 0.5),
        liner=0.0,
        lip_tint=_colour(rng, (-0.03, 0.08), (-0.2, 0.0), (-0.15, 0.05)),
        shadow=np.zeros(3, np.float32),
        moles=min(traits.moles, 1),
        brow_density=traits.brow_density * rng.uniform(0.5, 0.85),
        brow_colour=np.minimum(hair * 0.7, 0.16).astype(np.float32),
        hair=style,
        scalp=style if bare else traits.scalp,
        hair_colour=hair,
        beard=0.0,
        sclera=np.minimum(traits.sclera * 1.05, 0.66).astype(np.float32),
        lash=max(traits.lash, 0.9),
        glasses=glasses if glasses is not None and not glasses.dark else None,
        earrings=min(traits.earrings, 0.3) if rng.random() < 0.5 else 0.0,
        wrinkles=0.0,
        held=None if held is None else replace(held, size=held.size * (1 - 0.2 * child)),
    )


def _older(rng: np.random.Generator, pack: Pack, traits: Traits) -> Traits:
    """The same person at about sixty to ninety years."""
    age = rng.uniform(0.0, 1.0)
    axes = traits.axes.copy()
    axes[pack.axis_names.index("old")] = 0.6 + 0.7 * age
    sag = rng.uniform(0.3, 1.0) * (0.5 + 0.5 * age)
    axes = _shifted(
        pack,
        axes,
        neck_double_incr=0.5 * sag * rng.random(),
        l_cheek_trans_up=-0.3 * sag,
        l_cheek_volume_incr=-0.3 * sag * rng.uniform(-0.5, 1.0),
        l_eye_bag_incr=0.6 * sag,
        l_eye_bag_out=0.3 * sag,
        l_eye_eyefold_up=-0.35 * sag,
        mouth_angles_up=-0.12 * sag,
        mouth_laugh_lines_out=0.5 * sag,
        mouth_upperlip_volume_incr=-0.4 * sag,
        mouth_lowerlip_volume_incr=-0.3 * sag,
        nose_point_up=-0.3 * sag,
        nose_scale_vert_incr=0.2 * sag,
        l_ear_scale_incr=0.4 * sag,
        l_ear_lobe_incr=0.4 * sag,
    )
    aged = {
        "light": ("middleage_lightskinned_male", "middleage_lightskinned_male2"),
        "dark": ("old_darkskinned_male", "middleage_darkskinned_male"),
    }
    tone = "dark" if "dark" in traits.skins[0] else "light"
    skins = ("middleage_lightskinned_female2",) if traits.female else aged[tone]
    grey = rng.random() < 0.55 + 0.4 * age
    hair = traits.hair_colour
    if grey:
        share = rng.uniform(0.4, 1.0)
        pale = np.asarray(HAIR_COLOURS[str(rng.choice(["grey", "white"], p=[0.6, 0.4]))])
        hair = (hair * (1 - share) + share * pale * rng.uniform(0.7, 1.2)).astype(np.float32)
    bald = not traits.female and traits.cap is None and rng.random() < 0.3
    return replace(
        traits,
        axes=axes.astype(np.float32),
        skins=(str(rng.choice(skins)), str(rng.choice(skins))),
        detail=rng.uniform(1.1, 1.6),
        oily=traits.oily * 0.7,
        freckles=int(rng.uniform(0, 60)),
        moles=int(rng.integers(1, 9)),
        brow_density=traits.brow_density * rng.uniform(0.6, 1.0),
        brow_colour=np.minimum(hair * rng.uniform(0.5, 0.9), 0.3).astype(np.float32),
        hair="none" if bald else traits.hair,
        scalp="none" if bald else traits.scalp,
        hair_colour=hair,
        sclera=(traits.sclera * np.array([1.0, 0.96, 0.88])).astype(np.float32),
        tooth=(traits.tooth * np.array([0.95, 0.90, 0.80])).astype(np.float32),
        lash=traits.lash * 0.75,
        wrinkles=float(np.clip(rng.uniform(0.45, 0.8) + 0.3 * age, 0, 1)),
        held=None if bald and traits.held and traits.held.kind == "lock" else traits.held,
    )


def sample_person(rng: np.random.Generator, pack: Pack) -> Traits:
    """Draw one person: adults, children and old people."""
    life = rng.spawn(1)[0]
    traits = sample_adult(rng, pack)
    age = life.random()
    if age < CHILDREN:
        return _younger(life, pack, traits)
    return _older(life, pack, traits) if age < CHILDREN + AGED else traits


def sample_adult(rng: np.random.Generator, pack: Pack) -> Traits:
    """Draw one adult."""
    female = bool(rng.random() < 0.5)
    tone = str(rng.choice(["light", "mid", "dark"], p=TONES))
    skins = FEMALE_SKINS if female else MALE_SKINS[:5]
    melanin = rng.uniform(*MELANIN_OF[tone])
    if tone == "dark" and not female and rng.random() < 0.6:
        skins, melanin = MALE_SKINS[5:], rng.uniform(-0.85, 0.05)
    old = max(0.0, rng.normal(-0.1, 0.45))
    if tone == "light":
        shares = np.array([0.26, 0.22, 0.18, 0.1, 0.09, 0.06, 0.06, 0.03])
        if old > 0.4:
            shares[-2:] += 0.3
        colour = str(rng.choice(list(HAIR_COLOURS), p=shares / shares.sum()))
    else:
        colour = str(rng.choice(["black", "dark brown", "grey"], p=[0.7, 0.22, 0.08]))
    hair_colour = np.asarray(HAIR_COLOURS[colour], np.float32) * rng.uniform(0.8, 1.2)
    if female and rng.random() < 0.03:
        hair_colour = hsv(rng.uniform(0, 360), rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.8)) ** 2.2
    garments = [c for c in pack.names("cloths") if female == c.startswith("female")]
    styles = [h for h in (FEMALE_HAIR if female else MALE_HAIR) if h not in UNPROVEN]
    style = str(rng.choice(styles))
    if female and rng.random() < 0.05:
        style = "bob02"  # rare: its fringe hides one eye
    if rng.random() < {"dark": 0.45, "mid": 0.12, "light": 0.06}[tone]:
        style = str(rng.choice(["afro", "curls", "crop"]))
    cap = None
    if rng.random() < 0.05:
        style, cap = "none", hsv(rng.uniform(0, 360), rng.uniform(0, 0.7), rng.uniform(0.1, 0.8))
        cap = cap**2.2
    # Own streams: what came first draws the same persons as before.
    later, hand = rng.spawn(2)
    scarf = None
    if female and cap is None and later.random() < 0.09:
        style, scarf = "none", hsv(*later.uniform((0, 0, 0.05), (360, 0.7, 0.9))) ** 2.2
    scalp = SHELL_SCALP if style in SHELL_STYLES else style
    bearded = not female and rng.random() < 0.55
    iris_shares = (
        [0.3, 0.25, 0.15, 0.08, 0.15, 0.07] if tone == "light" else [0.35, 0.62, 0.03, 0, 0, 0]
    )
    made_up = female and rng.random() < 0.55
    return Traits(
        seed=int(rng.integers(1 << 30)),
        female=female,
        identity=rng.normal(0, 0.68 if female else 0.78, 100).astype(np.float32),
        axes=_axes(rng, pack, female, tone, old),
        skins=(str(rng.choice(skins)), str(rng.choice(skins))),
        skin_mix=rng.random(),
        melanin=float(melanin),
        haemoglobin=rng.uniform(-0.1, 0.22),
        blush=rng.uniform(0.05, 0.4) + (0.15 if made_up else 0.0),
        detail=rng.uniform(0.8, 1.3) + 0.3 * old,
        oily=rng.uniform(0.2, 1.0),
        liner=rng.uniform(0.25, 0.7) if made_up else rng.uniform(0, 0.2),
        lip_tint=_colour(rng, (-0.1, 0.15), (-0.65, 0), (-0.45, 0.05))
        if made_up
        else _colour(rng, (-0.05, 0.05), (-0.15, 0.05), (-0.12, 0.05)),
        lip_dark=rng.uniform(-0.15, 0.25) + (0.2 if tone == "dark" else 0.0),
        shadow=_colour(rng, (-0.5, 0.1), (-0.6, 0.0), (-0.5, 0.1))
        if made_up and rng.random() < 0.5
        else np.zeros(3, np.float32),
        freckles=int(rng.uniform(20, 260)) if tone == "light" and rng.random() < 0.35 else 0,
        moles=int(rng.integers(0, 5)),
        brow=f"eyebrow{rng.choice([1, 1, 2, 4, 8, 8, 9, 9, 10, 11, 12, 12]):03d}",
        brow_density=rng.uniform(0.9, 1.5),
        brow_colour=np.minimum(hair_colour * 0.7, 0.16),
        hair=style,
        scalp=scalp,
        hair_colour=hair_colour.astype(np.float32),
        flyaways=int(rng.uniform(200, 700)),
        beard=rng.uniform(0.3, 1.0) if bearded else 0.0,
        beard_length=rng.uniform(2, 8),
        beard_density=rng.uniform(0.3, 1.2),
        iris=IRIS_COLOURS[str(rng.choice(list(IRIS_COLOURS), p=iris_shares))],
        pupil=rng.uniform(0.26, 0.42),
        sclera=np.array([0.60, 0.555, 0.52], np.float32)
        * _colour(rng, (0.92, 1.05), (0.90, 1.05), (0.86, 1.05)),
        tooth=np.array([0.84, 0.80, 0.72], np.float32)
        * rng.uniform(0.85, 1.1)
        * _colour(rng, (1.0, 1.0), (0.95, 1.01), (0.83, 1.05)),
        gum=np.array([0.58, 0.25, 0.22], np.float32)
        * _colour(rng, (0.7, 1.1), (0.75, 1.15), (0.75, 1.15)),
        tongue=np.array([0.47, 0.18, 0.165], np.float32)
        * _colour(rng, (0.8, 1.15), (0.8, 1.25), (0.8, 1.2)),
        garment=str(rng.choice(garments)),
        garment_tint=hsv(rng.uniform(0, 360), rng.uniform(0, 0.7), rng.uniform(0.25, 1.0)),
        garment_mix=rng.uniform(0.2, 1.0) if rng.random() < 0.75 else 0.0,
        pattern=rng.uniform(0.05, 0.45) if rng.random() < 0.25 else 0.0,
        lash=rng.uniform(1.0, 1.7) if female else rng.uniform(0.5, 1.0),
        lid=rng.uniform(0.03, 0.16),
        squint=rng.uniform(0, 0.18),
        skew=rng.normal(0, 0.07, 55).astype(np.float32),
        rest=_rest(rng),
        glasses=_glasses(rng, later.random() < 0.15) if rng.random() < 0.16 else None,
        cap=cap,
        scarf=scarf,
        earrings=later.uniform(0.2, 2.2) if later.random() < (0.4 if female else 0.05) else 0.0,
        metal=(np.array([0.55, 0.40, 0.14]) if later.random() < 0.5 else np.full(3, 0.5)).astype(
            np.float32
        ),
        wrinkles=float(np.clip(later.normal(0.1, 0.2) + 0.8 * old, 0, 1)),
        held=sample_held(hand, female, style not in (*SHELL_STYLES, "none"))
        if hand.random() < 0.125
        else None,
        child=0.0,
    )
