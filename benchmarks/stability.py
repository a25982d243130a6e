"""How steady, and at what cost in lag: jitter, lag, step response, blinks and frame rates.

Of tabrt's smoothing, of the One-Euro filter on the very same raw points, of no filter, and of the peers' own output.

All figures are of 300w68 points, in % of the distance between the outer eye corners; films and truth are `scenes`. What
smoothing does to lips and to the pose is told beside them, of all 98 points: `moving_faces`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import moving_faces, scenes, signals
from benchmarks.contract import LABELLED, Report, markdown, pick
from benchmarks.one_euro import MEDIAPIPE, one_euro
from benchmarks.peers import Peer, open_peers, ours_68, peer_68
from tabrt.commands.demo import DEMO_FILM
from tabrt.faces import Frame
from tabrt.film import open_film
from tabrt.hardware import available_threads
from tabrt.topology import WFLW98, topology_named
from tabrt.tracking import DEFAULT_STRENGTH, Smoother, Tracker

SETTLED = 0.5  # s: what is not counted while filters start
STEPS = (0.1, 0.5)  # eye distances
BLINKS = (6.38, 8.43, 10.34, 12.01, 16.10)  # s, in the demo film: found by eye, so that no network decides what counts
LIPS_WANTED = 1.5  # squared error of lips that talk, at most, over that of the raw points
DROPPED = 0.25  # share of the frames lost at random from the 30 fps film
ONE_EURO, NONE, OURS = "One-Euro (MediaPipe's setting)", "no filter", "tabrt"
GRID = [(cutoff, beta) for cutoff in (0.01, 0.05, 0.2, 1.0, 3.0) for beta in (2.5, 5, 10, 20, 40, 80, 160, 320)]


@dataclass(frozen=True, eq=False)
class Track:
    """What one method saw of one clip."""

    times: np.ndarray  # (T,)
    points: np.ndarray  # (T, L, 2), its own points, unsmoothed
    confidence: np.ndarray | None = None  # (T, L)
    to_68: Callable[[np.ndarray], np.ndarray] = ours_68


Filter = Callable[[Track], np.ndarray]  # a track's points, smoothed: (T, 68, 2)


def unfiltered(track: Track) -> np.ndarray:
    return track.to_68(track.points)


def ours(strength: float, topology: str = "wflw98") -> Filter:
    """tabrt's smoothing of a strength."""

    def smooth(track: Track) -> np.ndarray:
        smoother = Smoother(strength, topology_named(topology))
        assert track.confidence is not None
        each = zip(track.points, track.confidence, track.times.tolist(), strict=True)
        return track.to_68(np.stack([smoother(*frame) for frame in each]))

    return smooth


def euro(min_cutoff: float = MEDIAPIPE["min_cutoff"], beta: float = MEDIAPIPE["beta"]) -> Filter:
    return lambda track: track.to_68(one_euro(track.points, track.times, min_cutoff, beta))


# ------------------------------------------------------------------------------------------------------------ watching


@dataclass
class Films:
    """The clips of a run, and what each source of raw points ("tabrt" or a peer) saw of them: tracks[source][clip]."""

    still: scenes.Clip
    motions: list[scenes.Clip]
    steps: list[scenes.Clip]
    tracks: dict[str, dict[str, Track]] = field(default_factory=dict)
    rated: dict[str, dict[str, Track]] = field(default_factory=dict)  # rate -> clip -> tabrt's track
    missed: dict[str, int] = field(default_factory=dict)  # frames in which a source saw no face

    @property
    def clips(self) -> list[scenes.Clip]:
        return [self.still, *self.motions, *self.steps]


def plan(effort: str) -> Films:
    hertz = pick(effort, (0.5, 1, 2, 4), (0.5, 3), (2,))
    kinds = pick(effort, scenes.KINDS, scenes.KINDS, ("translation",))
    seconds = pick(effort, 4.0, 2.5, 1.2)
    return Films(
        still=scenes.still(pick(effort, 8.0, 3.0, 1.2), 30),
        motions=[scenes.motion(kind, f, max(seconds, 1 / f + SETTLED), 30) for kind in kinds for f in hertz],
        steps=[scenes.step(share * scenes.EYE_DISTANCE, 2.0, 30) for share in pick(effort, STEPS, STEPS, STEPS[:1])],
    )


