"""The pages' blocks and charts: what a browser shows of them, and what needs no browser."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from browser import open_page

from cone_perception.errors import OutputError
from cone_perception.files import without_nan
from cone_perception.pages import page as pages
from cone_perception.pages.blocks import (
    Banner,
    Box,
    Bullets,
    Cell,
    Chart,
    Gallery,
    Listing,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    Viewer,
)
from cone_perception.pages.charts import (
    area,
    bars,
    chart,
    dots,
    forest,
    histogram,
    intervals,
    line,
    shares,
    strip,
)
from cone_perception.pages.page import embed, numbers_of, render_page, write_page

FATAL = '<script>alert("x")</script>'
PIXEL = embed(b'GIF89a\x01\x00\x01\x00\x00\x00\x00;', 'gif')


def every_chart() -> list[Chart]:
    x = np.arange(30.0)
    return [
        chart(
            'lines',
            [
                area('below', x, x + 1, '--blue'),
                line('latency', x, x + 2, marks=True, dash='dot', customdata=np.arange(30)),
                dots('lost', [2.0], [0.0], '--red', text=['frame 2'], customdata=[2]),
            ],
            x='s',
            y='ms',
            levels={'p50': 3.0, 'p99': math.nan},
            marks=[(4.0, 'pass 2')],
            band=(1.0, 2.0),
            hovermode='x unified',
        ),
        chart(
            'bars', [histogram('answers', [0, 1, 2], [3, 4]), bars('few', ['a'], [1])], half=True
        ),
        chart('shares', [shares('A', x, '--blue'), shares('none', [], '--red', 90.0)], half=True),
        strip('stations', [('network', 3.0, '--blue'), ('decode', 1.0, '--orange')], 'ms'),
        forest(
            'differences',
            [
                intervals('A', [('recall', 0.5, 0.4, 0.6), ('ap', 0.5, math.nan, math.nan)]),
                intervals('B', [('recall', 0.4, 0.3, 0.5)], '--orange', hollow=True),
            ],
        ),
    ]


def every_block() -> Page:
    pictures = [Picture(PIXEL, f'frame {n}', frame=n, tags=[f'class_{n}']) for n in (1, 20)]
    blocks = [
        Text(['pieces: ', Cell('a file', href='a.json'), ' with `code`'], strong=True),
        Bullets(['one', Cell('two', tone='bad', title='why')], title='Below'),
        Table(
            ['name', 'value'], [[Cell('A', colour='--blue'), Cell('1', small='0 – 2')]], [1], [0]
        ),
        Viewer(pictures),
        Gallery(pictures),
        Picture('a.jpg', 'boxes', (64, 48), [Box((1, 2, 3, 4), 'missed', FATAL)]),
        Listing('a file', 'text'),
        Section('more', [Listing('', FATAL), every_chart()[0]], folded=True),
    ]
    top = [Banner('over', 'bad', [FATAL]), Tiles([Tile('9', 'lost', 'bad', '8 – 10')])]
    return Page(
        FATAL,
        'subtitle',
        'passed',
        'good',
        [
            Section('', top),
            Section('Blocks', blocks, 'a note'),
            Section('Charts', every_chart()),
            Section('Empty', [Table(['a'], []), Bullets([]), Gallery([])]),
            Section('Facts', [Text(FATAL)], folded=True),
        ],
    )


@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
def test_every_block_is_shown_without_an_error_or_a_request(tmp_path, dark):
    write_page(tmp_path / 'page.html', every_block())
    opened = open_page(tmp_path / 'page.html', dark)
    assert opened.drawn == len(every_chart()) + 1
    assert opened.dom.count('<svg class="main-svg"') >= opened.drawn
    assert opened.console == []
    assert opened.hosts == set()
    blue = {False: 'rgb(37, 99, 235)', True: 'rgb(110, 160, 255)'}
    assert f'fill: {blue[dark]}' in opened.dom
    assert f'fill: {blue[not dark]}' not in opened.dom


def test_browser_tells_of_a_page_that_fails_or_asks_for_a_host(tmp_path):
    (tmp_path / 'bad.html').write_text(
        '<html><body><img src="http://cones.example/x.png"><script>fail()</script></body></html>'
    )
    opened = open_page(tmp_path / 'bad.html')
    assert opened.hosts == {'cones.example'}
    assert any('fail is not defined' in line for line in opened.console)


def test_click_in_a_chart_shows_the_picture_of_that_frame_or_the_nearest(tmp_path):
    write_page(tmp_path / 'page.html', every_block())
    click = (
        "const said = document.querySelector('.viewer .caption'), told = [];"
        "for (const frame of [20, 18]) { document.querySelector('.chart').emit('plotly_click',"
        '{points: [{}, {customdata: frame}]}); told.push(said.textContent); }'
        "document.title = told.join('|')"
    )
    opened = open_page(tmp_path / 'page.html', script=click)
    assert '<title>frame 20|frame 20 (the picture nearest to' in opened.dom
    assert opened.console == []


def test_pictures_can_be_filtered_by_tag(tmp_path):
    write_page(tmp_path / 'page.html', every_block())
    choose = (
        "const select = document.querySelector('.gallery select'); select.value = 'class_20';"
        'select.onchange(); document.title = [...select.options].map(o => o.value).join() +'
        "[...document.querySelectorAll('.gallery figure')].map(f => f.hidden).join()"
    )
    opened = open_page(tmp_path / 'page.html', script=choose)
    assert '<title>all,class_1,class_20true,false</title>' in opened.dom


def test_nothing_from_outside_is_taken_for_html():
    text = render_page(every_block())
    assert 'alert("x")' not in text
    assert text.count('&lt;script&gt;alert') >= 4
    hostile = Chart(
        'c', {'data': [{'name': '</script>', 'x': [], 'y': []}], 'layout': {'height': 9}}
    )
    shown = render_page(Page('t', sections=[Section('a', [hostile])]))
    assert r'\u003c/script\u003e' in shown
    assert '"</script>' not in shown


def test_section_whose_blocks_have_no_content_is_left_out():
    text = render_page(every_block())
    assert 'id="charts"' in text
    assert 'id="empty"' not in text


def test_page_without_charts_carries_no_plotly():
    assert len(render_page(Page('title', sections=[Section('a', [Text('b')])]))) < 20_000


def test_without_plotly_a_page_has_the_numbers_of_its_charts(monkeypatch):
    monkeypatch.setattr(pages, '_plotly_script', lambda: '')
    text = render_page(Page('t', sections=[Section('a', [every_chart()[-1]])]))
    assert 'Plotly is not installed' in text
    assert re.search(r'<td class="w">A</td>\s*<td>recall</td>\s*<td>0.5</td>', text)


def test_numbers_of_a_short_trace_are_listed_and_those_of_a_long_one_summed_up():
    rows = numbers_of(every_chart()[0]).rows
    assert ['lost', '2', '0'] in rows
    assert ['latency', '30 values', '2 … 16.5 … 31'] in rows


def test_numbers_are_rounded_and_gaps_are_null():
    text = render_page(
        Page('t', sections=[Section('a', [chart('c', [line('l', [0.123456789], [math.nan])])])])
    )
    figure = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])
    assert (figure['data'][0]['x'], figure['data'][0]['y']) == ([0.123457], [None])


@pytest.mark.parametrize(
    'figure', [c.figure for c in every_chart()], ids=[c.name for c in every_chart()]
)
def test_plotly_knows_every_property(figure):
    go = pytest.importorskip('plotly.graph_objects')
    text = json.dumps(without_nan(figure))
    go.Figure(json.loads(re.sub(r'"--[a-z]+"', '"red"', text)))


def test_page_that_cannot_be_written_is_an_error_with_its_name(tmp_path):
    (tmp_path / 'page.html').mkdir()
    with pytest.raises(OutputError, match=r'page.html cannot be written: .*Is a directory'):
        write_page(tmp_path / 'page.html', Page('t'))
