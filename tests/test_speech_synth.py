"""Synthetic speech and its motion: what the training data promises, without a synthesiser."""

from __future__ import annotations

import itertools
import stat
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivant import latent
from vivant.controls import CONDITIONS, EMOTIONS
from vivant.errors import UsageError
from vivant.export.synth.speech import corpus, metrics, noise, shard
from vivant.export.synth.speech.articulation import Style, aperture, articulate
from vivant.export.synth.speech.performance import perform, sample_conditions
from vivant.export.synth.speech.phones import (
    BILABIALS,
    CONSONANTS,
    LABIODENTALS,
    SILENCE,
    VISEME,
    VISEMES,
    VOWELS,
    Phone,
    expand,
    from_cmu,
    from_ipa,
    joined,
    shifted,
)
from vivant.export.synth.speech.prosody import Prosody, accents, analyse
from vivant.export.synth.speech.targets import TARGETS
from vivant.export.synth.speech.voices import (
    SynthesisError,
    Utterance,
    Voice,
    espeak_labels,
    flite,
    flite_labels,
    speak,
)

I = latent.INDEX
ALL = sorted(VOWELS | CONSONANTS)
QUIET = np.zeros(len(CONDITIONS), np.float32)


def spoken(names: str, each: float = 0.09, lead: float = 0.5, tail: float = 0.5) -> list[Phone]:
    """Phones of equal length between two silences."""
    at = lead + each * np.arange(len(names) + 1)
    phones = [Phone(float(at[k]), float(at[k + 1]), name) for k, name in enumerate(names)]
    return joined(phones, float(at[-1]) + tail)


def sentence(rng: np.random.Generator, count: int = 60) -> list[Phone]:
    """Random phones of random lengths with a pause in the middle."""
    phones, at = [], 0.4
    for k in range(count):
        at += 0.6 if k == count // 2 else 0.0
        length = float(rng.uniform(0.05, 0.16))
        phones.append(Phone(at, at + length, str(rng.choice(ALL))))
        at += length
    return joined(phones, at + 0.5)


def melody(phones: list[Phone], rng: np.random.Generator) -> Prosody:
    """A wandering voice for the phones."""
    n = int(phones[-1].end * 100)
    voiced = np.zeros(n, bool)
    for p in phones:
        voiced[int(p.start * 100) : int(p.end * 100)] = p.name in VOWELS
    pitch = np.convolve(rng.standard_normal(n + 60), np.ones(61) / 8, "valid")[:n]
    return Prosody(np.clip(pitch, -8, 8), rng.normal(0, 3, n), voiced)


def conditions(**values: float) -> np.ndarray:
    c = QUIET.copy()
    for name, value in values.items():
        c[CONDITIONS.index(name)] = value
    return c


def performed(seed: int, asked: np.ndarray = QUIET, silent: bool = False) -> np.ndarray:
    """(T, 63) one performance of a random sentence, or of silence."""
    rng = np.random.default_rng(seed)
    phones = sentence(rng)
    if silent:
        phones = joined([], phones[-1].end)
    frames = int(phones[-1].end * 50)
    return perform(phones, melody(phones, rng), frames, asked, rng).motion


# --- phones and labels ----------------------------------------------------------------------


def test_every_phone_has_a_viseme_and_a_target() -> None:
    """No phone that a synthesiser can report is without a look."""
    assert VISEME.keys() == VOWELS | CONSONANTS | {SILENCE}
    assert set(VISEME.values()) == set(range(len(VISEMES)))
    assert TARGETS.keys() == VOWELS | CONSONANTS


@pytest.mark.parametrize(
    ("label", "phones"),
    [("tʃ", ("t", "ʃ")), ("oːˈ", ("o",)), ("ɔ̃", ("ɔ",)), ("ʰ", ()), ("(en)", ()), ("☃", None)],
)
def test_ipa_labels_lose_their_marks(label: str, phones: tuple[str, ...] | None) -> None:
    """Stress, length, nasality and language switches do not become phones of their own."""
    assert from_ipa(label) == phones


