"""The motion network's promises: streaming, its flow, its data and its training."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vivant.errors import UsageError  # noqa: E402
from vivant.export.nets.denoise import Denoise, DenoiseConfig  # noqa: E402
from vivant.export.nets.innovation import Innovation  # noqa: E402
from vivant.export.nets.listen import Listen, ListenConfig, ListenStage  # noqa: E402
from vivant.export.train import distill, motion, motion_data, motion_loss, rollout  # noqa: E402
from vivant.latent import INDEX, SIZE  # noqa: E402

SMALL_LISTEN = ListenConfig(mels=8, widths=(12, 16, 20), deep=(1, 2), features=10)
SMALL = DenoiseConfig(
    components=20, features=10, width=16, layers=2, heads=2, window=5, head_width=16, head_blocks=1
)


def filled(net: torch.nn.Module) -> torch.nn.Module:
    """The net with every weight random, also those that training starts at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn_like(p))
    return net.eval()


def small_denoise() -> Denoise:
    net = filled(Denoise(SMALL))
    assert isinstance(net, Denoise)
    inn = net.innovation
    inn.basis.copy_(torch.linalg.qr(torch.randn(126, 126))[0])
    inn.scale.copy_(torch.rand(126) + 0.1)
    inn.predict.copy_(0.9 * torch.eye(126))
    return net


def fake_shard(folder: Path, clips: int = 3, ticks: int = 40) -> Path:
    """Clips in which mel and motion both tell their own time."""
    rng = np.random.default_rng(0)
    frames = clips * ticks * 4
    shape = np.repeat(rng.random((frames // 4, SIZE)), 2, axis=0)
    np.savez(
        folder / "speech_00000.npz",
        mel=np.arange(frames, dtype=np.float16)[:, None].repeat(64, 1) % 1000,
        motion=shape.astype(np.float16),
        viseme=(np.arange(frames) % 13).astype(np.uint8),
        starts=np.arange(clips + 1) * ticks * 4,
        conditions=np.ones((clips, 16), np.float32),
    )
    return folder


@torch.no_grad()
def test_listening_in_pieces_equals_listening_to_the_whole() -> None:
    """Any chunking of the same sound gives the same features and the same state."""
    net = filled(Listen(SMALL_LISTEN))
    mel = torch.randn(2, 4 * 9, 8)
    whole, end = net(mel, torch.zeros(2, net.state_size))
    state, parts = torch.zeros(2, net.state_size), []
    for first, last in ((0, 1), (1, 5), (5, 6), (6, 9)):
        part, state = net(mel[:, 4 * first : 4 * last], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(state, end, rtol=0, atol=1e-5)


@torch.no_grad()
def test_later_sound_does_not_change_earlier_features() -> None:
    """The encoder is causal: its only look-ahead is the one it is fed."""
    net = filled(Listen(SMALL_LISTEN))
    mel = torch.randn(1, 40, 8)
    other = mel.clone()
    other[:, 24:] = 9.0
    before, after = (net(x, net.start())[0] for x in (mel, other))
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6:], after[:, 6:])


@torch.no_grad()
def test_the_listen_stage_has_the_contract_of_the_bundle() -> None:
    """``mel`` (1, 4, M), ``state`` (1, S) -> ``audio`` (1, A), ``state_out`` (1, S)."""
    net = Listen(SMALL_LISTEN)
    audio, state = ListenStage(net)(torch.zeros(1, 4, 8), net.start())
    assert audio.shape == (1, 10)
    assert state.shape == (1, net.state_size)


@torch.no_grad()
def test_the_cached_past_equals_the_whole_past() -> None:
    """Tick by tick with a cache gives the contexts that training computes in one pass."""
    net, ticks = small_denoise(), 12  # longer than the window
    previous, audio = torch.randn(2, ticks, 126), torch.randn(2, ticks, 10)
    conditions = torch.randn(2, 1, 16)
    whole = net.context(previous, audio, conditions)
    cache = net.start(2)
    for i in range(ticks):
        history = torch.full((2, 1), float(min(i, SMALL.window)))
        one, cache = net.step(previous[:, i], audio[:, i], conditions[:, 0], cache, history)
        torch.testing.assert_close(one, whole[:, i], rtol=0, atol=1e-4)


@torch.no_grad()
def test_what_lies_in_an_unused_part_of_the_cache_does_not_matter() -> None:
    """``history`` says how many ticks are valid, counted from the newest."""
    net = small_denoise()
    feeds = (torch.randn(1, 126), torch.randn(1, 10), torch.zeros(1, 16))
    clean, dirty = net.start(), net.start()
    dirty[:, :, : SMALL.window - 2] = 1e3
    history = torch.tensor([[2.0]])
    assert torch.equal(net.step(*feeds, clean, history)[0], net.step(*feeds, dirty, history)[0])


@torch.no_grad()
def test_one_step_from_noise_lands_on_the_estimate() -> None:
    """x_1 - u(x_1, 1, 0) is the network's clean estimate, as average velocity demands."""
    net = small_denoise()
    noise, previous, audio = torch.randn(1, 126), torch.randn(1, 126), torch.randn(1, 10)
    time, conditions = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 16)
    history = torch.zeros(1, 1)
    u, _ = net(noise, previous, time, audio, conditions, net.start(), history)
    mean = net.innovation.mean(previous)
    context, _ = net.step(previous, audio, conditions, net.start(), history)
    z = noise @ net.innovation.basis
    mu, sigma = net.expected(context, audio, conditions)
    end = net.endpoint(z[:, :20], time, context, net.reading(audio, conditions, mean))
    made = net.innovation.colour(mu + sigma * end, mean)
    torch.testing.assert_close(noise - u, made, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 3, 16])
