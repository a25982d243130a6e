"""What smoothing does to still, moving and blinking faces."""

from __future__ import annotations

from itertools import islice

import cv2
import numpy as np
import pytest

from tabrt.commands.demo import DEMO_FILM
from tabrt.film import open_film
from tabrt.topology import TOPOLOGIES, WFLW98
from tabrt.tracking import DEFAULT_STRENGTH, Tracker
from tabrt.tracking.kalman import KalmanFilter
from tabrt.tracking.smoothing import POINT_DRIFT, POINT_PERSISTENCE, Smoother, _Filter, fit_similarity, motion_groups

EYES = 100.0  # px, distance of the outer eye corners of `face`
SURE = np.full(98, 0.9)
LIDS = ((61, 67), (62, 66), (63, 65), (69, 75), (70, 74), (71, 73))


def face() -> np.ndarray:
    """A plain face (98, 2), px."""
    points = np.zeros((98, 2))

    def arc(first: int, count: int, centre: tuple, radii: tuple, start: float, end: float) -> None:
        angles = np.linspace(start, end, count)
        points[first : first + count] = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + centre

    turn = 2 * np.pi
    arc(0, 33, (0, 10), (75, 95), np.pi, 0)
    arc(33, 5, (-35, -25), (25, 8), np.pi, turn)
    arc(38, 4, (-35, -22), (22, 6), turn, np.pi)
    arc(42, 5, (35, -25), (25, 8), np.pi, turn)
    arc(46, 4, (35, -22), (22, 6), turn, np.pi)
    points[51:55] = [(0, y) for y in (0, 12, 24, 36)]
    points[55:60] = [(x, 44) for x in (-16, -8, 0, 8, 16)]
    for first, x in ((60, -35), (68, 35)):
        arc(first, 8, (x, 0), (15, 7), np.pi, 3 * np.pi - turn / 8)
    arc(76, 12, (0, 68), (28, 12), np.pi, 3 * np.pi - turn / 12)
    arc(88, 8, (0, 68), (20, 5), np.pi, 3 * np.pi - turn / 8)
    points[96:] = [(-35, 0), (35, 0)]
    return points


def film(shift=0.0, seconds: float = 6.0, rate: float = 30.0, noise: float = 0.45, jitter: float = 0.15):
    """Times, true points (T, 98, 2), and the same as a network sees them: noise and jitter in % of the eye distance.

    shift: frame px by which the face lies to the right, a function of the times.
    """
    times = np.arange(0, seconds, 1 / rate)
    rng = np.random.default_rng(0)
    truth = np.repeat(face()[None], len(times), axis=0) + 200
    truth[:, :, 0] += np.broadcast_to(shift(times) if callable(shift) else shift, times.shape)[:, None]
    seen = truth + rng.normal(0, noise * EYES / 100, truth.shape) + rng.normal(0, jitter, (len(times), 1, 2))
    return times, truth, seen


def smooth(times: np.ndarray, seen: np.ndarray, strength: float = 0.5, confidence: np.ndarray = SURE) -> np.ndarray:
    smoother = Smoother(strength)
    return np.stack([smoother(points, confidence, time) for time, points in zip(times, seen, strict=True)])


def spread(points: np.ndarray) -> float:
    """Root mean square distance from the mean over time, after the first second."""
    return float(np.sqrt(((points[30:] - points[30:].mean(axis=0)) ** 2).sum(axis=-1).mean()))


def lag(out: np.ndarray, truth: np.ndarray) -> float:
    """Frames by which the mean point comes late."""
    late, true = (points[:, :, 0].mean(axis=1) for points in (out, truth))
    at, delays = np.arange(len(true)), np.arange(-1, 3, 0.05)
    misses = [((np.interp(at - delay, at, true) - late)[20:-5] ** 2).sum() for delay in delays]
    return float(delays[np.argmin(misses)])


def test_strength_0_hands_on_the_very_points():
    times, _, seen = film()
    smoother = Smoother(0)
    for time, points in zip(times[:5], seen[:5], strict=True):
        assert smoother(points, SURE, time) is points


@pytest.mark.parametrize("noise", [0.3, 0.6])
def test_a_still_face_jitters_less_than_half_as_much(noise: float):
    times, _, seen = film(noise=noise, jitter=noise / 3)
    assert spread(smooth(times, seen)) < 0.5 * spread(seen)


