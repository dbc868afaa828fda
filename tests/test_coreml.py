"""Core ML programs compute what the networks compute, as read back from the saved file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fake_coreml
import generic_head
import numpy as np
import pytest
import torch
from tiny_bundle import tiny_head, write_tiny_bundle
from torch import Tensor, nn

from vivant.bundle import Bundle
from vivant.cli import main as vivant
from vivant.errors import BundleError, UsageError
from vivant.export import to_coreml
from vivant.export.coreml_eval import evaluate
from vivant.export.coreml_lint import lint, table
from vivant.export.coreml_program import Operation, Program, Value, read_program
from vivant.export.examples import face_examples, motion_examples, picture
from vivant.export.gate import Example
from vivant.export.nets.align import Align
from vivant.export.nets.denoise import Denoise, DenoiseConfig
from vivant.export.nets.encode import Encode
from vivant.export.nets.listen import Listen, ListenConfig, ListenStage
from vivant.export.nets.render import Render
from vivant.export.to_coreml import EXACT, convert, predict, to_artifact
from vivant.export.to_onnx import reference
from vivant.export.write import ArtifactData, StageData, write_bundle
from vivant.graph import compare, load_graph
from vivant.latent import SIZE
from vivant.mlpackage import MANIFEST, MODEL, write_package
from vivant.tensor import TensorSpec


def stirred(module: nn.Module) -> nn.Module:
    """``module`` with small random weights wherever training starts from zeros."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weights in module.parameters():
            if not weights.any():
                weights.normal_(0, 0.05)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return module.eval()


def stages() -> dict[str, tuple[nn.Module, list[Example]]]:
    """Every network with inputs of real use; ``align`` full size, the others narrow."""
    torch.manual_seed(0)
    encode, render = stirred(Encode(8)), stirred(Render(8))
    seen, driven = face_examples(encode, [picture(1)])
    face = generic_head.keypoints(generic_head.motion())
    # An untrained encoder, and its mirror image, see both pupils in one place: no face at all.
    driven = [example | {"keypoints": face.numpy()} for example in driven]
    hearing = ListenConfig(widths=(16, 24, 32), middle=(1,), deep=(1, 2), features=24)
    thinking = DenoiseConfig(
        components=24, features=24, width=32, layers=2, condition_width=16, heads=2, window=6,
        head_width=32, head_blocks=1,
    )  # fmt: skip
    listen, denoise = stirred(ListenStage(Listen(hearing))), stirred(Denoise(thinking))
    sizes = {
        "mel": (1, 4, 64),
        "state": (1, listen.net.state_size),  # type: ignore[union-attr]
        "noisy": (1, 126),
        "conditions": (1, 16),
        "cache": (1, 4, 6, 32),
    }
    heard, moved = motion_examples(listen, denoise, sizes)  # type: ignore[arg-type]
    return {
        "align": (stirred(Align()), [{"image": picture(2)}]),
        "encode": (encode, list(seen)),
        "listen": (listen, list(heard)),
        "denoise": (denoise, list(moved)),
        "render": (render, list(driven[:2])),
    }


NETS = stages()


@pytest.fixture(scope="module")
def artifacts() -> dict[str, ArtifactData]:
    """Artifacts in fp16, by stage, as tests come to need them."""
    return {}


def artifact(artifacts: dict[str, ArtifactData], stage: str) -> ArtifactData:
    """The stage's fp16 artifact; its gate has passed."""
    if stage not in artifacts:
        artifacts[stage] = to_artifact(stage, *NETS[stage])
    return artifacts[stage]


def program_in(made: ArtifactData) -> Program:
    """The program of an artifact."""
    return read_program(made.data, made.weights)


@pytest.mark.parametrize("stage", NETS)
def test_every_stage_in_fp16_is_the_network(artifacts: dict[str, ArtifactData], stage: str) -> None:
    """Each network converts, and its program computes within the fp16 gate what torch does."""
    made = artifact(artifacts, stage)
    assert made.format == "coreml"
    assert made.precision == "fp16"
    figures = [value for key, value in made.fidelity.items() if key.startswith("psnr_db")]
    assert min(figures) == made.fidelity["psnr_db"] >= 50
    if stage == "render":
        assert made.fidelity["frame_psnr_db"] >= 50
    elif stage != "align":
        assert made.fidelity["cosine"] >= 0.9999
    assert made.fidelity["operators"] == len(program_in(made).operations)


