"""``python -m vivant.export.train.evaluate_motion``: one table of how a checkpoint moves a face.

Each column is a sampler: the many-step teacher (Euler steps of the instantaneous velocity) and the
same weights, or those distilled from it, in four, two and one steps; the first column is what real
talkers or the training motion measure. Rows cover lips on real, phone-aligned speech and tracked
mouths, stillness where nobody speaks, head, eyes, diversity, commands and drift. Also writes
``evaluation.json`` and plots.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vivant.export.nets.denoise import GUIDANCE
from vivant.export.synth.speech import metrics
from vivant.export.synth.speech.articulation import aperture
from vivant.export.synth.speech.phones import BILABIALS
from vivant.export.synth.speech.real import Recording, load_grid, load_real
from vivant.latent import INDEX

from .motion import read_checkpoint, restore
from .motion_data import SILENCE, Corpus, Statistics, load_corpus
from .motion_loss import MotionNet
from .rollout import primed, rollout

Array = NDArray[np.float32]
RATE = 50.0
"""Motion frames a second."""
EMOTIONS = ("happy", "sad", "angry", "surprised", "afraid", "disgusted")
HEAD = [INDEX[name] for name in ("headPitch", "headYaw", "headRoll")]


@dataclass(frozen=True)
class Sampler:
    """A way to take the network's steps."""

    name: str
    schedule: tuple[float, ...]


def uniform(steps: int) -> tuple[float, ...]:
    """Times from 1 to 0 in equal steps."""
    return tuple(float(t) for t in np.linspace(1, 0, steps + 1))


SAMPLERS = (
    Sampler("16 steps", uniform(16)),
    Sampler("4 steps", uniform(4)),
    Sampler("2 steps", uniform(2)),
    Sampler("1 step", uniform(1)),
)