def test_labels_expand_in_time() -> None:
    """Diphthongs and affricates split, silences merge, unknown labels are counted."""
    labels = [(0.0, 0.1, "pau"), (0.1, 0.2, "sil"), (0.2, 0.4, "ay"), (0.4, 0.5, "ch")]
    assert [p.name for p in expand(labels, from_cmu)] == [SILENCE, "a", "ɪ", "t", "ʃ"]
    assert expand(labels, from_cmu)[1].end == pytest.approx(0.2 + 0.55 * 0.2)
    unknown: dict[str, int] = {}
    assert expand([(0.0, 0.1, "qqq")], from_cmu, unknown)[0].name == "ə"
    assert unknown == {"qqq": 1}


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0.01, 0.3), st.sampled_from(ALL)), max_size=20)
)
def test_joined_phones_cover_the_clip(parts: list[tuple[float, float, str]]) -> None:
    """Between the start and the end of a clip every moment belongs to exactly one phone."""
    phones, at = [], 0.0
    for gap, length, name in parts:
        phones.append(Phone(at + gap, at + gap + length, name))
        at += gap + length
    covered = joined(phones, at + 1.0)
    assert covered[0].start == pytest.approx(0, abs=2e-4)
    assert covered[-1].end == pytest.approx(at + 1.0)
    for a, b in itertools.pairwise(covered):
        assert b.start == pytest.approx(a.end, abs=2e-4)
        assert not (a.name == b.name == SILENCE)


def test_espeak_voiceless_stops_start_at_their_closure() -> None:
    """The silent closure before a burst belongs to the stop, not to the vowel before it."""
    events = [(0, "ɑ"), (2205, "p"), (4410, "i"), (6615, "b"), (8820, "ɑ"), (9261, "t")]
    labels = espeak_labels(events, 11025, 22050)
    starts = [round(a, 4) for a, _, _ in labels]
    assert starts[1] == pytest.approx(0.1 - 0.042)  # p: by 42 ms
    assert starts[3] == pytest.approx(0.3)  # b: as reported
    assert starts[5] == pytest.approx(0.42 - 0.6 * 0.02)  # t: by 60 % of a 20 ms phone
    assert all(labels[k][1] == labels[k + 1][0] for k in range(5))


# --- articulation ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.floats(0.5, 2.0),
    st.floats(0.5, 2.0),
    st.dictionaries(st.sampled_from(EMOTIONS), st.floats(0, 1), max_size=2),
)
def test_bilabials_close_the_lips(
    seed: int, jaw: float, lips: float, mood: dict[str, float]
) -> None:
    """Lips touch in every p, b and m, whatever the neighbours, the style and the emotion."""
    from vivant.export.synth.speech.emotion import express

    rng = np.random.default_rng(seed)
    phones = sentence(rng, 40)
    times = np.arange(int(phones[-1].end * 50)) / 50
    mouth = articulate(phones, times, Style(jaw, lips, jitter=0.12), rng=rng)
    gap = aperture(express(mouth.motion, mouth.closure, mood, rng))
    for p in phones:
        if p.name in BILABIALS:
            near = (times >= p.start - 0.02) & (times <= p.end + 0.01)
            assert gap[near].min() < 0.005, p


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_labiodentals_touch_the_teeth(seed: int) -> None:
    """In every f and v the jaw is nearly shut and the lower lip rolled in to the upper teeth."""
    rng = np.random.default_rng(seed)
    phones = sentence(rng, 40)
    times = np.arange(int(phones[-1].end * 50)) / 50
    motion = articulate(phones, times, Style(jitter=0.12), rng=rng).motion
    for p in phones:
        if p.name in LABIODENTALS:
            k = round((p.start + p.end) / 2 * 50)
            assert motion[k, I["jawOpen"]] < 0.11
            assert motion[k, I["mouthRollLower"]] > 0.38
            assert motion[k, I["mouthLowerDownLeft"]] < 0.03


