"""Rebuild the asset pack from its upstream sources::

    git clone https://github.com/ICT-VGL/ICT-FaceKit
    git clone https://github.com/makehumancommunity/makehuman
    git clone https://github.com/makehumancommunity/makehuman-assets   # with Git LFS
    python -m vivant.export.synth.people.build_pack --face-kit ICT-FaceKit/FaceXModel
        --makehuman makehuman/makehuman/data --assets makehuman-assets/base --out pack.npz

Needs some minutes and 4 GB. ICT-FaceKit (MIT) gives the head, its identity modes and expressions;
MakeHuman (CC0 1.0) gives skins, hair, brows, garments and semantic shape axes, which a non-rigid
registration carries over. Tongue shapes, masks and lashes are made here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from vivant.export.synth.people import bake, wavefront
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.pack import Array
from vivant.export.synth.people.register import Registered, register
from vivant.export.synth.people.sample import FEMALE_SKINS, MALE_SKINS
from vivant.export.synth.people.wavefront import Mesh, read_picture, read_points, read_proxy

RACES, SEXES = ("caucasian", "asian", "african"), ("male", "female")
HAIRS = ("short01", "short02", "short03", "short04", "bob02", "long01", "ponytail01", "braid01")
GARMENTS = (
    *(f"male_casualsuit{k:02d}" for k in range(2, 7)),
    "male_elegantsuit01",
    "male_worksuit01",
    "female_casualsuit01",
    "female_elegantsuit01",
    "female_sportsuit01",
)
BROWS = tuple(f"eyebrow{k:03d}" for k in range(1, 13))
PARTS = (
    *("nose", "mouth", "chin", "cheek", "eyes", "eyebrows", "forehead", "head", "ears", "neck"),
)
"""Folders of MakeHuman's targets that become shape axes."""
UPWARD = ("incr", "up", "out", "forward", "convex")
"""Endings of the targets that are taken: the other of each pair is its opposite."""
LOWEST = -34.0
"""Garments are cut at this height, cm: below every frame."""
MODES = 100
_FINE = 24
"""Identity modes kept in 16 bits; the weaker rest in 8."""

Table = dict[str, NDArray[np.generic]]


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def materials(mesh: Mesh, jaw: Array) -> NDArray[np.int64]:
    """Material of every triangle of the ICT head, -1 for those never drawn.

    ``jaw`` (V, 3) is the shape of the open jaw: of all parts in the mouth the tongue alone
    follows it about half.
    """
    named = np.array(mesh.groups)[mesh.group]
    out = np.full(len(mesh.faces), -1, np.int64)

    def within(span: slice) -> NDArray[np.bool_]:
        return ((mesh.faces >= span.start) & (mesh.faces < span.stop)).all(1)

    out[named == "M_Face"], out[named == "M_BackHead"] = asset.FACE, asset.SCALP
    out[within(asset.SOCKET)] = asset.MOUTH
    out[within(slice(asset.SOCKET.stop, asset.TEETH.start))] = asset.ORBIT
    soft = named == "M_GumsTongue"
    out[soft], out[named == "M_Teeth"] = asset.GUM, asset.TOOTH
    corner = mesh.corner[soft]
    links = (np.concatenate([corner[:, 0], corner[:, 1]]), np.concatenate(corner[:, 1:].T))
    size = int(mesh.corner.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(links[0])), links), shape=(size, size))
    island = connected_components(graph, directed=False)[1][corner[:, 0]]
    rows = np.flatnonzero(soft)
    for which in np.unique(island):
        drop = jaw[np.unique(mesh.faces[rows[island == which]]), 1].mean()
        if -2.1 < drop < -1.5:
            out[rows[island == which]] = asset.TONGUE
    out[within(asset.GLOBES[0])], out[within(asset.GLOBES[1])] = asset.GLOBE_LEFT, asset.GLOBE_RIGHT
    out[named == "M_EyeLashes"] = asset.LASH
    return out


