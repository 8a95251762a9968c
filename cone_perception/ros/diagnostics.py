"""States of node and cameras as diagnostic_msgs, and the reasons why a camera is silent."""

from __future__ import annotations

import os
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.utilities import get_rmw_implementation_identifier

from cone_perception.answering.answer import Answer
from cone_perception.answering.health import RATE_WINDOW_S, CameraReport
from cone_perception.answering.rigs import Rigs
from cone_perception.images import converter
from cone_perception.ros.loading import Loaded, why_failed
from cone_perception.ros.transport import PROFILE, profile_in_use, shared_memory_shortage
from cone_perception.settings import DetectorSettings
from cone_perception.types import RANGE_SOURCES
from cone_perception.views import Horizon, bands_of

MOST_APART = 0.1
"""Share of the height that lies between the bands of mounting and boxes before it is told: half
of what the band is high."""

COUNTED = ('received', 'answered', 'matched', 'dropped', 'failed')

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def diagnostic_status(
    level: bytes, name: str, message: str, values: Mapping[str, object], hardware_id: str = ''
) -> DiagnosticStatus:
    """One status; numbers are written with one decimal."""
    status = DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware_id)
    for key, value in values.items():
        text = f'{value:.1f}' if isinstance(value, float) else str(value)
        status.values.append(KeyValue(key=key, value=text))
    return status


def camera_status(
    name: str,
    camera: str,
    report: CameraReport,
    settings: DetectorSettings,
    why_silent: str,
    horizon: Horizon | None,
    rigs: Rigs,
) -> DiagnosticStatus:
    """Status of one camera of an active node.

    why_silent: the reason that no frame has come for settings.silence_s, empty while they come.
    horizon: None where there is no second look. rigs: what is known of where its cones stand.
    """
    window = f'in the last {RATE_WINDOW_S:.0f} s'
    troubles = ('failed', 'alone', 'dark', 'unplaced', 'unsent')
    answered, failed, alone, dark, unplaced, unsent = (
        report.recently[name] for name in ('answered', *troubles)
    )
    last = {name: report.last.get(name, 'none') for name in troubles}
    answered += report.recently['matched']
    width_px, height_px = report.size_px
    apart = 0.0
    if horizon and horizon.fixed is not None and horizon.seen is not None:
        apart = abs(horizon.fixed - horizon.seen)
    least_px = settings.expected_width_px, settings.expected_height_px
    small = width_px and (width_px < least_px[0] or height_px < least_px[1])
    stuck = f'frames come, but none was answered {window}: the network is stuck or too slow'
    level, message = next(
        (level, text)
        for holds, level, text in (  # the worst first, but what needs an answer first
            (why_silent, ERROR, f'no frame for {report.silent_s:.0f} s: {why_silent}'),
            (failed and not answered, ERROR, f'every frame failed {window}: {last["failed"]}'),
            (failed, WARN, f'{failed} frames failed {window}, lastly: {last["failed"]}'),
            (report.counts['dropped'] and not answered, ERROR, stuck),
            (
                small,
                WARN,
                f'pictures have {width_px}x{height_px} px, smaller than the expected '
                '{}x{}: far cones are lost; '.format(*least_px)
                + 'see the resolution that the camera driver publishes',
            ),
            (
                alone,
                WARN,
                f'{alone} frames {window} had no partner within '
                f'{settings.stereo_tolerance_ms} ms: are the cameras synchronised?',
            ),
            (dark, WARN, f'{dark} pictures {window} were of no use, lastly: {last["dark"]}'),
            (
                not (report.counts['answered'] or report.counts['matched']),
                OK,
                'waiting for the first answer',
            ),
            (
                unplaced,
                WARN,
                f'no positions in {unplaced} pictures {window}, lastly: {last["unplaced"]}',
            ),
            (unsent, WARN, f'{unsent} messages {window} were not sent, lastly: {last["unsent"]}'),
            *((True, WARN, warning) for warning in rigs.warnings(camera)),
            (
                apart > MOST_APART,
                WARN,
                f'by the mounting the band lies {apart * height_px:.0f} rows away from the far '
                'cones that are seen: check mount_height_m, mount_pitch_deg and camera_info',
            ),
            (True, OK, 'frames are answered'),
        )
        if holds
    )
    values: dict[str, object] = {
        'rate in (Hz)': report.rate_in_hz,
        'rate out (Hz)': report.rate_out_hz,
        **{name: report.counts[name] for name in COUNTED},
        'last failure': last['failed'],
        'without partner': report.counts['alone'],
        'picture (px)': f'{width_px}x{height_px}',
        **_band_values(horizon, height_px),
        'dark': report.counts['dark'],
        'without positions': report.counts['unplaced'],
        'last without positions': last['unplaced'],
        'not sent': report.counts['unsent'],
        'last not sent': last['unsent'],
        **{f'cones: {name} (Hz)': hz for name, hz in _places(report).items()},
        **rigs.notes(camera),
    }
    for station, (p50, p99) in report.latency_ms.items():
        values[f'{station} p50'] = p50
        values[f'{station} p99'] = p99
    if report.counts['answered'] and 'age_ms' not in report.latency_ms:
        values['age_ms'] = 'not known: the stamps are not of this clock'
    return diagnostic_status(level, name, message, values, hardware_id=camera)


def _places(report: CameraReport) -> dict[str, float]:
    """Cones per second by what says where they stand, or why it is not known."""
    return {**dict.fromkeys(RANGE_SOURCES, 0.0), **report.places_hz}


