"""What `tabrt video` does with the films it is given: each becomes a job, and a runner does the jobs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import fields
from functools import partial
from itertools import filterfalse
from pathlib import Path

from rich.progress import TaskID, TextColumn

from tabrt.commands.cluster import cluster_runner
from tabrt.commands.finished import broken_off, is_finished, was_begun
from tabrt.commands.jobs import Job, Outcome, Runner, one_after_the_other
from tabrt.commands.naming import NAME, Source, films_of, new_folders, targets, without_outputs
from tabrt.commands.options import FilmOptions, VideoOptions, VideosOptions
from tabrt.commands.processes import side_by_side
from tabrt.commands.progress import SECONDS_BETWEEN_LINES, Standing, bar
from tabrt.commands.remote import brought_here, is_remote, is_there
from tabrt.commands.video import video
from tabrt.engines.engine import model_file
from tabrt.errors import TabrtError
from tabrt.files import check_folder, check_outputs, folders_for, printable, without_password
from tabrt.words import counted, listed

WRITTEN_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
MOST_NAMED = 3  # films, in a line
LONGEST_NAME = 40  # letters, in a table


def films(options: VideosOptions) -> tuple[list[str], str | None]:
    """Do all films. Returns the lines that tell of it, and the problem if one of several failed.

    Raises TabrtError before any work for outputs that cannot be, and where there is but one film for what ends it.
    """
    with _runner(options) as runner:  # before any folder is made: a scheduler that does not answer ends it here
        return _films(options, runner)


def _films(options: VideosOptions, runner: Runner) -> tuple[list[str], str | None]:
    jobs, finished = planned(options)
    count = len(jobs) + len(finished)
    lines = _finished_before(finished, count)
    if not jobs:
        return lines, None
    start, names = time.monotonic(), _short([job.source for job in jobs])
    with folders_for([output for output in _outputs(jobs) if not is_remote(output)]):
        if count == 1 and options.cluster is None:
            alone = [f"there is one film alone, for which --jobs {options.jobs} changes nothing"]
            return [*(alone if options.jobs > 1 else ()), *_one(jobs[0])], None
        outcomes = _done(jobs, names, runner)
    failed = [outcome for outcome in outcomes if outcome.problem is not None]
    lines = [*_table(names, outcomes, time.monotonic() - start), *lines, *_notes(names, outcomes)]
    lines += _failures(jobs, failed)
    others = "" if len(failed) == count else ", the others are done"
    return lines, f"{len(failed)} of {counted(count, 'film')} failed{others}; see above" if failed else None


def planned(options: VideosOptions) -> tuple[list[Job], list[Job]]:
    """A job for each film: those to do, and those that an earlier run has finished, where these are to be skipped.

    Raises TabrtError for a model that is not there, and for outputs that have no place of their own, or would replace
    what is there without being told to.
    """
    if options.cluster is None:
        model_file(options.model_name)
    sources = films_of(options.sources, options.recursive, (options.out, options.landmarks))
    sources = without_outputs(sources, options.out, _film_name)
    outs = targets(options.out, sources, "films", "--out", _film_name)
    landmarks = targets(options.landmarks, sources, "films", "--landmarks", _landmark_name)
    crops = _crop_folders(options.crops, sources)
    shared = {field.name: getattr(options, field.name) for field in fields(FilmOptions)}
    shared["overwrite"] = True  # checked here, for all; what a lost worker left behind is written over
    jobs = [
        VideoOptions(
            **shared
            | {"source": source.path, "out": _at(outs, index), "landmarks": _at(landmarks, index)}
            | {"crops": _at(crops, index)}
        )
        for index, source in enumerate(sources)
    ]
    folders = new_folders(options.out, outs) | new_folders(options.landmarks, landmarks)
    _check([job.source for job in jobs], _outputs(jobs), folders=folders)
    goes_by_files = options.skip_finished or options.resume
    finished = {job for job in jobs if goes_by_files and is_finished(job)}
    begun = {job for job in jobs if goes_by_files and was_begun(job)}
    if options.resume:
        for job in set(jobs) - finished - begun:
            broken_off(job)  # says so of a file that is there and not this job's
    _check([], _outputs(job for job in jobs if job not in finished | begun), options.overwrite, folders)
    for job in jobs:
        if job not in finished:
            check_folder(job.crops, options.overwrite or job in begun)
    return [job for job in jobs if job not in finished], list(finished)


def _check(
    inputs: Sequence[str], outputs: Sequence[str], overwrite: bool = True, folders: Collection[Path] = ()
) -> None:
    """Raise TabrtError for an output that cannot be, here or elsewhere. folders: that will be made."""
    check_outputs(inputs, *filterfalse(is_remote, outputs), overwrite=overwrite, folders=folders)
    taken = set(inputs)
    for output in filter(is_remote, outputs):
        if output in taken:
            raise TabrtError(f"{output} is read or written already; choose another name or folder for the output")
        if not overwrite and is_there(output):
            raise TabrtError(f"{output} is there already; choose another name, or give --overwrite to replace it")
        taken.add(output)


def _outputs(jobs: Iterable[Job]) -> list[str]:
    return [output for job in jobs for output in (job.out, job.landmarks) if output is not None]


def _film_name(source: Source) -> str:
    """The film's own name, as .mp4 where its kind is not written."""
    suffix = Path(source.file_name).suffix.lower()
    return source.file_name if suffix in WRITTEN_SUFFIXES else f"{source.name}.mp4"


