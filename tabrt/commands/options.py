"""What the commands take, each said once: the command line makes its options of these, and Python hands them in.

A field's annotation says how the command line shows it. Cheap to import.
"""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

from tabrt.errors import TabrtError
from tabrt.variants import DEFAULT_MODEL, DEFAULT_WIDTH, SHIPPED, WIDTHS, usual_hourglasses, variant_name

if TYPE_CHECKING:
    from tabrt.hiding import Hiding
    from tabrt.measures import Calibration
    from tabrt.sinks import Aligning
    from tabrt.topology import Topology
    from tabrt.tracking import Tracker

    Width = str
else:
    Width = Literal[tuple(WIDTHS)]

DEFAULT_SMOOTHING = 0.7  # that of tabrt.tracking.smoothing, which would be slow to import
DEFAULT_MIN_SCORE = 0.4  # that of tabrt.tracking.tracker
DEFAULT_MARGIN = 0.2  # that of tabrt.hiding
DEFAULT_CROP_MARGIN = 0.25  # that of tabrt.sinks.alignment
MOST_CROP_FILMS = 64  # that of tabrt.sinks.crops
MOST_HIDDEN = 20  # faces that are followed at least, where none may be left out

EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "torch"]
DeviceName = Literal["auto", "cpu", "gpu"]
DetectorName = Literal["onnxruntime", "mediapipe"]
What = Literal["points", "boundaries"]
Hide = Literal["blur", "mosaic", "black"]
HIDES: tuple[Hide, ...] = get_args(Hide)
WIDEST_MARGIN = 2.0  # around hidden faces, in sizes of the face
AlignmentName = Literal["plain", "ffhq", "arcface"]