def watch(frames: Iterable[Frame], tracker: Tracker, peers: dict[str, Peer]) -> tuple[dict[str, Track], dict[str, int]]:
    """Show every frame to tabrt and all peers. A frame without a face repeats the last one, and is counted."""
    tracker.reset()
    for peer in peers.values():
        peer.start()
    times: list[float] = []
    seen: dict[str, list[Any]] = {name: [] for name in (OURS, *peers)}
    for frame in frames:
        times.append(frame.time)
        faces = tracker(frame).faces
        seen[OURS].append((faces[0].raw, faces[0].confidence) if faces else None)
        for name, peer in peers.items():
            points = peer(frame.image, frame.time)
            seen[name].append(None if points is None else (points, None))
    missed = {name: sum(look is None for look in looks) for name, looks in seen.items()}
    kept = {name: _filled(looks) for name, looks in seen.items() if missed[name] < len(looks)}
    return {name: _as_track(name, np.array(times), looks) for name, looks in kept.items()}, missed


def _filled(looks: list) -> list:
    last = next(look for look in looks if look is not None)
    return [last := look if look is not None else last for look in looks]


def _as_track(name: str, times: np.ndarray, looks: list) -> Track:
    points = np.stack([points for points, _ in looks]).astype(np.float64)
    if name == OURS:
        return Track(times, points, np.stack([confidence for _, confidence in looks]))
    return Track(times, points, to_68=lambda own: peer_68(name, own))


def watch_all(effort: str, tracker: Tracker, peers: dict[str, Peer]) -> Films:
    films = plan(effort)
    for clip in films.clips:
        _add(films, clip.name, *watch(clip.frames(), tracker, peers))
    with open_film(DEMO_FILM) as film:
        count = pick(effort, 472, 300, 40)
        _add(films, "film", *watch(islice(film, count), tracker, peers))
    films.rated = at_rates(effort, tracker)
    return films


def _add(films: Films, clip: str, tracks: dict[str, Track], missed: dict[str, int]) -> None:
    for name, count in missed.items():
        films.missed[name] = films.missed.get(name, 0) + count
        if name in tracks:
            films.tracks.setdefault(name, {})[clip] = tracks[name]


def rate_clips(effort: str) -> dict[str, scenes.Clip]:
    """The films that are shown at several rates, shot at 60 fps."""
    seconds = pick(effort, 4.0, 2.0, 0.6)
    return {
        "motion": scenes.motion("translation", 1.0, seconds, 60),
        "step": scenes.step(STEPS[-1] * scenes.EYE_DISTANCE, pick(effort, 2.0, 1.5, 0.6), 60),
        "still": scenes.still(seconds, 60),
    }


def at_rates(effort: str, tracker: Tracker) -> dict[str, dict[str, Track]]:
    """tabrt's tracks of the same films, of which fewer and fewer frames are shown: found[rate][clip]."""
    found: dict[str, dict[str, Track]] = {}
    for name, clip in rate_clips(effort).items():
        frames = list(clip.frames())
        for rate, kept in _kept(len(frames)).items():
            tracks, _ = watch((frames[i] for i in kept), tracker, {})
            if OURS in tracks:
                found.setdefault(rate, {})[name] = tracks[OURS]
    return found


def _kept(count: int) -> dict[str, np.ndarray]:
    at = np.arange(count)
    lost = np.random.default_rng(0).random(count) < DROPPED
    return {
        "60 fps": at,
        "30 fps": at[::2],
        "30 fps, drops": at[(at % 2 == 0) & ~lost],
        "15 fps": at[::4],
    }


# ----------------------------------------------------------------------------------------------------------- measuring


