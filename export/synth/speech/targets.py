"""Articulatory targets of each phone: where each control should be, and how strongly it pulls.

Values are shares of full ARKit opening. The jaw is highest in sibilants, labials above velars
above uvulars (Lee, Beckman & Jackson 1994); the levels were scaled on tracked real mouths.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from vivant.export.synth.speech.phones import CONSONANTS, VOWELS

CONTROLS: tuple[str, ...] = (
    "jawOpen", "jawForward", "pucker", "funnel", "stretch", "smile", "upperUp", "lowerDown",
    "rollLower", "rollUpper", "shrugLower", "press", "puff",
    "tongueOut", "tongueTip", "tongueFront", "tongueBack",
)  # fmt: skip
CONTROL_INDEX: dict[str, int] = {name: i for i, name in enumerate(CONTROLS)}
GROUPS: dict[str, list[int]] = {
    "jaw": [0],
    "rounding": [1, 2, 3],
    "spread": [4, 5],
    "vertical": [6, 7],
    "contact": [8, 9, 10, 11, 12],
    "tongue": [13, 14, 15, 16],
}
"""Controls that share a time constant and a strength."""
STOPS: frozenset[str] = frozenset("pbtdkɡ")


class Constraint(Enum):
    """What a phone demands whatever its neighbours are."""

    NONE = "none"
    BILABIAL = "the lips touch"
    LABIODENTAL = "the lower lip touches the upper teeth"
    SIBILANT = "the jaw is nearly shut"
    DENTAL = "the tongue shows between the teeth"
    ROUNDED = "the lips protrude to a small opening"


Target = tuple[np.ndarray, np.ndarray, Constraint]
"""Target (controls,) in 0..1, strength (controls,) in 0..1, and the phone's constraint."""

