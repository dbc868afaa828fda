"""``vivant animate``: a photo and a recording become a talking video."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import resources

from .audio import open_audio, stream_sound
from .controls import EMOTIONS, Controls, parse_emotion
from .errors import UsageError
from .mark import Mark
from .progress import Progress
from .session import FPS, Session, check_fps, open_session
from .sinks import MotionSink, open_sink, output_kind

EXAMPLES = """\
examples:
  vivant animate                                the embedded portrait says the embedded sentence
  vivant animate me.jpg speech.wav              your photo and recording, to talking.mp4
  vivant animate me.jpg speech.wav -o out.mp4 --emotion happy:0.5 --gaze 10,0
  vivant animate me.jpg speech.wav -o frames/   numbered PNG files
  vivant animate me.jpg speech.wav -o motion.csv   the motion alone, as ARKit blendshapes
  vivant animate me.jpg speech.wav -o - | ffplay -f rawvideo -pixel_format rgb24 \\
      -video_size 512x512 -framerate 25 -
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``animate`` to the command line."""
    verb = verbs.add_parser(
        "animate",
        help="turn a photo and a recording into a talking video",
        description="Turn a photo and a recording into a talking 512x512 video, on this machine. "
        "Every frame is marked as AI-generated. Use photos of yourself, of people who agreed, or "
        "of people who do not exist.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "portrait", nargs="?", help="photo with a face: JPEG, PNG, WebP, TIFF (default: the demo's)"
    )
    verb.add_argument(
        "audio",
        nargs="?",
        help="recording: WAV, FLAC, Ogg, MP3; with the extra video also M4A, MP4 and others "
        "(default: the demo's)",
    )
    verb.add_argument(
        "-o",
        "--output",
        default="talking.mp4",
        metavar="PATH",
        help="NAME.mp4, a folder (NAME/) for PNG frames, NAME.rgb or - for raw RGB24, NAME.csv "
        "or NAME.json for the motion alone (default: talking.mp4)",
    )
    verb.add_argument(
        "--fps",
        type=float,
        default=25.0,
        help=f"frames a second, {FPS[0]:g} to {FPS[1]:g} (default: 25)",
    )
    verb.add_argument(
        "--seed", type=_seed, default=0, help="another seed moves head and eyes another way"
    )
    verb.add_argument(
        "--face", type=int, metavar="N", help="which of several faces: 0 is the most prominent"
    )

    steer = verb.add_argument_group("steering")
    steer.add_argument(
        "--gaze",
        metavar="YAW,PITCH",
        help="where to look, degrees from the camera: right of the image, up; +-30 each. A "
        "negative yaw needs --gaze=-10,0",
    )
    steer.add_argument(
        "--distance", type=float, metavar="R", help="head distance, 0.5 (close) to 2 (far)"
    )
    steer.add_argument(
        "--emotion",
        metavar="NAME[:0..1],...",
        help=f"{', '.join(EMOTIONS)} or neutral, with intensities",
    )
    steer.add_argument(
        "--guidance", type=float, default=1.0, help="how strictly to follow, 0 to 4 (default: 1)"
    )
    steer.add_argument(
        "--liveliness",
        type=float,
        default=1.0,
        metavar="G",
        help="gain of head motion, 0.25 to 4 (default: 1)",
    )
    steer.add_argument(
        "--articulation",
        type=float,
        default=1.0,
        metavar="G",
        help="gain of lip motion, 0.5 to 2 (default: 1)",
    )
    steer.add_argument("--still-head", action="store_true", help="keep the head where it is")

    machine = verb.add_argument_group("machine")
    machine.add_argument("--bundle", metavar="DIR", help="weights to use (default: the embedded)")
    machine.add_argument(
        "--backend",
        default="auto",
        metavar="NAME[:DEVICE]",
        help="auto, onnxruntime, openvino, openvino:GPU ... (default: auto)",
    )
    machine.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of each graph (default: auto)"
    )

    report = verb.add_argument_group("reporting")
    report.add_argument("--label", action="store_true", help="write 'AI-generated' on the picture")
    report.add_argument("--stats", action="store_true", help="print the time of each stage")
    report.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    report.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``animate``; returns the exit code. Raises VivantError."""
    check_fps(args.fps)
    if args.threads < 0:
        raise UsageError(
            "--threads is negative", expected="0 (auto) or more", got=str(args.threads)
        )
    controls = _controls(args)
    kind = output_kind(args.output)
    if kind == "raw" and args.output == "-" and args.json:
        raise UsageError("-o - and --json would both write to stdout", fix="Leave one of them out.")
    default = resources.files("vivant.default")
    with (
        resources.as_file(default / "portrait.jpg") as demo_portrait,
        resources.as_file(default / "speech.flac") as demo_speech,
    ):
        portrait = args.portrait or str(demo_portrait)
        audio = args.audio or str(demo_speech)
        # Both inputs are looked at before any graph is compiled: mistakes come back at once.
        seconds = open_audio(audio).seconds
        with open_session(
            bundle=args.bundle, backend=args.backend, threads=args.threads
        ) as session:
            if kind in ("csv", "json"):
                frames = _write_motion(args, session, audio, seconds, controls, kind)
            else:
                for note in session.use_portrait(portrait, face=args.face).notes:
                    print(f"vivant: {note}", file=sys.stderr)
                frames = _write_frames(args, session, [portrait, audio], seconds, controls)
            _report(args, session, frames)
    return 0