def test_what_is_expected_is_drawn_exactly_in_any_number_of_steps(steps: int) -> None:
    """Where the network adds nothing, a tick is mean plus deviation times noise, at any steps."""
    net = small_denoise()
    net.out.weight.zero_()
    net.out.bias.zero_()
    net.trust.zero_()
    noise, previous, audio = torch.randn(1, 126), torch.randn(1, 126), torch.randn(1, 10)
    zeros, history = torch.zeros(1, 16), torch.zeros(1, 1)
    context, _ = net.step(previous, audio, zeros, net.start(), history)
    mu, sigma = net.expected(context, audio, zeros)
    assert float((sigma - 1).abs().max()) > 0.1
    times, x = np.linspace(1, 0, steps + 1).tolist(), noise
    for t, r in pairwise(times):
        pair = torch.tensor([[t, r]])
        u = net.velocity(x, previous, pair, audio, zeros, context)
        x = x - (t - r) * u
    inn = net.innovation
    drawn = mu + sigma * (noise @ inn.basis)[:, :20]
    torch.testing.assert_close(x, inn.colour(drawn, inn.mean(previous)), rtol=0, atol=2e-3)


@torch.no_grad()
def test_how_far_a_head_strays_is_not_told_by_its_past() -> None:
    """Sound and conditions change the deviation of the head's axes; what it did before does not."""
    net = small_denoise()
    net.innovation.headed[:3] = 1
    past, audio, told = torch.randn(2, 16), torch.randn(2, 10), torch.randn(2, 16)

    def deviation(a: int, b: int, c: int) -> torch.Tensor:
        return net.expected(past[a], audio[b], told[c])[1]

    base = deviation(0, 0, 0)
    assert torch.equal(deviation(1, 0, 0)[:3], base[:3])
    assert bool((deviation(1, 0, 0)[3:] != base[3:]).any())
    assert bool((deviation(0, 1, 0)[:3] != base[:3]).any())
    assert bool((deviation(0, 0, 1)[:3] != base[:3]).any())