def test_lips_round_before_the_sound() -> None:
    """Rounding for a w starts more than 100 ms before it and is over 250 ms after."""
    phones = spoken("tɪtiwitɪti", each=0.1)
    w = next(p for p in phones if p.name == "w")
    times = np.arange(int(phones[-1].end * 50)) / 50
    pucker = articulate(phones, times).motion[:, I["mouthPucker"]]
    assert pucker.max() > 0.5
    assert np.interp(w.start - 0.1, times, pucker) > 0.1 * pucker.max()
    assert np.interp(w.end + 0.3, times, pucker) < 0.2 * pucker.max()


def test_jaw_follows_openness() -> None:
    """An open vowel opens the jaw at least twice as far as a close one, a sibilant least."""

    def opened(vowel: str) -> float:
        phones = spoken(f"t{vowel}t", each=0.15)
        times = np.arange(int(phones[-1].end * 50)) / 50
        return float(articulate(phones, times).motion[:, I["jawOpen"]].max())

    assert opened("a") > 2 * opened("i") > 2 * opened("s") * 0.9


def test_articulation_has_no_jumps() -> None:
    """No control moves by more than a quarter of its range within 5 ms."""
    rng = np.random.default_rng(1)
    phones = sentence(rng)
    times = np.arange(int(phones[-1].end * 200)) / 200
    motion = articulate(phones, times, Style(1.3, 1.3, 0.1), rng=rng).motion
    assert np.abs(np.diff(motion, axis=0)).max() < 0.25
    assert motion.min() >= 0
    assert motion.max() <= 1.2


# --- the whole performance ------------------------------------------------------------------


def test_lips_rest_without_speech() -> None:
    """Through silence and noise the lips move less than 5 % of what speech moves them."""
    still = [metrics.activity(performed(s, silent=True)) for s in range(8)]
    speech = [metrics.activity(performed(s)) for s in range(8)]
    assert max(still) < 0.05 * np.mean(speech)
    blinking = [metrics.blinks_per_minute(performed(s, silent=True)) for s in range(8)]
    assert np.mean(blinking) > 5


def test_motion_lies_in_the_human_range() -> None:
    """Blink rate, head spread and spectrum over many speakers are those measured on people."""
    motions = [performed(s) for s in range(60)]
    seconds = sum(len(m) for m in motions) / 50
    blinks = 60 * sum(len(metrics.blink_onsets(m)) for m in motions) / seconds
    assert 10 < blinks < 32
    yaw = np.array([metrics.head_spread(m)[1] for m in motions])
    assert 0.8 < np.median(yaw) < 5
    low, high = np.percentile(yaw, [5, 95])
    assert high / low > 5  # speakers differ by about x10
    bands = np.mean([metrics.head_bands(m[:, I["headPitch"]]) for m in motions], 0)
    assert bands[0] > 0.4
    assert bands[3] + bands[4] < 0.15


def test_one_voice_has_many_performances() -> None:
    """The same speech with another seed moves head and lids otherwise, the lips alike."""
    rng = np.random.default_rng(0)
    phones = sentence(rng)
    voice = melody(phones, rng)
    frames = int(phones[-1].end * 50)
    a, b = (
        perform(phones, voice, frames, QUIET, np.random.default_rng(seed)).motion for seed in (1, 2)
    )
    assert abs(metrics.correlation(a[:, I["headYaw"]], b[:, I["headYaw"]])) < 0.9
    assert not np.array_equal(metrics.blink_onsets(a), metrics.blink_onsets(b))
    assert metrics.correlation(aperture(a), aperture(b)) > 0.85


def test_same_seed_same_performance() -> None:
    """A performance depends on its seed alone."""
    np.testing.assert_array_equal(performed(3), performed(3))


@pytest.mark.parametrize(("yaw", "pitch"), [(18.0, 0.0), (-15.0, 8.0), (0.0, -10.0)])
def test_gaze_command_is_followed(yaw: float, pitch: float) -> None:
    """Head and eyes together look, on average, within 5 degrees of where they are told."""
    asked = conditions(gaze_yaw=yaw / 30, gaze_pitch=pitch / 30, gaze_given=1)
    mean = np.mean([metrics.regard(performed(s, asked)).mean(0) for s in range(4)], 0)
    np.testing.assert_allclose(mean, [yaw, pitch], atol=5)