def tongue_shapes(points: Array, tongue: NDArray[np.bool_]) -> dict[str, Array]:
    """Our own shapes of the tongue, which ICT's set lacks, (V, 3) cm each."""
    z = points[:, 2]
    low, high = z[tongue].min(), z[tongue].max()
    along = np.clip((z - low) / (high - low), 0, 1) * tongue  # 0 at the root, 1 at the tip
    x, none = points[:, 0], np.zeros(len(points))

    def shape(dx: Array, dy: Array, dz: Array) -> Array:
        return (np.stack([dx, dy, dz], 1) * tongue[:, None]).astype(np.float32)

    return {
        "tongueUp": shape(none, 1.35 * along**2.5, -0.25 * along**2),
        "tongueOut": shape(-0.12 * x * along**2, 0.55 * along**2, 2.6 * along**1.6),
        "tongueBackUp": shape(none, np.exp(-(((along - 0.35) / 0.22) ** 2)), none),
        "tongueWide": shape(0.18 * x * along, none, -0.5 * along),
    }


class Body:
    """MakeHuman's base mesh with its targets."""

    def __init__(self, folder: Path) -> None:
        self.targets = folder / "targets"
        self.mesh = wavefront.read_mesh(folder / "3dobjs" / "base.obj")
        self.count = len(self.mesh.points)
        self.skin = self.mesh.group == self.mesh.groups.index("body")

    def target(self, name: str) -> Array:
        return wavefront.read_target(self.targets / f"{name}.target", self.count)

    def macro(self, race: str, sex: str, age: str = "young") -> Array:
        return self.target(f"macrodetails/{race}-{sex}-{age}")

    def person(self, sex: str) -> Array:
        """The average young adult, (V, 3) decimetres."""
        build = self.target(f"macrodetails/universal-{sex}-young-averagemuscle-averageweight")
        mixed = np.mean([self.macro(race, sex) for race in RACES], 0)
        return (self.mesh.points + mixed + build).astype(np.float32)

    def axes(self) -> dict[str, Array]:
        """Displacements of the semantic axes, (V, 3) decimetres."""
        young = {(r, s): self.macro(r, s) for r in RACES for s in SEXES}
        mean = np.mean(list(young.values()), 0)
        out = {"male_minus_female": self.person("male") - self.person("female")}
        for race in RACES:
            out[race] = np.mean([young[race, sex] for sex in SEXES], 0) - mean
        out["old"] = np.mean([self.macro(*who, "old") - young[who] for who in young], 0)
        return out

    def details(self) -> dict[str, Array]:
        """Displacements of single features, both sides together."""
        out = {}
        for path in sorted(self.targets.glob("*/*.target")):
            part, name = path.parent.name, path.stem
            left_out = name.startswith("r-") or "age" in name or "fat" in name
            if part not in PARTS or left_out or not name.endswith(UPWARD):
                continue
            out[f"{part}:{name}"] = self.target(f"{part}/{name}")
            other = f"{part}/r-{name[2:]}"
            if name.startswith("l-") and (self.targets / f"{other}.target").exists():
                out[f"{part}:{name}"] += self.target(other)
        return out


def carried_axes(body: Body, found: Registered, mean: Array) -> dict[str, Array]:
    """MakeHuman's axes on the ICT head, (V, 3) cm; what does not change it is dropped."""
    seen = found.head[found.visible]
    away, near = cKDTree(found.points[seen]).query(mean, k=10)
    weight = np.exp(-((away / (away[:, :1] + 0.35)) ** 2))
    weight /= weight.sum(1, keepdims=True)
    skin = asset.SKIN.stop
    skull = np.flatnonzero(mean[:skin, 1] > -4)
    x, y, z = mean[:9409].T  # the face without the back of the head
    lips = np.flatnonzero((np.abs(x) < 2.6) & (y > -4.6) & (y < -2.3) & (z > 9.5))

    def carry(change: Array) -> Array:
        turned = found.scale * (change[seen] @ found.rotation.T)
        out = (turned[near] * weight[..., None]).sum(1).astype(np.float32)
        # What is known on the skin only moves eyes and teeth as wholes.
        for ball, orbit in ((asset.EYE_LEFT, (13294, 13678)), (asset.EYE_RIGHT, (13678, 14062))):
            rows = np.arange(*orbit)
            front = rows[np.argsort(-mean[rows, 2])[:60]]
            out[ball] = out[front].mean(0)
        out[asset.TEETH] = out[lips].mean(0)
        return out

    axes = {}
    for name, change in body.axes().items():
        axis = carry(change)
        axes[name] = axis - axis[skull].mean(0)
    for name, change in body.details().items():
        axis = carry(change)
        if np.abs(axis[:skin]).max() > 0.02:
            axes[name] = axis
    return axes