def _band_values(horizon: Horizon | None, height_px: int) -> dict[str, object]:
    """Row around which the next band lies, what says so, and the row of the far cones seen."""
    if horizon is None:
        return {'band (px)': 'none', 'band from': 'views: whole'}
    share, origin = horizon.band
    rows = {'band (px)': share, 'far cones (px)': horizon.seen}
    told = {n: 'not known' if row is None else row * height_px for n, row in rows.items()}
    return {**told, 'band from': origin}


def _second_look(loaded: Loaded) -> str:
    """Which frames get it, and what was measured of it."""
    every, rows = loaded.settings.far_every, bands_of(loaded.detector.views)
    often = 'none' if not rows else 'each frame' if every == 1 else f'one frame of {every}'
    return f'{often} ({loaded.ration})' if loaded.ration else often


def node_status(
    name: str, state: str, problem: str, loaded: Loaded | None, build_progress: str, shortage: str
) -> DiagnosticStatus:
    """Status of the node itself.

    problem: why its last transition failed. loaded: None before it is configured. build_progress:
    of an engine. shortage: of shared memory. Texts are empty where there is nothing to tell.
    """
    values: dict[str, object] = {
        'state': state,
        'middleware': get_rmw_implementation_identifier(),
        'transport profile': profile_in_use(os.environ) or 'none',
    }
    warnings = []  # the worst first
    if build_progress:
        warnings.append(f'building the engine: {build_progress}')
    if loaded is not None:
        detector, engine = loaded.detector, loaded.detector.engine
        card = detector.card
        values |= {
            'engine': f'{engine.info.runtime} on {engine.info.device}, {engine.info.computes_in}',
            'batch': detector.batch,
            'views': detector.views,
            'second look': _second_look(loaded),
            'model': card.name,
            'model sha256': engine.info.network_sha256,
            'gate': card.verdict,
            'class probabilities': 'raw' if card.class_calibration is None else 'calibrated',
            'picture conversion': converter()[0],
        }
        # Only an engine on a GPU has these: CUDA graph or not, how often memory ran out, and how
        # often the lists of boxes.
        on_gpu = ('launches', 'reloads', 'overflows')
        values |= {n: getattr(engine, n) for n in on_gpu if hasattr(engine, n)}
        if card.verdict == 'FAILED':
            warnings.append(why_failed(card))
        warnings += loaded.placed.warnings
    if shortage:
        warnings.append(f'raw pictures may be lost: {shortage}')
    level, message = OK, state
    if problem:
        level, message = ERROR, problem
    elif warnings:
        level, message = WARN, '; '.join(warnings)
    return diagnostic_status(level, name, message, values, 'detector')


def timing_status(answer: Answer) -> DiagnosticStatus:
    """Status of one frame: what became of it, when, and the milliseconds it spent where."""
    values: dict[str, object] = {
        'camera': answer.camera,
        'stamp_ns': answer.arrival.stamp_ns,
        'outcome': answer.outcome,
        'reason': answer.reason,
        **answer.moments_ns,
    }
    if answer.found is not None and answer.found.band_px is not None:
        values['band_px'] = repr(answer.found.band_px)  # all its digits: a replay lays it there
    if answer.positions is not None:  # a digit for each detection
        values['range_sources'] = ''.join(map(str, answer.positions.source.tolist()))
    if answer.outcome == 'answered':
        values |= {station: f'{value:.3f}' for station, value in answer.times_ms().items()}
    level = {'answered': OK, 'matched': OK, 'dropped': WARN, 'failed': ERROR}[answer.outcome]
    if answer.outcome == 'matched' and answer.reason:  # it was of no use
        level = WARN
    return diagnostic_status(level, answer.camera, answer.reason, values, answer.camera)


def why_silent(node: Node, topic: str, type_name: str, wanted: QoSProfile) -> str:
    """Say why no frame comes on `topic`, a full name, as far as the ROS graph tells."""
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f'nobody publishes {topic}: is the camera running, and is this its topic?'
    reasons = []
    for publisher in publishers:
        who = f'{publisher.node_namespace.rstrip("/")}/{publisher.node_name}'
        if 'UNKNOWN' in who:  # DDS has told of the publisher, but not yet whose it is
            who = 'a publisher'
        offered = publisher.qos_profile
        compatibility, _ = qos_check_compatible(offered, wanted)
        if publisher.topic_type != type_name:
            reasons.append(
                f'{who} publishes {publisher.topic_type}, but {type_name} is expected: '
                'see the setting transport'
            )
        elif compatibility == QoSCompatibility.ERROR:
            offers, asked = (
                f'{qos.reliability.name.lower()} and {qos.durability.name.lower()}'
                for qos in (offered, wanted)
            )
            reasons.append(
                f'{who} offers {offers}, but {asked} is asked for: see the setting reliability'
            )
    if len(reasons) == len(publishers):
        return '; '.join(reasons)
    shortage = shared_memory_shortage()
    if shortage:
        return f'{topic} is matched, but nothing arrives: {shortage}'
    profile = profile_in_use(os.environ) or 'none'
    return (
        f'{topic} is matched, but nothing arrives. Either the camera sends nothing, or its large '
        f'messages are lost on the way: its driver needs the transport profile {PROFILE} too, in '
        'FASTRTPS_DEFAULT_PROFILES_FILE up to Jazzy, in FASTDDS_DEFAULT_PROFILES_FILE from Kilted '
        f'(this node uses {profile})'
    )