@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.8])
def test_distance_command_is_followed(ratio: float) -> None:
    """The mean head distance is within 5 % of the commanded ratio."""
    asked = conditions(distance=float(np.log2(ratio)), distance_given=1, liveliness=-1)
    got = np.mean([metrics.distance_ratio(performed(s, asked)) for s in range(6)])
    assert got == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_emotions_are_told_apart(emotion: str) -> None:
    """Each emotion's own blendshapes stand out of a face that speaks."""
    neutral = np.mean([performed(s).mean(0) for s in range(6)], 0)
    motion = performed(2, conditions(**{emotion: 1.0, "emotion_given": 1}))
    scores = metrics.emotion_scores(motion, neutral)
    assert max(scores, key=lambda name: scores[name]) == emotion
    half = performed(2, conditions(**{emotion: 0.5, "emotion_given": 1}))
    less, more = (metrics.emotion_strength(m, neutral, emotion) for m in (half, motion))
    assert more > 1.3 * less > 0


def test_liveliness_and_articulation_are_gains() -> None:
    """More liveliness moves the head more, more articulation opens the mouth wider."""

    def head(value: float) -> float:
        asked = conditions(liveliness=value)
        return float(np.mean([metrics.head_spread(performed(s, asked)).mean() for s in range(5)]))

    def lips(value: float) -> float:
        asked = conditions(articulation=value)
        return float(np.mean([aperture(performed(s, asked)).mean() for s in range(5)]))

    assert head(-1.5) < head(0.01) < head(1.5)
    assert lips(-0.9) < lips(0.01) < lips(0.9)


def test_latent_conventions() -> None:
    """Lid shapes are tied to gaze, weights stay in 0..1, and nothing is infinite."""
    motion = performed(5)
    yaw, pitch = motion[:, I["gazeYaw"]], motion[:, I["gazePitch"]]
    for shape, value in (
        ("eyeLookOutLeft", np.maximum(yaw, 0) / 35),
        ("eyeLookInLeft", np.maximum(-yaw, 0) / 35),
        ("eyeLookUpRight", np.maximum(pitch, 0) / 30),
        ("eyeLookDownRight", np.maximum(-pitch, 0) / 30),
    ):
        np.testing.assert_allclose(motion[:, I[shape]], value, atol=1e-5)
    assert np.isfinite(motion).all()
    assert motion[:, :52].min() >= 0
    assert motion[:, :52].max() <= 1


def test_conditions_are_mostly_not_given() -> None:
    """Six clips in ten are performed without any command."""
    drawn = np.stack([sample_conditions(np.random.default_rng(s)) for s in range(600)])
    assert 0.53 < np.mean(~drawn.any(1)) < 0.67
    assert (drawn[:, CONDITIONS.index("guidance")] == 0).all()


def test_prosody_finds_pitch_and_accents() -> None:
    """Pitch is within half a semitone on a gliding voice, and the loud long vowel is accented."""
    t = np.arange(32000) / 16000
    f0 = 120 * 2 ** (np.sin(2 * np.pi * 0.5 * t) * 3 / 12)
    buzz = sum(np.sin(k * 2 * np.pi * np.cumsum(f0) / 16000) / k for k in range(1, 12))
    got = analyse(0.1 * buzz)
    wanted = 12 * np.log2(f0[::160] / np.median(f0))
    assert got.voiced[10:-10].all()
    assert np.abs(got.pitch - wanted)[10:-10].max() < 0.5
    loud = np.where((np.arange(200) > 90) & (np.arange(200) < 120), 6.0, 0.0)
    voice = Prosody(np.zeros(200), loud, np.ones(200, bool))
    phones = [Phone(k * 0.2, k * 0.2 + (0.2 if k == 5 else 0.1), "a") for k in range(10)]
    assert [round(a.time, 1) for a in accents(phones, voice)] == [1.1]


