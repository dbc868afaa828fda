"""Blinks that close the eyes, and eyes that never forget to blink.

The motion network decides when to blink, but a network that must generate an event of a fifth of
a second in a few steps tends to half-close the eyes, or to stare. So a blink that it begins is
carried through, and eyes that have stayed open for long enough blink by themselves. Rates and
shape: research on human blinking (Bentivoglio et al. 1997; Doughty 2001; closing in about 66 ms,
nearly twice as fast as opening).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPE: tuple[float, ...] = (0.30, 0.80, 1.0, 1.0, 0.88, 0.66, 0.44, 0.26, 0.13, 0.05)
"""Lid closure in steps of 20 ms: a spontaneous blink of 200 ms."""
BEGINS = 0.2
"""Generated closure from which a blink counts as begun."""
REST = 15
"""Frames (of 20 ms) after a blink before another may begin."""
MEDIAN, SPREAD = 3.2, 0.5
"""Median of the longest open interval, seconds, and its log-normal deviation: 12 to 25 a minute."""
SHORTEST, LONGEST = 1.0, 9.0
"""Bounds of that interval, seconds."""
RATE = 50
"""Motion frames a second that SHAPE and REST are meant for."""


@dataclass
class BlinkState:
    """Where the lids are in their cycle."""

    running: int = len(SHAPE)
    """Frames since the blink began; ``len(SHAPE)`` when the eyes are open."""
    open: int = 0
    """Frames since the last blink ended."""
    due: int = 0
    """Open frames after which a blink comes by itself; 0 until drawn."""


def blink(closure: float, state: BlinkState, seed: int, frame: int) -> float:
    """Lid closure 0..1 of one motion frame, from the generated one; ``state`` moves on.

    ``frame`` counts motion frames; with ``seed`` it decides when the next blink is due.
    """
    if not state.due:
        state.due = _interval(seed, frame)
    if state.running >= len(SHAPE):
        state.open += 1
        begun = closure >= BEGINS and state.open > REST
        if begun or state.open >= state.due:
            state.running, state.open, state.due = 0, 0, 0
    if state.running < len(SHAPE):
        closure = max(closure, SHAPE[state.running])
        state.running += 1
    return closure


def _interval(seed: int, frame: int) -> int:
    bits = np.random.Philox(key=seed, counter=[0, 0, 1, frame])
    normal = float(np.random.Generator(bits).standard_normal())
    seconds = MEDIAN * math.exp(SPREAD * normal)
    return round(min(max(seconds, SHORTEST), LONGEST) * RATE)


def blink_frames(
    lids: NDArray[np.float32], state: BlinkState, seed: int, first: int
) -> NDArray[np.float32]:
    """``blink`` over frames of both lids, (n, 2), the first of them number ``first``; (n, 2)."""
    both = lids.copy()
    for i, pair in enumerate(lids):
        shut = float(pair.max())
        closure = blink(shut, state, seed, first + i)
        if closure > shut:  # a wink stays a wink
            both[i] = closure
    return both