@pytest.mark.parametrize("stage", NETS)
def test_the_figures_count_what_may_leave_the_engine(
    artifacts: dict[str, ArtifactData], stage: str
) -> None:
    """``resample`` in the renderer, waves in two stages, and what ``encode`` keeps in fp32."""
    made = artifact(artifacts, stage)
    away = {key.removeprefix("off_engine_") for key in made.fidelity if key.startswith("off_")}
    known = {
        "encode": {"gather", "float32", "sin", "cos"},
        "denoise": {"sin", "cos"},
        "render": {"resample", "sin", "cos"},
    }
    assert away <= known.get(stage, set())
    assert ("resample" in away) == (stage == "render")


@pytest.mark.parametrize("stage", NETS)
def test_nothing_is_known_never_to_run_there(
    artifacts: dict[str, ArtifactData], stage: str
) -> None:
    """On an M3 nothing but what we keep in fp32 is off the Neural Engine, and nothing overflows."""
    program = program_in(artifact(artifacts, stage))
    findings = lint(program, chip="M3")
    kept = "float32 result" if stage in EXACT else "nothing"
    off = [f for f in findings if f.level == "off" and not f.rule.startswith(kept)]
    assert not off + [f for f in findings if f.level == "range"], table(program, findings)


@pytest.mark.parametrize("stage", ["listen", "denoise"])
def test_in_fp32_hardly_anything_is_lost(stage: str) -> None:
    """With fp32 arithmetic a program is the network to 80 dB and more."""
    made = to_artifact(stage, *NETS[stage], precision="fp32")
    assert made.fidelity["psnr_db"] >= 80


def test_the_same_network_is_the_same_bytes(artifacts: dict[str, ArtifactData]) -> None:
    """A second conversion, after others, gives the same file."""
    first = artifact(artifacts, "listen")
    artifact(artifacts, "denoise")
    assert to_artifact("listen", *NETS["listen"]) == first


def test_nothing_of_the_machine_is_in_the_file(artifacts: dict[str, ArtifactData]) -> None:
    """Neither paths nor dates nor stack traces reach the program."""
    made = artifact(artifacts, "listen")
    for trace in (b".py", b"conversion_date", str(Path.home()).encode(), b"forward"):
        assert trace not in made.data


def test_a_package_is_a_folder_that_names_its_parts(
    artifacts: dict[str, ArtifactData], tmp_path: Path
) -> None:
    """The manifest's root is the program, and every item that it lists is there."""
    made = artifact(artifacts, "listen")
    folder = write_package(tmp_path / "listen.mlpackage", made.data, made.weights)
    manifest = json.loads((folder / MANIFEST).read_text())
    paths = {key: item["path"] for key, item in manifest["itemInfoEntries"].items()}
    assert all((folder / "Data" / path).exists() for path in paths.values())
    assert (folder / "Data" / paths[manifest["rootModelIdentifier"]]) == folder / MODEL


def test_names_that_core_ml_keeps_are_replaced(artifacts: dict[str, ArtifactData]) -> None:
    """Core ML takes no input called ``state``; all others keep the stage's names."""
    program = program_in(artifact(artifacts, "listen"))
    assert [value.name for value in program.inputs] == ["mel", "state_in"]
    assert list(program.outputs) == ["audio", "state_out"]


class Small(nn.Module):
    """A stage of few operators, with the tensors of ``listen``."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hear, self.gain = nn.Linear(256, 8), gain

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 4, 64), (1, 8) -> (1, 8), (1, 8)."""
        x = self.hear(mel.reshape(1, 256)) * self.gain
        return x / self.gain, torch.tanh(state + x / self.gain)


def small_inputs() -> dict[str, Any]:
    """Inputs of Small."""
    random = np.random.default_rng(0)
    return {
        "mel": random.standard_normal((1, 4, 64)).astype(np.float32),
        "state": random.standard_normal((1, 8)).astype(np.float32),
    }