def test_more_strength_is_steadier():
    times, _, seen = film()
    spreads = [spread(smooth(times, seen, strength)) for strength in (0.0, 0.25, 0.5, 0.75)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[1] < spreads[0]


@pytest.mark.parametrize("frequency", [0.5, 1, 2, 4])
def test_a_moving_head_lags_less_than_half_a_frame_and_is_nearer_the_truth_than_without_smoothing(frequency: float):
    times, truth, seen = film(lambda t: 20 * np.sin(2 * np.pi * frequency * t))
    out = smooth(times, seen)
    assert lag(out, truth) < 0.5
    assert ((out - truth)[15:] ** 2).mean() < 0.8 * ((seen - truth)[15:] ** 2).mean()


@pytest.mark.parametrize("rate", [10, 30, 60, 120])
@pytest.mark.parametrize("speed", [0, 20, 60])  # px a second: 0.2 eye distances are a calm walk
def test_a_face_that_appears_is_followed_from_its_first_frames(speed: float, rate: float):
    times, truth, seen = film(lambda t: speed * t, seconds=16 / rate, rate=rate)
    out = smooth(times, seen, DEFAULT_STRENGTH)
    assert np.sqrt(((out - truth)[1:] ** 2).mean()) < 0.7 * np.sqrt(((seen - truth)[1:] ** 2).mean())
    whole = np.linalg.norm((out - truth).mean(axis=1), axis=1)  # px by which the face as a whole lies elsewhere
    assert whole[1:6].mean() < 0.3
    strides = np.linalg.norm(np.diff(out.mean(axis=1), axis=0), axis=1)
    assert strides.max() < speed / rate + 1  # it does not stand still first, to hop then


def test_a_face_that_has_been_there_for_two_seconds_is_as_steady_as_ever():
    times, _, seen = film(seconds=12)
    long_ago = smooth(times, seen, DEFAULT_STRENGTH)[300:]
    begun = smooth(times[240:], seen[240:], DEFAULT_STRENGTH)[60:]
    assert np.abs(np.diff(begun, axis=0)).mean() < 1.1 * np.abs(np.diff(long_ago, axis=0)).mean()


def test_a_small_slow_sway_lags_less_than_a_frame():
    times, truth, seen = film(lambda t: 3 * np.sin(2 * np.pi * 0.5 * t), seconds=8)
    assert lag(smooth(times, seen), truth) < 1


def test_a_step_arrives_at_once_and_does_not_overshoot():
    times, truth, seen = film(lambda t: np.where(t >= 2, 10.0, 0.0))
    path = (smooth(times, seen) - truth[0])[:, :, 0].mean(axis=1)
    assert path[60] > 9  # the first frame after the step
    assert path[60:75].max() < 11
    assert abs(path[58] - 0) < 1


def test_a_blink_keeps_its_depth():
    times, truth, _ = film()
    closed = np.zeros(len(times))
    for blink in np.arange(1, 6, 1.5):
        closed = np.maximum(closed, np.clip(1 - np.abs(times - blink) / 0.12, 0, 1))
    for upper, lower in LIDS:
        truth[:, upper] += 0.95 * closed[:, None] * (truth[:, lower] - truth[:, upper])
    seen = truth + np.random.default_rng(1).normal(0, 0.4, truth.shape)
    opening = [np.linalg.norm(points[:, 62] - points[:, 66], axis=1) for points in (truth, smooth(times, seen))]
    deepest = [float(gap[0] - gap[np.isclose(closed, 1)].mean()) for gap in opening]
    assert deepest[1] > 0.9 * deepest[0]
    assert opening[1][closed == 0].mean() == pytest.approx(opening[0][0], abs=0.5)  # and the eye opens again


def test_talking_lips_are_not_smeared():
    times, truth, _ = film()
    opening = 4 * (1 - np.cos(2 * np.pi * 3 * times))
    truth[:, [83, 84, 85, 86, 87, 93, 94, 95], 1] += opening[:, None]
    seen = truth + np.random.default_rng(1).normal(0, 0.4, truth.shape)
    out, true = smooth(times, seen)[30:, 85, 1], truth[30:, 85, 1]
    assert np.polyfit(true, out, 1)[0] == pytest.approx(1, abs=0.1)  # the share of the swing that is left
    assert ((out - true) ** 2).mean() < 1.5 * ((seen[30:, 85, 1] - true) ** 2).mean()


LIPS = [77, 78, 79, 80, 81, *range(83, 88), *range(89, 92), *range(93, 96)]
LOWER, CHIN = [83, 84, 85, 86, 87, 93, 94, 95], list(range(11, 22))


def talk(times: np.ndarray, truth: np.ndarray, opening: float, hertz: float = 3.0) -> np.ndarray:
    """A face (T, 98, 2) whose lower lip goes down by `opening` px, its chin by half of that and its upper lip up by a
    quarter, so many times a second."""
    talked, down = truth.copy(), opening / 2 * (1 - np.cos(2 * np.pi * hertz * times))[:, None]
    talked[:, LOWER, 1] += down
    talked[:, CHIN, 1] += down / 2
    talked[:, [78, 79, 80, 89, 90, 91], 1] -= down / 4
    return talked


def squared(seen: np.ndarray, truth: np.ndarray, points: list[int]) -> float:
    """Mean squared error of points, after the first second."""
    return float(((seen - truth)[30:, points] ** 2).sum(axis=-1).mean())


@pytest.mark.parametrize("noise", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("opening", [2, 4, 8, 16])
def test_lips_and_chin_keep_up_with_talk_at_the_usual_strength(opening: float, noise: float):
    times, still, _ = film()
    truth = talk(times, still, opening)
    seen = truth + np.random.default_rng(1).normal(0, noise, truth.shape)
    out = smooth(times, seen, DEFAULT_STRENGTH)
    assert squared(out, truth, LIPS) < 1.5 * squared(seen, truth, LIPS)
    assert squared(out, truth, CHIN) < 1.5 * squared(seen, truth, CHIN)
    nose = list(range(51, 60))  # and who talks does not nod
    assert squared(out, truth, nose) < 0.3 * squared(seen, truth, nose)


def test_lips_of_a_tracked_face_keep_up_with_talk():
    """The demo film's face as the network sees it, calmed and made to talk, with the noise that it has: of each point,
    and of the face as a whole."""
    with Tracker(faces=1, threads=1) as tracker, open_film(DEMO_FILM) as frames:
        scenes = [tracker(frame) for frame in islice(frames, 200)]
    times = [scene.frame.time for scene in scenes]
    raw = np.stack([scene.faces[0].raw for scene in scenes]).astype(float)
    calm = cv2.blur(raw.reshape(len(raw), -1), (1, 17)).reshape(raw.shape)  # over 17 frames
    whole = raw.mean(axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    noise = sum(rng.normal(0, deviation(part), part.shape) for part in (raw - whole, whole))
    for opening in (0.03, 0.1):
        truth = talk(np.array(times), calm, opening * np.linalg.norm(raw[0, 60] - raw[0, 72]))
        smoother = Smoother(DEFAULT_STRENGTH)
        sure = [scene.faces[0].confidence for scene in scenes]
        out = np.stack([smoother(*frame) for frame in zip(truth + noise, sure, times, strict=True)])
        assert squared(out, truth, LIPS) < 1.5 * squared(truth + noise, truth, LIPS)


def deviation(track: np.ndarray) -> float:
    """Standard deviation of the white noise in a track: what moves hardly shows in third differences."""
    return float(np.sqrt((np.diff(track, 3, axis=0) ** 2).mean() / 20))


def test_lips_that_have_talked_rest_again():
    times, truth, _ = film(seconds=12)
    talked = np.where((times < 6)[:, None, None], talk(times, truth, 10), truth)
    seen = talked + np.random.default_rng(1).normal(0, 0.4, truth.shape)
    out = smooth(times, seen, DEFAULT_STRENGTH)
    rest = times > 7
    assert spread(out[rest][:, LIPS]) < 0.6 * spread(seen[rest][:, LIPS])


def test_a_group_is_smoothed_by_its_own_noise():
    times, truth, seen = film(noise=0.2)
    jaw = slice(11, 22)
    seen[:, jaw] += 1.5 * (seen - truth)[:, jaw]
    left = [spread(smooth(times, seen)[:, points]) / spread(seen[:, points]) for points in (jaw, slice(33, 42))]
    assert max(left) < 0.5


def test_the_frame_rate_does_not_change_what_is_smoothed():
    outs = []
    for rate in (15, 30, 60):
        times, truth, seen = film(lambda t: 20 * np.sin(2 * np.pi * t), rate=rate)
        outs.append(((smooth(times, seen) - truth)[15:] ** 2).mean() / ((seen - truth)[15:] ** 2).mean())
    assert max(outs) < 0.9


def test_dropped_frames_do_no_harm():
    times, truth, seen = film(lambda t: 20 * np.sin(2 * np.pi * t))
    kept = np.random.default_rng(2).random(len(times)) > 0.4
    out = smooth(times[kept], seen[kept])
    assert ((out - truth[kept])[15:] ** 2).mean() < ((seen - truth)[kept][15:] ** 2).mean()


def test_smoothing_does_not_depend_on_the_size_or_place_of_the_face():
    times, _, seen = film(lambda t: 5 * np.sin(2 * np.pi * t), seconds=2)
    here, there = smooth(times, seen), smooth(times, seen * 3 + 500)
    np.testing.assert_allclose(there, here * 3 + 500, atol=1e-6)


def test_points_that_come_into_doubt_are_smoothed_harder():
    times, _, seen = film()
    smoothers = Smoother(0.3), Smoother(0.3)
    steps = []
    for points, time in zip(seen, times, strict=True):
        doubtful = SURE.copy()
        doubtful[76:96] = 0.3 if time >= 5 else 0.9
        outs = [smoother(points, given, time) for smoother, given in zip(smoothers, (doubtful, SURE), strict=True)]
        steps.append([out[76:96] - out.mean(axis=0) for out in outs])
    shimmer = np.abs(np.diff(np.array(steps)[-20:], axis=0)).mean(axis=(0, 2, 3))
    assert shimmer[0] < 0.9 * shimmer[1]


def test_a_reset_a_gap_and_a_time_that_goes_back_start_anew():
    smoother, points = Smoother(), face()
    smoother(points, SURE, 0.0)
    smoother.reset()
    np.testing.assert_array_equal(smoother(points + 50, SURE, 0.04), points + 50)
    np.testing.assert_array_equal(smoother(points + 90, SURE, 9.0), points + 90)
    np.testing.assert_array_equal(smoother(points, SURE, 1.0), points)


def test_repeated_times_and_points_that_fall_together_stay_finite():
    smoother = Smoother()
    for points in (face(), face() + 1, np.full((98, 2), 7.0), face(), face()):
        assert np.isfinite(smoother(points, SURE, 1.0)).all()
    assert np.isfinite(smoother(np.zeros((98, 2)), np.zeros(98), 1.1)).all()


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=lambda topology: topology.name)
def test_every_point_is_in_one_group(topology):
    points = np.concatenate(list(motion_groups(topology).values()))
    assert sorted(points) == list(range(topology.points))


def test_lids_lips_and_jaw_move_apart():
    of = {int(point): index for index, group in enumerate(motion_groups(WFLW98).values()) for point in group}
    assert of[62] == of[66] != of[70]
    assert of[79] == of[90] != of[85] == of[94]
    assert len({of[0], of[16], of[32], of[51], of[96], of[62], of[85]}) == 7
    assert of[51] == of[57]


def test_a_similarity_is_found_again():
    source = face() @ np.array([1, 1j])
    offset, turn = fit_similarity(source, (3 - 4j) + 2 * np.exp(0.3j) * source, SURE)
    assert offset == pytest.approx(3 - 4j)
    assert turn == pytest.approx(2 * np.exp(0.3j))


def test_blocks_of_one_filter_are_filters_of_their_own():
    """Each block of a face's filter gives what filterpy gives for that block alone."""
    rng, blocks, step = np.random.default_rng(0), np.array([0, 0, 1, 2, 1, 1]), 0.04
    start, noise = rng.normal(size=6) + 1j * rng.normal(size=6), np.array([0.2, 0.3, 0.4])
    together = _Filter(start, blocks, noise**2, np.zeros(3, bool), np.zeros(3, bool))
    apart = []
    for block in range(3):
        kalman = KalmanFilter(dim_x=2, dim_z=1)
        kalman.x, kalman.P = (
            np.stack([start[blocks == block], 0 * start[blocks == block]]),
            np.eye(2) * noise[block] ** 2,
        )
        kept = 1.0 if block == 0 else np.exp(-step / POINT_PERSISTENCE)
        kalman.F, kalman.H = np.array([[1, step * kept], [0, kept]]), np.array([[1.0, 0.0]])
        drift = 0.1 if block == 0 else POINT_DRIFT
        kalman.Q = drift * np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
        apart.append(kalman)
    for _ in range(20):
        seen = start + 0.1 * rng.normal(size=6)  # too little to be taken for motion
        together.follow(0.1, step)
        together.take(seen, noise**2, np.ones(3), step)
        for block, kalman in enumerate(apart):
            kalman.predict()
            kalman.update(seen[None, blocks == block], R=noise[block] ** 2, H=kalman.H)
            np.testing.assert_allclose(together.positions[blocks == block], kalman.x[0], atol=1e-12)