def quantised(table: Table, name: str, shapes: Array, bits: int) -> None:
    """Store shapes (N, V, 3) as integers with a scale each."""
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(shapes).reshape(len(shapes), -1).max(1) / most, 1e-9)
    kind = np.int8 if bits == 8 else np.int16
    table[name] = (shapes / scale[:, None, None]).round().astype(kind)
    table[f"{name}_s"] = scale.astype(np.float32)


def encoded(image: NDArray[np.uint8], kind: str, quality: int = 9) -> NDArray[np.uint8]:
    """A picture as the bytes of a ``.png`` or ``.webp`` file."""
    if image.ndim == 3:
        image = np.ascontiguousarray(image[..., [2, 1, 0, 3][: image.shape[2]]])
    flag = cv2.IMWRITE_PNG_COMPRESSION if kind == ".png" else cv2.IMWRITE_WEBP_QUALITY
    return np.asarray(cv2.imencode(kind, image, [flag, quality])[1]).reshape(-1)


def store_mesh(table: Table, key: str, card: bake.Card) -> None:
    table[f"{key}/v"] = card.points.astype(np.float32)
    table[f"{key}/f"] = card.faces.astype(np.uint16)
    table[f"{key}/uv"] = card.uv.astype(np.float16)


def card(folder: Path, kind: str, name: str, found: Registered) -> bake.Card:
    """A proxy of MakeHuman's fitted to the registered head."""
    proxy = read_proxy(folder / kind / name / f"{name}.mhclo")
    return bake.Card(proxy.fitted(found.points, found.scale), proxy.mesh.faces, proxy.mesh.uv)


def cut(whole: bake.Card, lowest: float) -> bake.Card:
    """Without the triangles that reach below a height, and what only they use."""
    keep = (whole.points[whole.faces][..., 1] > lowest).all(1)
    used, faces = np.unique(whole.faces[keep], return_inverse=True)
    return bake.Card(whole.points[used], faces.reshape(-1, 3), whole.uv[keep])


def skin_file(name: str) -> str:
    """``young_..._male2`` -> ``young_..._male_diffuse2.png``."""
    stem = name.rstrip("0123456789")
    return f"{stem}_diffuse{name[len(stem) :]}.png"


def store_geometry(table: Table, folder: Path) -> tuple[Mesh, NDArray[np.int64]]:
    """The ICT head: mean, shapes, drawn triangles; returns them with their materials."""
    mesh = wavefront.read_mesh(folder / "generic_neutral_mesh.obj", "usemtl")
    mean = mesh.points
    named = sorted(p.stem for p in folder.glob("*.obj") if not p.stem.startswith("generic"))
    names = [n for n in named if not n.startswith(("identity", "Pupil"))]
    shapes = {name: read_points(folder / f"{name}.obj") - mean for name in names}
    material = materials(mesh, shapes["jawOpen"])
    tongue = np.zeros(len(mean), bool)
    tongue[mesh.faces[material == asset.TONGUE]] = True
    shapes |= tongue_shapes(mean, tongue)
    modes = [read_points(folder / f"identity{k:03d}.obj") - mean for k in range(MODES)]
    drawn = material >= 0
    unused = np.setdiff1d(np.arange(len(mean)), mesh.faces[drawn])
    stacks = {"idm_a": modes[:_FINE], "idm_b": modes[_FINE:], "ex": list(shapes.values())}
    for key, bits in (("idm_a", 16), ("idm_b", 8), ("ex", 16)):
        stack = np.stack(stacks[key])
        stack[:, unused] = 0
        quantised(table, key, stack, bits)
    uv = mesh.uv - np.floor(mesh.uv)
    table["mean"], table["exn"] = mean, np.array(list(shapes))
    table["F"] = mesh.faces[drawn].astype(np.uint16)
    table["M"] = material[drawn].astype(np.uint8)
    table["uv"] = (uv[drawn] * 65535).round().astype(np.uint16)
    return mesh, material


