// Draws the page's charts in its colours, and ties them to its pictures.
'use strict';
(() => {
const all = selector => [...document.querySelectorAll(selector)];
const dataOf = element => JSON.parse(element.textContent);
const charts = all('.chart').map(place => ({place, figure: dataOf(place.nextElementSibling)}));
const config = {displaylogo: false, responsive: true, plotlyServerURL: '',
  modeBarButtonsToRemove: ['lasso2d', 'select2d', 'sendChartToCloud']};
const quiet = {...config, displayModeBar: false};

// A figure in which each CSS variable is replaced by its colour, as `from` has it.
function coloured(value, from) {
  if (typeof value === 'string' && value.startsWith('--')) return from.getPropertyValue(value).trim();
  if (Array.isArray(value)) return typeof value[0] === 'number' ? value : value.map(v => coloured(v, from));
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, coloured(v, from)]));
}

// The layout that all charts share, in Plotly's terms.
const axis = {gridcolor: '--line', zerolinecolor: '--line', linecolor: '--line', automargin: true,
  title: {standoff: 6}};
const shared = {template: {layout: {
  paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {color: '--dim', size: 12},
  modebar: {bgcolor: 'rgba(0,0,0,0)', color: '--dim', activecolor: '--blue'},
  hoverlabel: {bgcolor: '--panel', bordercolor: '--line', font: {color: '--ink'}},
  title: {x: 0, xref: 'paper', font: {size: 14, color: '--ink'}},
  legend: {orientation: 'h', x: 0, y: 0, yref: 'container', yanchor: 'bottom',
    traceorder: 'normal'},
  xaxis: axis, yaxis: axis}}};

function draw(chart, element = document.documentElement) {
  const {data, layout} = coloured({...chart.figure, layout: {...chart.figure.layout, ...shared}},
    getComputedStyle(element));
  chart.layout = layout;
  return Plotly.react(chart.place, data, layout, layout.xaxis.visible === false ? quiet : config);
}

// Pictures: a slider, a film, and the frame that was clicked on.
function tie(viewer) {
  const [image, button, slider, caption] =
    ['img', 'button', 'input', '.caption'].map(selector => viewer.querySelector(selector));
  const elsewhere = all('.gallery figure[data-frame]').map(figure => ({
    frame: Number(figure.dataset.frame), source: figure.querySelector('img').src,
    caption: figure.querySelector('figcaption').textContent}));
  const pictures = [...dataOf(viewer.querySelector('script')), ...elsewhere]
    .sort((a, b) => a.frame - b.frame);
  slider.max = pictures.length - 1;
  let timer = null;
  function show(at, asked = pictures[at].frame) {
    const picture = pictures[at];
    slider.value = at;
    image.src = picture.source;
    caption.textContent = picture.caption
      + (asked === picture.frame ? '' : ' (the picture nearest to the one that was asked for)');
    for (const chart of charts) if (chart.x) mark(chart, picture.frame);
  }
  function stop() { clearInterval(timer); timer = null; button.textContent = 'Play'; }
  button.onclick = () => {
    if (timer) return stop();
    button.textContent = 'Pause';
    const next = () => show((Number(slider.value) + 1) % pictures.length);
    timer = setInterval(next, 1000 / Number(viewer.dataset.rate));
  };
  slider.oninput = () => { stop(); show(Number(slider.value)); };
  viewer.showFrame = frame => {
    const gaps = pictures.map(picture => Math.abs(picture.frame - frame));
    stop();
    show(gaps.indexOf(Math.min(...gaps)), frame);
    viewer.scrollIntoView({behavior: 'smooth', block: 'nearest'});
  };
}

// A line in each chart at the frame that is shown.
function mark(chart, frame) {
  const at = chart.x.get(frame);
  const line = {type: 'line', yref: 'paper', y0: 0, y1: 1, x0: at, x1: at, line: {width: 1.5,
    color: getComputedStyle(document.documentElement).getPropertyValue('--red').trim()}};
  const shapes = chart.layout.shapes || [];
  Plotly.relayout(chart.place, {shapes: at === undefined ? shapes : [...shapes, line]});
}

function listen(chart) {
  const viewer = document.querySelector('.viewer');
  const framed = chart.figure.data.filter(trace => typeof (trace.customdata || [])[0] === 'number');
  if (!viewer || !framed.length) return;
  chart.x = new Map(framed.flatMap(trace => trace.customdata.map((frame, i) => [frame, trace.x[i]])));
  chart.place.on('plotly_click', event => {
    const point = event.points.find(each => typeof each.customdata === 'number');
    if (point) viewer.showFrame(point.customdata);
  });
}

function filter(gallery) {
  const figures = [...gallery.querySelectorAll('figure')];
  const tagsOf = figure => JSON.parse(figure.dataset.tags || '[]');
  const tags = [...new Set(figures.flatMap(tagsOf))];
  if (!tags.length) return;
  const label = document.createElement('label');
  const select = document.createElement('select');
  for (const tag of ['all', ...tags.sort()]) select.add(new Option(tag));
  select.onchange = () => figures.forEach(figure => {
    figure.hidden = select.value !== 'all' && !tagsOf(figure).includes(select.value);
  });
  label.append('show ', select);
  gallery.prepend(label);
}

all('.viewer').forEach(tie);
all('.gallery').forEach(filter);
const drawAll = element => Promise.all(charts.map(chart => draw(chart, element)));
if (charts.length && window.Plotly) {
  // One after another, so that the top of the page is there first.
  charts.reduce((before, chart) => before.then(() => draw(chart)).then(() => listen(chart)), Promise.resolve())
    .then(() => { document.body.dataset.drawn = charts.length; });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => drawAll());
  addEventListener('beforeprint', () => drawAll(document.querySelector('.paper')));
  addEventListener('afterprint', () => drawAll());
}
for (const details of all('details')) details.addEventListener('toggle', () =>
  details.querySelectorAll('.chart').forEach(place => window.Plotly && Plotly.Plots.resize(place)));
})();