@torch.no_grad()
def test_a_deeper_network_begins_as_the_checkpoint_it_grows_from(tmp_path: Path) -> None:
    """Appended blocks of both stages add zero; other widths are refused."""
    known = motion_data.statistics(motion_data.load_corpus(fake_shard(tmp_path, 20).glob("*.npz")))
    listen = ListenConfig(widths=(12, 16, 20), middle=(1,), deep=(1, 2), features=10)
    old = motion.build(listen, replace(SMALL, latent=126), known)
    tables = old.denoise.innovation.state_dict()
    filled(old)
    old.denoise.innovation.load_state_dict(tables)
    content = {"statistics": vars(known), "average": old.state_dict()}
    deeper = replace(listen, middle=(1, 4), deep=(1, 2, 8))
    net, _ = motion.grow(content, deeper, replace(SMALL, layers=3, head_blocks=2))
    mel, zeros = torch.randn(2, 24, 64), torch.zeros(2, 16)
    heard = [n.listen(mel, n.listen.start(2))[0] for n in (old, net.eval())]
    assert torch.equal(*heard)
    time, noise = torch.tensor([[1.0, 0.5]]).expand(2, -1), torch.randn(2, 126)
    made = [
        n.denoise(
            noise, noise.flip(1), time, heard[0][:, 0], zeros, n.denoise.start(2), zeros[:, :1]
        )[0]
        for n in (old, net)
    ]
    torch.testing.assert_close(*made, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="grow"):
        motion.grow(content, deeper, replace(SMALL, width=24))


@torch.no_grad()
def test_decided_lips_touch_and_a_mouth_that_is_not_heard_rests() -> None:
    """Where lips touch no gap is left; where nobody speaks the mouth alone takes its rest."""
    std = np.full(SIZE, 0.5, np.float32)
    known = motion_data.Statistics(
        *(np.zeros(64), np.ones(64), np.full(SIZE, 0.2), std),
        *(np.eye(126), np.eye(126), np.ones(126), np.ones(63), np.ones(126)),
        *(np.zeros(126, np.int64), np.zeros((16, 63))),
    )
    known = motion_data.Statistics(
        *(np.asarray(v, np.float32) for v in list(vars(known).values())[:-2]),
        *(known.group, known.moods.astype(np.float32)),
    )
    inn = motion.build(SMALL_LISTEN, SMALL, known).denoise.innovation
    face = torch.zeros(1, SIZE)
    for name in ("jawOpen", "mouthLowerDownLeft", "mouthFunnel", "browInnerUp"):
        face[:, INDEX[name]] = 0.4
    tick = ((face - 0.2) / 0.5).repeat(1, 2)
    one, zero, rest = torch.ones(1, 2), torch.zeros(1, 2), torch.full((1, 126), -0.4)
    torch.testing.assert_close(inn.obey(tick, one, zero, rest), tick)
    half = inn.obey(tick, one, torch.tensor([[1.0, 0.0]]), rest) * 0.5 + 0.2
    gap = motion_loss.aperture(half.unflatten(-1, (2, SIZE)))[0]
    assert float(gap[0]) == pytest.approx(0, abs=1e-5)
    assert float(gap[1]) > 0.3
    still = inn.obey(tick, zero, zero, rest)
    mouth = motion_data.channels("mouth")
    assert bool((still[0, mouth] == -0.4).all())
    assert float(still[0, INDEX["browInnerUp"]]) == pytest.approx(0.4)


def test_a_voice_is_heard_from_before_its_first_phone_to_after_its_last() -> None:
    """Mouths move from 0.24 s before a phone to 0.2 s after; silence further off is silence."""
    viseme = torch.zeros(1, 200, dtype=torch.long)
    viseme[0, 100:110] = 5
    frames = motion_loss.voiced(viseme).flatten().nonzero().flatten()
    assert (int(frames[0]), int(frames[-1])) == (38, 64)


@torch.no_grad()
def test_lips_follow_the_sound_and_neither_chance_nor_their_own_past() -> None:
    """Noise along the mouth's axes and the last tick's lips change nothing."""
    net = small_denoise()
    inn = net.innovation
    inn.basis.copy_(torch.eye(126))
    inn.drawn[:3] = 0
    inn.carried[:3] = 0
    inn.predict[:3] = 0
    noise, previous = torch.randn(2, 126), torch.randn(2, 126)
    noise[1, 3:], previous[1, 3:] = noise[0, 3:], previous[0, 3:]
    previous[:, 63:66] = 0  # the frame that inertia starts from
    audio, zeros = torch.randn(1, 10).expand(2, -1), torch.zeros(2, 16)
    time = torch.tensor([[1.0, 0.0]]).expand(2, -1)
    u, _ = net(noise, previous, time, audio, zeros, net.start(2), torch.zeros(2, 1))
    made = noise - u
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_inertia_moves_lips_alone_and_lets_them_rest() -> None:
    """A step of the lips is taken in shares of 1 - inertia; other channels are as drawn."""
    net = small_denoise()
    net.innovation.carried.fill_(1)
    net.innovation.carried[[0, 63]] = 0
    clean, previous = torch.ones(1, 126), torch.zeros(1, 126)
    settled = net.settle(clean, previous)
    keep = SMALL.inertia
    assert settled[0, [0, 63]].tolist() == pytest.approx([1 - keep, 1 - keep**2])
    assert torch.equal(settled[0, 1:63], clean[0, 1:63])
    assert torch.equal(net.settle(clean, clean), clean)