@dataclass
class Subject:
    """A checkpoint with one sampler."""

    net: MotionNet
    known: Statistics
    sampler: Sampler
    correlation: float = 0.0
    guided: bool = False
    """Guidance is a condition of the network."""

    def perform(
        self, mels: Sequence[Array], conditions: Array | None = None, *, seed: int = 0
    ) -> list[Array]:
        """Motion (2 T, 63) for each log-mel (N, mels); shorter ones are run with silence after."""
        longest = max(len(mel) for mel in mels)
        batch = np.stack([primed(_padded(mel, longest)) for mel in mels])
        motion = rollout(
            self.net,
            self.known,
            batch,
            conditions,
            schedule=self.sampler.schedule,
            noise_correlation=self.correlation,
            seed=seed,
        )
        return [m[: len(mel) // 2] for m, mel in zip(motion, mels, strict=True)]


def _padded(mel: Array, frames: int) -> Array:
    quiet = np.full((frames - len(mel), mel.shape[1]), SILENCE, np.float32)
    return np.concatenate([mel.astype(np.float32), quiet])


@dataclass
class Table:
    """Rows of (name, what is wanted, one value a column)."""

    rows: dict[str, tuple[str, dict[str, float]]] = field(default_factory=dict)
    samples: dict[str, dict[str, Array]] = field(default_factory=dict)
    """What few steps are to keep of many: a measure, by column, of each clip or seed, (n,)."""

    def put(self, column: str, name: str, value: float, wanted: str = "") -> None:
        """Set a cell; ``wanted`` is the bar or the human range."""
        self.rows.setdefault(name, (wanted, {}))[1][column] = float(value)

    def text(self, columns: Sequence[str]) -> str:
        """As Markdown."""
        lines = ["| measure | wanted | " + " | ".join(columns) + " |"]
        lines.append("| --- " * (len(columns) + 2) + "|")
        for name, (wanted, cells) in self.rows.items():
            shown = (f"{cells[c]:.3g}" if c in cells else "" for c in columns)
            lines.append(f"| {name} | {wanted} | " + " | ".join(shown) + " |")
        return "\n".join(lines)


def articulation(
    table: Table, column: str, recordings: Sequence[Recording], motions: Sequence[Array]
) -> None:
    """Lips against the phones of real recordings."""
    pairs, r, rows, classes, groups = [], [], [], [], []
    for n, (one, motion) in enumerate(zip(recordings, motions, strict=True)):
        if one.reference is None:
            continue
        gap, wanted = aperture(motion), aperture(one.reference)
        spoken = [p for p in one.phones if p.name != "sil"]
        inside = slice(int(spoken[0].start * RATE), int(spoken[-1].end * RATE))
        pairs.append((gap[inside], wanted[inside]))
        r.append(metrics.correlation(*pairs[-1]))
        x, y = metrics.viseme_rows(motion, one.phones)
        rows.append(x)
        classes.append(y)
        groups.append(np.full(len(y), n))
    put = table.put
    put(column, "aperture r, reference", float(np.mean(r)), ">= .75")
    table.samples.setdefault("articulation, aperture r", {})[column] = np.array(r)
    put(column, "lag, ms, reference", metrics.lag(pairs, RATE).ms, "within 20")
    if len(set(np.concatenate(groups).tolist())) > 1:
        right, majority = metrics.viseme_accuracy(
            np.concatenate(rows), np.concatenate(classes), np.concatenate(groups)
        )
        put(column, "viseme accuracy", right, f"chance {majority:.2f}")


def closures(
    table: Table, column: str, sets: Mapping[str, tuple[Sequence[Recording], Sequence[Array]]]
) -> None:
    """Closed lips at the bilabials of each set of aligned recordings, and of all together."""
    heard = {
        name: [(aperture(m), r.phones) for r, m in zip(*pair, strict=True) if r.phones]
        for name, pair in sets.items()
    }
    heard["all real"] = [one for pairs in heard.values() for one in pairs]
    for name, pairs in heard.items():
        total = sum(
            (metrics.closure(gap, RATE, phones) for gap, phones in pairs),
            metrics.Closure(0, 0, 0, 0),
        )
        gaps, phones = [gap for gap, _ in pairs], [spoken for _, spoken in pairs]
        chance = metrics.chance_closure(gaps, RATE, phones)
        told = f"{name}, {total.bilabials} bilabials"
        table.put(column, f"closure recall, {told}", total.recall, ">= .90")
        table.put(column, f"closure precision, {told}", total.precision, ">= .70")
        table.put(column, f"closure recall by chance, {name}", chance.recall)


def tracked(
    table: Table, column: str, recordings: Sequence[Recording], motions: Sequence[Array]
) -> None:
    """Lips against mouths tracked in video."""
    pairs, rate = [], 25.0
    for one, motion in zip(recordings, motions, strict=True):
        if one.tracked is None:
            continue
        rate = one.tracked.rate
        spoken = [p for p in one.phones if p.name != "sil"]
        first = int(max(0, spoken[0].start - 0.15) * rate)
        last = min(len(one.tracked.aperture), int((spoken[-1].end + 0.1) * rate))
        at = np.arange(first, last) / rate
        gap = np.interp(at, np.arange(len(motion)) / RATE, aperture(motion))
        pairs.append((gap, one.tracked.aperture[first:last]))
    if pairs:
        r = [metrics.correlation(*pair) for pair in pairs]
        table.put(column, "aperture r, tracked mouths", float(np.mean(r)), ">= .50")
        table.put(column, "lag, ms, tracked mouths", metrics.lag(pairs, rate).ms, "within 20")


def stillness(
    table: Table, column: str, recordings: Sequence[Recording], motions: Sequence[Array]
) -> None:
    """Mouth activity where nobody speaks, as a share of speech's, and lips apart in silence."""
    spoken = [metrics.activity(m) for r, m in zip(recordings, motions, strict=True) if r.spoken]
    table.samples.setdefault("articulation, activity", {})[column] = np.array(spoken)
    speech = float(np.mean(spoken))
    table.put(column, "mouth activity in speech, /s", speech)
    for one, motion in zip(recordings, motions, strict=True):
        if not one.spoken:
            parts = [motion[int(a * RATE) : int(b * RATE)] for a, b in one.wordless]
            moving = np.average([metrics.activity(m) for m in parts], weights=[*map(len, parts)])
            table.put(column, f"activity: {one.name}", float(moving) / speech, "<= .05")
            if one.name == "silence":
                table.put(column, "gap in silence", float(aperture(motion).mean()), "< .03")


def nonverbal(table: Table, column: str, motions: Sequence[Array]) -> None:
    """Head, blinks and gaze over many clips."""
    spread = np.array([metrics.head_spread(m) for m in motions])  # (clips, 3)
    table.samples.setdefault("pose range", {})[column] = spread.mean(1)
    for name, value in zip(("pitch", "yaw", "roll"), np.median(spread, axis=0), strict=True):
        table.put(column, f"head {name} sd, deg", float(value), "truth's +-25 %")
    power = np.mean([metrics.head_bands(m[:, HEAD[0]], RATE) for m in motions], axis=0)
    for (low, high), value in zip(metrics.BANDS, power, strict=True):
        table.put(column, f"pitch power {low:g}-{high:g} Hz", float(value))
    speed = [np.linalg.norm(np.diff(m[:, HEAD], axis=0), axis=1).mean() * RATE for m in motions]
    table.put(column, "head speed, deg/s", float(np.mean(speed)), "truth's +-25 %")
    jerk = [np.abs(np.diff(m[:, HEAD], n=2, axis=0)).mean() * RATE**2 for m in motions]
    table.put(column, "head acceleration, deg/s2", float(np.mean(jerk)))
    minutes = sum(len(m) for m in motions) / RATE / 60
    onsets = [metrics.blink_onsets(m) for m in motions]
    table.put(column, "blinks/min", sum(map(len, onsets)) / minutes, "10-32")
    lids = [m[:, INDEX["eyeBlinkLeft"]] for m in motions]
    peaks = [x[i : i + 12].max() for x, at in zip(lids, onsets, strict=True) for i in at]
    table.put(column, "blinks that close", float(np.mean(np.array([*peaks, 0.0]) > 0.85)))
    away = np.concatenate([np.hypot(*metrics.regard(m).T) for m in motions])
    table.put(column, "regard within 6 deg", float((away < 6).mean()))


def diversity(table: Table, subject: Subject, one: Recording, seeds: int = 24) -> None:
    """Distance between performances of the same sound; lips should agree, heads should not."""
    same = subject.perform([one.mel] * seeds, seed=7)
    motions = np.stack(same)
    std = subject.known.latent_std
    column = subject.sampler.name
    for name, channels in (("head", HEAD), ("jaw", [INDEX["jawOpen"]])):
        apart = metrics.distances(motions[:, :, channels], std[channels])
        table.put(column, f"diversity between seeds, {name}", float(apart.mean()))
        if name == "head":
            table.samples.setdefault("diversity", {})[column] = apart


def commands(table: Table, subject: Subject, one: Recording) -> None:
    """Gaze, head distance and emotion commands."""
    gazes = [(15.0, 0.0), (-15.0, 0.0), (0.0, 10.0), (0.0, -10.0)]
    ratios = [0.75, 1.4]
    emotional, neutrals = len(gazes) + len(ratios), 4
    guided = emotional + len(EMOTIONS)
    rows = np.zeros((guided + len(EMOTIONS) + neutrals, 16), np.float32)
    for i, (yaw, pitch) in enumerate(gazes):
        rows[i, :3] = yaw / 30, pitch / 30, 1
    for i, ratio in enumerate(ratios, len(gazes)):
        rows[i, 3:5] = np.log2(ratio), 1
    for k in range(len(EMOTIONS)):
        rows[[emotional + k, guided + k], 5 + k] = 1
        rows[[emotional + k, guided + k], 11] = 1
        rows[guided + k, GUIDANCE] = 1
    motions = subject.perform([one.mel] * len(rows), rows, seed=3)
    late = [m[100:] for m in motions]  # after 2 s
    miss = [
        np.hypot(*(np.median(metrics.regard(late[i]), axis=0) - np.array(gazes[i])))
        for i in range(len(gazes))
    ]
    column = subject.sampler.name
    table.put(column, "gaze command error, deg", float(np.mean(miss)), "<= 5")
    reach = [
        abs(metrics.distance_ratio(late[i + len(gazes)]) / q - 1) for i, q in enumerate(ratios)
    ]
    table.put(column, "distance command error", float(np.mean(reach)), "<= .05")
    neutral = np.concatenate(late[-neutrals:]).mean(0)
    told = [
        max((s := metrics.emotion_scores(late[emotional + k], neutral)), key=lambda n: s[n]) == name
        for k, name in enumerate(EMOTIONS)
    ]
    table.put(column, "emotions told apart, of 6", sum(told), "6")
    if subject.guided:
        strength = [
            [metrics.emotion_strength(late[i + k], neutral, name) for i in (guided, emotional)]
            for k, name in enumerate(EMOTIONS)
        ]
        shown = np.array(strength)
        stronger = float(np.mean(shown[:, 0] / shown[:, 1]))
        table.put(column, "emotion at guidance 2, to that at 1", stronger, "> 1")


def drift(table: Table, subject: Subject, one: Recording, minutes: float) -> Array:
    """The same recording over and over: the last tenth against the second tenth."""
    repeats = int(np.ceil(minutes * 6000 / len(one.mel)))
    motion = subject.perform([np.tile(one.mel, (repeats, 1))], seed=11)[0]
    tenth = len(motion) // 10
    early, late = motion[tenth : 2 * tenth], motion[-tenth:]
    column = subject.sampler.name
    moved = np.abs(late[:, HEAD].mean(0) - early[:, HEAD].mean(0)).max()
    told = f"in {minutes:g} min"
    table.put(column, f"drift of pose {told}, deg", float(moved))
    for name, measure in (
        ("head spread", lambda m: metrics.head_spread(m).mean()),
        ("mouth activity", metrics.activity),
        ("blinks", metrics.blinks_per_minute),
    ):
        table.put(
            column, f"{name} {told}, late to early", measure(late) / (measure(early) or np.nan)
        )
    return motion


def against_teacher(table: Table, columns: Sequence[str]) -> None:
    """What few steps keep of the first sampler's pose range, diversity and articulation.

    A ratio of means over clips or seeds, with its standard error by bootstrap over them: streams
    of other steps are other performances, and few of them differ by chance alone.
    """
    teacher, rng = columns[0], np.random.default_rng(0)
    for name, by_column in table.samples.items():
        for column in columns[1:]:
            few, many = by_column[column], by_column[teacher]
            again = rng.integers(len(few), size=(1000, len(few)))
            ratios = few[again].mean(1) / many[again].mean(1)
            row = f"to {teacher}: {name}"
            table.put(column, row, few.mean() / many.mean(), "2 steps +-.05, 1 step +-.10")
            table.put(column, f"{row}, standard error", ratios.std())


def held_out(corpus: Corpus, clips: int, seed: int = 0) -> tuple[list[Array], list[Array], Array]:
    """Mel, motion and conditions of clips drawn from held-out shards, of up to 16 s."""
    chosen = np.random.default_rng(seed).permutation(len(corpus.clips))[:clips]
    mels, motions = [], []
    for start, count in corpus.clips[chosen]:
        ticks = min(int(count), 400)
        mels.append(corpus.mel[4 * start : 4 * (start + ticks)].astype(np.float32))
        motions.append(corpus.motion[2 * start : 2 * (start + ticks)].astype(np.float32))
    return mels, motions, corpus.conditions[chosen]


def plot(path: Path, one: Recording, columns: dict[str, Array]) -> None:
    """Mouth, lids, head and gaze of several performances of one recording, as a PNG."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = ["aperture", "jawOpen", "mouthPucker", "eyeBlinkLeft"]
    names += ["headYaw", "headPitch", "gazeYaw", "browInnerUp"]
    figure, panels = pyplot.subplots(len(names), 1, figsize=(22, 2.4 * len(names)), sharex=True)
    for panel, name in zip(panels, names, strict=True):
        for label, motion in columns.items():
            y = aperture(motion) if name == "aperture" else motion[:, INDEX[name]]
            panel.plot(np.arange(len(y)) / RATE, y, lw=1, label=label)
        for phone in one.phones:
            if phone.name in BILABIALS:
                panel.axvspan(phone.start, phone.end, color="r", alpha=0.15)
        panel.set_ylabel(name)
    panels[0].legend(ncol=len(columns), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=55)
    pyplot.close(figure)


def performer(checkpoint: Path, weights: str) -> tuple[MotionNet, Statistics, bool]:
    """The network of a checkpoint, its statistics, and whether guidance is a condition of it."""
    content = read_checkpoint(checkpoint)
    return *restore(content, weights), content.get("guidance") == "condition"


def evaluate(args: argparse.Namespace) -> tuple[Table, list[str]]:
    """Fill the table; writes plots to ``args.out``."""
    students = performer(Path(args.checkpoint), args.weights)
    teachers = performer(Path(args.teacher), args.weights) if args.teacher else students
    recordings = load_real(Path(args.real))
    clips = list(load_grid(Path(args.grid))) if args.grid else []
    heard = [r for r in recordings if r.reference is not None]
    shown = max(heard, key=lambda r: r.name.startswith("jfk"))
    mels, truth, given = held_out(load_corpus(Path(args.heldout).glob("speech_9*.npz")), args.clips)
    table, columns = Table(), ["truth"]
    nonverbal(table, "truth", truth)
    if clips:
        tracked(table, "truth", clips, [r.reference for r in clips if r.reference is not None])
    drawn: dict[str, Array] = {}
    if shown.reference is not None:
        drawn["reference"] = shown.reference
    for sampler in SAMPLERS:
        if args.only and sampler.name not in args.only:
            continue
        print(f"{sampler.name} ...", file=sys.stderr, flush=True)
        net, known, guided = teachers if sampler == SAMPLERS[0] else students
        subject = Subject(net, known, sampler, args.noise_correlation, guided)
        columns.append(sampler.name)
        motions = subject.perform([r.mel for r in recordings])
        articulation(table, sampler.name, recordings, motions)
        sets = {"read speech": (recordings, motions)}
        if clips:
            talking = subject.perform([r.mel for r in clips])
            tracked(table, sampler.name, clips, talking)
            sets["tracked talkers"] = (clips, talking)
        closures(table, sampler.name, sets)
        stillness(table, sampler.name, recordings, motions)
        made = subject.perform(mels, given, seed=1)
        nonverbal(table, sampler.name, made)
        r = [
            metrics.correlation(aperture(a), aperture(b)) for a, b in zip(made, truth, strict=True)
        ]
        table.put(sampler.name, "aperture r, held-out voices", float(np.nanmean(r)))
        diversity(table, subject, shown)
        commands(table, subject, shown)
        drawn[sampler.name] = motions[[q.name for q in recordings].index(shown.name)]
        if args.drift_minutes and sampler.name == args.drift:
            drift(table, subject, shown, args.drift_minutes)
    if columns[1:2] == [SAMPLERS[0].name]:
        against_teacher(table, columns[1:])
    plot(Path(args.out) / "performance.png", shown, drawn)
    return table, columns


def main(argv: list[str] | None = None) -> None:
    """Evaluate; the table goes to standard output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--teacher", help="checkpoint that takes the 16 steps, before distillation")
    parser.add_argument("--heldout", required=True, help="folder of speech_9*.npz")
    parser.add_argument("--real", required=True, help="folder of real recordings")
    parser.add_argument("--grid", help="folder of audiovisual clips with tracked mouths")
    parser.add_argument("--out", required=True, help="folder for plots and evaluation.json")
    parser.add_argument("--weights", choices=("average", "last"), default="average")
    parser.add_argument("--only", action="append", help="name of a sampler, as in the table")
    parser.add_argument("--clips", type=int, default=40, help="held-out clips")
    parser.add_argument("--drift", default="1 step", help="sampler that streams for long")
    parser.add_argument("--drift-minutes", type=float, default=0.0, help="60 for one hour")
    parser.add_argument("--noise-correlation", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    table, columns = evaluate(args)
    print(table.text(columns))
    report = {name: {"wanted": w} | cells for name, (w, cells) in table.rows.items()}
    (Path(args.out) / "evaluation.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
