"""The phone inventory that articulation is defined on, and maps into it from each label set.

Diphthongs and affricates are two phones. Labels follow the International Phonetic Alphabet.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

VOWELS: frozenset[str] = frozenset("i y ɪ ʏ e ø ɛ œ æ a ɑ ɔ o ʊ u ɯ ɨ ʌ ə ɜ".split())
CONSONANTS: frozenset[str] = frozenset(
    "p b m f v θ ð t d n s z ʃ ʒ l ɹ r ɾ ɲ ʎ j ɥ w k ɡ ŋ x χ ʁ ç h ʔ β".split()
)
SILENCE = "sil"
BILABIALS: frozenset[str] = frozenset("pbm")
LABIODENTALS: frozenset[str] = frozenset("fv")
VOICELESS_STOPS: frozenset[str] = frozenset("ptk")

VISEMES: tuple[str, ...] = (
    "silence", "bilabial", "labiodental", "rounded", "postalveolar", "sibilant", "dental",
    "tongue", "spread", "front-open", "back-open", "central", "rhotic",
)  # fmt: skip
"""Thirteen classes of phones that look alike."""
_CLASSES = (
    SILENCE, "p b m", "f v β", "w u ʊ o ɔ ɥ y ʏ ø œ", "ʃ ʒ", "s z", "θ ð",
    "t d n l r ɾ ɲ ʎ k ɡ ŋ j ç x χ ʁ h ʔ", "i ɪ e", "ɛ æ a", "ɑ ʌ", "ə ɜ ɨ ɯ", "ɹ",
)  # fmt: skip
VISEME: dict[str, int] = {p: i for i, row in enumerate(_CLASSES) for p in row.split()}
"""Class index of each phone in ``VISEMES``."""


class Phone(NamedTuple):
    """One phone of an utterance."""

    start: float  # s
    end: float  # s
    name: str  # in VOWELS, CONSONANTS or SILENCE


Labelled = tuple[float, float, str]
"""(start s, end s, label in a synthesiser's own set)."""
Convert = Callable[[str], tuple[str, ...] | None]
"""Label -> phones; () for a mark that is no phone of its own; None when unknown."""

_IPA = {p: p for p in VOWELS | CONSONANTS}
_IPA.update(
    dict(
        pair.split("=")
        for pair in """
        ɐ=a ɒ=ɑ ɚ=ɜ ɝ=ɜ ɤ=ɯ ɵ=ø ʉ=y ɘ=ə ᵻ=ɪ ɞ=ɜ ɶ=œ ɫ=l ɭ=l ɬ=l ɮ=l ɻ=ɹ ʀ=ʁ ɣ=x ɰ=x q=k c=k ɟ=ɡ
        g=ɡ ɢ=ɡ ʈ=t ɖ=d ɳ=n ʂ=ʃ ʐ=ʒ ɕ=ʃ ʑ=ʒ ʝ=j ʍ=w ɸ=f ʋ=v ħ=h ʕ=h ɦ=h ɱ=m ɴ=ŋ ɽ=ɾ ɺ=ɾ ɧ=ʃ
        ʙ=b ɓ=b ɗ=d ɠ=ɡ ʄ=ɡ ʎ=ʎ
        """.split()
    )
)
_MARKS = re.compile("[ˈˌːˑʰʲˠˤʷʼʱ˞ˀ'\"_^|*?!;:~.,@#%0-9˥˦˧˨˩↑↓→↗↘-]")
# Where espeak's voices fall back on an ASCII mnemonic in place of IPA.
_MNEMONICS = {"ε": ("ɛ",), "A": ("ɑ",), "E": ("ɛ",), "I": ("ɪ",), "K": ("x",), "N": ("ŋ",)}

_CMU = {
    row.split("=")[0]: tuple(row.split("=")[1])
    for row in """
    aa=ɑ ae=æ ah=ʌ ao=ɔ aw=aʊ ax=ə axr=ɜ ay=aɪ b=b ch=tʃ d=d dh=ð dx=ɾ eh=ɛ er=ɜ ey=eɪ f=f g=ɡ
    hh=h hv=h ih=ɪ iy=i jh=dʒ k=k l=l el=əl m=m em=əm n=n en=ən ng=ŋ nx=n ow=oʊ oy=ɔɪ p=p r=ɹ s=s
    sh=ʃ t=t th=θ uh=ʊ uw=u v=v w=w y=j z=z zh=ʒ
    """.split()
} | dict.fromkeys(("pau", "sil", "h#", "brth", "ssil", "sp"), (SILENCE,))

_SHARED = {c: (c,) for c in "pbtdkfvszmnlrjwhieaou"} | {"g": ("ɡ",)}
_FESTIVAL: dict[str, dict[str, tuple[str, ...]]] = {
    language: _SHARED | {a: tuple(b) for a, b in (pair.split("=") for pair in rows.split())}
    for language, rows in {
        # SAMPA, with 1 for stress.
        "it": "E=ɛ O=ɔ S=ʃ Z=ʒ J=ɲ L=ʎ ng=ŋ nf=m ts=ts tS=tʃ dz=dz dZ=dʒ",
        "ca": "E=ɛ O=ɔ ax=ə S=ʃ Z=ʒ J=ɲ L=ʎ N=ŋ rr=r r=ɾ tS=tʃ dZ=dʒ",
        # Worldbet.
        "fi": "y=y @=æ 7=ø &=ə N=ŋ S=ʃ Z=ʒ T=θ D=ð L=l h=h",
        "cs": "_=ʔ ch=x h=h c=ts c~=tʃ dz=dz dz~=dʒ d~=ɟ n~=ɲ n*=ŋ r~=rʒ r~*=rʃ s~=ʃ t~=c z~=ʒ e=ɛ",
        # A letter doubled is a stressed vowel or a soft consonant.
        "ru": "aa=a ae=ə ay=ə ee=ɛ ii=i oo=o uu=u yy=ɨ y=ɨ ur=u pp=p bb=b tt=t dd=d kk=k gg=ɡ c=ts "
        "ch=tʃ ff=f vv=v ss=s zz=z sh=ʃ sch=ʃ zh=ʒ h=x hh=x mm=m nn=n ll=l rr=r",
        # Written as the voice's phone set has them: th and dh are dental stops, tth and ddh
        # their retroflex fellows, a the inherent vowel.
        "hi": "a=ə @=ə aa=a ih=ɪ iy=i uh=ʊ uw=u eh=e ee=ɛ ay=ɛ oh=o oo=o aw=ɔ ch=tʃ T=t D=d N=n "
        "th=t dh=d y=j L=l R=r sh=ʃ j=dʒ ksh=kʃ sri=ʃr x=x kh=k gh=ɡ td=t tth=t ddh=d bh=b zh=ʒ",
    }.items()
}  # fmt: skip


def from_ipa(label: str) -> tuple[str, ...] | None:
    """Phones of an IPA label, ignoring stress, length, tone and diacritics."""
    if label in _MNEMONICS:
        return _MNEMONICS[label]
    if label.startswith("("):  # espeak announces a change of language as "(en)"
        return ()
    bare = _MARKS.sub("", unicodedata.normalize("NFD", label))
    letters = [c for c in bare if not unicodedata.combining(c) and not c.isspace()]
    phones = tuple(_IPA[c] for c in letters if c in _IPA)
    return phones if phones or not letters else None


def from_cmu(label: str) -> tuple[str, ...] | None:
    """Phones of a CMU or radio label, as flite, festival and pocketsphinx write them."""
    return _CMU.get(label.lower().rstrip("012"))


def from_festival(language: str) -> Convert:
    """A map from the phone set of Festival's voices in a language; English has CMU's labels.

    Raises: KeyError for a language whose phone set is unknown.
    """
    if language == "en":
        return from_cmu
    table = _FESTIVAL[language]

    def convert(label: str) -> tuple[str, ...] | None:
        if label in ("#", "##", "pau"):
            return (SILENCE,)
        names = table.get(label) or table.get(label.rstrip("1:"))
        return names and tuple(x for name in names for x in (from_ipa(name) or ()))

    return convert


def expand(
    labelled: Iterable[Labelled], convert: Convert, unknown: dict[str, int] | None = None
) -> list[Phone]:
    """Phones of a labelled utterance, in order, without gaps between neighbours of a label.

    An empty label is silence, a mark extends the phone before it, and an unknown label becomes
    a schwa and is counted in ``unknown``. A diphthong is split 55:45, an affricate 45:55.
    """
    phones: list[Phone] = []
    for start, end, label in labelled:
        if end - start <= 1e-4:
            continue
        names: tuple[str, ...] | None
        names = convert(label)
        if not names and label.strip("_:# ") == "":
            names = (SILENCE,)
        if names is None:
            names = ("ə",)
            if unknown is not None:
                unknown[label] = unknown.get(label, 0) + 1
        if not names:
            if phones:
                phones[-1] = phones[-1]._replace(end=end)
            continue
        for a, b, name in _split(start, end, names):
            if phones and name == SILENCE and phones[-1].name == SILENCE:
                phones[-1] = phones[-1]._replace(end=b)
            else:
                phones.append(Phone(a, b, name))
    return phones


def _split(start: float, end: float, names: tuple[str, ...]) -> list[Labelled]:
    if len(names) == 2:
        if names[0] in VOWELS:
            share = 0.55 if names[1] in VOWELS else 0.6
        else:
            share = 0.45
        cuts = [0.0, share, 1.0]
    else:
        cuts = [i / len(names) for i in range(len(names) + 1)]
    at = [start + (end - start) * c for c in cuts]
    return [(at[i], at[i + 1], name) for i, name in enumerate(names)]


def shifted(phones: Iterable[Phone], by: float = 0.0, speed: float = 1.0) -> list[Phone]:
    """The same phones spoken ``speed`` times as fast and starting ``by`` seconds later."""
    return [Phone(p.start / speed + by, p.end / speed + by, p.name) for p in phones]


def joined(phones: Iterable[Phone], duration: float) -> list[Phone]:
    """The phones with silence wherever nothing is spoken in 0..``duration`` seconds."""
    out: list[Phone] = []
    at = 0.0
    for phone in [*phones, Phone(duration, duration, SILENCE)]:
        if phone.start > at + 1e-4:
            out.append(Phone(at, phone.start, SILENCE))
        if phone.end > phone.start:
            out.append(phone)
        at = max(at, phone.end)
    merged: list[Phone] = []
    for phone in out:
        if merged and phone.name == SILENCE == merged[-1].name:
            merged[-1] = merged[-1]._replace(end=phone.end)
        else:
            merged.append(phone)
    return merged