@torch.no_grad()
def test_every_evaluation_of_a_tick_leaves_the_same_cache() -> None:
    """The cache takes the clean past, never the noise."""
    net = small_denoise()
    rest = (torch.randn(1, 10), torch.zeros(1, 16), net.start(), torch.zeros(1, 1))
    previous = torch.randn(1, 126)
    caches = [
        net(torch.randn(1, 126), previous, torch.tensor([[t, r]]), *rest)[1]
        for t, r in ((1.0, 0.5), (0.5, 0.0), (0.5, 0.5))
    ]
    assert torch.equal(caches[0], caches[1])
    assert torch.equal(caches[0], caches[2])


def test_innovations_are_white_and_invertible(tmp_path: Path) -> None:
    """Statistics of a corpus give innovations of unit variance that colour back to the motion."""
    corpus = motion_data.load_corpus(fake_shard(tmp_path, 20).glob("*.npz"))
    known = motion_data.statistics(corpus)
    inn = Innovation(126, 126)
    inn.basis.copy_(torch.tensor(known.basis))
    inn.scale.copy_(torch.tensor(known.scale))
    inn.predict.copy_(torch.tensor(known.predict))
    ticks = motion_data.ticks_of(corpus.motion).astype(np.float32)
    mean, std = np.tile(known.latent_mean, 2), np.tile(known.latent_std, 2)
    x = torch.tensor((ticks - mean) / std)
    m = inn.mean(x[:-1])
    z = inn.whiten(x[1:], m)
    torch.testing.assert_close(inn.colour(z, m), x[1:], rtol=0, atol=1e-3)
    seen = torch.tensor(known.scale > 1e-3)
    assert float((z.square().mean(0)[seen] - 1).abs().max()) < 0.3


def test_a_window_hears_sixty_milliseconds_ahead(tmp_path: Path) -> None:
    """Tick i of a window goes with mel frames up to 4 i + 9 of its clip, and silence outside."""
    corpus = motion_data.load_corpus(fake_shard(tmp_path).glob("*.npz"))
    batch = motion_data.Windows(corpus, 30, seed=1).draw(24)
    mouth = motion_data.channels("mouth")
    for b in range(24):
        same = corpus.motion.reshape(-1, 126)[:, mouth] == batch.motion[b, 1][mouth]
        first = np.flatnonzero(same.all(1))[0]
        tick = first % 40
        for i in (0, 7, 29):
            if not batch.valid[b, i]:
                continue
            heard = batch.mel[b, 4 * (i + motion_data.PRIMING) + 3, 0]
            frame = 4 * (tick + i) + 9
            wanted = (first - tick) * 4 + frame if frame < 160 else motion_data.SILENCE
            assert heard == pytest.approx(wanted, abs=1e-4)


def test_liveliness_is_what_the_head_does() -> None:
    """A head at the median's speed is 0, at twice that 1; more is usual where somebody speaks."""
    motion = np.zeros((400, SIZE), np.float16)
    motion[:, INDEX["headYaw"]] = np.abs((np.arange(400) % 100) - 50) * 5.9 / 50  # degrees
    motion[200:, INDEX["headYaw"]] *= 2
    viseme, bounds = np.ones(800, np.uint8), np.array([0, 100, 200])
    told = motion_data.liveliness(motion, viseme, bounds)
    np.testing.assert_allclose(told, [0, 1], atol=0.02)
    assert (motion_data.liveliness(motion, 0 * viseme, bounds) > told + 1).all()