def measure(films: Films, source: str, smooth: Filter) -> dict:
    """All figures of one filter on one source's raw points. Lengths in % of the eye distance, times in ms."""
    tracks = films.tracks[source]
    still = tracks[films.still.name]
    rest = at_rest(still)  # the same for all filters of one source
    calm = smooth(still)[_settled(still)]
    lags, errors = {}, {}
    for clip in films.motions:
        lags[clip.name], errors[clip.name] = _moving(clip, tracks[clip.name], smooth, rest)
    steps = [_step(clip, tracks[clip.name], smooth, rest) for clip in films.steps]
    return {
        "jitter": 100 * signals.jitter(calm, scenes.EYE_DISTANCE),
        "shimmer": 100 * signals.shimmer(calm, scenes.EYE_DISTANCE),
        "lag": float(np.mean(list(lags.values()))),
        "error": float(np.sqrt(np.mean(np.square(list(errors.values()))))),
        "frames_to_90": float(np.mean([frames for frames, _ in steps])),
        "overshoot": 100 * max(overshoot for _, overshoot in steps),
        "lags": lags,
        "errors": errors,
    }


def at_rest(still: Track) -> np.ndarray:
    """(68, 2): where a source sees the points of the face at rest: from there on, errors are of motion alone."""
    return unfiltered(still)[_settled(still)].mean(axis=0)


def _moving(clip: scenes.Clip, track: Track, smooth: Filter, rest: np.ndarray) -> tuple[float, float]:
    """Lag in ms, and RMS error in %, while the face moves."""
    points = smooth(track)
    counted = track.times >= SETTLED
    signal = motion_of(points, rest, clip.kind)
    lag = signals.lag(track.times[counted], signal[counted], clip.value)
    return 1e3 * lag, 100 * signals.error(points[counted], clip.true(rest)[counted], scenes.EYE_DISTANCE)


def motion_of(points: np.ndarray, rest: np.ndarray, kind: str) -> np.ndarray:
    """(T,): the motion of one kind in a track, in the units of its clip."""
    moved = signals.similarity(rest, points)[kind]
    return np.log(moved) if kind == "scale" else moved


def _step(clip: scenes.Clip, track: Track, smooth: Filter, rest: np.ndarray) -> tuple[int, float]:
    height = clip.value(clip.times[-1:])[0]
    start = int(np.flatnonzero(clip.value(clip.times) > 0)[0])
    return signals.step_response(motion_of(smooth(track), rest, clip.kind) / height, start)


def blink_depth(track: Track, smooth: Filter) -> dict:
    """How deep the raw points see the film's blinks, in % of the usual openness, and how much of that is left, in %."""
    raw, smoothed = signals.openness(unfiltered(track)), signals.openness(smooth(track))
    depths = 100 * np.array(signals.blink_depths(raw, smoothed, track.times, BLINKS))
    if not len(depths):
        return {"blinks": 0, "raw": None, "median": None, "least": None}
    seen, kept = depths.T
    return {"blinks": len(depths), "raw": np.median(seen), "median": np.median(kept), "least": kept.min()}


def rate_figures(clips: dict[str, scenes.Clip], tracks: dict[str, Track], rest: np.ndarray, smooth: Filter) -> dict:
    """Lag and time to 90 % in ms, jitter in %, of one rate's films."""
    motion, step, still = tracks["motion"], tracks["step"], tracks["still"]
    moved = motion_of(smooth(motion), rest, "translation")
    counted = motion.times >= min(SETTLED, motion.times[-1] / 2)
    true = clips["step"].value(step.times)
    start = int((true > 0).argmax())
    frames, _ = signals.step_response(motion_of(smooth(step), rest, "translation") / true[-1], start)
    calm = smooth(still)[_settled(still)]
    return {
        "lag": 1e3 * signals.lag(motion.times[counted], moved[counted], clips["motion"].value),
        "to_90": 1e3 * float(step.times[min(start + frames, len(step.times) - 1)] - step.times[start]),
        "jitter": 100 * signals.jitter(calm, scenes.EYE_DISTANCE),
    }


def _settled(still: Track) -> np.ndarray:
    """(T,) bool: the last three quarters of a still film, when even the slowest filter has come to rest."""
    return still.times >= still.times[-1] / 4


# -------------------------------------------------------------------------------------------------------------- account


