"""``vivant animate``: a photo and a recording become a talking video."""

from __future__ import annotations

import argparse
import json
import math
import time
from fractions import Fraction
from importlib import resources

from .audio import open_audio, stream_sound
from .controls import EMOTIONS, Controls, parse_emotion
from .errors import UsageError
from .mark import Mark
from .photo import Pixels, load_photo
from .progress import Progress, say
from .session import FPS, Session, frame_rate, open_session
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
        "or NAME.json for the motion alone, without the photo's own (default: talking.mp4)",
    )
    verb.add_argument(
        "--fps",
        type=_fps,
        default=Fraction(25),
        help=f"frames a second, {FPS[0]:g} to {FPS[1]:g}, also as 30000/1001 (default: 25)",
    )
    verb.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="another seed moves head and eyes another way (default: 0)",
    )
    verb.add_argument(
        "--face", type=int, metavar="N", help="which of several faces: 0 is the most prominent"
    )

    steer = verb.add_argument_group("steering")
    steer.add_argument(
        "--gaze",
        metavar="YAW,PITCH",
        help="where to look, degrees from the camera: right of the image, up; +-30 each (with a "
        "negative yaw: --gaze=-10,0)",
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
        "--guidance",
        type=float,
        default=1.0,
        metavar="G",
        help="how strictly to follow gaze, distance and emotion, 0 to 4 (default: 1)",
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
    frame_rate(args.fps)
    controls = _controls(args)
    kind = output_kind(args.output)
    if args.output == "-" and args.json:
        raise UsageError("-o - and --json would both write to stdout", fix="Leave one of them out.")
    default = resources.files("vivant.default")
    with (
        resources.as_file(default / "portrait.jpg") as demo_portrait,
        resources.as_file(default / "speech.flac") as demo_speech,
    ):
        # An empty name is a mistake, such as a variable of a script that was never set.
        portrait = str(demo_portrait) if args.portrait is None else args.portrait
        audio = str(demo_speech) if args.audio is None else args.audio
        # Both inputs and the output are looked at before any graph is compiled: mistakes come
        # back at once.
        photo = load_photo(portrait)
        seconds = open_audio(audio).seconds
        with open_session(
            bundle=args.bundle, backend=args.backend, threads=args.threads
        ) as session:
            inputs = [portrait, audio]
            if kind in ("csv", "json"):
                frames = _write_motion(args, session, inputs, seconds, controls, kind)
            else:
                frames = _write_frames(args, session, photo, inputs, seconds, controls)
            _report(args, session, frames)
    return 0


def _write_frames(
    args: argparse.Namespace,
    session: Session,
    photo: Pixels,
    inputs: list[str],
    seconds: float | None,
    controls: Controls,
) -> int:
    sound = stream_sound(inputs[1]) if output_kind(args.output) == "mp4" else None
    sink = open_sink(args.output, fps=args.fps, sound=sound, inputs=inputs)
    if isinstance(sink, MotionSink):
        raise TypeError("a sink for motion where frames are written")
    total = math.ceil(seconds * args.fps) if seconds else None
    session.stats.notes["video"] = f"{float(args.fps):g} fps"
    with sink:
        for note in session.use_portrait(photo, face=args.face).notes:
            say(f"vivant: {note}")
        frames = session.animate(
            inputs[1],
            fps=args.fps,
            controls=controls,
            seed=args.seed,
            marker=Mark(label=args.label),
        )
        first = 0.0
        with Progress("Animating", total, quiet=args.quiet) as progress:
            for frame in frames:
                with session.stats.stage("write"):
                    sink.write(frame)
                progress.advance()
                first = first or time.perf_counter()
        if progress.done > 1:  # without the first frame, which waits for the graphs
            speed = (progress.done - 1) / (time.perf_counter() - first)
            times = speed / float(args.fps)
            session.stats.notes["speed"] = f"{speed:.1f} fps, {times:.2f} times real time"
    return progress.done


def _write_motion(
    args: argparse.Namespace,
    session: Session,
    inputs: list[str],
    seconds: float | None,
    controls: Controls,
    kind: str,
) -> int:
    rate = session.bundle.manifest.latent.rate
    total = math.ceil(seconds * rate) if seconds else None
    sink = MotionSink(args.output, kind, rate=rate, inputs=inputs)
    with sink, Progress("Moving", total, quiet=args.quiet) as progress:
        for latents in session.motion(inputs[1], controls=controls, seed=args.seed):
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
        say("\n".join([*session.plan.lines(), session.stats.table()]))
    if not args.quiet:
        say(f"Wrote {where} ({frames} frames).")


def _controls(args: argparse.Namespace) -> Controls:
    return Controls(
        gaze=None if args.gaze is None else _gaze(args.gaze),
        distance=args.distance,
        emotion=None if args.emotion is None else parse_emotion(args.emotion),
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


def _fps(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"expected a number such as 25 or 30000/1001, got {text!r}"
        ) from None


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