# --- sounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", noise.SOUNDS)
def test_sounds_are_sound(name: str) -> None:
    """Every non-speech sound is finite, of the asked length, and new with each seed."""
    make = noise.SOUNDS[name][0]
    a, b = (make(16000, np.random.default_rng(s)) for s in (1, 2))
    assert len(a) == len(b) == 16000
    assert np.isfinite(a).all()
    assert name == "silence" or not np.array_equal(a, b)


def test_recorded_speech_stays_in_time() -> None:
    """Rooms and microphones colour speech but do not shift it."""
    rng = np.random.default_rng(0)
    pulse = np.zeros(16000)
    pulse[8000:8400] = rng.standard_normal(400)
    for seed in range(12):
        heard = noise.record(pulse, np.random.default_rng(seed))
        assert np.abs(heard).max() <= 1
        energy = np.convolve(heard.astype(np.float64) ** 2, np.ones(400), "valid")
        assert abs(int(energy.argmax()) - 8000) < 160


# --- synthesisers ---------------------------------------------------------------------------

FAKE = """\
    #!{python}
    import sys, wave
    out = sys.argv[sys.argv.index("-o") + 1]
    assert "duration_stretch=0.5" in sys.argv and sys.argv[sys.argv.index("-voice") + 1] == "slt"
    with wave.open(out, "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(16000)
        w.writeframes(b"\\0\\1" * 9600)
    print("pau:0.100 hh:0.200 ay:0.400 pau:0.600")
"""