def test_a_stream_begins_at_rest_and_reaches_its_place() -> None:
    """Clips that start a stream leave from neutral; regard arrives within half a second."""
    frames = np.zeros((202, SIZE), np.float32)
    frames[:, INDEX["headYaw"]], frames[:, INDEX["gazeYaw"]] = 8.0, 7.0
    frames[:, [INDEX["eyeLookOutLeft"], INDEX["eyeLookInRight"]]] = 7 / 35
    whole = frames.copy()
    motion_data.from_neutral(frames, np.random.default_rng(0))
    assert not frames[:2].any()
    np.testing.assert_allclose(frames[100:], whole[100:], atol=1e-4)
    regard = frames[:, INDEX["headYaw"]] + frames[:, INDEX["gazeYaw"]]
    np.testing.assert_allclose(regard[26:], 15.0, atol=1e-3)
    assert np.abs(np.diff(frames[:, INDEX["headYaw"]])).max() < 0.6  # degrees a frame


@torch.no_grad()
def test_a_command_is_seen_as_what_is_missing() -> None:
    """A tick that already does what is commanded shows nothing missing; without one, nothing."""
    net = small_denoise()
    mean, std = np.full(SIZE, 0.3, np.float32), np.full(SIZE, 2.0, np.float32)
    table, bias = motion_data.steered(mean, std)
    net.innovation.steered.copy_(torch.tensor(table))
    net.innovation.steered_bias.copy_(torch.tensor(bias))
    face = np.zeros(SIZE, np.float32)
    face[INDEX["headYaw"]], face[INDEX["gazeYaw"]], face[INDEX["headZ"]] = 5.0, 10.0, -1.0
    tick = torch.tensor(np.tile((face - mean) / std, 2))[None]
    conditions = torch.zeros(2, 16)
    conditions[0, :5] = torch.tensor([0.5, 0.0, 1.0, 1.0, 1.0])  # 15 degrees; twice as far
    missing = net.seen(tick.expand(2, -1), conditions)[:, -3:]
    torch.testing.assert_close(missing, torch.zeros(2, 3), rtol=0, atol=1e-4)
    conditions[0, 0] = 1.0  # 30 degrees: 15 more
    assert float(net.seen(tick, conditions[:1])[0, -3]) == pytest.approx(1.5, abs=1e-4)


@torch.no_grad()
def test_a_stream_is_pulled_to_rest_to_commands_and_to_emotions(tmp_path: Path) -> None:
    """What the past predicts is steered: far heads come back, commanded regard is approached."""
    known = motion_data.statistics(motion_data.load_corpus(fake_shard(tmp_path, 20).glob("*.npz")))
    inn = motion.build(SMALL_LISTEN, DenoiseConfig(features=10), known).denoise.innovation
    rest = torch.tensor(-known.latent_mean / known.latent_std).repeat(2)[None]
    yaw, pitch = (63 + INDEX[name] for name in ("headYaw", "gazePitch"))
    turned = rest.clone()
    turned[:, yaw] = 4.0
    nothing, command = torch.zeros(1, 16), torch.zeros(1, 16)
    command[:, 1:3] = torch.tensor([1.0, 1.0])  # 30 degrees up
    assert float((inn.steer(turned, nothing) - inn.mean(turned))[0, yaw]) < -0.1
    assert float((inn.steer(rest, command) - inn.steer(rest, nothing))[0, pitch]) > 0
    mood = torch.zeros(1, 16)
    mood[:, 11] = 1
    inn.homes[11, INDEX["browInnerUp"]] = 50.0
    assert float((inn.steer(rest, mood) - inn.steer(rest, nothing))[0, INDEX["browInnerUp"]]) > 1


@torch.no_grad()
def test_a_blink_begins_by_rare_noise_when_the_lids_are_open() -> None:
    """One in some minutes begins; the same at every step, and none while the lids are down."""
    net = small_denoise()
    torch.manual_seed(0)
    z, one = torch.randn(50000, 126), torch.ones(50000, 1)
    lids_open = torch.zeros(50000, 126)
    begun = float(net.blink(z, one, lids_open).mean()) * 25 * 60
    assert 0.1 < begun < 0.8
    later = net.blink(0.5 * z, 0.5 * one, lids_open)  # as noise is left at half the time
    assert torch.equal(later, net.blink(z, one, lids_open))
    assert not net.blink(z, one, lids_open + 1).any()