def _crop_folders(crops: str | None, sources: Sequence[Source]) -> list[str]:
    """The folder for the crops of each film: that of one alone, one in it for each of several."""
    if crops is None:
        return []
    if is_remote(crops):
        raise TabrtError(f"--crops {crops}: crops are written to this machine; name a folder here")
    if len(sources) == 1 and NAME not in crops:
        return [crops]
    return targets(crops if NAME in crops else f"{crops}/", sources, "films", "--crops", lambda source: source.name)


def _landmark_name(source: Source) -> str:
    return f"{source.name}.jsonl"


def _at(paths: Sequence[str], index: int) -> str | None:
    return paths[index] if paths else None


def _one(job: Job) -> list[str]:
    with brought_here(job) as local:
        lines = list(video(local).lines)
    return lines + [f"wrote {output}" for output in (job.out, job.landmarks) if output not in (None, "-")]


def _runner(options: VideosOptions) -> AbstractContextManager[Runner]:
    if options.cluster is not None:
        return cluster_runner(options.cluster)
    return nullcontext(one_after_the_other if options.jobs == 1 else partial(side_by_side, at_once=options.jobs))


def _done(jobs: Sequence[Job], names: Sequence[str], runner: Runner) -> list[Outcome]:
    board = Board(names)
    outcomes = []
    with closing(board), closing(runner(jobs, board)) as coming:  # type: ignore[type-var]
        for outcome in coming:
            board.end(outcome)
            outcomes.append(outcome)
    return sorted(outcomes, key=lambda outcome: outcome.number)


# ------------------------------------------------------------------------------------------------------- while it runs


