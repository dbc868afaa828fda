"""Texts, languages and voices of the synthetic corpus, drawn at random."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vivant.errors import UsageError
from vivant.export.synth.speech.voices import FESTIVAL, Voice

LANGUAGES: Mapping[str, str] = dict(
    pair.split("=")
    for pair in """
    de=deu_1901 fr=fra pt-br=por_BR es=spa es-419=spa it=ita ru=rus pl=pol nl=nld sv=swe tr=tur
    hi=hin id=ind cs=ces ko=kor ar=arb fi=fin hu=hun el=ell_monotonic ro=ron uk=ukr da=dan nb=nob
    hr=hrv fa=pes_1 sw=swh bn=ben ta=tam bg=bul sk=slk ca=cat lt=lit et=est ms=mly_latn ka=kat
    af=afr lv=lav sl=slv vi=vie eu=eus cy=cym ga=gle kk=kaz ml=mal gu=guj kn=kan ne=nep sq=als
    mk=mkd is=isl az=azj_latn hy=hye eo=epo ur=urd mr=mar pa=pan
    """.split()
)
"""espeak-ng's language and the file of the Universal Declaration of Human Rights in it."""
HELD_OUT_LANGUAGES: frozenset[str] = frozenset({"nl", "ro", "hi", "sw"})
ENGLISH: tuple[str, ...] = (
    "en-us", "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029",
)  # fmt: skip
VARIANTS: tuple[str, ...] = tuple(
    """
    m1 m2 m3 m4 m5 m6 m7 f1 f2 f3 f4 Andrea Michael Annie Alex Alicia adam anika antonio
    aunty belinda benjamin boris caleb david edward grandma grandpa gustave iven john klatt klatt2
    klatt4 linda marcelo max michel miguel norbert pablo paul quincy robert sandro shelby steph
    travis victor zac whisper whisperf announcer croak edward2 fast iven2 iven3 iven4
    kaukovalta klatt5 klatt6 pedro robert steph3 AnxiousAndy Denis Gene2 RicishayMax RicishayMax2
    Storm Gene Mario Mike Hugo Marco Lee Jacky Henrique Diogo
    """.split()
)
HELD_OUT_VARIANTS: tuple[str, ...] = ("f5", "m8", "ed", "Nguyen", "rob", "steph2", "Andy", "klatt3")
HELD_OUT_FESTIVAL: frozenset[str] = frozenset(
    {"voice_ked_diphone", "voice_czech_krb", "voice_hindi_NSK_diphone"}
)
FLITE: tuple[str, ...] = ("slt", "awb", "rms")
FLITE_DIPHONE: tuple[str, ...] = ("kal16", "kal")
_WANTED = ("udhr2.zip", "state_union.zip", "inaugural.zip")
_ODD = re.compile(r"[\[\]{}<>|\\*_=#@]|\d")


HELD_OUT_TEXT = 0.1
"""Share of every text, at its end, that only held-out clips speak."""


@dataclass(frozen=True)
class Texts:
    """Sentences to speak."""

    english: Sequence[str]
    other: Mapping[str, Sequence[str]]  # by espeak-ng language

    def part(self, language: str, held_out: bool) -> Sequence[str]:
        """Sentences of a language ("en" or espeak-ng's name), for training or held out."""
        lines = self.english if language == "en" else self.other[language]
        cut = int(len(lines) * (1 - HELD_OUT_TEXT))
        return lines[cut:] if held_out else lines[:cut]


def sentences(text: str, least: int, most: int) -> list[str]:
    """Sentences of ``least``..``most`` characters that hold words alone."""
    text = re.sub(r"\s+", " ", text)
    parts = re.split(r"(?<=[.!?;।:])\s+", text)
    return [s.strip() for s in parts if least <= len(s.strip()) <= most and not _ODD.search(s)]


@cache
def load(folder: Path) -> Texts:
    """Texts from a folder with udhr2.zip, state_union.zip and inaugural.zip (NLTK data).

    Raises: UsageError when one is missing.
    """
    missing = [name for name in _WANTED if not (folder / name).exists()]
    if missing:
        raise UsageError(
            f"texts to speak are missing from {folder}",
            expected=", ".join(_WANTED),
            got=f"no {', '.join(missing)}",
            fix="Fetch them from the NLTK data collection.",
        )
    english: list[str] = []
    for name in ("state_union.zip", "inaugural.zip"):
        with zipfile.ZipFile(folder / name) as archive:
            for member in sorted(archive.namelist()):
                if member.endswith(".txt"):
                    english += sentences(archive.read(member).decode("latin-1"), 12, 130)
    other = {}
    with zipfile.ZipFile(folder / "udhr2.zip") as archive:
        for language, name in LANGUAGES.items():
            text = archive.read(f"udhr2/{name}.txt").decode("utf-8", "ignore")
            found = sentences(text, 15, 150)
            if len(found) >= 20:
                other[language] = found
    return Texts(english, other)


ENGINES: Mapping[str, float] = {
    "flite": 0.26, "kal": 0.04, "festival-en": 0.12, "festival": 0.30, "espeak-en": 0.11,
    "espeak": 0.17,
}  # fmt: skip
"""Share of each kind of voice among clips with speech."""


def sample_voice(
    texts: Texts,
    rng: np.random.Generator,
    held_out: bool = False,
    kind: str | None = None,
    without: Collection[str] = (),
) -> tuple[Voice, Sequence[str]]:
    """A random voice and the sentences it can speak.

    held_out: a voice that no training clip has; kind: one of ENGINES, else drawn by share;
    without: voices of Festival that are not installed (espeak-ng speaks in their place).
    """
    if kind is None:
        kind = str(rng.choice(list(ENGINES), p=np.array(list(ENGINES.values()))))
    if held_out and kind in ("flite", "kal"):
        kind = "festival-en"
    pace = float(np.exp(rng.normal(0, 0.15)))
    english = texts.part("en", held_out)
    if kind == "flite":
        return Voice("flite", str(rng.choice(FLITE)), pace, 0), english
    if kind == "kal":
        pitch = float(rng.uniform(75, 190))
        return Voice("flite", str(rng.choice(FLITE_DIPHONE)), pace, pitch), english
    if kind.startswith("festival"):
        names = [
            name
            for name, (language, _) in FESTIVAL.items()
            if (language == "en") == (kind == "festival-en")
            and (name in HELD_OUT_FESTIVAL) == held_out
            and name not in without
        ]
        if names:
            name = str(rng.choice(names))
            language = FESTIVAL[name][0]
            return Voice("festival", name, pace), texts.part(language, held_out)
        kind = "espeak-en" if kind == "festival-en" else "espeak"
    variant = str(rng.choice(HELD_OUT_VARIANTS if held_out else VARIANTS))
    pitch, spread = float(rng.uniform(15, 90)), float(rng.uniform(20, 99))
    if kind == "espeak-en":
        name = f"{rng.choice(ENGLISH)}+{variant}"
        return Voice("espeak", name, pace, pitch, spread), english
    allowed = [x for x in texts.other if (x in HELD_OUT_LANGUAGES) == held_out]
    language = str(rng.choice(allowed))
    return Voice("espeak", f"{language}+{variant}", pace, pitch, spread), texts.part(
        language, held_out
    )
