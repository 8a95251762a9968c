"""The page of a replay: what it tells, what it shows, and that nothing breaks it."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import ReadPage, open_page
from replay_results import NEAR, PERIOD_NS, cones, load, result, trace, write_bag

from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import OutputError
from cone_perception.pages.blocks import Chart
from cone_perception.replay.figures.names import figure_text
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages import charts
from cone_perception.replay.pages.charts import MAX_FRAMES, STATION_LOOKS, Timeline
from cone_perception.replay.pages.report import write_report
from cone_perception.replay.traces import STATIONS, FrameTrace, LoadSample

FAR = (250.0, 150.0, 265.0, 180.0)
FATAL = '<script>alert("x")</script>'
OVERHEAD = {f'overhead_latency_{p}_ms': Interval(v) for p, v in (('p50', 1.9), ('p99', 3.1))}


@pytest.fixture
def page_of(tmp_path):
    def write(shown: ReplayResult, bag: Path | None = None) -> ReadPage:
        page = ReadPage(write_report(tmp_path, shown, bag).read_text(encoding='utf-8'))
        assert page.open == []
        assert not re.search(r'(?<![a-z])(nan|inf)(?![a-z])', json.dumps(page.figures()))
        return page

    return write


def answered(count: int, **options: object) -> list[FrameTrace]:
    return [trace(index, **options) for index in range(count)]


def with_figures(shown: ReplayResult, **figures: Interval) -> ReplayResult:
    return replace(shown, figures={**shown.figures, **figures})


def everything() -> ReplayResult:
    """Two cameras, two passes, every fate, judged, searched for the highest rate."""
    fates = ('answered', 'matched', 'transport', 'dropped', 'failed', 'return', 'unknown')
    passes = [
        [
            trace(index, fates[index % len(fates)], camera=camera, start_ns=start_ns, reason=reason)
            for index in range(12)
            for camera, reason in (('left', ''), ('right', 'no picture'))
        ]
        for start_ns in (10**9, 10**12)
    ]
    shown = result(passes, load=[load(3, 10**9), load(3, 10**12)])
    judged = {
        f'{what}_{whose}{of}': Interval(0.5, 0.4, 0.6)
        for what in ('precision', 'recall', 'map50')
        for whose in ('sent', 'answered')
        for of in ('', ' 16-32 px')
    }
    judged |= {f'{what}_sent blue_cone': Interval(0.25) for what in ('precision', 'ap50')}
    failed = {'hz': 55.0, 'missed_share': 0.2, 'rate_out_hz': 40.0, 'passed': False, 'why': FATAL}
    return with_figures(
        replace(
            shown,
            probes=[
                {'hz': 10.0, 'missed_share': 0.0, 'rate_out_hz': 10.0, 'passed': True},
                failed,
            ],
            problems=['the bag is cut off'],
            interrupted=True,
            health={'camera left': {'latency': 'fine'}},
        ),
        **judged,
        **OVERHEAD,
        flicker_share=Interval(0.03, 0.02, 0.04),
        max_rate_hz=Interval(45.0),
    )


AGREEMENT = {'agreement_recall': Interval(0.9), 'agreement_precision': Interval(0.8)}
JUDGED = {f'recall_{whose}': Interval(0.5) for whose in ('sent', 'answered')}
DROPPED = [[*answered(3), trace(3, 'dropped')]]
FAILED = [
    *(trace(index, 'failed', reason='too dark') for index in range(3)),
    *(trace(3 + index, 'dropped', reason='a newer one came') for index in range(4)),
    trace(7, 'failed', reason='too bright'),
]

SAID = {
    'how many were answered, and where the others were lost': (
        result([[*answered(7), trace(7, 'dropped'), trace(8, 'dropped'), trace(9, 'transport')]]),
        'Of 10 frames sent 7 were answered (70.0 %).',
        'The others: 1 lost on the way to the node, 2 dropped for a newer one.',
        '<div class="tile bad"><b>70.0 %</b><span>7 of 10 frames answered',
    ),
    'latency with its interval, and the largest station': (
        with_figures(
            result([answered(5)]),
            latency_p50_ms=Interval(43.14, 42.0, 44.9),
            latency_p99_ms=Interval(88.0, 80.0, 95.0),
        ),
        'at most 43.1 ms (42.0 – 44.9) after their picture was sent',
        '99 of 100 at most 88.0 ms (80.0 – 95.0)',
        'The slowest station: network, 20.0 ms (median).',
    ),
    'cost of measuring beside the latency': (
        with_figures(result([answered(5)]), **OVERHEAD),
        'it takes 1.9 ms in the median and 3.1 ms at the 99th percentile',
        'with a node that only answers 1.9 ms 3.1 ms',
    ),
    'cost of the player': (
        with_figures(result([answered(40)]), overhead_player_cpu_cores=Interval(0.3)),
        'With a node that only sends headers back: player 0.30 cores.',
    ),
    'how far an interrupted one came': (
        result([answered(5)], interrupted=True, configuration={'repeat': 2}),
        'Interrupted: somebody ended the replay early.',
        'the 5 frames sent until then of 80.',
    ),
    'a model that failed its gate': (
        result([answered(5)], model={'verdict': 'FAILED'}),
        'This model FAILED its gate',
    ),
    'agreement and flicker without truth': (
        with_figures(result([answered(5)]), flicker_share=Interval(0.03), **AGREEMENT),
        'Accuracy was not judged: there is no ground truth',
        'the reference model found 90.0 % were found here too',
        'found here it has 80.0 %',
        '3.0 % of tracked cones flicker',
    ),
    'accuracy once where no frame was lost': (
        with_figures(result([answered(3)]), **JUDGED),
        'No frame was lost, so all are judged.',
        *('By class, all boxes', 'all classes'),
    ),
    'accuracy of the answered where one was': (
        with_figures(result(DROPPED), **JUDGED),
        'recall, answered',
    ),
    'when a frame was lost': (result(DROPPED), 'aria-label="lost frames"'),
    'reasons of failure, counted': (
        result([FAILED]),
        'too dark 3 too bright 1',
        'Most frequent cause of failure (3): too dark',
    ),
    'a command that can be pasted': (
        result([answered(3)], configuration={'arguments': ['my bag', '--hz', '20']}),
        "cone-perception replay 'my bag' --hz 20",
    ),
    'the film, where there is one': (
        result([answered(3)], configuration={'arguments': ['bag', '--film']}),
        'annotated.mp4',
    ),
    'what was not measured': (result([answered(7)]), 'was not measured'),
}


@pytest.mark.parametrize('case', SAID.values(), ids=SAID)
def test_page_says(page_of, case):
    shown, *texts = case
    page = page_of(shown)
    assert [text for text in texts if text not in page.text and text not in page.source] == []


def test_page_is_silent_about_what_does_not_concern_it(page_of):
    page = page_of(result([answered(7)]))
    texts = ['class="tile bad"', 'Interrupted: somebody', 'This model FAILED its gate']
    texts += ['aria-label="lost frames"', 'annotated.mp4']
    assert [text for text in texts if text in page.source] == []
    measured = page_of(with_figures(result([answered(5)]), **OVERHEAD))
    assert 'was not measured' not in measured.text


def test_budget_is_kept_or_not(tmp_path):
    shown = result([answered(5)])

    def page(over_budget: list[str] | None) -> ReadPage:
        return ReadPage(write_report(tmp_path, shown, None, over_budget).read_text('utf-8'))

    assert 'budget' not in page(None).text
    assert 'Within the budget.' in page([]).text
    over = page([f'latency is too high {FATAL}'])
    assert f'Over the budget: latency is too high {FATAL}' in over.text


def test_page_that_cannot_be_written_is_an_error_with_its_name(tmp_path):
    (tmp_path / 'report.html').mkdir()
    with pytest.raises(OutputError, match='report.html cannot be written'):
        write_report(tmp_path, result([answered(5)]), None)


def test_problems_are_listed_once_each(page_of):
    page = page_of(result([answered(5)], problems=['the bag is cut off', 'the bag is cut off']))
    assert page.text.count('the bag is cut off') == 1


def test_page_of_everything_has_every_section(page_of):
    page = page_of(everything())
    titles = [
        'Summary',
        'Lost frames, and where',
        'Latency of each frame, by station',
        'Distribution of the latency',
        'Where the time goes',
        'The frames to look at',
        'Rates over time',
        'Cones in each frame',
        'Accuracy',
        'Steadiness and agreement',
        'Load of the machine',
        'The search for the highest rate',
        'Each pass',
        'The same again',
    ]
    assert page.titles() == titles
    folded = [html.unescape(t) for t in re.findall(r'<summary>(.*?)</summary>', page.source)]
    assert folded[0].startswith('All ')
    assert folded[1:] == ['Configuration', 'Bag', 'Model', 'Host', "The node's last diagnostics"]


def test_all_figures_are_there_with_what_they_mean(page_of):
    page = page_of(everything())
    for name in everything().figures:
        assert f'<code>{name}</code>' in page.source
    assert 'of the cones in the frames sent: those that were found, 16-32 px only' in page.text


@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
def test_page_is_drawn_without_an_error_or_a_request(page_of, tmp_path, dark):
    bag = write_bag(tmp_path / 'bag', {'left': 12, 'right': 12})
    page = page_of(everything(), bag)
    opened = open_page(tmp_path / 'report.html', dark)
    assert opened.drawn == len(page.figures()) > 8
    assert opened.console == []
    assert opened.hosts == set()


def test_page_loads_nothing(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 12, 'right': 12})
    page = page_of(everything(), bag)
    assert [tag for tag, _ in page.tags if tag in ('link', 'iframe', 'object', 'use')] == []
    names = {'src', 'srcset', 'data', 'poster', 'xlink:href'}
    loaded = [tag[name] for _, tag in page.tags for name in names & tag.keys()]
    assert loaded
    assert all(str(value).startswith('data:image/jpeg;base64,') for value in loaded)


def test_click_on_a_frame_shows_its_picture(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 20, 'right': 20})
    frames = [trace(i, camera=camera) for i in range(20) for camera in ('left', 'right')]
    page_of(result([frames]), bag)
    click = (
        'const chart = document.querySelector(\'[aria-label="latency of right by station"]\');'
        'const line = chart.data.find(trace => trace.customdata);'
        "chart.emit('plotly_click', {points: [{}, {customdata: line.customdata[7]}]});"
        "document.title = document.querySelector('.viewer .caption').textContent"
    )
    opened = open_page(tmp_path / 'report.html', script=click)
    assert re.search(r'<title>right 7  .*29 ms  1 cones</title>', opened.dom)


def test_worst_frames_of_a_class_are_shown_and_carry_its_name(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 900})
    frames = answered(900)
    truth = {('left', f.stamp_ns): cones(NEAR, FAR) for f in frames}  # one blue cone is missed
    truth['left', frames[450].stamp_ns] = cones(NEAR, class_id=4)
    page = page_of(result([frames], truth=truth), bag)
    tags = [json.loads(a['data-tags']) for tag, a in page.tags if 'data-tags' in a]
    assert len(tags) >= 12
    assert any('yellow_cone' in each for each in tags)


def test_what_comes_from_outside_cannot_break_the_page(page_of):
    frames = [
        trace(0, 'failed', camera=FATAL, reason=FATAL),
        trace(1, camera=FATAL),
        trace(2, camera=FATAL),
        trace(2, camera='right'),
    ]
    told = {FATAL: FATAL, 'list': [FATAL], 'below': {FATAL: FATAL}}
    sample = LoadSample(FATAL, 10**9, {'cpu_cores': 1.0})
    page = page_of(
        result(
            [frames],
            configuration={**told, 'arguments': [FATAL], 'pace': {'kind': FATAL}},
            bag={**told, 'path': FATAL},
            model={**told, 'name': FATAL, 'class_names': [FATAL]},
            host=told,
            health={FATAL: {FATAL: FATAL}},
            problems=[FATAL],
            load=[[sample, replace(sample, time_ns=10**9 + 10**8)]],
            figures={f'{n} {FATAL}': Interval(0.5) for n in ('recall_sent', 'flicker_share')},
        ),
        Path(FATAL),
    )
    assert 'alert("x")' not in page.source
    assert FATAL in page.text


@pytest.mark.parametrize(
    'passes',
    [[], [[]], [[trace(0)]], [[trace(0, 'unknown')]], [answered(3), []], [[], answered(3)]],
    ids=['no pass', 'no frame', 'one frame', 'one lost', 'second empty', 'first empty'],
)
@pytest.mark.parametrize('figures', ['known', 'nan', 'none'])
def test_page_of_almost_nothing_is_a_page(page_of, passes, figures):
    shown = result(passes, interrupted=True)
    if figures != 'known':
        unknown = dict.fromkeys(shown.figures, Interval(math.nan)) if figures == 'nan' else {}
        shown = replace(shown, figures=unknown, per_pass=[unknown for _ in passes])
    page = page_of(shown)
    frames = sum(map(len, passes))
    assert (f'Of {frames} frames sent' if frames else 'No frame was sent.') in page.text
    assert 'nan' not in page.text
    assert 'Accuracy was not judged' in page.text
    anything = any(frame.fate == 'answered' for each in passes for frame in each)
    assert ('No frame was answered.' in page.text) == (not anything)


def test_figures_that_are_not_known_are_dashes():
    assert figure_text('latency_p50_ms', Interval(math.nan)) == '–'
    assert figure_text('latency_p50_ms', Interval(43.14)) == '43.1 ms'
    assert figure_text('recall_sent', Interval(0.8312, 0.8, 0.851)) == '83.1 % (80.0 – 85.1)'
    assert figure_text('something_new', Interval(1.5)) == '1.500'


def test_class_of_a_band_is_in_the_table_of_heights(page_of):
    page = page_of(everything())
    by_class, by_height = page.source.split('By height of the cone')
    assert re.search(r'blue</td>\s*<td>25.0 %</td>', by_class)
    assert re.search(r'>16-32 px</td>\s*<td>50.0 %<small>40.0 – 60.0</small></td>', by_height)


def worst_shown(page: ReadPage) -> list[dict[str, str]]:
    return [attributes for tag, attributes in page.tags if tag == 'img' and 'loading' in attributes]


def pictures_of(page: ReadPage | str) -> list[np.ndarray]:
    source = page if isinstance(page, str) else page.source
    encoded = dict.fromkeys(re.findall(r'data:image/jpeg;base64,([^"]+)', f'{source}"'))
    data = [np.frombuffer(base64.b64decode(each), np.uint8) for each in encoded]
    decoded = [cv2.imdecode(each, cv2.IMREAD_COLOR) for each in data]
    assert all(picture is not None for picture in decoded)
    return decoded


def test_worst_frames_are_the_bag_s_pictures_with_boxes_and_truth(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 30}, (240, 320))
    frames = [trace(index, factor=4.0 if index == 20 else 1.0) for index in range(30)]
    truth = {('left', f.stamp_ns): cones(NEAR) for f in frames if f.index != 5}
    truth['left', frames[5].stamp_ns] = cones(NEAR, FAR, class_id=4)
    page = page_of(result([frames], truth=truth), bag)
    captions = [each['alt'] for each in worst_shown(page)]
    wrong = next(n for n, c in enumerate(captions) if c.startswith('left 5:'))
    assert '2 missed (yellow_cone 2)' in captions[wrong]
    assert any(c.startswith('left 20: answered after') for c in captions)
    picture = pictures_of(worst_shown(page)[wrong]['src'])[0].astype(int)
    blueness = picture[:, :, 0] - picture[:, :, 2]  # the pictures are grey

    def near(box: tuple[float, ...]) -> np.ndarray:
        left, top, right, bottom = map(int, box)
        return blueness[top - 3 : bottom + 4, left - 3 : right + 4]

    assert near(NEAR).max() > 80  # a blue cone was found; how blue depends on OpenCV's JPEG
    assert near(FAR).min() < -40  # a yellow one is there
    assert near(FAR).max() < 40  # and was not found
    plain_pixel = picture[120, 10]
    assert np.abs(plain_pixel - 90).max() < 3  # picture 5 of the bag and no other


def test_only_the_pictures_that_are_shown_are_decoded(page_of, tmp_path, monkeypatch):
    from cone_perception.replay.pages import pictures

    bag = write_bag(tmp_path / 'bag', {'left': 40})
    decoded = []
    whole = pictures.to_bgr
    monkeypatch.setattr(pictures, 'to_bgr', lambda m: decoded.append(1) or whole(m))
    page = page_of(result([answered(40)]), bag)
    assert len(decoded) == len(pictures_of(page)) == 40
    decoded.clear()
    monkeypatch.setattr(pictures, 'VIEWED', 5)
    page = page_of(result([answered(40)]), bag)
    assert 0 < len(decoded) == len(pictures_of(page)) <= 12 + 5


def test_picture_that_is_bad_in_every_pass_is_shown_once(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 3})
    page = page_of(result([answered(3), answered(3, start_ns=10**12)]), bag)
    captions = [each['alt'] for each in worst_shown(page)]
    assert captions == ['pass 1, left 0: answered after 29.0 ms']


@pytest.mark.parametrize('bag', [None, Path('/nowhere/drive')])
def test_page_without_the_bag_says_so_and_lists_the_frames(page_of, bag):
    page = page_of(result([answered(3)]), bag)
    assert 'No pictures: ' + ('the bag was not given' if bag is None else str(bag)) in page.text
    assert 'left 0: answered after 29.0 ms' in page.text


def test_bag_that_is_another_one_by_now_is_told(page_of, tmp_path):
    (tmp_path / 'other').mkdir()
    page = page_of(result([answered(3)]), tmp_path / 'other')
    assert 'The bag could not be read to its end' in page.text
    shorter = write_bag(tmp_path / 'bag', {'left': 1})
    page = page_of(result([answered(20)]), shorter)
    assert 'No picture: it was not found in the bag.' in page.text


def test_picture_that_cannot_be_decoded_is_told(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 1})
    data = next(bag.glob('*.mcap'))
    data.write_bytes(data.read_bytes().replace(b'bgr8', b'what'))
    page = page_of(result([answered(1)]), bag)
    assert re.search(r'No picture: .*what', page.text)


def test_ten_thousand_frames_stay_a_small_page(page_of):
    fates = ['answered'] * 19 + ['dropped']
    frames = [
        trace(index, fates[index % 20], camera=camera)
        for index in range(5000)
        for camera in ('left', 'right')
    ]
    page = page_of(result([frames]))
    plotly = page_of(result([answered(1)]))
    assert len(page.source) - len(plotly.source) < 3_000_000
    latency = page.figures()[1]['data'][-2]
    assert 0.4 * MAX_FRAMES < len(latency['x']) <= MAX_FRAMES


def by_name(chart: Chart) -> dict[str, dict[str, object]]:
    return {trace['name']: trace for trace in chart.figure['data']}


def latency_traces(frames: list[FrameTrace]) -> dict[str, dict[str, object]]:
    (chart,) = charts.latency_charts(Timeline.of([frames]), {})
    return by_name(chart)


def test_areas_of_the_stations_stack_up_to_the_latency():
    traces = latency_traces(answered(4))
    layers = [traces[STATION_LOOKS[name].name] for name in STATIONS]
    assert {each['stackgroup'] for each in layers} == {'1'}
    assert sum(each['y'] for each in layers) == pytest.approx(np.full(4, 29.0))
    assert traces['latency']['y'] == pytest.approx(np.full(4, 29.0))
    assert traces[STATION_LOOKS['preprocess'].name]['y'] == pytest.approx(np.full(4, 3.0))
    assert len({each['fillcolor'] for each in layers}) == len(STATIONS)


def test_slow_station_shows_in_its_own_colour():
    slow = answered(4)
    late = ('decoded_ns', 'located_ns', 'published_ns', 'returned_ns')
    slow[2] = replace(slow[2], **{name: getattr(slow[2], name) + 50_000_000 for name in late})
    traces = latency_traces(slow)
    decode = traces[STATION_LOOKS['decode'].name]['y']
    assert max(decode) == decode[2] > 10 * decode[1]
    assert len(set(traces[STATION_LOOKS['inference'].name]['y'])) == 1


def test_cameras_that_send_at_the_same_moment_do_not_hide_one_another():
    frames = [trace(i, camera=camera) for i in range(10) for camera in ('left', 'right')]
    shown = charts.latency_charts(Timeline.of([frames]), {})
    names = [f'latency of {camera} by station' for camera in ('left', 'right')]
    assert [each.name for each in shown] == names
    assert all(len(each.figure['data'][0]['x']) == 10 for each in shown)


def test_answer_far_beyond_the_others_is_cut_and_said():
    frames = [trace(i, factor=1000.0 if i == 70 else 1.0) for i in range(500)]
    (shown,) = charts.latency_charts(Timeline.of([frames]), {})
    assert 'The slowest took 29000 ms' in shown.caption
    assert shown.figure['layout']['yaxis']['range'][1] < 100
    (even,) = charts.latency_charts(Timeline.of([frames[:50]]), {})
    assert even.caption == ''


def test_latency_that_no_station_tells_is_drawn_too():
    silent = [
        FrameTrace('left', i, i, 'answered', i * PERIOD_NS, returned_ns=i * PERIOD_NS + 10**7)
        for i in range(3)
    ]
    assert latency_traces(silent)['not told apart']['y'] == pytest.approx(np.full(3, 10.0))


def test_hover_tells_the_frame_and_what_became_of_it():
    frames = [*answered(4), trace(4, 'dropped')]
    traces = latency_traces(frames)
    assert traces['latency']['text'][2] == 'left 2  1700000000.100 s  29 ms  1 cones'
    assert traces['lost']['text'] == ['left 4  1700000000.200 s  dropped for a newer one']
    assert traces['lost']['customdata'] == [4]


def loss_traces(frames: list[FrameTrace]) -> dict[str, dict[str, object]]:
    chart = charts.loss_chart(Timeline.of([frames]))
    return {(trace['name'], *set(trace['y'])): trace for trace in chart.figure['data']}


def test_losses_are_drawn_where_they_were_in_the_colour_of_their_cause():
    frames = [*answered(60)]
    for index in (30, 31, 50):
        frames[index] = trace(index, 'dropped' if index < 50 else 'transport')
    traces = loss_traces(frames)
    dropped = traces[charts.FATE_LOOKS['dropped'].name, 'left']
    assert dropped['x'] == pytest.approx([1.5, 1.55])
    assert dropped['marker']['color'] == charts.FATE_LOOKS['dropped'].colour
    assert traces[charts.FATE_LOOKS['transport'].name, 'left']['x'] == pytest.approx([2.5])
    assert len(traces) == 3


def test_a_single_loss_among_ten_thousand_is_still_seen():
    frames = [trace(i, 'dropped' if i < 400 else 'answered') for i in range(10_000)]
    frames[5000] = trace(5000, 'failed')
    failed = loss_traces(frames)[charts.FATE_LOOKS['failed'].name, 'left']
    assert failed['x'] == pytest.approx([250.0])
    assert failed['marker']['size'] >= 3
    (latency,) = charts.latency_charts(Timeline.of([frames]), {})
    assert 250.0 in latency.figure['data'][-1]['x']


def test_pause_of_a_camera_is_a_gap_in_its_line():
    frames = [trace(i) for i in range(100) if not 30 <= i < 60]
    sent = loss_traces(frames)['frames were sent', 'left']['x']
    (gap,) = np.flatnonzero(np.isnan(sent))
    assert (sent[gap - 1], sent[gap + 1]) == pytest.approx((29 * 0.05, 60 * 0.05))


def test_camera_that_stops_has_no_line_after_that():
    frames = sorted(
        [*answered(100), *(trace(i, camera='right') for i in range(50))], key=lambda f: f.sent_ns
    )
    traces = loss_traces(frames)
    assert traces['frames were sent', 'left']['x'].max() == pytest.approx(99 * 0.05)
    assert traces['frames were sent', 'right']['x'].max() == pytest.approx(49 * 0.05)


def test_rate_falls_where_frames_are_lost():
    frames = [trace(i, 'dropped' if 100 <= i < 140 else 'answered') for i in range(200)]
    rates = by_name(charts.rate_chart([frames], Timeline.of([frames])))
    sent, out = rates['sent']['y'], rates['answered']['y']
    assert np.nanmax(sent) - np.nanmin(sent) <= 2
    assert np.nanmin(out) == 0
    assert np.nanmax(out) == pytest.approx(np.nanmax(sent), abs=2)


def test_line_is_broken_between_two_passes():
    passes = [answered(60), answered(60, start_ns=10**15)]
    rates = by_name(charts.rate_chart(passes, Timeline.of(passes)))
    assert [np.isnan(trace['x']).sum() for trace in rates.values()] == [3, 3, 3]


def test_histogram_counts_every_answer_and_marks_the_tail():
    shown = charts.latency_histogram([*np.linspace(20, 30, 99), 500.0], {'p50': 25.0})
    (bars,) = shown.figure['data']
    assert bars['y'].sum() == 100
    assert 'up to 500 ms' in shown.caption
    assert shown.figure['layout']['shapes'][0]['label']['text'] == 'p50'
    assert charts.latency_histogram([20.0, 21.0, 22.0], {}).caption == ''
    assert charts.latency_histogram([20.0], {}).figure['data'][0]['y'].sum() == 1


def test_passes_follow_one_another_on_one_axis():
    passes = [answered(20), answered(20, start_ns=10**15)]
    timeline = Timeline.of(passes)
    assert timeline.edges_s[-1] == pytest.approx(2 * (19 * 0.05 + 0.029))
    assert timeline.at_s(1, 10**15) == pytest.approx(timeline.edges_s[-1] / 2)
    (shown,) = charts.latency_charts(timeline, {})
    assert [shape['label']['text'] for shape in shown.figure['layout']['shapes']] == ['pass 2']
    assert len(shown.figure['data'][0]['x']) == 40


def test_load_is_drawn_for_each_process_while_frames_were_sent():
    timeline = Timeline.of([answered(40)])
    early = LoadSample('node', 10**9 - 10**9 // 2, {'cpu_cores': 99.0})
    shown = charts.load_chart([[early, *load(4)]], timeline, 'Processor', 'cpu_cores', 'cores')
    lines = by_name(shown)
    assert set(lines) == {'node', 'player'}
    assert len(lines['node']['x']) == 4  # the one before the first frame is left out
    heat = charts.load_chart([load(4)], timeline, 'Heat', 'temperature_c', '°C')
    assert not heat.figure['data']


def test_long_load_keeps_its_shape():
    timeline = Timeline.of([[trace(0), trace(12_000)]])
    samples = [
        LoadSample('node', 10**9 + n * 10**9 // 2, {'memory_mb': 100.0 + n}) for n in range(1200)
    ]
    shown = charts.load_chart([samples], timeline, 'Memory', 'memory_mb', 'MB')
    assert shown.figure['data'][0]['y'].tolist() == [100.0 + n for n in range(1200)]


def test_probes_are_drawn_as_passed_or_not():
    missed, rate_out = charts.probe_charts(everything().probes, 45.0)
    for shown in (missed, rate_out):
        assert list(by_name(shown)) == ['limit', 'passed', 'not passed']
        assert shown.figure['layout']['shapes'][0]['label']['text'] == '45.0 Hz'
    failed = missed.figure['data'][2]
    assert (failed['x'], failed['y']) == (pytest.approx([55.0]), pytest.approx([20.0]))
    assert failed['text'] == [f'probe 2: not passed: {FATAL}']
    assert not any(each.figure['data'] for each in charts.probe_charts([], math.nan))


def test_jpegs_of_the_page_are_no_larger_than_needed(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 2}, (720, 1280))
    page = page_of(result([answered(2)]), bag)
    encoded = re.search(r'data:image/jpeg;base64,([^"]+)', page.source)
    raw = base64.b64decode(encoded[1])
    start = raw.index(b'\xff\xc0')
    assert struct.unpack('>HH', raw[start + 5 : start + 9]) == (405, 720)