# phones   group:values/strength ...
# rounding: pucker,funnel; spread: stretch,smile; vertical: upperUp,lowerDown;
# contact: rollLower,rollUpper,shrugLower,press,puff; tongue: out,tip,front,back
_TABLE = """
i      jaw:.10/.70 rounding:0,0/.60     spread:.35,.25/.70 vertical:.12,.22/.50 tongue:0,0,.9,0/.6
ɪ      jaw:.18/.60 rounding:0,0/.40     spread:.20,.12/.50 vertical:.10,.18/.40 tongue:0,0,.6,0/.5
y      jaw:.10/.70 rounding:.65,.25/.90 spread:0,0/.50     vertical:.06,.10/.40 tongue:0,0,.9,0/.6
ʏ      jaw:.15/.60 rounding:.50,.25/.80 spread:0,0/.40     vertical:.06,.10/.40 tongue:0,0,.6,0/.5
e      jaw:.21/.70 rounding:0,0/.50     spread:.25,.18/.60 vertical:.12,.22/.50 tongue:0,0,.7,0/.5
ø      jaw:.20/.70 rounding:.45,.35/.80 spread:0,0/.40     vertical:.08,.14/.40 tongue:0,0,.6,0/.5
ɛ      jaw:.31/.72 rounding:0,0/.40     spread:.18,.10/.50 vertical:.14,.26/.50 tongue:0,0,.4,0/.4
œ      jaw:.30/.70 rounding:.30,.40/.70 spread:0,0/.35     vertical:.10,.18/.40 tongue:0,0,.4,0/.4
æ      jaw:.40/.82 rounding:0,0/.50     spread:.22,.12/.50 vertical:.18,.32/.55 tongue:0,0,.2,0/.4
a      jaw:.44/.86 rounding:0,.05/.40   spread:.10,.05/.40 vertical:.14,.30/.50 tongue:0,0,0,.1/.4
ɑ      jaw:.42/.86 rounding:.02,.08/.40 spread:0,0/.35     vertical:.10,.26/.50 tongue:0,0,0,.4/.4
ɔ      jaw:.32/.80 rounding:.25,.45/.75 spread:0,0/.45     vertical:.10,.20/.45 tongue:0,0,0,.5/.4
o      jaw:.24/.75 rounding:.45,.40/.85 spread:0,0/.50     vertical:.06,.14/.45 tongue:0,0,0,.6/.5
ʊ      jaw:.16/.60 rounding:.40,.30/.70 spread:0,0/.40     vertical:.05,.10/.40 tongue:0,0,0,.6/.5
u      jaw:.10/.72 rounding:.72,.30/.95 spread:0,0/.60     vertical:.03,.06/.45 tongue:0,0,0,.8/.6
ɯ,ɨ    jaw:.13/.55 rounding:0,0/.35     spread:.15,.08/.40 vertical:.07,.14/.35 tongue:0,0,.3,.5/.5
ʌ      jaw:.29/.72 rounding:0,.03/.30   spread:.05,.03/.30 vertical:.10,.22/.45 tongue:0,0,0,.2/.4
ə      jaw:.16/.35 rounding:0,.02/.15   spread:.04,.02/.15 vertical:.06,.14/.22 tongue:0,0,.1,.1/.3
ɜ      jaw:.20/.60 rounding:.18,.22/.50 spread:0,0/.25     vertical:.08,.16/.35 tongue:0,.4,.2,.2/.5
p,b    jaw:.07/.60 vertical:0,0/.90 contact:.22,.18,.15,.30,.06/.9 BILABIAL
m      jaw:.08/.60 vertical:0,0/.90 contact:.22,.18,.12,.15,0/.9 BILABIAL
β      jaw:.09/.55 vertical:0,.03/.80 contact:.10,.08,.10,.05,0/.7
f,v    jaw:.07/.70 spread:.08,.05/.3 vertical:.22,0/.90 contact:.45,0,.30,0,0/.95 LABIODENTAL
w      jaw:.08/.65 rounding:.78,.25/.98 spread:0,0/.70 vertical:.02,.04/.5 tongue:0,0,0,.7/.5 ROUNDED
ɥ      jaw:.08/.65 rounding:.72,.22/.95 spread:0,0/.60 vertical:.02,.05/.5 tongue:0,0,.8,0/.5 ROUNDED
θ,ð    jaw:.14/.60 spread:.08,.03/.25 vertical:.10,.20/.45 tongue:.45,.3,.2,0/.95 DENTAL
t,d,n  jaw:.10/.50 spread:.05,.02/.12 vertical:.06,.13/.20 tongue:0,.90,.2,0/.90
s,z    jaw:.05/.88 rounding:0,.05/.15 spread:.18,.06/.40 vertical:.13,.26/.60 tongue:0,.60,.3,0/.8 SIBILANT
ʃ,ʒ    jaw:.06/.88 rounding:.25,.58/.88 spread:0,0/.40 vertical:.16,.22/.55 tongue:0,.40,.6,0/.8 SIBILANT
l      jaw:.17/.38 spread:.03,.02/.10 vertical:.06,.15/.20 tongue:0,1.0,0,.2/.95
ɹ      jaw:.12/.45 rounding:.30,.32/.60 spread:0,0/.20 vertical:.06,.12/.25 tongue:0,.5,0,.3/.6
r,ɾ    jaw:.13/.35 spread:.03,.02/.10 vertical:.06,.13/.18 tongue:0,.80,0,0/.8
ɲ,ʎ,j  jaw:.10/.50 rounding:0,0/.15 spread:.20,.14/.40 vertical:.09,.17/.30 tongue:0,.1,.95,0/.8
k,ɡ,ŋ  jaw:.15/.25 vertical:.06,.13/.12 tongue:0,0,0,.95/.85
x,χ,ʁ  jaw:.18/.25 vertical:.06,.14/.12 tongue:0,0,0,.75/.7
ç      jaw:.11/.42 spread:.20,.12/.35 vertical:.09,.18/.30 tongue:0,0,.85,0/.7
h,ʔ
"""  # noqa: E501


def _parse(table: str) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for line in table.strip().splitlines():
        names, *fields = line.split()
        value, strength = np.zeros(len(CONTROLS)), np.zeros(len(CONTROLS))
        constraint = Constraint.NONE
        for field in fields:
            group, colon, rest = field.partition(":")
            if not colon:
                constraint = Constraint[field]
                continue
            numbers, _, pull = rest.partition("/")
            values = [float(v) for v in numbers.split(",")]
            if group == "rounding":  # the jaw advances with the lips
                values = [0.35 * values[0], *values]
            value[GROUPS[group]] = values
            strength[GROUPS[group]] = float(pull)
        for name in names.split(","):
            targets[name] = (value, strength, constraint)
    return targets


TARGETS: dict[str, Target] = _parse(_TABLE)
"""Every vowel and consonant; h and the glottal stop have no targets, neighbours decide."""
if missing := (VOWELS | CONSONANTS) - TARGETS.keys():
    raise RuntimeError(f"phones without targets: {sorted(missing)}")
