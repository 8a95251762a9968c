"""Health -> diagnostic_msgs, and the reasons why a camera is silent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from cone_perception.answering.health import (
    RATE_WINDOW_S,
    CameraReport,
    FrameMoments,
    FrameTimes,
    Outcome,
)
from cone_perception.ros.transport import PROFILE, profile_in_use, shared_memory_shortage
from cone_perception.settings import DetectorSettings

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def diagnostic_array(stamp: Time, statuses: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    """Statuses under one stamp."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message


def diagnostic_status(
    level: bytes, name: str, message: str, values: Mapping[str, object], hardware_id: str = ''
) -> DiagnosticStatus:
    """One status; numbers are written with one decimal."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware_id,
        values=[
            KeyValue(key=key, value=f'{value:.1f}' if isinstance(value, float) else str(value))
            for key, value in values.items()
        ],
    )


def camera_status(
    name: str, camera: str, report: CameraReport, settings: DetectorSettings, why_silent: str
) -> DiagnosticStatus:
    """Status of one camera of an active node.

    why_silent: the reason that no frame has come for settings.silence_s, empty while they come.
    """
    level, message = _judge(report, settings, why_silent)
    values: dict[str, object] = {
        'rate in (Hz)': report.rate_in_hz,
        'rate out (Hz)': report.rate_out_hz,
        'received': report.received,
        'answered': report.answered,
        'dropped': report.dropped,
        'failed': report.failed,
        'last failure': report.last_failure or 'none',
        'without partner': report.alone,
        'picture (px)': '{}x{}'.format(*report.size_px),
    }
    for station, (p50, p99) in report.latency_ms.items():
        values[f'{station} p50'] = p50
        values[f'{station} p99'] = p99
    if report.answered and 'age_ms' not in report.latency_ms:
        values['age_ms'] = 'not known: the stamps are not of this clock'
    return diagnostic_status(level, name, message, values, hardware_id=camera)


def timing_status(
    camera: str,
    stamp: Time,
    outcome: Outcome,
    reason: str,
    moments: FrameMoments,
    times: FrameTimes | None = None,
) -> DiagnosticStatus:
    """What became of one frame, when, and the milliseconds that an answered one spent where."""
    values: dict[str, object] = {
        'camera': camera,
        'stamp_ns': stamp.sec * 10**9 + stamp.nanosec,
        'outcome': outcome,
        'reason': reason,
    }
    values |= dict(moments.items())
    if times is not None:
        values |= {station: f'{value:.3f}' for station, value in times.items()}
    level = {'answered': OK, 'dropped': WARN, 'failed': ERROR}[outcome]
    return diagnostic_status(level, camera, reason, values, hardware_id=camera)


def why_silent(node: Node, topic: str, type_name: str, wanted: QoSProfile) -> str:
    """Why no frame comes on `topic`, a full name, as far as the ROS graph tells."""
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
            reasons.append(
                f'{who} offers {describe_qos(offered)}, but {describe_qos(wanted)} is asked for: '
                'see the setting reliability'
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


def describe_qos(profile: QoSProfile) -> str:
    """What decides whether publisher and subscription match."""
    return f'{profile.reliability.name.lower()} and {profile.durability.name.lower()}'


def _judge(report: CameraReport, settings: DetectorSettings, why_silent: str) -> tuple[bytes, str]:
    """Level and message: what is worst comes first."""
    window = f'in the last {RATE_WINDOW_S:.0f} s'
    if why_silent:
        return ERROR, f'no frame for {report.silent_s:.0f} s: {why_silent}'
    if report.recently_failed and not report.recently_answered:
        return ERROR, f'every frame failed {window}: {report.last_failure}'
    if report.recently_failed:
        return (
            WARN,
            f'{report.recently_failed} frames failed {window}, lastly: {report.last_failure}',
        )
    if report.dropped and not report.recently_answered:
        return (
            ERROR,
            f'frames come, but none was answered {window}: the network is stuck or too slow',
        )
    width_px, height_px = report.size_px
    if report.answered and (
        width_px < settings.expected_width_px or height_px < settings.expected_height_px
    ):
        return WARN, (
            f'pictures have {width_px}x{height_px} px, smaller than the expected '
            f'{settings.expected_width_px}x{settings.expected_height_px}: far cones are lost; '
            'see the resolution that the camera driver publishes'
        )
    if report.recently_alone:
        return WARN, (
            f'{report.recently_alone} frames {window} had no partner within '
            f'{settings.stereo_tolerance_ms} ms: are the cameras synchronised?'
        )
    if not report.answered:
        return OK, 'waiting for the first answer'
    return OK, 'frames are answered'