def test_below_the_threshold_nothing_comes_out() -> None:
    """When the PSNR is short of the bar, the error names the output, the bar and the figure."""
    with pytest.raises(BundleError, match=r"expected PSNR of \w+ >= 190 dB; got \d\d\.\d"):
        to_artifact("listen", Small(), [small_inputs()], least=190)


def test_another_program_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that changes the network is found by evaluating what it wrote."""
    other = Small()
    with torch.no_grad():
        other.hear.bias[2] += 0.1
    original = convert
    monkeypatch.setattr(to_coreml, "convert", lambda module, *rest: original(other, *rest))
    with pytest.raises(BundleError, match="not the network that was trained"):
        to_artifact("listen", Small(), [small_inputs()])


def test_on_a_mac_the_gate_runs_the_runtimes_own_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There the artifact is what the runtime loads, and it computes what the evaluator says."""
    inputs = small_inputs()
    made = to_artifact("listen", Small(), [inputs])
    fake_coreml.install(monkeypatch, fake_coreml.program_engine)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert to_artifact("listen", Small(), [inputs]) == made
    outputs = reference(Small(), inputs, ["audio", "state_out"])
    groups = [[TensorSpec(n, "float32", v.shape) for n, v in g.items()] for g in (inputs, outputs)]
    stage = StageData(*map(tuple, groups), (made,), (inputs, outputs))  # type: ignore[arg-type]
    bundle = write_bundle(tmp_path / "bundle", {"listen": stage}, tiny_head())
    graph = load_graph(bundle, "listen", "coreml", device="ALL")
    assert graph.loading.error < 1e-2
    assert bundle.stage("listen").artifacts[0].fidelity["operators"] == made.fidelity["operators"]


class SmallDenoise(nn.Module):
    """``denoise`` with the tiny bundle's sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.read, self.keep = nn.Linear(2 * 126 + 8 + 16 + 3, 126), nn.Linear(126, 12)

    def forward(
        self,
        noisy: Tensor,
        previous: Tensor,
        time: Tensor,
        audio: Tensor,
        conditions: Tensor,
        cache: Tensor,
        history: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(1, 126) and the next cache, (1, 2, 4, 6)."""
        x = torch.cat([noisy, previous, audio, conditions, time, history * 0.01], 1)
        new = self.keep(previous).reshape(1, 2, 1, 6)
        return torch.tanh(self.read(x)), torch.cat([cache[:, :, 1:], new], 2)


def test_export_adds_a_package_to_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--coreml`` converts checkpoints, measures, and says for which stage it has none."""
    facts = {
        "latent": {"mean": [0.5] * SIZE, "std": [2.0] * SIZE},
        "audio": {"mean": [-5.0] * 64, "std": [2.5] * 64},
        "sampler": {"kind": "flow", "schedule": [1.0, 0.0], "noise_correlation": 0.5},
        "sizes": {"state": 8, "features": 8, "cache": [2, 4, 6]},
    }
    nets = Small(), SmallDenoise(), facts
    monkeypatch.setattr("vivant.export.train.motion.load_motion", lambda path: nets)
    plain, packaged = (write_tiny_bundle(tmp_path / k, k).path for k in ("onnx", "coreml"))
    out = tmp_path / "out"
    arguments = ["export", "--motion", "motion.pt", "--coreml", "--out", str(out), "--base"]
    assert vivant([*arguments, str(plain)]) == 2
    assert "stage align has none" in capsys.readouterr().err
    assert not out.exists()
    assert vivant([*arguments, str(packaged)]) == 0
    assert "listen   coreml fp16" in capsys.readouterr().err
    bundle = Bundle.open(out)
    for stage in ("listen", "denoise"):
        made = bundle.stage(stage).artifacts[1]
        assert (made.format, made.precision) == ("coreml", "fp16")
        assert made.fidelity["psnr_db"] >= 50
        assert made.tolerance is not None
        golden = bundle.golden(bundle.stage(stage))
        model, weights = (bundle.read(ref) for ref in made.files[:2])
        got = predict(model, weights, [golden[0]], golden[1])[0]
        assert max(compare(golden[1], got).values()) < made.tolerance


def test_a_program_that_fails_its_gate_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export stops with 5 and leaves no bundle when a program is not the network."""
    base, out = write_tiny_bundle(tmp_path / "base", "coreml").path, tmp_path / "out"
    other = stirred(Align())
    original = convert
    monkeypatch.setattr(to_coreml, "convert", lambda module, *rest: original(other, *rest))
    monkeypatch.setattr("vivant.export.train.align.load_align", lambda path: NETS["align"][0])
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    arguments = ["--align", "align.pt", "--coreml", "--base", str(base), "--out", str(out)]
    assert vivant(["export", *arguments]) == 5
    assert not out.exists()