def run(effort: str, model: str, faces: Path | None) -> Report:
    notes: list[str] = []
    threads = available_threads(None)
    with ExitStack() as stack:
        peers = {} if effort == "smoke" else open_peers(stack, threads, notes)
        tracker = stack.enter_context(Tracker(model=model, faces=1, threads=threads))
        card = tracker.engine.card
        films = watch_all(effort, tracker, peers)
        spoken = _spoken(tracker, (faces or LABELLED).parent / "videos", effort)
    strengths = pick(effort, np.linspace(0, 1, 21), np.linspace(0, 1, 11), np.array([0, 0.5, 1.0])).round(3).tolist()
    curve = [{"strength": s, **measure(films, OURS, ours(s, card.topology))} for s in strengths]
    grid = [
        {"min_cutoff": c, "beta": b, **measure(films, OURS, euro(c, b))} for c, b in pick(effort, GRID, GRID, GRID[:2])
    ]
    chosen = _chosen(films, card.topology)
    results = {
        "curves": {"tabrt": curve, "one_euro": grid, "chosen": chosen},
        "rates": _rates(rate_clips(effort), films, card.topology),
        "missed_frames": films.missed,
        "default": DEFAULT_STRENGTH,
        "within": _within(films, spoken, card.topology),
    }
    report = Report("stability", effort, card, results, [threads], notes=notes, behind=films)
    judge(report)
    return report


def _chosen(films: Films, topology: str) -> dict[str, dict]:
    """The figures of each thing a user could choose: tabrt at its default, the same points otherwise, and the peers."""
    options = {
        OURS: (OURS, ours(DEFAULT_STRENGTH, topology)),
        ONE_EURO: (OURS, euro()),
        NONE: (OURS, unfiltered),
        **{name: (name, unfiltered) for name in films.tracks if name != OURS},
        # MediaPipe's Face Landmarker smooths its points itself; its older mesh does not.
        **{f"{name} + One-Euro": (name, euro()) for name in films.tracks if name == "mediapipe-refined"},
    }
    chosen = {}
    for name, (source, smooth) in options.items():
        blink = blink_depth(films.tracks[source]["film"], smooth)
        if name == "mediapipe":  # smooths its points itself: what is left of them cannot be told
            blink |= {"median": None, "least": None}
        chosen[name] = {**measure(films, source, smooth), "blink": blink}
    return chosen


def _rates(clips: dict[str, scenes.Clip], films: Films, topology: str) -> dict[str, dict[str, dict]]:
    rest = at_rest(films.tracks[OURS][films.still.name])
    filters = {OURS: ours(DEFAULT_STRENGTH, topology), ONE_EURO: euro(), NONE: unfiltered}
    return {
        name: {rate: rate_figures(clips, tracks, rest, smooth) for rate, tracks in films.rated.items()}
        for name, smooth in filters.items()
    }


def _spoken(tracker: Tracker, folder: Path, effort: str) -> list[moving_faces.Spoken]:
    """Public clips of people who talk, where they are at hand."""
    if effort == "smoke" or tracker.engine.card.topology != WFLW98.name or not folder.is_dir():
        return []
    return list(moving_faces.spoken(folder, tracker, Track))


def _within(films: Films, spoken: list[moving_faces.Spoken], topology: str) -> dict[str, dict]:
    """What filters do to lips and pose, of all 98 points; nothing for other schemes."""
    if topology != WFLW98.name:
        return {}
    still = films.tracks[OURS][films.still.name]
    filters = {OURS: ours(DEFAULT_STRENGTH, topology), ONE_EURO: euro(), NONE: unfiltered}
    return {
        name: {
            "talk": moving_faces.talk_figures(still, smooth),
            "pose": moving_faces.pose_figures(still, smooth),
            "spoken": moving_faces.spoken_figures(spoken, smooth),
        }
        for name, smooth in filters.items()
    }


def judge(report: Report) -> None:
    """Say where tabrt's curve lies below and left of the others, and where not."""
    curves = report.results["curves"]
    for what, words in (("lag", "at the same lag"), ("error", "at the same error while moving")):
        ours_lower = [point[what] for point in curves["tabrt"]], [point["jitter"] for point in curves["tabrt"]]
        beaten = [point for point in curves["one_euro"] if point["jitter"] < jitter_at(*ours_lower, point[what])]
        line = (
            f"{len(beaten)} of {len(curves['one_euro'])} One-Euro settings on the same raw points jitter less {words}"
        )
        (report.losses if beaten else report.wins).append(line)
    chosen = curves["chosen"]
    for name, other in chosen.items():
        if name == OURS:
            continue
        for key, unit in (("jitter", "%"), ("lag", "ms"), ("error", "%")):
            line = f"{key} {chosen[OURS][key]:.2f} {unit}, {name} {other[key]:.2f} {unit}"
            (report.wins if chosen[OURS][key] < other[key] else report.losses).append(line)

    mine = report.results["within"].get(OURS)
    if mine is not None:
        lips = next(row["lips"] for row in mine["talk"] if row["hertz"] == moving_faces.TALK)
        line = f"squared error of lips at {moving_faces.TALK} Hz: {lips:.2f} × raw, wanted {LIPS_WANTED}"
        (report.wins if lips <= LIPS_WANTED else report.losses).append(line)


