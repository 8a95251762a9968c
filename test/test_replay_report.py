"""The page of a replay: what it tells, what it shows, and that nothing breaks it."""

from __future__ import annotations

import base64
import math
import re
import struct
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from replay_results import NEAR, PERIOD_NS, cones, load, result, trace, write_bag

from cone_perception.errors import OutputError
from cone_perception.replay.figures.result import Figure, ReplayResult
from cone_perception.replay.pages import charts
from cone_perception.replay.pages.charts import SLOTS, Timeline
from cone_perception.replay.pages.report import format_figure, write_report
from cone_perception.replay.traces import STATIONS, FrameTrace, LoadSample

FAR = (250.0, 150.0, 265.0, 180.0)
FATAL = '<script>alert("x")</script>'
VOID = {'meta', 'img', 'br', 'hr', 'input', 'link'}


class Page(HTMLParser):
    """What a browser would make of the page: its text, its tags, and whether all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.parts: list[str] = []
        self.feed(text)
        self.close()
        self.text = re.sub(r'\s+', ' ', ' '.join(self.parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag]
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if 'style' not in self.open:
            self.parts.append(data)

    def titles(self) -> list[str]:
        return re.findall(r'<h2>(.*?)</h2>', self.source)


@pytest.fixture
def page_of(tmp_path):
    def write(shown: ReplayResult, bag: Path | None = None) -> Page:
        page = Page(write_report(tmp_path, shown, bag).read_text(encoding='utf-8'))
        assert page.open == []
        for svg in re.findall(r'<svg.*?</svg>', page.source, re.DOTALL):
            ET.fromstring(svg)
            assert not re.search(r'(?<![a-z])(nan|inf)(?![a-z])', svg)
        return page

    return write


def answered(count: int, **options: object) -> list[FrameTrace]:
    return [trace(index, **options) for index in range(count)]


def with_figures(shown: ReplayResult, **figures: Figure) -> ReplayResult:
    return replace(shown, figures={**shown.figures, **figures})


def everything() -> ReplayResult:
    """Two cameras, two passes, every fate, judged, searched for the highest rate."""
    fates = ('answered', 'transport', 'dropped', 'failed', 'return', 'unknown')
    passes = [
        [
            trace(index, fates[index % 6], camera=camera, start_ns=start_ns, reason=reason)
            for index in range(12)
            for camera, reason in (('left', ''), ('right', 'no picture'))
        ]
        for start_ns in (10**9, 10**12)
    ]
    shown = result(passes, load=[load(3, 10**9), load(3, 10**12)])
    judged = {
        f'{what}_{whose}{of}': Figure(0.5, 0.4, 0.6)
        for what in ('precision', 'recall', 'map50')
        for whose in ('sent', 'answered')
        for of in ('', ' 16-32 px')
    }
    judged |= {f'{what}_sent blue_cone': Figure(0.25) for what in ('precision', 'ap50')}
    return with_figures(
        replace(
            shown,
            probes=[
                {'hz': 10.0, 'missed_share': 0.0, 'rate_out_hz': 10.0, 'passed': True},
                {
                    'hz': 55.0,
                    'missed_share': 0.2,
                    'rate_out_hz': 40.0,
                    'passed': False,
                    'why': FATAL,
                },
            ],
            problems=['the bag is cut off'],
            interrupted=True,
            health={'camera left': {'latency': 'fine'}},
        ),
        **judged,
        flicker_share=Figure(0.03, 0.02, 0.04),
        overhead_latency_p50_ms=Figure(1.9),
        overhead_latency_p99_ms=Figure(3.1),
        max_rate_hz=Figure(45.0),
    )


def test_summary_says_how_many_were_answered_and_where_the_others_were_lost(page_of):
    frames = [*answered(7), trace(7, 'dropped'), trace(8, 'dropped'), trace(9, 'transport')]
    page = page_of(result([frames]))
    assert 'Of 10 frames sent 7 were answered (70.0 %).' in page.text
    assert 'The others: 1 lost on the way to the node, 2 dropped for a newer one.' in page.text
    assert '<div class="tile bad"><b>70.0 %</b><span>7 of 10 frames answered' in page.source
    assert 'class="tile bad"' not in page_of(result([answered(7)])).source


def test_summary_has_latency_with_its_interval_and_the_largest_station(page_of):
    page = page_of(
        with_figures(
            result([answered(5)]),
            latency_p50_ms=Figure(43.14, 42.0, 44.9),
            latency_p99_ms=Figure(88.0, 80.0, 95.0),
        )
    )
    assert 'at most 43.1 ms (42.0 – 44.9) after their picture was sent' in page.text
    assert '99 of 100 at most 88.0 ms (80.0 – 95.0)' in page.text
    assert 'Most of it: network, 20.0 ms (median).' in page.text


def test_cost_of_measuring_stands_beside_the_latency(page_of):
    assert 'was not measured' in page_of(result([answered(5)])).text
    overhead = {f'overhead_latency_{p}_ms': Figure(v) for p, v in (('p50', 1.9), ('p99', 3.1))}
    page = page_of(with_figures(result([answered(5)]), **overhead))
    assert 'it takes 1.9 ms in the median and 3.1 ms at the 99th percentile' in page.text
    assert re.search(r'with a node that only answers 1.9 ms 3.1 ms', page.text)
    assert 'was not measured' not in page.text
    page = page_of(with_figures(result([answered(40)]), overhead_player_cpu_cores=Figure(0.3)))
    assert 'With a node that only sends headers back: player 0.30 cores.' in page.text


def test_interrupted_replay_says_so_and_how_far_it_came(page_of):
    page = page_of(result([answered(5)], interrupted=True, configuration={'repeat': 2}))
    assert 'Interrupted: somebody ended the replay early.' in page.text
    assert 'the 5 frames sent until then of 80.' in page.text
    assert 'Interrupted' not in page_of(result([answered(5)])).text


@pytest.mark.parametrize(('verdict', 'warned'), [('FAILED', True), ('passed', False)])
def test_model_that_failed_its_gate_has_a_banner(page_of, verdict, warned):
    page = page_of(result([answered(5)], model={'verdict': verdict}))
    assert ('This model FAILED its gate' in page.text) == warned


def test_budget_is_kept_or_not(tmp_path):
    shown = result([answered(5)])

    def page(over_budget: list[str] | None) -> Page:
        return Page(write_report(tmp_path, shown, None, over_budget).read_text(encoding='utf-8'))

    assert 'budget' not in page(None).text
    assert 'Within the budget.' in page([]).text
    over = page([f'latency is too high {FATAL}'])
    assert f'Over the budget: latency is too high {FATAL}' in over.text


def test_page_that_cannot_be_written_is_an_error_with_its_name(tmp_path):
    (tmp_path / 'report.html').mkdir()
    with pytest.raises(OutputError, match='report.html cannot be written'):
        write_report(tmp_path, result([answered(5)]), None)


def test_without_truth_agreement_and_flicker_are_told(page_of):
    figures = {
        'agreement_recall': Figure(0.9),
        'agreement_precision': Figure(0.8),
        'flicker_share': Figure(0.03),
    }
    page = page_of(with_figures(result([answered(5)]), **figures))
    assert 'not judged: there is no ground truth' in page.text
    assert 'the reference model found 90.0 % were found here too' in page.text
    assert 'found here it has 80.0 %' in page.text
    assert 'before and after a frame 3.0 % are not seen' in page.text


def test_problems_are_listed_once_each(page_of):
    page = page_of(result([answered(5)], problems=['the bag is cut off', 'the bag is cut off']))
    assert page.text.count('the bag is cut off') == 1


def test_page_of_everything_has_every_section(page_of):
    page = page_of(everything())
    titles = [
        'What it comes to',
        'Which frames were lost, and to what',
        'Latency of each frame, by station',
        'How often which latency',
        'Where the time goes',
        'Rates over time',
        'How right it was',
        'How steady it was',
        'The frames to look at',
        'What it cost',
        'The search for the highest rate',
        'Each pass',
        'The same again',
    ]
    assert page.titles() == titles
    folded = re.findall(r'<summary>(.*?)</summary>', page.source)
    assert folded[0].startswith('All ')
    assert folded[1:] == ['Configuration', 'Bag', 'Model', 'Host', "The node's last diagnostics"]


def test_all_figures_are_there_with_what_they_mean(page_of):
    page = page_of(everything())
    for name in everything().figures:
        assert f'<code>{name}</code>' in page.source
    assert 'of the cones in the frames sent: those that were found, 16-32 px only' in page.text


def test_page_loads_nothing(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 12, 'right': 12})
    page = page_of(everything(), bag)
    assert [tag for tag, _ in page.tags if tag in ('script', 'link', 'iframe', 'object')] == []
    loaded = [
        value
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ('src', 'srcset', 'data', 'poster', 'xlink:href')
        or (tag, name) == ('use', 'href')
    ]
    assert loaded
    assert all(str(value).startswith('data:image/jpeg;base64,') for value in loaded)
    assert not re.search(r'@import|url\(|https?://', page.source)


def test_page_follows_the_colours_of_the_reader(page_of):
    page = page_of(everything())
    assert '@media (prefers-color-scheme: dark)' in page.source
    colours = set(re.findall(r'var\((--[a-z]+)\)', page.source))
    light, dark = page.source.split('@media (prefers-color-scheme: dark)', 1)
    for colour in colours:
        assert f'{colour}: #' in light, colour
        assert f'{colour}: #' in dark, colour


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
            figures={f'recall_sent {FATAL}': Figure(0.5), f'flicker_share {FATAL}': Figure(0.5)},
        ),
        Path(FATAL),
    )
    assert not any(tag == 'script' for tag, _ in page.tags)
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
        unknown = dict.fromkeys(shown.figures, Figure(math.nan)) if figures == 'nan' else {}
        shown = replace(shown, figures=unknown, per_pass=[unknown for _ in passes])
    page = page_of(shown)
    frames = sum(map(len, passes))
    assert (f'Of {frames} frames sent' if frames else 'No frame was sent.') in page.text
    assert 'nan' not in page.text
    assert 'How right the cones are was not judged' in page.text
    anything = any(frame.fate == 'answered' for each in passes for frame in each)
    assert ('No frame was answered.' in page.text) == (not anything)


def test_figures_that_are_not_known_are_dashes():
    assert format_figure('latency_p50_ms', Figure(math.nan)) == '–'
    assert format_figure('latency_p50_ms', Figure(43.14)) == '43.1 ms'
    assert format_figure('recall_sent', Figure(0.8312, 0.8, 0.851)) == '83.1 % (80.0 – 85.1)'
    assert format_figure('something_new', Figure(1.5)) == '1.500'


def test_class_of_a_band_is_in_the_table_of_heights(page_of):
    page = page_of(everything())
    by_class, by_height = page.source.split('By height of the cone')
    assert re.search(r'blue</span></td><td>25.0 %</td>', by_class)
    assert '<td>16-32 px</td><td>50.0 %<i>40.0 – 60.0</i></td>' in by_height


def test_accuracy_is_told_once_where_no_frame_was_lost(page_of):
    judged = {f'recall_{whose}': Figure(0.5) for whose in ('sent', 'answered')}
    complete = page_of(with_figures(result([answered(3)]), **judged))
    assert 'No frame was lost, so all are judged.' in complete.text
    lossy = page_of(with_figures(result([[*answered(3), trace(3, 'dropped')]]), **judged))
    assert 'recall, answered' in lossy.text


def test_one_camera_without_a_loss_needs_no_timeline(page_of):
    page = page_of(result([answered(3)]))
    assert 'aria-label="lost frames of left"' not in page.source
    page = page_of(result([[*answered(3), trace(3, 'dropped')]]))
    assert 'aria-label="lost frames of left"' in page.source


def test_reasons_of_failure_are_counted(page_of):
    frames = [trace(index, 'failed', reason='too dark') for index in range(3)]
    frames += [trace(3 + index, 'dropped', reason='a newer one came') for index in range(4)]
    page = page_of(result([[*frames, trace(7, 'failed', reason='too bright')]]))
    assert re.search(r'too dark 3 .*too bright 1', page.text)
    assert 'Most frequent cause of failure (3): too dark' in page.text


def test_command_to_run_the_same_again_can_be_pasted(page_of):
    page = page_of(result([answered(3)], configuration={'arguments': ['my bag', '--hz', '20']}))
    assert "cone-perception replay 'my bag' --hz 20" in page.text
    assert 'annotated.mp4' not in page.text
    film = page_of(result([answered(3)], configuration={'arguments': ['bag', '--film']}))
    assert 'annotated.mp4' in film.text


def pictures_of(page: Page) -> list[np.ndarray]:
    encoded = re.findall(r'data:image/jpeg;base64,([^"]+)', page.source)
    decoded = [
        cv2.imdecode(np.frombuffer(base64.b64decode(each), np.uint8), cv2.IMREAD_COLOR)
        for each in encoded
    ]
    assert all(picture is not None for picture in decoded)
    return decoded


def test_worst_frames_are_the_bag_s_pictures_with_boxes_and_truth(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 30}, (240, 320))
    frames = [trace(index, factor=4.0 if index == 20 else 1.0) for index in range(30)]
    truth = {('left', f.stamp_ns): cones(NEAR) for f in frames if f.index != 5}
    truth['left', frames[5].stamp_ns] = cones(NEAR, FAR, class_id=4)
    page = page_of(result([frames], truth=truth), bag)
    captions = [c for tag, a in page.tags if tag == 'img' and (c := a['alt'])]
    wrong = next(n for n, c in enumerate(captions) if c.startswith('left 5:'))
    assert '2 missed (yellow_cone 2)' in captions[wrong]
    assert any(c.startswith('left 20: answered after') for c in captions)
    picture = pictures_of(page)[wrong].astype(int)
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
    assert 0 < len(decoded) == len(pictures_of(page)) <= 12


def test_picture_that_is_bad_in_every_pass_is_shown_once(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 3})
    page = page_of(result([answered(3), answered(3, start_ns=10**12)]), bag)
    captions = [attributes['alt'] for tag, attributes in page.tags if tag == 'img']
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


def test_ten_thousand_frames_stay_a_small_page(page_of, tmp_path):
    fates = ['answered'] * 19 + ['dropped']
    frames = [
        trace(index, fates[index % 20], camera=camera)
        for index in range(5000)
        for camera in ('left', 'right')
    ]
    page = page_of(result([frames]))
    assert len(page.source) < 1_000_000
    assert page.source.count('class="tell"') < 4 * SLOTS


def rectangles(svg: str, colour: str) -> list[tuple[float, float, float, float]]:
    """Left, bottom, height and width of each bar of this colour, in px."""
    bars = []
    for path in re.findall(rf'<path d="([^"]*)" fill="{re.escape(colour)}"/>', svg):
        for numbers in re.findall(r'M([\d.]+) ([\d.]+)v-([\d.]+)h([\d.]+)v', path):
            bars.append(tuple(map(float, numbers)))
    return bars


def test_bars_of_the_stations_stack_up_to_the_latency():
    frames = answered(4)
    passes = [frames]
    svg = charts.latency_series(passes, Timeline.of(passes), {'p50': 29.0, 'p99': 29.0})
    heights = {
        name: [height for _, _, height, _ in rectangles(svg, charts.STATION_COLOURS[name])]
        for name in STATIONS
    }
    assert all(len(found) == 4 for found in heights.values())
    per_ms = heights['inference'][0] / 20.0
    assert sum(found[0] for found in heights.values()) == pytest.approx(29.0 * per_ms, abs=0.5)
    assert heights['preprocess'][0] == pytest.approx(3.0 * per_ms, abs=0.2)
    bottoms = sorted(rectangles(svg, charts.STATION_COLOURS[name])[0][1] for name in STATIONS)
    assert len(set(bottoms)) == len(STATIONS)


def test_slow_station_shows_in_its_own_colour():
    slow = [replace(f, prepared_ns=f.prepared_ns, inferred_ns=f.inferred_ns) for f in answered(4)]
    late = slow[2]
    slow[2] = replace(
        late,
        **{n: getattr(late, n) + 50_000_000 for n in ('decoded_ns', 'published_ns', 'returned_ns')},
    )
    svg = charts.latency_series([slow], Timeline.of([slow]), {})
    decode = [height for _, _, height, _ in rectangles(svg, charts.STATION_COLOURS['decode'])]
    assert max(decode) == decode[2] > 10 * decode[1]
    network = [height for _, _, height, _ in rectangles(svg, charts.STATION_COLOURS['inference'])]
    assert len(set(network)) == 1


def test_cameras_that_send_at_the_same_moment_do_not_hide_one_another():
    frames = [trace(i, camera=camera) for i in range(10) for camera in ('left', 'right')]
    svg = charts.latency_series([frames], Timeline.of([frames]), {})
    bars = rectangles(svg, charts.STATION_COLOURS['inference'])
    assert len(bars) == 20
    assert min(width for *_, width in bars) > 20


def test_answer_far_beyond_the_others_is_cut_and_said():
    frames = [trace(i, factor=1000.0 if i == 70 else 1.0) for i in range(500)]
    svg = charts.latency_series([frames], Timeline.of([frames]), {})
    assert 'beyond the chart, up to 29000 ms' in svg
    assert len(rectangles(svg, 'var(--red)')) == 1
    even = charts.latency_series([frames[:50]], Timeline.of([frames[:50]]), {})
    assert 'beyond' not in even


def test_latency_that_no_station_tells_is_drawn_too():
    silent = [
        FrameTrace('left', i, i, 'answered', i * PERIOD_NS, returned_ns=i * PERIOD_NS + 10**7)
        for i in range(3)
    ]
    svg = charts.latency_series([silent], Timeline.of([silent]), {})
    assert len(rectangles(svg, charts.STATION_COLOURS[charts.UNTOLD])) == 3
    assert 'not told apart' in svg


def test_losses_are_drawn_where_they_were_in_the_colour_of_their_cause():
    frames = [*answered(60)]
    for index in (30, 31, 50):
        frames[index] = trace(index, 'dropped' if index < 50 else 'transport')
    svg = charts.loss_timeline([frames], Timeline.of([frames]))
    dropped = rectangles(svg, charts.FATE_COLOURS['dropped'])
    transport = rectangles(svg, charts.FATE_COLOURS['transport'])
    assert (len(dropped), len(transport)) == (2, 1)
    width_px = charts.FULL_PX - charts.LEFT_PX - charts.RIGHT_PX
    lasted = 59 + 0.05 * 20 * 0.58  # to the last frame's answer
    assert dropped[0][0] == pytest.approx(charts.LEFT_PX + width_px * 30 / lasted, rel=0.02)
    assert transport[0][0] == pytest.approx(charts.LEFT_PX + width_px * 50 / lasted, rel=0.02)
    assert rectangles(svg, charts.FATE_COLOURS['failed']) == []


def test_a_single_loss_among_ten_thousand_is_still_seen():
    frames = [trace(i, 'dropped' if i < 400 else 'answered') for i in range(10_000)]
    frames[5000] = trace(5000, 'failed')
    svg = charts.loss_timeline([frames], Timeline.of([frames]))
    (bar,) = rectangles(svg, charts.FATE_COLOURS['failed'])
    assert bar[2] >= 3
    assert bar[3] >= 0.6


def test_losses_of_one_moment_stand_on_one_another():
    frames = [trace(i, ('dropped', 'failed', 'transport')[i % 3]) for i in range(1000)]
    svg = charts.loss_timeline([frames], Timeline.of([frames]))
    spans = []
    for fate in ('dropped', 'failed', 'transport'):
        _, bottom, height, _ = rectangles(svg, charts.FATE_COLOURS[fate])[0]
        spans.append((bottom - height, bottom))
    spans.sort()
    assert spans[0][1] == pytest.approx(spans[1][0], abs=0.2)
    assert spans[1][1] == pytest.approx(spans[2][0], abs=0.2)


def test_pause_of_a_camera_is_a_gap_in_its_strip():
    frames = [trace(i) for i in range(100) if not 30 <= i < 60]
    svg = charts.loss_timeline([frames], Timeline.of([frames]))
    spans = re.findall(r'M([\d.]+) [\d.]+v6h([\d.]+)v', svg)
    ends_px = [float(left) + float(width) for left, width in spans]
    starts_px = [float(left) for left, _ in spans]
    gaps_px = [start - end for end, start in zip(ends_px, starts_px[1:], strict=False)]
    assert max(gaps_px) > 0.25 * (charts.FULL_PX - charts.LEFT_PX - charts.RIGHT_PX)
    assert sorted(gaps_px)[-2] < 3


def test_camera_that_stops_has_no_strip_after_that():
    frames = sorted(
        [*answered(100), *(trace(i, camera='right') for i in range(50))], key=lambda f: f.sent_ns
    )
    svg = charts.loss_timeline([frames], Timeline.of([frames]))
    left, right = svg.split('<h3>right</h3>')

    def strip_ends_px(lane: str) -> float:
        return max(float(x) for x in re.findall(r'M([\d.]+) [\d.]+v6h', lane))

    middle = charts.LEFT_PX + (charts.FULL_PX - charts.LEFT_PX - charts.RIGHT_PX) / 2
    assert strip_ends_px(left) > middle + 300
    assert strip_ends_px(right) < middle + 10


def line_points(svg: str, colour: str) -> list[tuple[float, float]]:
    (path,) = re.findall(rf'<path d="([^"]*)" fill="none" stroke="{re.escape(colour)}"', svg)
    return [(float(x), float(y)) for x, y in re.findall(r'[ML]([\d.]+) ([\d.]+)', path)]


def test_rate_falls_where_frames_are_lost():
    frames = [trace(i, 'dropped' if 100 <= i < 140 else 'answered') for i in range(200)]
    svg = charts.rate_series([frames], Timeline.of([frames]))
    sent = [y for _, y in line_points(svg, 'var(--dim)')]
    out = [y for _, y in line_points(svg, 'var(--blue)')]
    assert max(sent) - min(sent) < 15
    bottom_px = 200 - charts.BOTTOM_PX
    assert max(out) == pytest.approx(bottom_px, abs=15)  # nothing came
    assert min(out) == pytest.approx(min(sent), abs=15)


def test_line_is_broken_between_two_passes():
    passes = [answered(60), answered(60, start_ns=10**15)]
    svg = charts.rate_series(passes, Timeline.of(passes))
    for path in re.findall(r'<path d="([^"]*)" fill="none" stroke="var', svg):
        assert path.count('M') == 2


def test_histogram_counts_every_answer_and_marks_the_tail():
    latencies = [*np.linspace(20, 30, 99), 500.0]
    svg = charts.latency_histogram(latencies, {'p50': 25.0})
    told = re.findall(r'<title>from [\d.]+ ms.*?: (\d+)</title>', svg)
    assert sum(map(int, told)) == 100
    assert len(rectangles(svg, 'var(--red)')) == 1
    assert 'p50 25.0' in svg
    even = charts.latency_histogram([20.0, 21.0, 22.0], {})
    assert rectangles(even, 'var(--red)') == []
    assert len(rectangles(charts.latency_histogram([20.0], {}), 'var(--blue)')) == 1


def test_passes_follow_one_another_on_one_axis():
    passes = [answered(20), answered(20, start_ns=10**15)]
    timeline = Timeline.of(passes)
    assert timeline.total_s == pytest.approx(2 * (19 * 0.05 + 0.029))
    assert timeline.at_s(1, 10**15) == pytest.approx(timeline.total_s / 2)
    svg = charts.latency_series(passes, timeline, {})
    assert svg.count('>pass 2<') == 1
    assert len(rectangles(svg, charts.STATION_COLOURS['inference'])) == 40


def test_load_is_drawn_for_each_process_while_frames_were_sent():
    frames = answered(40)
    early = LoadSample('node', 10**9 - 10**9 // 2, {'cpu_cores': 99.0})
    svg = charts.load_series([[early, *load(4)]], Timeline.of([frames]), 'cpu_cores', 'cores')
    assert len(line_points(svg, 'var(--blue)')) == 4  # the one before the first frame is left out
    assert 'node</span>' in svg
    assert 'player</span>' in svg
    assert charts.load_series([load(4)], Timeline.of([frames]), 'temperature_c', '°C') == ''


def test_long_load_keeps_its_shape_in_few_points():
    frames = [trace(0), trace(12_000)]
    samples = [
        LoadSample('node', 10**9 + n * 10**9 // 2, {'memory_mb': 100.0 + n}) for n in range(1200)
    ]
    svg = charts.load_series([samples], Timeline.of([frames]), 'memory_mb', 'MB')
    points = line_points(svg, 'var(--blue)')
    assert 100 < len(points) <= SLOTS / 2
    heights = [y for _, y in points]
    assert heights == sorted(heights, reverse=True)


def test_probes_are_drawn_as_passed_or_not():
    svg = charts.probe_plot(everything().probes, 45.0)
    assert svg.count('fill="var(--green)"') == 2  # in both plots
    assert svg.count('fill="var(--red)"') == 2
    assert '>45.0 Hz<' in svg
    assert 'probe 2: 55.0 Hz in, 20.0 % missed, not passed: &lt;script&gt;' in svg
    assert charts.probe_plot([], math.nan) == ''


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 0.3, [0, 0.1, 0.2, 0.3]),
        (17, 42, [20, 25, 30, 35, 40]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_axes_have_round_numbers(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_jpegs_of_the_page_are_no_larger_than_needed(page_of, tmp_path):
    bag = write_bag(tmp_path / 'bag', {'left': 2}, (720, 1280))
    page = page_of(result([answered(2)]), bag)
    encoded = re.search(r'data:image/jpeg;base64,([^"]+)', page.source)
    raw = base64.b64decode(encoded[1])
    start = raw.index(b'\xff\xc0')
    assert struct.unpack('>HH', raw[start + 5 : start + 9]) == (405, 720)