def test_what_overflows_fp16_is_named() -> None:
    """Inner values beyond 65504 are not finite in 16 bits, and the lint names their operator."""
    inputs = small_inputs()
    names, outputs = list(inputs), ["audio", "state_out"]
    files = convert(Small(1e6), list(inputs.values()), names, outputs, "fp16")
    program, peaks = read_program(*files), dict[str, float]()
    feeds = {"mel": inputs["mel"], "state_in": inputs["state"]}
    assert not np.isfinite(evaluate(program, feeds)["audio"]).all()
    assert np.isfinite(evaluate(program, feeds, half=False, peaks=peaks)["audio"]).all()
    assert "range" in {f.level for f in lint(program, peaks=peaks)}


def test_damaged_files_are_refused() -> None:
    """A cut or empty weight file, zeros in its place and a foreign program are errors."""
    inputs = small_inputs()
    names, outputs = list(inputs), ["audio", "state_out"]
    model, weights = convert(Small(), list(inputs.values()), names, outputs, "fp32")
    outputs_ = reference(Small(), inputs, outputs)
    assert predict(model, weights, [inputs], outputs_)[0]["audio"].shape == (1, 8)
    for bad in (weights[:100], weights[: len(weights) // 2], b"", bytes(len(weights))):
        with pytest.raises(BundleError, match="cannot be read"):
            read_program(model, bad)
    for bad in (b"", b"no program", model[: len(model) // 2]):
        with pytest.raises(BundleError, match="cannot be read"):
            read_program(bad, weights)


def program_of(kind: str, x: Any, shape: tuple[int, ...], **options: Any) -> Program:
    """A program of one operator on ``x``, with constant parameters."""
    names = {key: (f"{key}_0",) for key in options}
    return Program(
        inputs=(Value("x", "float32", np.shape(x)),),
        outputs=("y",),
        operations=(Operation(kind, {"x": ("x",), **names}, (Value("y", "float32", shape),)),),
        constants={names[key][0]: value for key, value in options.items()},
    )


def computed(kind: str, x: Any, shape: tuple[int, ...], **options: Any) -> list[Any]:
    """What the evaluator makes of one operator."""
    x = np.asarray(x, np.float32)
    values = evaluate(program_of(kind, x, shape, **options), {"x": x})["y"].tolist()
    assert isinstance(values, list)
    return values


def test_slices_by_hand() -> None:
    """Masks let bounds go, a negative stride runs backwards, squeezed axes vanish."""
    x = np.arange(12).reshape(3, 4)
    options = {"begin": [1, 9], "end": [3, 0], "stride": [1, -2]}
    masks = {"begin_mask": [False, True], "end_mask": [False, True]}
    assert computed("slice_by_index", x, (2, 2), **options, **masks) == [[7, 5], [11, 9]]
    one = {"begin": [-1, 0], "end": [0, 2], "squeeze_mask": [True, False]}
    assert computed("slice_by_index", x, (2,), **one) == [8, 9]


def test_sampling_by_hand() -> None:
    """-1 and 1 are the image's edges: its middle is the mean, and beyond is the border."""
    image, middle = [[[[0.0, 1.0], [2.0, 3.0]]]], [[[[0.0, 0.0], [-0.5, 0.5], [1.0, 1.0]]]]
    options = {
        "sampling_mode": "bilinear",
        "padding_mode": "border",
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": np.array(False),
        "coordinates": np.array(middle, np.float32),
    }
    assert computed("resample", image, (1, 1, 1, 3), **options) == [[[[1.5, 2.0, 3.0]]]]


def test_resizing_by_hand() -> None:
    """Doubling at half-pixel centres weighs neighbours 3:1 and repeats the border."""
    options = {
        "scale_factor_height": np.float32(1),
        "scale_factor_width": np.float32(2),
        "align_corners": np.array(False),
    }
    assert computed("upsample_bilinear", [[[[0.0, 4.0]]]], (1, 1, 1, 4), **options) == [
        [[[0.0, 1.0, 3.0, 4.0]]]
    ]


def test_means_by_hand() -> None:
    """Padding counts as zeros in a mean over windows, or, where so told, not at all."""
    options = {
        "kernel_sizes": [1, 3],
        "strides": [1, 1],
        "pad_type": "custom",
        "pad": [0, 0, 1, 1],
    }
    row = [[[[3.0, 6.0, 9.0]]]]
    assert computed("avg_pool", row, (1, 1, 1, 3), **options) == [[[[3.0, 6.0, 5.0]]]]
    alone = options | {"exclude_padding_from_average": np.array(True)}
    assert computed("avg_pool", row, (1, 1, 1, 3), **alone) == [[[[4.5, 6.0, 7.5]]]]


def test_what_the_evaluator_does_not_know_is_said() -> None:
    """An unknown operator, option, shape or input is an error, never a guess."""
    with pytest.raises(BundleError, match="unknown Core ML operator einsum"):
        computed("einsum", [1.0], (1,))
    with pytest.raises(BundleError, match="unknown mode"):
        computed("pad", [1.0], (2,), mode="reflect", pad=[0, 1])
    with pytest.raises(BundleError, match="another shape"):
        computed("exp", [1.0], (2,))
    with pytest.raises(UsageError, match=r"expected x; got z"):
        evaluate(program_of("exp", [1.0], (1,)), {"z": np.ones(1, np.float32)})


def test_fp16_is_rounded_after_every_operator() -> None:
    """1 + 0.0004 is 1 in 16 bits; without rounding it stays."""
    value = Value("y", "float16", (1,))
    program = Program(
        inputs=(Value("x", "float32", (1,)),),
        outputs=("y",),
        operations=(Operation("add", {"x": ("x",), "y": ("c",)}, (value,)),),
        constants={"c": np.full(1, 4e-4, np.float16)},
    )
    one = {"x": np.ones(1, np.float32)}
    assert evaluate(program, one)["y"] == 1
    assert evaluate(program, one, half=False)["y"] == pytest.approx(1.0004, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "shape", "options", "chip", "level"),
    [
        ("sin", (1, 4), {}, "M1", "off"),
        ("sin", (1, 4), {}, "M3", None),
        ("resample", (1, 3, 8, 8), {}, "M1", "off"),
        ("resample", (1, 3, 8, 8), {}, "M2", "doubtful"),
        ("lstm", (1, 4), {}, "M4", "off"),
        ("exp", (1, 1, 1, 1, 1, 4), {}, "M4", "off"),
        ("exp", (1, 20000), {}, "M1", "off"),
        ("exp", (1, 20000, 1, 3), {}, "M1", None),
        ("exp", (1, 64, 256, 256), {}, "M1", "slow"),
        ("pixel_shuffle", (1, 1, 8, 8), {"upscale_factor": 5}, "M1", "off"),
        ("pixel_shuffle", (1, 1, 8, 8), {"upscale_factor": 4}, "M1", None),
        ("conv", (1, 1, 8, 8), {"weight": np.ones((1, 1, 3, 15), np.float16)}, "M1", "off"),
        ("add", (1, 1, 8, 8), {"y": np.full(1, np.inf, np.float16)}, "M1", "range"),
    ],
)
def test_lint_rules(
    kind: str, shape: tuple[int, ...], options: dict[str, Any], chip: str, level: str | None
) -> None:
    """Each rule speaks where it holds and is silent where it does not."""
    program = program_of(kind, np.zeros(1), shape, **options)
    (op,) = program.operations
    half = Operation(op.kind, op.inputs, (Value("h", "float16", shape),))
    program = Program(program.inputs, ("z",), (half,), program.constants)
    found = lint(program, chip=chip)
    assert {f.level for f in found} == ({level} if level else set())
    assert all(f.source in table(program, found) for f in found)


def test_fp32_leaves_the_engine() -> None:
    """Any result that is not float16 is said to be computed elsewhere."""
    assert [f.level for f in lint(program_of("exp", np.zeros(4), (4,)))] == ["off"]