_PICTURES = ("out", "window", "serve", "virtual_camera")  # what shows or writes them whole
_AVATARS = ("openseeface", "ifacialmocap", "vmc")
_MEASURED = ("landmarks", "serve", "osc", *_AVATARS)  # what tells measures, whatever is drawn
_OF_PICTURES = "is about pictures, of which none are written; give --out, too"
_OF_FILM = "is about the film that --out writes; give --out, too"
_OF_CROPS = "is about crops, of which none are written; give --crops DIR, too"
# Options that mean nothing unless one of others is given: those, and what is said without them.
_MEANS_NOTHING_WITHOUT: dict[str, tuple[tuple[str, ...], str]] = {
    "hide_all_but": (("hide",), f"says whom --hide leaves out; give --hide {HIDES[0]}, too"),
    "margin": (("hide",), f"says how far --hide reaches; give --hide {HIDES[0]}, too"),
    "hide": ((*_PICTURES, "crops"), _OF_PICTURES),
    "overlay": (_PICTURES, _OF_PICTURES),
    "draw": (("out",), _OF_PICTURES),
    "codec": (("out",), _OF_FILM),
    "crf": (("out",), _OF_FILM),
    "crop_align": (("crops",), _OF_CROPS),
    "crop_size": (("crops",), _OF_CROPS),
    "crop_margin": (("crops",), _OF_CROPS),
    "crop_films": (("crops",), "says how --crops is written; give --crops DIR, too"),
    "fov": (("measures", *_AVATARS), "is about measures, of which none are told; give --measures, too"),
    "measures": ((*_PICTURES, *_MEASURED), "has nowhere to be told; give --out or --landmarks, too"),
    "host": (("serve",), "says where --serve serves; give --serve PORT, too"),
    "vmc_head": (("vmc",), "says what --vmc sends; give --vmc HOST, too"),
}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which network runs, and on what."""

    model: Annotated[
        str | None, typer.Option(help="Model name (see `tabrt models`) or file.", show_default=DEFAULT_MODEL)
    ] = None
    hourglasses: Annotated[int | None, typer.Option(min=1, max=8, help="Choose the model by its hourglasses.")] = None
    width: Annotated[Width | None, typer.Option(help="Choose the model by its width.")] = None
    engine: Annotated[EngineName, typer.Option(help="What runs the network.")] = "auto"
    device: Annotated[DeviceName, typer.Option(help="Where it runs: auto takes an NVIDIA GPU that can be used.")] = (
        "auto"
    )
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads of the network.", show_default="all")
    ] = None

    def __post_init__(self) -> None:
        if self.model is not None and (self.hourglasses is not None or self.width is not None):
            raise typer.BadParameter("--model names the whole network; leave --hourglasses and --width out")

    @property
    def model_name(self) -> str:
        """The model asked for, by name or by its build; the default where nothing is asked for.

        Raises TabrtError for a build of which no weights ship.
        """
        if self.model is not None:
            return self.model
        width = self.width or DEFAULT_WIDTH
        name = variant_name(self.hourglasses or usual_hourglasses(width), width)
        if name not in SHIPPED:
            given = {"--hourglasses": self.hourglasses, "--width": self.width}
            asked = " ".join(f"{option} {value}" for option, value in given.items() if value is not None)
            raise TabrtError(
                f"no weights ship for {asked} ({name}): train them and give the file with --model, "
                f"or choose one of {', '.join(SHIPPED)}"
            )
        return name


@dataclass(frozen=True, kw_only=True)
class TrackingOptions(NetworkOptions):
    """How faces are followed."""

    faces: Annotated[int, typer.Option(min=1, help="Faces to follow at most.")] = 4
    smoothing: Annotated[float, typer.Option(min=0.0, max=1.0, help="0 for none, 1 for the calmest.")] = (
        DEFAULT_SMOOTHING
    )
    detector: Annotated[DetectorName, typer.Option(help="What runs the face detector.")] = "onnxruntime"
    measures: Annotated[
        bool,
        typer.Option("--measures", help="Tell head pose, gaze and expression too: drawn and in landmark files."),
    ] = False
    fov: Annotated[
        str | None,
        typer.Option(
            metavar="DEGREES|FILE",
            help="What the camera sees horizontally, or its calibration by OpenCV: for the distance of heads.",
            show_default="60 along the longer side, a guess",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            others, said = _MEANS_NOTHING_WITHOUT.get(field.name, ((), ""))
            if said and getattr(self, field.name) != field.default and not any(map(self._has, others)):
                raise typer.BadParameter(f"--{field.name.replace('_', '-')} {said}")

    def _has(self, name: str) -> bool:
        value = getattr(self, name, None)
        return value is not None and value is not False

    @property
    def field_of_view(self) -> float | Calibration | None:
        """Degrees, or a camera's calibration. Raises TabrtError for a file that is none."""
        from tabrt.measures import Calibration

        if self.fov is None:
            return None
        try:
            return float(self.fov)
        except ValueError:
            return Calibration.read(self.fov)

    min_score: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="A face that the network is less sure of is not given.")
    ] = DEFAULT_MIN_SCORE

    @property
    def most_faces(self) -> int:
        """How many faces are followed at most."""
        return self.faces

    def tracker(self, boundaries: bool = False) -> Tracker:
        """The tracker asked for. Raises TabrtError."""
        from tabrt.tracking import Tracker

        return Tracker(
            *(self.model_name, self.engine, self.most_faces, self.smoothing, self.threads, boundaries, self.detector),
            fov=self.field_of_view,
            device=self.device,
            min_score=self.min_score,
            in_seconds=True,
        )


# Where things are, and how fast: not what is written. The network has its own place in landmark files.
_MAKES_NO_DIFFERENCE = {"out", "landmarks", "crops", "overwrite", "resume"} | {
    field.name for field in fields(NetworkOptions)
}

Out = typer.Option(metavar="OUT.mp4", help="Write the film with the faces drawn here.")
Landmarks = Annotated[
    str | None,
    typer.Option(metavar="FILE.jsonl|.csv|.parquet|-", help="Write the points here; - is stdout, as JSON."),
]


