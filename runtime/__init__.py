"""Vivant: living portraits, on the device.

import vivant

with vivant.open("me.jpg") as face:
    for frame in face.animate("speech.wav"):
        show(frame.rgb)  # uint8 (512, 512, 3), at frame.pts samples of 16 kHz
"""

from .controls import Controls
from .errors import (
    AudioError,
    BackendError,
    BundleError,
    OutputError,
    PhotoError,
    UsageError,
    VivantError,
)
from .render import Frame
from .session import Session
from .session import open_session as open

__all__ = [
    "AudioError",
    "BackendError",
    "BundleError",
    "Controls",
    "Frame",
    "OutputError",
    "PhotoError",
    "Session",
    "UsageError",
    "VivantError",
    "open",
]