def jitter_at(costs: list[float], jitters: list[float], cost: float) -> float:
    """The least jitter a curve reaches at a cost (lag or error) no higher than this; infinite below its lowest cost.

    Between two points of the curve it is read off the straight line.
    """
    order = np.argsort(costs)
    x, y = np.array(costs)[order], np.minimum.accumulate(np.array(jitters)[order])
    return float("inf") if cost < x[0] else float(np.interp(cost, x, y))


def table(report: Report) -> str:
    results = report.results
    header = ["", "jitter, %", "frame to frame, %", "lag, ms", "error moving, %", "frames to 90 %", "overshoot, %"]
    rows = []
    for name, row in results["curves"]["chosen"].items():
        figures = [row[key] for key in ("jitter", "shimmer", "lag", "error", "frames_to_90", "overshoot")]
        blink = row["blink"]
        seen = f"{blink['blinks']}, {blink['raw']:.0f} %" if blink["blinks"] else "0"
        rows.append([name, *figures, seen, blink["median"], blink["least"]])
    first = markdown([*header, "blinks seen, raw depth", "depth kept, median %", "least %"], rows)
    curve = markdown(
        ["--smoothing", "jitter, %", "lag, ms", "error moving, %", "frames to 90 %"],
        [
            [f"{p['strength']:.2f}", p["jitter"], p["lag"], p["error"], p["frames_to_90"]]
            for p in results["curves"]["tabrt"]
        ],
    )
    rates: dict = next(iter(results["rates"].values()), {})
    rated = markdown(
        ["lag, ms / time to 90 %, ms / jitter, %", *rates],
        [
            [name, *(f"{f['lag']:.1f} / {f['to_90']:.0f} / {f['jitter']:.2f}" for f in row.values())]
            for name, row in results["rates"].items()
        ],
    )
    lags = results["curves"]["chosen"][OURS]["lags"]
    by_motion = markdown(
        ["lag, ms", *(name.removesuffix(" 30 fps") for name in lags)],
        [[name, *row["lags"].values()] for name, row in results["curves"]["chosen"].items()],
    )
    return "\n\n".join([first, curve, rated, by_motion, *_within_tables(results["within"])])


def _within_tables(within: dict[str, dict]) -> list[str]:
    if not within:
        return []
    hertz = [row["hertz"] for row in within[OURS]["talk"]]
    talk = markdown(
        [
            "a mouth that opens by 2 to 10 %: lips / chin, squared error over raw / lag of the gap, ms",
            *map("{} Hz".format, hertz),
        ],
        [
            [name, *(f"{row['lips']:.2f} / {row['chin']:.2f} / {row['lag']:.1f}" for row in figures["talk"])]
            for name, figures in within.items()
        ],
    )
    turns = list(within[OURS]["pose"]["yaw"])
    pose = markdown(
        ["pose of a head: jitter at rest, °; lag at each rate, ms; error while turning, °", *turns],
        [
            [f"{name}: {angle}", *(f"{row[key]:.3f}" if key == "jitter" else row[key] for key in turns)]
            for name, figures in within.items()
            for angle, row in figures["pose"].items()
        ],
    )
    found = [talk, pose]
    if within[OURS]["spoken"]:
        columns = [name for name in within if name != NONE]
        rows = zip(*(within[name]["spoken"] for name in columns), strict=True)
        found.append(
            markdown(
                ["talk in public clips", "gap moves by, %", *(f"{name}: lag, ms / left" for name in columns)],
                [
                    [row[0]["clip"], row[0]["moves"], *(f"{one['lag']:.1f} / {one['left']:.2f}" for one in row)]
                    for row in rows
                ],
            )
        )
    return found