@dataclass(frozen=True, kw_only=True)
class HidingOptions(TrackingOptions):
    """Whose face nobody may see, and what is drawn."""

    hide: Annotated[Hide | None, typer.Option(help="Hide all faces in what is written and shown.")] = None
    hide_all_but: Annotated[
        str | None, typer.Option(metavar="ID[,ID…]", help="Show the faces with these ids all the same.")
    ] = None
    margin: Annotated[
        float, typer.Option(min=0, max=WIDEST_MARGIN, help="Around hidden faces, in sizes of the face: ears and hair.")
    ] = DEFAULT_MARGIN
    overlay: Annotated[
        bool | None,
        typer.Option(
            "--overlay/--no-overlay",
            help="Draw the faces on the pictures, or do not.",
            show_default="drawn, unless they are hidden",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.shown_ids
        if self.measures and not self.drawn and not any(map(self._has, _MEASURED)):
            raise typer.BadParameter("--measures are drawn on faces, and none is; give --overlay or --landmarks, too")

    @property
    def shown_ids(self) -> frozenset[int]:
        """The ids that are not hidden."""
        ids = [] if self.hide_all_but is None else self.hide_all_but.split(",")
        if not all(each.strip().isdecimal() and int(each) > 0 for each in ids):
            raise typer.BadParameter(f"--hide-all-but {self.hide_all_but}: give ids like 1 or 1,4")
        return frozenset(map(int, ids))

    @property
    def most_faces(self) -> int:
        return self.faces if self.hide is None else max(self.faces, MOST_HIDDEN)

    @property
    def drawn(self) -> bool:
        """Whether the faces are drawn."""
        return self.hide is None if self.overlay is None else self.overlay

    def hiding(self, topology: Topology) -> Hiding | None:
        """What hides the faces; None where they are not to be hidden."""
        from tabrt.hiding import Hiding

        return None if self.hide is None else Hiding(self.hide, topology, self.margin, self.shown_ids)


@dataclass(frozen=True, kw_only=True)
class OutputOptions(HidingOptions):
    """What is written of films and pictures."""

    out: str | Path | None = None
    landmarks: Landmarks = None
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace files that are there already.")] = False
    draw: Annotated[What, typer.Option(help="What to draw: points, or the network's boundary maps too.")] = "points"
    crops: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write the faces here, cut out and upright, as PNG.")
    ] = None
    crop_align: Annotated[
        AlignmentName, typer.Option(help="How they lie: plain with a margin, or as FFHQ or ArcFace have them.")
    ] = "plain"
    crop_size: Annotated[
        int | None, typer.Option(metavar="PX", help="Their side.", show_default="256; ffhq 512, arcface 112")
    ] = None
    crop_margin: Annotated[float, typer.Option(min=0, max=4, help="Around plain ones, in sizes of the face.")] = (
        DEFAULT_CROP_MARGIN
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is None and self.landmarks is None and self.crops is None:
            raise typer.BadParameter("nothing to write: give --out, --landmarks or --crops")
        if self.hide is not None and self.crops is not None and not self.shown_ids:
            raise typer.BadParameter("--hide covers the faces that --crops would cut out; give them in two calls")
        if self.draw != "points" and not self.drawn:
            raise typer.BadParameter("--draw says what is drawn on faces, and nothing is; give --overlay, too")
        if self.crop_margin != DEFAULT_CROP_MARGIN and self.crop_align != "plain":
            raise typer.BadParameter(f"--crop-margin is about plain crops; leave it out with {self.crop_align}")
        if self.crop_size is not None:  # before any folder is made
            from tabrt.sinks.alignment import checked_size

            checked_size(self.crop_align, self.crop_size)

    def aligning(self, topology: Topology) -> Aligning | None:
        """How faces are cut out; None where they are not. Raises TabrtError."""
        from tabrt.sinks import Aligning

        return Aligning(topology, self.crop_align, self.crop_size, self.crop_margin) if self.crops is not None else None

    @property
    def cut_ids(self) -> frozenset[int] | None:
        """The ids that are cut out; None for all."""
        return None if self.hide is None else self.shown_ids

    @property
    def boundaries(self) -> bool:
        """Whether boundary maps are drawn."""
        return self.out is not None and self.drawn and self.draw == "boundaries"


def _check_time(option: str, time: float | str) -> None:
    from tabrt.film import seconds

    try:
        seconds(time)
    except TabrtError as problem:
        raise typer.BadParameter(f"{option}: {problem}") from None


@dataclass(frozen=True, kw_only=True)
class FilmOptions(OutputOptions):
    """What is done to each film."""

    out: Annotated[str | None, Out] = None
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Begin here: seconds or 1:30; -10 is before the end."),
    ] = None
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End before this time.", show_default="the end")
    ] = None
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Look at every so many frames only.")] = 1
    track: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Picture track of a film with several.", show_default="the main one"),
    ] = None
    codec: Annotated[
        str | None, typer.Option(help="Encoder of the film, as ffmpeg calls it.", show_default="libx264")
    ] = None
    crf: Annotated[int, typer.Option(min=0, max=63, help="Quality of the film: lower is better and larger.")] = 20
    crop_films: Annotated[bool, typer.Option("--crop-films", help="Write --crops as a film for each id.")] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run was broken off, by the .jsonl that it left.")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_films and self.faces > MOST_CROP_FILMS:
            raise typer.BadParameter(
                f"--crop-films encodes a film for each face, {MOST_CROP_FILMS} at once at most; "
                f"give --faces {MOST_CROP_FILMS}, or leave it out for pictures"
            )
        for option, time in (("--from", self.start), ("--to", self.end)):
            if time is not None:
                _check_time(option, time)
        if self.resume and self.no_resuming is not None:
            raise typer.BadParameter(self.no_resuming)

    @property
    def no_resuming(self) -> str | None:
        """Why --resume has nothing to go on with; None where it has."""
        if self.landmarks in (None, "-") or str(self.landmarks).lower().endswith((".csv", ".parquet")):
            return "--resume goes by landmark files; give --landmarks with a folder or .jsonl"
        if self.boundaries:
            return "--resume has no boundary maps of what was tracked before; leave --draw out"
        if self.hide_all_but is not None:  # an id may be another person's after a stop
            return "--resume cannot vouch for whom --hide-all-but shows; give one of them alone"
        return None

    @property
    def differing(self) -> dict[str, Any]:
        """What is not as it is by default, of all that makes the outputs what they are but for the network."""
        told = [field for field in fields(FilmOptions) if field.name not in _MAKES_NO_DIFFERENCE]
        return {field.name: value for field in told if (value := getattr(self, field.name)) != field.default}