def test_flite_is_run_and_read(tmp_path: Path) -> None:
    """Voice and pace reach the program; its samples and phone ends come back."""
    program = tmp_path / "flite"
    program.write_text(textwrap.dedent(FAKE).format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    said = flite("Hi.", Voice("flite", "slt", pace=2.0, pitch=0), str(program))
    assert (len(said.samples), said.rate, said.unknown) == (9600, 16000, 0)
    assert [p.name for p in said.phones] == [SILENCE, "h", "a", "ɪ", SILENCE]
    assert said.phones[-1].end == pytest.approx(0.6)


def test_missing_synthesiser_says_how_to_get_it() -> None:
    """Without the program the error names it and the package to install."""
    with pytest.raises(SynthesisError, match="apt install no-such-program"):
        flite("Hi.", Voice("flite", "slt"), "no-such-program")
    with pytest.raises(UsageError, match="espeak, flite or festival"):
        speak(Voice("parrot", "polly"), ["Hi."])


def test_flite_labels_skip_other_words() -> None:
    """Words without a colon in the program's output are no phones."""
    assert flite_labels("warning pau:0.2 aa:0.3") == [(0.0, 0.2, "pau"), (0.2, 0.3, "aa")]


# --- shards ---------------------------------------------------------------------------------


def fake_speak(voice: Voice, texts: list[str]) -> list[Utterance]:
    """A synthesiser of noise bursts."""
    said = []
    for text in texts:
        rng = np.random.default_rng(len(text))
        phones = shifted(sentence(rng, max(8, len(text) // 2)))
        samples = 0.1 * rng.standard_normal(int(phones[-1].end * 22050))
        said.append(Utterance(samples.astype(np.float32), 22050, phones))
    return said


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Archives laid out as the NLTK data collection has them."""
    lines = " ".join(f"This is sentence {'very ' * (k % 5)}much like another." for k in range(60))
    for name in ("state_union", "inaugural"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/1.txt", lines)
    with zipfile.ZipFile(tmp_path / "udhr2.zip", "w") as archive:
        for name in set(corpus.LANGUAGES.values()):
            archive.writestr(f"udhr2/{name}.txt", lines)
    return tmp_path


def test_shard_format(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard holds whole clips of 4-20 s whose mel, motion and labels run in step."""
    monkeypatch.setattr(shard, "speak", fake_speak)
    jobs = shard.plan(texts, texts, hours=1 / 60, seed=4, held_out=False, minutes=1)
    assert [job.number for job in jobs] == [0]
    shard.write(jobs[0])
    with np.load(jobs[0].path) as z:
        starts, frames = z["starts"], len(z["mel"])
        assert starts[0] == 0
        assert starts[-1] == frames
        assert (starts % 4 == 0).all()
        lengths = np.diff(starts) / 100
        assert lengths.min() >= 4
        assert lengths.max() <= 20
        assert z["mel"].shape == (frames, 64)
        assert z["mel"].dtype == np.float16
        assert z["motion"].shape == (frames // 2, latent.SIZE)
        assert z["motion"].dtype == np.float16
        assert z["viseme"].shape == (frames,)
        assert z["viseme"].max() < len(VISEMES)
        assert z["conditions"].shape == (len(starts) - 1, len(CONDITIONS))
        assert np.isfinite(z["mel"]).all()
        assert np.isfinite(z["motion"]).all()
        assert tuple(z["names"]) == latent.NAMES
        # Speech sounds where the labels speak, and the lips open there.
        gap = aperture(z["motion"].astype(np.float64))
        talking = z["viseme"][::2] > 0
        assert gap[talking].mean() > 2 * gap[~talking].mean()
    assert not shard.plan(texts, texts, hours=1 / 60, seed=4, held_out=False, minutes=1)


def test_clip_depends_on_its_seed_alone(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed makes the same clip, another seed another."""
    monkeypatch.setattr(shard, "speak", fake_speak)
    lines = corpus.load(texts)
    a, b, c = (shard.spoken_clip(lines, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.mel, b.mel)
    np.testing.assert_array_equal(a.performance.motion, b.performance.motion)
    assert a.mel.shape != c.mel.shape or not np.array_equal(a.mel, c.mel)


def test_shard_depends_on_number_and_seed_alone(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing a shard again, music and all, gives the same bytes; another number gives others."""

    def perform_music(count: int, rng: np.random.Generator) -> np.ndarray:
        return 0.1 * rng.standard_normal((count, 20 * 16000))

    monkeypatch.setattr(shard, "speak", fake_speak)
    monkeypatch.setattr(shard.music, "perform", perform_music)
    mels = []
    for name, number in (("a", 1), ("b", 1), ("c", 2)):
        path = texts / f"{name}.npz"
        shard.write(shard.Job(path, number, texts, 5, 0.5, held_out=False, music=True))
        with np.load(path) as z:
            mels.append(z["mel"])
    np.testing.assert_array_equal(mels[0], mels[1])
    assert mels[0].shape != mels[2].shape or not np.array_equal(mels[0], mels[2])


def test_clip_of_noise_has_resting_lips() -> None:
    """A clip without speech is labelled silence throughout, and its mouth rests."""
    for seed in range(6):
        clip = shard.unspoken_clip(np.random.default_rng(seed))
        assert not clip.viseme.any()
        assert metrics.activity(clip.performance.motion) < 0.02


def test_held_out_voices_are_never_trained_on(texts: Path) -> None:
    """Voices, languages and sentences of held-out clips occur in no training clip."""
    lines = corpus.load(texts)
    rng = np.random.default_rng(0)
    train = {corpus.sample_voice(lines, rng)[0].name for _ in range(600)}
    held = {corpus.sample_voice(lines, rng, held_out=True)[0].name for _ in range(200)}
    assert not train & held
    assert not corpus.HELD_OUT_LANGUAGES & {name.split("+")[0] for name in train}
    assert len({name.split("+")[0] for name in train if "+" in name}) >= 20
    part = lines.part("de", held_out=False)
    assert len(part) + len(lines.part("de", held_out=True)) == len(lines.other["de"])


def test_missing_texts_are_named(tmp_path: Path) -> None:
    """Without the archives the command says which are missing, with a usage error's code."""
    arguments = ["--text", str(tmp_path), "--out", str(tmp_path / "out"), "--hours", "0.1"]
    assert shard.main(arguments) == UsageError.exit_code
