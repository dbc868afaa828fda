"""What training may do to a sound: it stays the same words at the same time."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vivant.export.train import vary  # noqa: E402
from vivant.export.train.motion_data import AHEAD, FRAMES, PRIMING, Batch  # noqa: E402


def click(at: int, batch: int = 4, frames: int = 120) -> torch.Tensor:
    """Mel power (B, N, 8) that is small but in frame ``at``."""
    power = torch.full((batch, frames, 8), 1e-4)
    power[:, at] = 1.0
    return power


def test_a_room_rings_after_a_sound_and_never_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail begins behind the sound, fades, and leaves the sound itself in place."""
    monkeypatch.setattr(vary, "HALL", 1.0)
    torch.manual_seed(0)
    dry = click(40)
    wet = vary.hall(dry)
    assert torch.equal(wet.argmax(1), dry.argmax(1))
    added = (wet - dry)[:, :, 0]
    steady = added[:, 39:40]  # what the quiet frames before the sound ring on with
    assert float(steady.max()) < 1e-3
    assert bool((added[:, 41] > 2 * steady[:, 0]).all())
    assert bool((added[:, 41:100].diff(dim=1) <= 1e-6).all())


def test_a_room_has_no_effect_where_it_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a room the power is the same number for number."""
    monkeypatch.setattr(vary, "HALL", 0.0)
    assert torch.equal(vary.hall(click(40)), click(40))


def test_speech_stands_behind_no_other_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only sounds without speech are mixed in, at or below the clip's own level."""
    monkeypatch.setattr(vary, "BACKGROUND", 1.0)
    torch.manual_seed(0)
    power = torch.stack([click(20, 1)[0], click(60, 1)[0], click(90, 1)[0]])
    mixed = vary.backed(power, torch.tensor([True, False, False]))
    changed = (mixed != power).flatten(1).any(1)
    assert changed.tolist() == [True, False, True]  # the clip before each: 2, 0, 1
    assert float(mixed[0, 90].max()) > 2e-4
    assert float((mixed - power)[0].mean()) <= float(power[0].mean()) * 1.001


def window(ticks: int) -> Batch:
    """A batch of four whose every number is its own time in seconds, from the window's start."""
    mel = (np.arange(FRAMES * (PRIMING + ticks)) + AHEAD - FRAMES * PRIMING) / 100
    motion = (np.arange(2 * (ticks + 1)) - 2) / 50
    tick = np.repeat(motion, 63).reshape(ticks + 1, 126).astype(np.float32)
    rows = np.repeat(mel[:, None], 8, axis=1).astype(np.float32)
    viseme = np.arange(FRAMES * ticks)
    return Batch(
        np.stack([rows] * 4),
        np.stack([tick] * 4),
        np.stack([viseme] * 4),
        np.zeros((4, 16), np.float32),
        np.ones((4, ticks), np.float32),
    )


def test_slow_speech_keeps_sound_and_lips_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound, motion and phones of a slowed clip tell the same time, which starts with it."""
    monkeypatch.setattr(vary, "SLOWED", 1.0)
    before = window(50)
    after = vary.slowed(before, np.random.default_rng(0))
    lead = FRAMES * PRIMING - AHEAD
    for b in range(4):
        heard = after.mel[b, lead:, 0]  # 100 Hz from the window's start
        moved = after.motion[b].reshape(-1, 63)[2:, 0]  # 50 Hz
        seen = after.viseme[b] / 100
        np.testing.assert_allclose(heard[: 2 * len(moved) : 2], moved, atol=1e-5)
        np.testing.assert_allclose(seen, heard[: len(seen)], atol=0.0101)
        assert heard[0] == 0
        assert 0.49 < moved[-1] / 1.98 < 0.95
    assert np.array_equal(before.mel, window(50).mel)