@dataclass(frozen=True, kw_only=True)
class VideoOptions(FilmOptions):
    """One film, and all that is done to it: a job, which is a plain value that another process can be given."""

    source: str
    called: str | None = None  # what the source is called where it comes from, if that is elsewhere


@dataclass(frozen=True, kw_only=True)
class VideosOptions(FilmOptions):
    """Films, each of which becomes a job."""

    sources: Annotated[
        list[str],
        typer.Argument(metavar="IN…", help="Films, folders of films or pictures, patterns ('*.mp4'), or - for stdin."),
    ]
    out: Annotated[
        str | None,
        typer.Option(metavar="OUT.mp4|DIR", help="Write each film with its faces drawn here; {name} is the film's."),
    ] = None
    landmarks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl|.csv|.parquet|DIR|-",
            help="Write the points of each film here; - is standard output, as JSON.",
        ),
    ] = None
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Films of folders within folders, too.")] = False
    skip_finished: Annotated[
        bool,
        typer.Option("--skip-finished", help="Pass over films that are done, by what their landmark files say."),
    ] = False
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Films at once, each with its share of the cores.")] = 1
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Hand the films to the Dask scheduler at tcp://HOST:PORT.")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster is not None and self.jobs > 1:
            raise typer.BadParameter("--cluster has workers of its own, as many as were started; leave --jobs out")
        if self.jobs > 1 and len(self.sources) == 1 and _is_one_film(self.sources[0]):
            raise typer.BadParameter("--jobs is about several films at once; give more, or a folder, or leave it out")
        streams = "-" in self.sources or self.landmarks == "-"
        if streams and (self.cluster is not None or self.jobs > 1):
            raise typer.BadParameter("- is a stream of this one process; name a file with --cluster and --jobs")
        if self.skip_finished and (self.landmarks in (None, "-") or str(self.landmarks).lower().endswith(".csv")):
            raise typer.BadParameter("--skip-finished goes by landmark files; give --landmarks with a folder or .jsonl")


def _is_one_film(name: str) -> bool:
    """Whether a name cannot stand for several films: a file, a film on the web, or numbered pictures."""
    address = "://" in name and not name.endswith("/") and "*" not in name
    return name == "-" or os.path.isfile(name) or address or re.search(r"%0?\d*d", name) is not None


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """A film whose faces were tracked before, and how they are drawn."""

    source: Annotated[str, typer.Argument(metavar="FILM", help="The film that the landmark file was made of.")]
    landmarks: Annotated[
        str, typer.Argument(metavar="FILE", help="What tracking wrote of it: .jsonl, .parquet or .csv.")
    ]
    out: Annotated[str, Out]
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace the film if it is there already.")] = (
        False
    )
    hide: Annotated[Hide | None, typer.Option(help="Hide all faces.", show_default="as it was when tracking")] = None
    hide_all_but: Annotated[
        str | None, typer.Option(metavar="ID[,ID…]", help="Show the faces with these ids all the same.")
    ] = None
    overlay: Annotated[
        bool | None,
        typer.Option(
            "--overlay/--no-overlay", help="Draw the faces, or do not.", show_default="drawn, unless they are hidden"
        ),
    ] = None
    codec: Annotated[
        str | None, typer.Option(help="Encoder of the film, as ffmpeg calls it.", show_default="libx264")
    ] = None
    crf: Annotated[int, typer.Option(min=0, max=63, help="Quality of the film: lower is better and larger.")] = 20


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """A landmark file, and where its figure goes."""

    landmarks: Annotated[str, typer.Argument(metavar="FILE", help="A landmark file: .jsonl, .parquet or .csv.")]
    out: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Write the figure here.", show_default="beside it, as .png")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace the figure if it is there already.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions(OutputOptions):
    sources: Annotated[
        list[str], typer.Argument(metavar="IN…", help="Pictures, folders of them, or patterns: '*.jpg'.")
    ]
    out: Annotated[
        str | None, typer.Option(metavar="DIR|FILE", help="Write the pictures with the faces drawn here.")
    ] = None
    faces: Annotated[int, typer.Option(min=1, help="Faces to find at most.")] = 50
    smoothing: float = 0.0  # each picture is on its own


