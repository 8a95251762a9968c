"""The lifecycle node: a shell that hands frames to the pipeline and its answers to ROS."""

from __future__ import annotations

import functools
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from cone_perception.answering.health import FrameMoments, FrameTimes, Health, Outcome
from cone_perception.answering.inbox import Inbox, NewestFrames, StereoPairs, Waiting
from cone_perception.answering.worker import Worker
from cone_perception.engines.open import PlacedEngine, place_network
from cone_perception.engines.tensorrt.provide import BuildEvent
from cone_perception.errors import (
    ConePerceptionError,
    EngineError,
    EngineLostError,
    ImageError,
    SettingsError,
)
from cone_perception.images import as_sent, converter, to_bgr
from cone_perception.model_card import ModelCard, read_bundle, shipped_bundle
from cone_perception.pictures.draw import draw_cones
from cone_perception.pipeline import ConeDetector, StationTimes
from cone_perception.ros.diagnostics import (
    ERROR,
    OK,
    WARN,
    camera_status,
    diagnostic_array,
    diagnostic_status,
    timing_status,
    why_silent,
)
from cone_perception.ros.memory import give_back_free_memory
from cone_perception.ros.messages import DetectionPublisher
from cone_perception.ros.node import BUILD_FAILED_STATUS, FAILURE_STATUS
from cone_perception.ros.parameters import changed_settings, declare_settings, read_settings
from cone_perception.ros.transport import profile_in_use, shared_memory_shortage
from cone_perception.settings import DetectorSettings
from cone_perception.types import CameraPicture, Detections, Frame, UInt8

DIAGNOSTICS_PERIOD_S = 1.0
LOG_PERIOD_S = 5.0
"""A fault that comes with every frame is logged this often; the diagnostics count each."""

MAX_AGE_MS = 10_000.0
"""Stamps older than this, or of the future, are of another clock: a bag's, or another machine's."""

STOP_TIMEOUT_S = 0.7
"""A frame that takes longer is abandoned when the node is deactivated or ends."""

STOP_POLL_S = 0.05

LAST_WORDS_S = 0.3
"""For what is said last to reach who listens, before the process ends."""

TIMING_DEPTH = 1000
"""Records kept for a listener who is late. Drops come in bursts while the network is busy, and a
record that is lost would look like a frame that never came."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it came.

    arrived_ns: of the monotonic clock. age_ms: from its stamp to its arrival, None where not known.
    """

    message: Any
    arrived_ns: int
    age_ms: float | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What configuring brings: settings, and the network warm where it runs."""

    settings: DetectorSettings
    detector: ConeDetector
    placed: PlacedEngine


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to search, as the camera sent it where the engine reads that."""

    camera: str
    frame: Frame | CameraPicture
    arrival: Arrival


