"""The evaluation's promises: what it counts, what it compares, and how it streams for long."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vivant.export.nets.denoise import Denoise, DenoiseConfig  # noqa: E402
from vivant.export.nets.listen import Listen, ListenConfig  # noqa: E402
from vivant.export.synth.speech.metrics import Closure  # noqa: E402
from vivant.export.synth.speech.phones import Phone  # noqa: E402
from vivant.export.synth.speech.real import WORDLESS, Recording, recording  # noqa: E402
from vivant.export.train import decide, evaluate_motion, motion_data, motion_loss, rollout  # noqa: E402
from vivant.export.train.evaluate_motion import Sampler, Subject, Table  # noqa: E402
from vivant.latent import INDEX, SIZE  # noqa: E402


def talker(closed_at: list[float]) -> tuple[Recording, np.ndarray]:
    """Two seconds with bilabials at 0.5 and 1.5 s; lips that are open but at ``closed_at``."""
    phones = [Phone(0.2, 0.5, "a"), Phone(0.5, 0.6, "m"), Phone(0.6, 1.5, "a")]
    phones += [Phone(1.5, 1.6, "p"), Phone(1.6, 1.9, "a")]
    motion = np.zeros((100, SIZE), np.float32)
    motion[:, INDEX["jawOpen"]] = 0.4
    for at in closed_at:
        motion[int(50 * at) : int(50 * at) + 4, INDEX["jawOpen"]] = 0
    empty = np.zeros(0, np.float32)
    return Recording("x", True, empty, empty, phones, None, None), motion


def test_closures_are_counted_for_each_set_and_for_all_together() -> None:
    """Every set has its own row with its number of bilabials; the pooled row hides none."""
    one, lips = talker([0.52, 1.52])
    two, half = talker([0.52, 1.0])
    table = Table()
    evaluate_motion.closures(table, "1 step", {"read": ([one], [lips]), "seen": ([two], [half])})
    cells = {name: row[1]["1 step"] for name, row in table.rows.items()}
    assert cells["closure recall, read, 2 bilabials"] == 1
    assert cells["closure recall, seen, 2 bilabials"] == 0.5
    assert cells["closure recall, all real, 4 bilabials"] == 0.75
    assert cells["closure precision, seen, 2 bilabials"] == 0.5


def test_lips_are_judged_where_nobody_says_a_word() -> None:
    """In a recording that holds words between its laughs, only what is between the words counts."""
    assert len(WORDLESS["mfa_laughter"]) > 1
    said, lips = talker([0.52, 1.52])
    laugh = recording("mfa_laughter", np.zeros(16000 * 11), spoken=False)
    quiet = np.zeros((550, SIZE), np.float32)
    quiet[:, INDEX["jawOpen"]] = 0.4 * (np.arange(550) % 2)
    for start, end in laugh.wordless:
        quiet[int(50 * start) : int(50 * end), INDEX["jawOpen"]] = 0
    table = Table()
    evaluate_motion.stillness(table, "1 step", [said, laugh], [lips, quiet])
    assert table.rows["activity: mfa_laughter"][1]["1 step"] == 0
    evaluate_motion.stillness(table, "1 step", [said, laugh], [lips, quiet[::-1]])
    assert table.rows["activity: mfa_laughter"][1]["1 step"] > 0
    assert said.wordless == ()
    assert recording("x", np.zeros(1600), spoken=False).wordless


def test_few_steps_are_compared_with_the_teacher() -> None:
    """The ratio of each student's pose range has a row, and tells how sure it is."""
    rng = np.random.default_rng(0)
    table, errors = Table(), []
    for clips in (20, 2000):
        chance = rng.normal(2, 0.5, (2, clips))
        table.samples["pose range"] = {"16 steps": chance[0], "2 steps": 0.9 * chance[1]}
        evaluate_motion.against_teacher(table, ["16 steps", "2 steps"])
        ratio = table.rows["to 16 steps: pose range"][1]["2 steps"]
        errors.append(table.rows["to 16 steps: pose range, standard error"][1]["2 steps"])
        assert abs(ratio - 0.9) < 3 * errors[-1]
    assert 0.05 < errors[0] < 0.12
    assert errors[1] < 0.012


def small_subject() -> Subject:
    known = motion_data.Statistics(
        *(np.zeros(8), np.ones(8), np.zeros(63), np.ones(63)), *(np.ones(1),) * 7
    )
    known = motion_data.Statistics(
        *(np.asarray(getattr(known, name), np.float32) for name in known.__dataclass_fields__)
    )
    torch.manual_seed(0)
    listen = Listen(ListenConfig(mels=8, widths=(8, 8, 8), middle=(1,), deep=(1, 8), features=10))
    denoise = Denoise(
        DenoiseConfig(
            components=20, features=10, width=16, layers=1, heads=2, window=5, head_width=16
        )
    )
    with torch.no_grad():
        for p in [*listen.parameters(), *denoise.parameters()]:
            p.add_(0.1 * torch.randn_like(p))
    denoise.innovation.predict.mul_(0.5)
    known.latent_mean[:] = 0.5
    known.latent_std[:] = 0.1
    net = motion_loss.MotionNet(listen, denoise).eval()
    return Subject(net, known, Sampler("1 step", (1.0, 0.0)))


def test_a_long_stream_is_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, and heard in pieces, it moves as it does tick by tick."""
    subject = small_subject()
    mel = np.random.default_rng(0).normal(size=(160, 8)).astype(np.float32)
    whole = subject.perform([mel], seed=1)[0]
    monkeypatch.setattr(rollout, "LONG", 10)
    monkeypatch.setattr(rollout, "PIECE", 7)
    np.testing.assert_allclose(subject.perform([mel], seed=1)[0], whole, rtol=0, atol=1e-4)


def test_drift_compares_the_end_with_the_beginning() -> None:
    """The rows name the minutes; a stream that does not change has ratios near one."""
    subject, table = small_subject(), Table()
    mel = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    empty = np.zeros(0, np.float32)
    one = Recording("x", True, empty, mel, [], None, None)
    motion = evaluate_motion.drift(table, subject, one, 1.0)
    assert len(motion) == 3000
    assert "drift of pose in 1 min, deg" in table.rows
    ratio = table.rows["mouth activity in 1 min, late to early"][1]["1 step"]
    assert ratio == pytest.approx(1, abs=0.5)


def test_the_closure_threshold_weighs_too_many_closures_against_too_few() -> None:
    """The threshold with the highest F-measure is taken; one without any closure never is."""
    found = [Closure(97, 100, 60, 100), Closure(91, 100, 70, 100), Closure(86, 100, 80, 100)]
    found += [Closure(50, 100, 99, 100)] * (len(decide.LEVELS) - 4) + [Closure(0, 100, 0, 0)]
    assert decide.best(found) == decide.LEVELS[2]


def test_visemes_become_phones_that_look_alike() -> None:
    """Runs of a class are phones with their times; bilabials stay bilabials."""
    viseme = np.repeat(np.array([0, 1, 9], np.uint8), (20, 10, 30))
    phones = decide.phones_of(viseme)
    assert [(p.start, p.end) for p in phones] == [(0.0, 0.2), (0.2, 0.3), (0.3, 0.6)]
    assert phones[0].name == "sil"
    assert phones[1].name in "pbm"