@dataclass(frozen=True, kw_only=True)
class DemoOptions(NetworkOptions):
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to leave the files.")] = Path("tabrt-demo")


@dataclass(frozen=True, kw_only=True)
class LiveOptions(HidingOptions):
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX|NAME|PATH|URL|FILE",
            help="A camera, a stream, or a film played in real time.",
            show_default="the first camera that gives pictures",
        ),
    ] = None
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Picture size to ask the camera for.")] = None
    fps: Annotated[float | None, typer.Option(min=1, max=1000, help="Rate to ask the camera for.")] = None
    mirror: Annotated[bool, typer.Option("--mirror", help="Show the picture as a mirror would.")] = False
    window: Annotated[bool, typer.Option("--window/--no-window", help="Show the picture in a window.")] = True
    serve: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Show it as a web page; 0 for any free port.")
    ] = None
    host: Annotated[str, typer.Option(help="Where to serve; any but this machine asks for a token.")] = "127.0.0.1"
    out: Annotated[str | None, typer.Option(metavar="OUT.mp4", help="Record the film with the faces drawn here.")] = (
        None
    )
    landmarks: Landmarks = None
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace files that are there already.")] = False
    osc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Send the points as OSC messages.")] = None
    openseeface: Annotated[
        str | None, typer.Option(metavar="HOST[:11573]", help="Be the face tracker of VTube Studio, VSeeFace, Inochi.")
    ] = None
    ifacialmocap: Annotated[
        str | None, typer.Option(metavar="HOST[:49983]", help="Send a face as the telephone app iFacialMocap does.")
    ] = None
    vmc: Annotated[
        str | None, typer.Option(metavar="HOST[:39540]", help="Send a face's blend shapes by the VMC protocol.")
    ] = None
    vmc_head: Annotated[bool, typer.Option("--vmc-head", help="Send the head's turn by VMC, too.")] = False
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", help="Be a camera for other programs (needs pyvirtualcam).")
    ] = False
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Numbers for Prometheus, on this machine.")
    ] = None
    stop_after: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Quit by itself.")] = None
    exit_when_lost: Annotated[
        bool, typer.Option("--exit-when-lost", help="Exit with 1 when the source is lost, in place of waiting for it.")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.picture_size
        if not (self.window or self.serve is not None or self.has_outputs or self.metrics_port is not None):
            raise typer.BadParameter(
                "nothing to show or write: give --serve, --landmarks, --out or another output, or leave --no-window out"
            )

    @property
    def has_outputs(self) -> bool:
        """Whether something is written or sent, be it watched or not."""
        sent = self.osc or self.openseeface or self.ifacialmocap or self.vmc
        return bool(self.out or self.landmarks or sent or self.virtual_camera)

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Width and height asked of the camera, px."""
        if self.size is None:
            return None
        width, _, height = self.size.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 16384 and 0 < int(height) <= 16384):
            raise typer.BadParameter(f"--size {self.size}: write it like 640x480")
        return int(width), int(height)


def parameters(options: type) -> list[inspect.Parameter]:
    """The fields of an options class as parameters for typer: its own first, then those of the classes it extends.

    A field that is annotated without typer's words is not for the command line.
    """
    kinds = get_type_hints(options, include_extras=True)
    own = [name for each in options.__mro__ for name in inspect.get_annotations(each)]
    ordered = sorted(fields(options), key=lambda field: own.index(field.name))
    return [_parameter(field, kinds[field.name]) for field in ordered if hasattr(kinds[field.name], "__metadata__")]


def _parameter(field: Any, kind: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