def test_no_shards_is_told_as_a_user_error(tmp_path: Path) -> None:
    """An empty folder is refused with the way to fill it."""
    with pytest.raises(UsageError, match="speech_"):
        motion_data.load_corpus(tmp_path.glob("*.npz"))


def test_the_energy_score_prefers_the_true_spread() -> None:
    """A sampler with the data's spread scores better than a frozen or an exaggerated one."""
    torch.manual_seed(0)
    truth = torch.randn(1, 20000, 4)
    constants = motion_loss.Constants(
        *(torch.zeros(1),) * 4,
        torch.ones(4),
        torch.tensor([[0.0] * 4, [1, 1, 0, 0], [0, 0, 1, 1]]),
        truth,
    )
    scores = [
        float(
            motion_loss.spread_score(
                k * torch.randn_like(truth), k * torch.randn_like(truth), truth, constants
            ).mean()
        )
        for k in (0.3, 1.0, 1.7)
    ]
    assert scores[1] < scores[0] - 0.02
    assert scores[1] < scores[2] - 0.02


def test_closed_lips_have_no_aperture() -> None:
    """``mouthClose`` cancels the jaw's opening, in the lips' aperture as on the rig."""
    face = torch.zeros(2, SIZE)
    face[:, INDEX["jawOpen"]] = 0.3
    face[1, INDEX["mouthClose"]] = 0.3
    assert motion_loss.aperture(face).tolist() == pytest.approx([0.3, 0.0])


def test_forgotten_conditions_are_zero_and_the_others_untouched() -> None:
    """A group of conditions is dropped as a whole, with its flag."""
    torch.manual_seed(0)
    kept = motion_loss.drop_conditions(torch.ones(400, 16))
    gaze = kept[:, :3]
    assert set(gaze.sum(1).tolist()) == {0.0, 3.0}
    assert 0.05 < float((gaze[:, 0] == 0).float().mean()) < 0.3


def test_training_resumes_and_its_checkpoint_loads(tmp_path: Path) -> None:
    """A run that is started twice goes on; the checkpoint holds stages and statistics."""
    data = fake_shard(tmp_path, 4, 60)
    common = ["--data", str(data), "--out", str(tmp_path / "run"), "--batch", "2", "--ticks", "8"]
    common += ["--width", "32", "--layers", "1", "--head-width", "32", "--head-blocks", "1"]
    common += ["--features", "16", "--listen-minutes", "0.0002"]
    motion.main([*common, "--minutes", "0.005"])
    before = motion.read_checkpoint(tmp_path / "run" / "last.pt")
    later = str(before["seconds"] / 60 + 0.005)
    motion.main([*common, "--minutes", later, "--resume"])
    after = motion.read_checkpoint(tmp_path / "run" / "last.pt")
    assert after["step"] > before["step"] > 0
    listen, denoise, meta = motion.load_motion(tmp_path / "run" / "last.pt")
    assert listen(torch.zeros(1, 4, 64), torch.zeros(1, meta["sizes"]["state"]))[0].shape == (1, 16)
    assert list(denoise.start().shape) == [1, *meta["sizes"]["cache"]]
    assert len(meta["latent"]["mean"]) == SIZE
    assert (tmp_path / "run" / "curves.csv").stat().st_size > 0


def test_a_distilled_checkpoint_keeps_what_it_does_not_learn(tmp_path: Path) -> None:
    """Distillation changes the denoiser alone and writes a checkpoint of the same kind."""
    data = fake_shard(tmp_path, 4, 60)
    run = ["--data", str(data), "--out", str(tmp_path / "run"), "--batch", "2", "--ticks", "8"]
    run += ["--width", "32", "--layers", "1", "--head-width", "32", "--head-blocks", "1"]
    run += ["--features", "16", "--listen-minutes", "0", "--minutes", "0.002"]
    motion.main(run)
    teacher = str(tmp_path / "run" / "last.pt")
    common = ["--batch", "2", "--ticks", "8", "--steps", "2"]
    distill.main(
        ["--checkpoint", teacher, "--data", str(data), "--out", str(tmp_path / "few"), *common]
    )
    before, after = (motion.load_motion(tmp_path / name / "last.pt") for name in ("run", "few"))
    mel, state = torch.randn(1, 4, 64), torch.zeros(1, before[2]["sizes"]["state"])
    assert torch.equal(before[0](mel, state)[0], after[0](mel, state)[0])
    assert not torch.equal(before[1].out.weight, after[1].out.weight)
    assert before[2]["sampler"].pop("guidance") == "two-pass"
    assert after[2]["sampler"].pop("guidance") == "condition"
    assert before[2] == after[2]


