"""Audio in, motion latents out: one object for a whole recording and for a live stream.

Each 40 ms tick runs ``listen`` once and ``denoise`` once per sampling step, with 60 ms of
look-ahead. All memory of a stream is one MotionState, so any chunking of the same audio gives the
same motion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .blink import BlinkState, blink_frames
from .bundle import Manifest
from .controls import Controls
from .latent import INDEX
from .mel import LogMel
from .sampler import correlate, guide, integrate, tick_noise

Array = NDArray[np.float32]
GraphCall = Callable[[Mapping[str, Array]], Mapping[str, Array]]

SUBFRAMES = 2
"""Motion frames a tick: 50 Hz motion, 25 Hz ticks."""
LIDS = [INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]


@dataclass
class MotionState:
    """Everything a stream remembers between two calls."""

    mel: LogMel
    """Samples that do not fill a mel frame yet."""
    frames: Array
    """Normalised mel frames no tick has consumed, (n, mels)."""
    listening: Array
    """State of ``listen``, (1, S)."""
    cache: Array
    """Past keys and values of ``denoise``, (1, M, W, D)."""
    previous: Array
    """The last tick's clean latents, normalised, (1, SUBFRAMES * latent)."""
    noise: Array | None = None
    """The last tick's noise, for its correlation in time."""
    tick: int = 0
    """Ticks done."""
    heard: int = 0
    """Samples pushed."""
    blink: BlinkState = field(default_factory=BlinkState)
    """Where the lids are in their cycle."""
    closed: bool = False


class MotionStream:
    """Turns audio into motion latents at 50 Hz, tick by tick.

    ``listen`` and ``denoise`` are loaded graphs; ``seed`` fixes everything that is random.
    ``controls`` may be replaced between pushes. Frame ``j`` of all frames returned so far has PTS
    ``j * rate / 50`` in samples.
    """

    def __init__(
        self,
        listen: GraphCall,
        denoise: GraphCall,
        manifest: Manifest,
        *,
        controls: Controls | None = None,
        seed: int = 0,
    ) -> None:
        self.controls = controls or Controls()
        self._listen, self._denoise, self._manifest, self._seed = listen, denoise, manifest, seed
        audio, latent = manifest.audio, manifest.latent
        self._mean = np.asarray(latent.mean, np.float32)
        self._std = np.asarray(latent.std, np.float32)
        weights = np.arange(len(self._mean)) < INDEX["gazeYaw"]
        self._most = np.where(weights, (1 - self._mean) / self._std, np.inf).astype(np.float32)
        self._per_tick = audio.tick // audio.hop
        # Ticks before 0 prime ``listen`` with the look-ahead of tick 0; silence fills the first.
        ahead = audio.look_ahead // audio.hop
        priming = -(-ahead // self._per_tick)
        stages = manifest.stages
        self.state = MotionState(
            mel=LogMel(audio),
            frames=audio.normalise(audio.silence(priming * self._per_tick - ahead)),
            listening=np.zeros(stages["listen"].input("state").shape, np.float32),
            cache=np.zeros(stages["denoise"].input("cache").shape, np.float32),
            previous=np.tile(-self._mean / self._std, SUBFRAMES)[None].astype(np.float32),
            tick=-priming,
        )

    def push(self, samples: Array) -> Array:
        """Take float32 samples (n,) at 16 kHz; return the new motion frames, (m, latent)."""
        if self.state.closed:
            raise ValueError("the stream is closed; open a new one for more audio")
        self.state.heard += len(samples)
        return self._advance(self.state.mel.push(samples))

    def close(self) -> Array:
        """End the stream: return the motion frames up to the end of the last tick, (m, latent)."""
        state, audio = self.state, self._manifest.audio
        state.closed = True
        if not state.heard:
            return self._none()
        padded = -(-state.heard // audio.tick) * audio.tick + audio.look_ahead
        silence = np.zeros(padded - state.heard, np.float32)
        return self._advance(state.mel.push(silence))

    @property
    def heard(self) -> int:
        """Samples pushed so far."""
        return self.state.heard

    def _none(self) -> Array:
        return np.zeros((0, len(self._mean)), np.float32)

    def _advance(self, frames: Array) -> Array:
        state = self.state
        state.frames = np.concatenate([state.frames, self._manifest.audio.normalise(frames)])
        motion = [self._none()]
        while len(state.frames) >= self._per_tick:
            mel, state.frames = state.frames[: self._per_tick], state.frames[self._per_tick :]
            heard = self._listen({"mel": mel[None], "state": state.listening})
            state.listening = heard["state_out"]
            if state.tick >= 0:
                motion.append(self._sample(heard["audio"]))
            state.tick += 1
        return np.concatenate(motion)

    def _unmoved(self) -> Array | None:
        """The conditions without the emotion, where guidance needs them for a second pass."""
        controls = self.controls
        told = self._manifest.sampler.guidance == "condition"
        if told or controls.emotion is None or controls.guidance == 1:
            return None
        return replace(controls, emotion=None).vector(self._manifest.conditions)

    def _sample(self, audio: Array) -> Array:
        """One tick's latents, (SUBFRAMES, latent), in the latent's own units."""
        state, sampler = self.state, self._manifest.sampler
        conditions = self.controls.vector(
            self._manifest.conditions, guided=sampler.guidance == "condition"
        )
        fresh = tick_noise(self._seed, state.tick, state.previous.shape)
        state.noise = correlate(state.noise, fresh, sampler.noise_correlation)
        window = state.cache.shape[2]
        feeds = {
            "previous": state.previous,
            "audio": audio,
            "conditions": conditions,
            "cache": state.cache,
            "history": np.full((1, 1), min(state.tick, window), np.float32),
        }
        cache = state.cache
        unmoved = self._unmoved()

        def velocity(x: Array, t: float, r: float) -> Array:
            nonlocal cache
            at = {"noisy": x, "time": np.array([[t, r]], np.float32)}
            out = self._denoise(feeds | at)
            cache = out["cache_out"]
            if unmoved is None:
                return out["velocity"]
            free = self._denoise(feeds | at | {"conditions": unmoved})["velocity"]
            return guide(free, out["velocity"], self.controls.guidance)

        clean = integrate(velocity, state.noise, sampler.schedule)
        if (
            self.controls.emotion is not None and self.controls.guidance > 1
        ):  # guided beyond 1, a weight would leave what the past may hold
            clean = np.minimum(clean, np.tile(self._most, SUBFRAMES))
        state.cache, state.previous = cache, clean
        frames = clean.reshape(SUBFRAMES, -1) * self._std + self._mean
        frames[:, : INDEX["gazeYaw"]] = frames[:, : INDEX["gazeYaw"]].clip(0.0, 1.0)
        first = SUBFRAMES * state.tick
        frames[:, LIDS] = blink_frames(frames[:, LIDS], state.blink, self._seed, first)
        return frames