class DetectorNode(LifecycleNode):
    """configure loads the network, activate subscribes; a worker's thread answers the frames."""

    def __init__(self, end: Callable[[int], None]) -> None:
        """end: asks the process to end with this exit status; may be called from any thread."""
        self._end = end
        self._shortage = shared_memory_shortage()  # before this process takes its own share
        super().__init__('detector')
        self._stopping = threading.Event()
        self._loading: Future[Loaded] | None = None
        self._build_progress = ''
        self._build_logged_s = 0.0
        self._lost = False
        self._losing = threading.Lock()
        self._state = 'unconfigured'
        self._problem = ''
        self._setting_problems = declare_settings(self)
        if self._shortage:
            self.get_logger().warning(f'raw pictures may be lost: {self._shortage}')
        self._settings = DetectorSettings()
        self._detector: ConeDetector | None = None
        self._placed: PlacedEngine | None = None
        self._health: Health | None = None
        self._worker: Worker[Arrival] | None = None
        self._image_subscriptions: list[Subscription[Any]] = []
        self._detection_publishers: dict[str, DetectionPublisher] = {}
        self._debug_publishers: dict[str, Publisher[Any]] = {}
        self._timing_publisher: Publisher[Any] | None = None
        # With the namespace: two detectors must not share a line on the engineer's screen.
        self._diagnostics_name = self.get_fully_qualified_name().lstrip('/')
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # Frames and diagnostics go on while a service call loads a network. The timers run on the
        # steady clock: a bag's /clock that stops must not stop the diagnostics.
        self.frames_group = MutuallyExclusiveCallbackGroup()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._publish_diagnostics,
            MutuallyExclusiveCallbackGroup(),
            steady,
        )
        if self.get_parameter('autostart').value or self.get_parameter('build_only').value:
            # In the group of the lifecycle services, so that a call from outside waits for it.
            self._autostart = self.create_timer(0.0, self._start_by_itself, clock=steady)

    # --- lifecycle ---

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._state = 'configuring'
        self._problem = ''
        try:
            loaded = self._load_apart()
            self._settings, self._detector = loaded.settings, loaded.detector
            self._placed = loaded.placed
            self._create_publishers()
        except EngineLostError as error:
            self._lose(error)
        except ConePerceptionError as error:
            self._problem = str(error)
        except Exception as error:  # whatever a runtime raises, the node stays and says so
            self.get_logger().debug(traceback.format_exc())
            self._problem = f'{type(error).__name__}: {error}'
        if self._problem:
            if not self._stopping.is_set() and not self._lost:
                self.get_logger().error(f'not configured: {_one_line(self._problem)}')
            self._unload()
            self._state = 'unconfigured'
            return TransitionCallbackReturn.FAILURE
        self._state = 'inactive'
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._problem = ''
        try:
            self._start_working()
        except Exception as error:  # rclpy would go on without a word
            self.get_logger().debug(traceback.format_exc())
            self._problem = f'{type(error).__name__}: {error}'
            self.get_logger().error(f'not activated: {_one_line(self._problem)}')
            self._stop_working()
            return TransitionCallbackReturn.FAILURE
        self._state = 'active'
        names = ', '.join(s.topic_name for s in self._image_subscriptions)
        self.get_logger().info(f'active: listening to {names}')
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_working()
        self._state = 'inactive'
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unload()
        self._state = 'unconfigured'
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_working()
        self._unload()
        self._state = 'finalized'
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_working()
        self._unload()
        self._state = 'unconfigured'
        return TransitionCallbackReturn.SUCCESS

    def _LifecycleNodeMixin__change_state(  # noqa: N802
        self, transition_id: int
    ) -> TransitionCallbackReturn:
        """As rclpy's, which up to Jazzy lets an impossible transition end the executor."""
        try:
            result: TransitionCallbackReturn = super()._LifecycleNodeMixin__change_state(  # type: ignore[misc]
                transition_id
            )
            return result
        except RuntimeError as error:  # rclpy's RCLError is one
            self.get_logger().error(f'transition refused: {_one_line(str(error))}')
            return TransitionCallbackReturn.ERROR

    def stop(self) -> bool:
        """Answer no more frames; False when one, or a load, goes on behind our back."""
        self._stopping.set()
        finished = self._stop_working()
        if self._loading is not None:  # time for a build to stop its compiler
            finished = bool(wait([self._loading], timeout=STOP_TIMEOUT_S).done) and finished
        if finished and not self._lost:
            self._close_detector()
        return finished

    def destroy_node(self) -> None:
        """As rclpy's, which forgets the state machine: it would keep the shared memory of DDS."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _start_by_itself(self) -> None:
        self._autostart.cancel()
        configured = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if self._stopping.is_set():
            return
        if self.get_parameter('build_only').value:
            if configured and self._placed is not None:
                self.get_logger().info(f'the engine is built and checked: {self._placed.plan}')
            self._end(0 if configured else self._failure_status())
        elif configured:
            self.trigger_activate()

    def _load_apart(self) -> Loaded:
        """_load in a thread that can be left behind: no runtime lets its load be interrupted."""
        loading: Future[Loaded] = Future()

        def load() -> None:
            try:
                loading.set_result(self._load())
            except Exception as error:
                loading.set_exception(error)

        threading.Thread(target=load, name='load', daemon=True).start()
        self._loading = loading
        while not self._stopping.is_set():
            if wait([loading], timeout=STOP_POLL_S).done:
                return loading.result()
        raise EngineError('the node was stopped while it loaded')

    def _load(self) -> Loaded:
        """Settings and warm network. Raises ConePerceptionError."""
        if self._setting_problems:
            raise SettingsError('; '.join(self._setting_problems))
        settings = read_settings(self)
        started = time.monotonic()
        bundle = read_bundle(
            Path(settings.model).expanduser() if settings.model else shipped_bundle()
        )
        settings.filters.check_classes(bundle.card)
        self.get_logger().info(f'loading {bundle.card.name} from {bundle.folder}')
        if bundle.card.verdict == 'FAILED':
            self.get_logger().error(why_failed(bundle.card))
        try:
            placed = place_network(
                bundle, settings, self._on_build_event, self._stopping.is_set, settings.streams
            )
        finally:
            self._build_progress = ''
        if placed.why_cpu:
            self.get_logger().warning(f'device: auto takes the CPU: {_one_line(placed.why_cpu)}')
        detector = ConeDetector(bundle.card, placed.engine)
        try:
            detector.warm_up()
        except Exception:
            detector.close()
            raise
        give_back_free_memory()
        info = placed.engine.info
        self.get_logger().info(
            f'{bundle.card.name} runs on {info.runtime}, {info.device}, {info.computes_in}, batch '
            f'{settings.batch}; loaded and warm after {time.monotonic() - started:.1f} s'
        )
        return Loaded(settings, detector, placed)

    def _on_build_event(self, event: BuildEvent) -> None:
        """Any thread: everything is logged but the steps of a phase, of which some are."""
        message = _one_line(event.message)
        same_phase = event.kind == 'phase' and self._build_progress.startswith(message)
        self._build_progress = f'{message} {event.done}/{event.of}' if event.of else message
        now_s = time.monotonic()
        if same_phase and now_s < self._build_logged_s + LOG_PERIOD_S:
            return
        self._build_logged_s = now_s
        logger = self.get_logger()
        # One call for each level: rclpy refuses a line of code that changes its level.
        text = f'building the engine: {self._build_progress}'
        if event.kind == 'error':
            logger.error(text)
        elif event.kind == 'warning':
            logger.warning(text)
        else:
            logger.info(text)

    def _create_publishers(self) -> None:
        for topic in self._settings.topics:
            try:
                self.resolve_topic_name(topic)
            except Exception as error:  # what subscribing would raise, too late, in activate
                raise SettingsError(f'image_topics: {topic!r} is no topic: {error}') from error
        # Reliable, so that both kinds of subscriptions hear it: an answer is a few kB, and a
        # planner must not miss one. Five deep: who is later than that wants the newest instead.
        answers = QoSProfile(depth=5)
        assert self._detector is not None
        for name in self._settings.cameras:
            self._detection_publishers[name] = DetectionPublisher(
                self.create_publisher(Detection2DArray, f'{name}/detections', answers),
                self._detector.card.class_names,
            )
            self._debug_publishers[name] = self.create_publisher(
                Image, f'{name}/debug_image', QoSProfile(depth=1)
            )
        self._timing_publisher = self.create_publisher(
            DiagnosticArray, '~/timing', QoSProfile(depth=TIMING_DEPTH)
        )

    def _unload(self) -> None:
        answers = [each.publisher for each in self._detection_publishers.values()]
        for publisher in (*answers, *self._debug_publishers.values()):
            self.destroy_publisher(publisher)
        self._detection_publishers, self._debug_publishers = {}, {}
        if self._timing_publisher is not None:
            self.destroy_publisher(self._timing_publisher)
            self._timing_publisher = None
        self._close_detector()

    def _close_detector(self) -> None:
        detector, self._detector, self._placed = self._detector, None, None
        if detector is None or self._lost:
            return
        try:
            detector.close()
        except EngineLostError as error:
            self._lose(error)

    def _lose(self, error: EngineLostError) -> None:
        """Any thread: only a new process can use the GPU again: say so, and let this one end."""
        with self._losing:
            if self._lost:  # two frames were under way
                return
            self._lost = True
        self._problem = str(error)
        self.get_logger().fatal(f'ends, to be started again: {_one_line(self._problem)}')
        try:
            self._publish_diagnostics()
            self._diagnostics_publisher.wait_for_all_acked(Duration(seconds=LAST_WORDS_S))
        finally:
            self._end(self._failure_status())

    def _failure_status(self) -> int:
        build_only = self.get_parameter('build_only').value
        return BUILD_FAILED_STATUS if build_only else FAILURE_STATUS

    def _start_working(self) -> None:
        settings = self._settings
        self._health = Health(settings.cameras, time.monotonic())
        inbox: Inbox[Arrival] = NewestFrames()
        if settings.batch == 2 and not settings.side_by_side:
            inbox = StereoPairs(round(settings.stereo_tolerance_ms * 1e6))
        assert self._detector is not None
        self._worker = Worker(inbox, self._answer, self._detector.at_once)
        for index, topic in enumerate(settings.topics):
            self._image_subscriptions.append(
                self.create_subscription(
                    self._message_type(topic),
                    topic,
                    functools.partial(self._receive, index),
                    self._image_qos(),
                    callback_group=self.frames_group,
                )
            )

    def _stop_working(self) -> bool:
        for subscription in self._image_subscriptions:
            self.destroy_subscription(subscription)
        self._image_subscriptions = []
        worker, self._worker = self._worker, None
        if worker is None:
            return True
        finished = worker.stop(STOP_TIMEOUT_S)
        left = worker.clear()
        for waiting in left:
            self._drop(waiting, 'the node stopped working')
        if left and self._timing_publisher is not None:
            self._timing_publisher.wait_for_all_acked(Duration(seconds=LAST_WORDS_S))
        return finished

    # --- settings ---

    def set_parameters_atomically(
        self, parameter_list: list[Parameter[Any]]
    ) -> SetParametersResult:
        """As rclpy's, but a refusal names the setting."""
        names = [parameter.name for parameter in parameter_list]
        unknown = [name for name in names if not self.has_parameter(name)]
        if unknown:
            return SetParametersResult(
                successful=False, reason=f'there is no setting {", ".join(unknown)}'
            )
        result = super().set_parameters_atomically(parameter_list)
        if not result.successful:
            result.reason = f'{", ".join(names)}: {result.reason}'
        return result

    def _on_set_parameters(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        """Take live settings over; those that are not have been refused before."""
        known = {p.name: p.value for p in parameters if hasattr(self._settings, p.name)}
        try:
            settings = changed_settings(self._settings, known)
            if self._detector is not None:
                settings.filters.check_classes(self._detector.card)
        except SettingsError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._settings = settings
        return SetParametersResult(successful=True)

    def _message_type(self, topic: str) -> type[Any]:
        message_type: type[Any] = CompressedImage if self._settings.is_compressed(topic) else Image
        return message_type

    def _image_qos(self) -> QoSProfile:
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._settings.queue_depth,
            reliability=ReliabilityPolicy[self._settings.reliability.upper()],
        )

    # --- frames ---

    def _receive(self, topic: int, message: Any) -> None:
        """Executor's thread: only note the newest frame."""
        worker, health = self._worker, self._health
        if worker is None or health is None:
            return
        now_s = time.monotonic()
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        age_ms = (self.get_clock().now().nanoseconds - stamp_ns) / 1e6
        arrival = Arrival(
            message, time.monotonic_ns(), age_ms if 0 <= age_ms <= MAX_AGE_MS else None
        )
        for camera in self._cameras_of(topic):
            health.received(camera, now_s)
        for pushed_out in worker.offer(Waiting(topic, stamp_ns, arrival)):
            self._drop(pushed_out, 'a newer frame came')

    def _cameras_of(self, topic: int) -> tuple[str, ...]:
        cameras = self._settings.cameras
        return cameras if self._settings.side_by_side else cameras[topic : topic + 1]

    def _answer(
        self,
        waiting: list[Waiting[Arrival]],
        wait_for_turn: Callable[[], None],
    ) -> None:
        """Worker's threads: from messages to answers. A failure counts, and publishes nothing.

        wait_for_turn: see Worker.
        """
        health, detector, settings = self._health, self._detector, self._settings
        worker = self._worker
        assert health is not None
        assert detector is not None
        started_ns = time.monotonic_ns()
        jobs: list[Job] = []
        for frame in waiting:
            cameras, arrival = self._cameras_of(frame.topic), frame.content
            try:
                jobs += self._jobs(arrival, cameras)
            except ImageError as error:
                self._fail([(camera, arrival) for camera in cameras], started_ns, str(error))
            except Exception as error:  # one bad frame must not end the thread
                reason = self._describe_unexpected(error)
                self._fail([(camera, arrival) for camera in cameras], started_ns, reason)
        if settings.batch == 2 and len(jobs) == 1:
            health.alone(jobs[0].camera, time.monotonic())
        for start in range(0, len(jobs), settings.batch):
            batch = jobs[start : start + settings.batch]
            frames = [(job.camera, job.arrival) for job in batch]
            if start:  # until now it has waited for the batch before it
                started_ns = time.monotonic_ns()
            try:
                found, times = detector.detect([job.frame for job in batch], settings.filters)
            except EngineLostError as error:
                self._fail(frames, started_ns, str(error))
                self._lose(error)
                return
            except ConePerceptionError as error:
                self._fail(frames, started_ns, str(error))
                continue
            except Exception as error:
                self._fail(frames, started_ns, self._describe_unexpected(error))
                continue
            wait_for_turn()
            for job, cones in zip(batch, found, strict=True):
                if self._worker is not worker:  # deactivated in the meantime
                    moments = FrameMoments(job.arrival.arrived_ns, started_ns)
                    health.dropped(job.camera, time.monotonic())
                    self._tell(
                        job.camera, job.arrival, 'dropped', 'the node stopped working', moments
                    )
                    continue
                try:
                    self._publish(job, cones, started_ns, times)
                except Exception as error:
                    if not self._stopping.is_set():
                        reason = self._describe_unexpected(error)
                        self._fail([(job.camera, job.arrival)], started_ns, reason)
                    continue
                try:
                    self._publish_debug(job, cones)
                except Exception as error:  # the answer was sent all the same
                    if not self._stopping.is_set():
                        self.get_logger().warning(
                            f'no debug image: {self._describe_unexpected(error)}',
                            throttle_duration_sec=LOG_PERIOD_S,
                        )

    def _jobs(self, arrival: Arrival, cameras: tuple[str, ...]) -> list[Job]:
        """One picture, or both halves of one that carries two cameras. Raises ImageError."""
        frames: list[Frame | CameraPicture]
        encodings = self._detector.encodings if self._detector is not None else frozenset()
        sent = None
        if encodings and not self._settings.side_by_side:
            sent = as_sent(arrival.message, encodings)
        if sent is not None:
            frames = [sent]
        else:
            picture = to_bgr(arrival.message)
            middle = picture.shape[1] // 2
            if not self._settings.side_by_side:
                frames = [Frame(picture)]
            elif middle:
                frames = [Frame(picture[:, :middle]), Frame(picture[:, middle:])]
            else:
                raise ImageError('a picture of one column cannot carry two cameras side by side')
        return [Job(camera, frame, arrival) for camera, frame in zip(cameras, frames, strict=True)]

    def _publish(
        self, job: Job, cones: Detections, started_ns: int, stations: StationTimes
    ) -> None:
        assert self._health is not None
        camera = job.camera
        self._detection_publishers[camera].publish(cones, job.arrival.message.header)
        moments = FrameMoments(
            job.arrival.arrived_ns,
            started_ns,
            stations.prepared_ns,
            stations.inferred_ns,
            stations.decoded_ns,
            time.monotonic_ns(),
        )
        times = FrameTimes.of(moments, job.arrival.age_ms)
        size_px = (job.frame.width_px, job.frame.height_px)
        self._health.answered(camera, times, size_px, time.monotonic())
        self._tell(camera, job.arrival, 'answered', '', moments, times)

    def _publish_debug(self, job: Job, cones: Detections) -> None:
        assert self._detector is not None
        publisher, names = self._debug_publishers[job.camera], self._detector.card.class_names
        if self._settings.debug_image and publisher.get_subscription_count():
            drawn = draw_cones(_bgr(job.frame), cones, names)
            publisher.publish(_image_message(drawn, job.arrival.message.header))

    def _drop(self, waiting: Waiting[Arrival], reason: str) -> None:
        """Any thread: a frame that was received, and that nobody will answer."""
        assert self._health is not None
        for camera in self._cameras_of(waiting.topic):
            self._health.dropped(camera, time.monotonic())
            moments = FrameMoments(waiting.content.arrived_ns)
            self._tell(camera, waiting.content, 'dropped', reason, moments)

    def _fail(self, frames: Sequence[tuple[str, Arrival]], started_ns: int, reason: str) -> None:
        """frames: camera and message of each."""
        assert self._health is not None
        reason = _one_line(reason)
        for camera, arrival in frames:
            self._health.failed(camera, reason, time.monotonic())
            moments = FrameMoments(arrival.arrived_ns, started_ns)
            self._tell(camera, arrival, 'failed', reason, moments)
        self.get_logger().warning(
            f'no answer for {", ".join(camera for camera, _ in frames)}: {reason}',
            throttle_duration_sec=LOG_PERIOD_S,
        )

    def _describe_unexpected(self, error: Exception) -> str:
        """To be called where it was caught: the trace goes to the log."""
        self.get_logger().debug(traceback.format_exc())
        return f'{type(error).__name__}: {error}'

    def _tell(
        self,
        camera: str,
        arrival: Arrival,
        outcome: Outcome,
        reason: str,
        moments: FrameMoments,
        times: FrameTimes | None = None,
    ) -> None:
        """Any thread: what became of a frame, to whoever listens. Never raises."""
        publisher = self._timing_publisher
        try:
            if publisher is None or not publisher.get_subscription_count():
                return
            stamp = arrival.message.header.stamp
            status = timing_status(camera, stamp, outcome, reason, moments, times)
            publisher.publish(diagnostic_array(stamp, [status]))
        except Exception as error:  # the node may be cleaned up at this moment
            if not self._stopping.is_set():
                self.get_logger().warning(
                    f'~/timing of a frame is lost: {_one_line(str(error))}',
                    throttle_duration_sec=LOG_PERIOD_S,
                )

    # --- diagnostics ---

    def _publish_diagnostics(self) -> None:
        statuses = [self._node_status()]
        health = self._health
        if self._state == 'active' and health is not None:
            reports = health.report(time.monotonic())
            for camera, report in reports.items():
                silent = report.silent_s > self._settings.silence_s
                reason = self._why_silent(camera) if silent else ''
                name = f'{self._diagnostics_name}: {camera}'
                statuses.append(camera_status(name, camera, report, self._settings, reason))
        stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(diagnostic_array(stamp, statuses))

    def _node_status(self) -> DiagnosticStatus:
        values: dict[str, object] = {
            'state': self._state,
            'middleware': get_rmw_implementation_identifier(),
            'transport profile': profile_in_use(os.environ) or 'none',
        }
        detector = self._detector
        if detector is not None:
            info = detector.engine.info
            values |= {
                'engine': f'{info.runtime} on {info.device}, {info.computes_in}',
                'batch': detector.batch,
                'model': detector.card.name,
                'model sha256': info.network_sha256,
                'gate': detector.card.verdict,
                'picture conversion': converter()[0],
            }
            # What only an engine on a GPU has: CUDA graph or not, how often memory ran out, and
            # how often the lists of boxes.
            on_gpu = ('launches', 'reloads', 'overflows')
            values |= {
                n: getattr(detector.engine, n) for n in on_gpu if hasattr(detector.engine, n)
            }
        level, message = OK, self._state
        warnings = self._warnings()
        if self._problem:
            level, message = ERROR, self._problem
        elif warnings:
            level, message = WARN, '; '.join(warnings)
        return diagnostic_status(
            level, f'{self._diagnostics_name}: node', message, values, 'detector'
        )

    def _warnings(self) -> list[str]:
        """What is not as it should be, although frames are answered; the worst first."""
        warnings = []
        if self._build_progress:
            warnings.append(f'building the engine: {self._build_progress}')
        detector, placed = self._detector, self._placed
        if detector is not None and detector.card.verdict == 'FAILED':
            warnings.append(why_failed(detector.card))
        if placed is not None and placed.why_cpu:
            warnings.append(f'device: auto took the CPU: {placed.why_cpu}')
        if self._shortage:
            warnings.append(f'raw pictures may be lost: {self._shortage}')
        return warnings

    def _why_silent(self, camera: str) -> str:
        index = 0 if self._settings.side_by_side else self._settings.cameras.index(camera)
        subscriptions = self._image_subscriptions
        if index >= len(subscriptions):
            return ''  # being deactivated at this moment
        message_type = (
            'CompressedImage' if subscriptions[index].msg_type is CompressedImage else 'Image'
        )
        return why_silent(
            self,
            subscriptions[index].topic_name,
            f'sensor_msgs/msg/{message_type}',
            self._image_qos(),
        )


def why_failed(card: ModelCard) -> str:
    """What the engineer must know of a model whose gate failed; `gate` may hold anything."""
    figures = card.gate.get('figures')
    reasons = [
        f'{kind}: {", ".join(map(str, found.get("failures", [])))}'
        for kind, found in (figures.items() if isinstance(figures, dict) else ())
        if isinstance(found, dict) and not (found.get('passed') is True or found.get('optional'))
    ]
    return (
        f'{card.name} FAILED the gate: it loses more against FP32 than its limits allow'
        f'{"".join(f"; {reason}" for reason in reasons)}. Drive with a model that passed'
    )


def _bgr(frame: Frame | CameraPicture) -> UInt8:
    return frame.bgr if isinstance(frame, Frame) else to_bgr(frame)


def _image_message(bgr: UInt8, header: Header) -> Image:
    message = Image(
        header=header,
        height=bgr.shape[0],
        width=bgr.shape[1],
        encoding='bgr8',
        step=bgr.shape[1] * 3,
    )
    message.data.frombytes(bgr.tobytes())
    return message


def _one_line(text: str) -> str:
    return ' '.join(text.split())