@torch.no_grad()
def test_the_teachers_path_ends_where_its_estimate_points() -> None:
    """With an estimate that never changes, every knot lies on the straight line to it."""
    net = small_denoise()
    end = torch.randn(1, 3, 20)
    net.endpoint = lambda z, *rest: end.expand_as(z)  # type: ignore[method-assign]
    noise, context = torch.randn(1, 3, 20), torch.zeros(2, 1, 3, 16)
    guided = distill.Guided(net, context, context, context, context[0], torch.ones(1, 1, 1))
    path = distill.teacher_path(guided, noise, 8)
    for t, z in zip(distill.KNOTS, path, strict=True):
        torch.testing.assert_close(z, t * noise + (1 - t) * end, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_guided_teacher_goes_beyond_the_emotion_and_leaves_the_rest() -> None:
    """At scale 0 it expects what it does without the emotion, at 2 as much again as at 1."""
    net = small_denoise()
    audio, past = torch.randn(1, 3, 10), torch.randn(1, 3, 126)
    happy = torch.zeros(1, 1, 16)
    happy[..., [5, 11]] = 1
    happy[..., 0:3] = torch.tensor([0.5, 0.0, 1.0])
    gaze = happy.clone()
    gaze[..., 5:12] = 0
    pair, z = torch.tensor([1.0, 0.0]).expand(1, 3, 2), torch.randn(1, 3, 20)

    def told(conditions: torch.Tensor, scale: float) -> list[torch.Tensor]:
        one = distill.Guided.of(net, audio, past, conditions, torch.full((1, 1, 1), scale))
        return [one.expected()[0], one.endpoint(z, pair)]

    none, once, twice, plain = told(happy, 0), told(happy, 1), told(happy, 2), told(gaze, 1)
    for a, b, c, d in zip(none, once, twice, plain, strict=True):
        torch.testing.assert_close(a, d)
        torch.testing.assert_close(c - b, b - a, rtol=0, atol=1e-4)


def test_guidance_is_drawn_for_emotions_alone() -> None:
    """Half of the clips with an emotion are guided, between none at all and the greatest scale."""
    conditions = torch.zeros(400, 1, 16)
    conditions[:200, :, 11] = 1
    drawn = distill.draw_guidance(conditions, 4.0)[:, 0]
    assert not drawn[200:].any()
    assert 60 < int((drawn[:200] != 0).sum()) < 140
    assert -1 <= float(drawn.min()) < -0.5
    assert 2 < float(drawn.max()) <= 3


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """Whatever is wrong with a checkpoint is one UsageError."""
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="checkpoint"):
        motion.load_motion(tmp_path / "x.pt")


def test_a_rollout_makes_two_frames_a_tick_and_differs_between_rows() -> None:
    """Rows of a batch draw their own noise; the same seed gives the same motion."""
    known = motion_data.Statistics(
        np.zeros(8), np.ones(8), np.zeros(63), np.ones(63), *(np.ones(1),) * 7
    )
    known = motion_data.Statistics(
        *(np.asarray(getattr(known, name), np.float32) for name in known.__dataclass_fields__)
    )
    net = motion_loss.MotionNet(filled(Listen(SMALL_LISTEN)), small_denoise()).eval()
    mel = rollout.primed(np.zeros((37, 8), np.float32))
    both = np.stack([mel, mel])
    first = rollout.rollout(net, known, both, schedule=(1.0, 0.5, 0.0), seed=3)
    again = rollout.rollout(net, known, both, schedule=(1.0, 0.5, 0.0), seed=3)
    assert first.shape == (2, 20, SIZE)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