def _write_frames(
    args: argparse.Namespace,
    session: Session,
    inputs: list[str],
    seconds: float | None,
    controls: Controls,
) -> int:
    sound = stream_sound(inputs[1]) if output_kind(args.output) == "mp4" else None
    sink = open_sink(args.output, fps=args.fps, sound=sound, inputs=inputs)
    if isinstance(sink, MotionSink):
        raise TypeError("a sink for motion where frames are written")
    total = round(seconds * args.fps) if seconds else None
    session.stats.notes["video"] = f"{args.fps:g} fps"
    frames = session.animate(
        inputs[1], fps=args.fps, controls=controls, seed=args.seed, marker=Mark(label=args.label)
    )
    with sink, Progress("Animating", total, quiet=args.quiet) as progress:
        for frame in frames:
            with session.stats.stage("write"):
                sink.write(frame)
            progress.advance()
    return progress.done


def _write_motion(
    args: argparse.Namespace,
    session: Session,
    audio: str,
    seconds: float | None,
    controls: Controls,
    kind: str,
) -> int:
    rate = session.bundle.manifest.latent.rate
    total = round(seconds * rate) if seconds else None
    sink = MotionSink(args.output, kind, rate=rate, inputs=[audio])
    with sink, Progress("Moving", total, quiet=args.quiet) as progress:
        for latents in session.motion(audio, controls=controls, seed=args.seed):
            sink.write(latents)
            progress.advance(len(latents))
    return progress.done


def _report(args: argparse.Namespace, session: Session, frames: int) -> None:
    where = "standard output" if args.output == "-" else args.output
    if args.json:
        result = {"output": args.output, "frames": frames, "backends": session.plan.lines()}
        print(json.dumps(result | {"stats": session.stats.summary()}))
        return
    if args.stats:
        for line in session.plan.lines():
            print(line, file=sys.stderr)
        print(session.stats.table(), file=sys.stderr)
    if not args.quiet:
        print(f"Wrote {where} ({frames} frames).", file=sys.stderr)


def _controls(args: argparse.Namespace) -> Controls:
    return Controls(
        gaze=_gaze(args.gaze) if args.gaze else None,
        distance=args.distance,
        emotion=parse_emotion(args.emotion) if args.emotion else {},
        guidance=args.guidance,
        liveliness=args.liveliness,
        articulation=args.articulation,
        still_head=args.still_head,
    )


def _gaze(text: str) -> tuple[float, float]:
    try:
        yaw, pitch = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            "--gaze is not a pair of angles", expected="YAW,PITCH in degrees", got=repr(text)
        ) from None
    return yaw, pitch


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**64:
        raise argparse.ArgumentTypeError(f"a seed is 0 to 2^64 - 1, got {text}")
    return seed