class Board:
    """Shows on stderr how films fare: a bar for each that is being done and one for all, else lines."""

    def __init__(self, names: Sequence[str]):
        self._names = names
        self._standings: dict[int, Standing | None] = {}  # of those that are being done
        self._heard: dict[int, float] = {}  # when
        self._ended = 0
        self._tasks: dict[int, TaskID] = {}
        self._bar = None
        self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = bar("{task.fields[told]}", TextColumn("{task.description}"))
            self._all = self._bar.add_task("all", total=len(names), told=self._counted())
            self._bar.start()

    def __call__(self, number: int, now: Standing | None) -> None:
        if now is None and number in self._standings:
            self._print(f"{self._names[number]}: begun again, for its worker was lost")
        self._standings[number], self._heard[number] = now, time.monotonic()
        if self._bar is None:
            self._say_now_and_then()
            return
        if number not in self._tasks:
            self._tasks[number] = self._bar.add_task(self._names[number], total=None, told="")
        if now is not None:
            told = f"{now.frames} frames · {now.speed:.1f}/s · faces {now.faces} now"
            self._bar.update(self._tasks[number], completed=now.frames, total=now.total, told=told)
        self._show_all()

    def end(self, outcome: Outcome) -> None:
        self._standings.pop(outcome.number, None)
        self._ended += 1
        how = "failed" if outcome.problem is not None else f"done in {outcome.seconds:.1f} s"
        line = f"{self._counted()}: {self._names[outcome.number]} {how}"
        self._print(line)
        if self._bar is not None and outcome.number in self._tasks:
            self._bar.remove_task(self._tasks.pop(outcome.number))
            self._show_all()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _print(self, line: str) -> None:
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _counted(self) -> str:
        return f"{self._ended} of {counted(len(self._names), 'film')}"

    def _show_all(self) -> None:
        assert self._bar is not None
        parts = sum(min(1.0, now.frames / now.total) for now in self._standings.values() if now and now.total)
        self._bar.update(self._all, completed=self._ended + parts, told=self._counted())

    def _say_now_and_then(self) -> None:
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            for number, now in self._standings.items():
                if now is not None and self._last_line - self._heard[number] < SECONDS_BETWEEN_LINES:
                    self._print(f"{self._names[number]}: {now}")


# -------------------------------------------------------------------------------------------------------- at the end


def _table(names: Sequence[str], outcomes: Sequence[Outcome], seconds: float) -> list[str]:
    """A line a film: frames, faces, seconds, frames/s; then one for all."""
    rows = [("film", "frames", "faces", "s", "frames/s")]
    for outcome in outcomes:
        name, summary = names[outcome.number], outcome.summary
        if summary is None:
            rows.append((name, "failed", "", f"{outcome.seconds:.1f}", ""))
        else:
            rows.append((name, *_numbers(summary.frames, summary.faces, outcome.seconds)))
    done = [outcome.summary for outcome in outcomes if outcome.summary is not None]
    frames, faces = sum(each.frames for each in done), sum(each.faces for each in done)
    rows.append((f"{len(done)} of {len(names)}", *_numbers(frames, faces, seconds)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _numbers(frames: int, faces: int, seconds: float) -> tuple[str, str, str, str]:
    return str(frames), str(faces), f"{seconds:.1f}", f"{frames / max(seconds, 1e-6):.1f}"


def _failures(jobs: Sequence[Job], outcomes: Iterable[Outcome]) -> list[str]:
    """What went wrong with films, those with which the same did together."""
    told: dict[str, list[str]] = {}
    for outcome in outcomes:
        told.setdefault(outcome.problem or "", []).append(without_password(jobs[outcome.number].source))
    lines = []
    for problem, names in told.items():
        of = "" if names[0] in problem else listed([printable(name) for name in names], MOST_NAMED) + ": "
        lines.append(f"failed: {of}{problem}")
    return lines


def _notes(names: Sequence[str], outcomes: Iterable[Outcome]) -> list[str]:
    """What there is to tell of films, those of which the same is told together."""
    told: dict[str, list[str]] = {}
    for outcome in outcomes:
        for note in outcome.summary.notes if outcome.summary is not None else ():
            told.setdefault(note, []).append(names[outcome.number])
    return [f"{listed(films, MOST_NAMED)}: {note}" for note, films in told.items()]


def _finished_before(finished: Sequence[Job], count: int) -> list[str]:
    if not finished:
        return []
    names = sorted(_short([job.source for job in finished]))
    if count == 1:
        return [f"{names[0]} was finished before"]
    were = "was" if len(names) == 1 else "were"
    return [f"{len(names)} of {count} films {were} finished before: {listed(names, MOST_NAMED)}"]


def _short(sources: Sequence[str]) -> list[str]:
    """Names for a table: without the folder that all lie in, and without what is secret in an address."""
    names = [printable(without_password(source)) for source in sources]
    folders = {os.path.dirname(name) for name in names}
    common = "" if any("://" in name for name in names) else os.path.commonpath(map(os.path.abspath, folders))
    short = [os.path.relpath(name, common) if common and name != "-" else name for name in names]
    return [name if len(name) <= LONGEST_NAME else "…" + name[-LONGEST_NAME + 1 :] for name in short]