def build(face_kit: Path, makehuman: Path, assets: Path) -> Table:
    """The whole pack as ``pack.load`` expects it."""
    table: Table = {}
    mesh, material = store_geometry(table, face_kit)
    mean = mesh.points
    tell("head, identities and expressions read")
    body = Body(makehuman)
    average = (body.person("male") + body.person("female")) / 2
    skin_faces = body.mesh.faces[body.skin]
    outside = np.isin(material, (asset.FACE, asset.SCALP))
    found = register(average, skin_faces, mean, mesh.faces[outside])
    tell(f"base mesh registered, scale {found.scale:.3f}")
    axes = carried_axes(body, found, mean)
    table["axn"] = np.array(list(axes))
    quantised(table, "ax", np.stack(list(axes.values())), 8)
    tell(f"{len(axes)} shape axes carried over")

    cells = {
        "face": bake.part(mean, mesh.faces, material, mesh.uv, asset.FACE),
        "back": bake.part(mean, mesh.faces, material, mesh.uv, asset.SCALP),
    }
    known = np.zeros(body.count, bool)
    known[found.head[found.visible]] = True
    u, v = np.moveaxis(body.mesh.uv[body.skin].mean(1), -1, 0)
    # The head's islands alone: eye sockets and the mouth's inside lie elsewhere.
    island = ((u > 0.635) & (v > 0.14) & (v < 0.83)) | ((v > 0.65) & (u < 0.7))
    at = known[skin_faces].all(1) & island
    skin = bake.Skin(bake.Card(found.points, skin_faces[at], body.mesh.uv[body.skin][at]))
    maps = {part: skin.map(cells[part]) for part in cells}
    for name in sorted({*MALE_SKINS, *FEMALE_SKINS}):
        picture = read_picture(assets / "skins" / "textures" / skin_file(name))[..., :3]
        for part, at_uv in maps.items():
            image = bake.baked(picture, at_uv, cells[part].used)
            table[f"img/{part}_{name}"] = encoded(image, ".webp", 92)
    tell("skins baked")
    for name in HAIRS:
        strands = card(assets, "hair", name, found)
        picture = read_picture(assets / "hair" / name / f"{name}_diffuse.png", 1024)
        store_mesh(table, f"hair/{name}", strands)
        table[f"hair/{name}/tex"] = encoded(picture, ".webp", 88)
        for part, texel in cells.items():
            cover = bake.scalp(strands, picture[..., 3], texel, part == "face")
            half = cv2.resize(cover, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            table[f"scalp/{part}_{name}"] = encoded(np.asarray(half, np.uint8), ".png")
    for name in GARMENTS:
        store_mesh(table, f"cloth/{name}", cut(card(assets, "clothes", name, found), LOWEST))
        picture = read_picture(assets / "clothes" / name / f"{name}_diffuse.png", 1024)
        table[f"cloth/{name}/tex"] = encoded(picture[..., :3], ".webp", 85)
    for name in BROWS:
        alpha = read_picture(assets / "eyebrows" / name / f"{name}.png", 512)[..., 3]
        laid = bake.brow(card(assets, "eyebrows", name, found), alpha, cells["face"])
        table[f"mask/brow_{name}"] = encoded(laid, ".png")
    tell("hair, garments and brows fitted")
    face = material == asset.FACE
    for name, image in bake.masks(cells["face"], mesh.faces[face], mesh.uv[face]).items():
        table[f"mask/{name}"] = encoded(image, ".png")
    table["mask/lash"] = encoded(bake.lashes(), ".png")
    table["hairs"], table["cloths"] = np.array(HAIRS), np.array(GARMENTS)
    table["brows"] = np.array(BROWS)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--face-kit", required=True, type=Path, help="ICT-FaceKit/FaceXModel")
    parser.add_argument("--makehuman", required=True, type=Path, help="makehuman/makehuman/data")
    parser.add_argument("--assets", required=True, type=Path, help="makehuman-assets/base")
    parser.add_argument("--out", type=Path, default=Path("pack.npz"))
    options = parser.parse_args(arguments)
    table = build(options.face_kit, options.makehuman, options.assets)
    part = options.out.with_suffix(".partial")
    with part.open("wb") as out:
        np.savez_compressed(out, **table)  # type: ignore[arg-type]
    part.replace(options.out)
    tell(f"{options.out.name}: {options.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
