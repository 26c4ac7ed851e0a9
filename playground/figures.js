// What an answer costs: numbers, and a line of its steps' times.

import { element } from './canvas.js';

const SVG = 'http://www.w3.org/2000/svg';
const NUMBER = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

const number = (value) => (Number.isFinite(value) ? NUMBER.format(value) : '–');

function milliseconds(value) {
  if (!Number.isFinite(value)) return '–';
  // No browser's clock is finer.
  if (value < 0.1) return '< 0.1 ms';
  return value < 1000 ? `${NUMBER.format(value)} ms` : `${NUMBER.format(value / 1000)} s`;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The figures of an answer after `shown` of its steps, as `[name, value, explanation]`. */
export function figures(answer, shown) {
  const step = shown > 0 ? answer.steps[shown - 1].progress.step : 0;
  const over = answer.report && shown === answer.steps.length;
  const decided = answer.stepsAt(shown).filter((found, position) => {
    const state = found.progress.states[position - found.progress.positions[0]];
    return state === 'soft' || state === 'decoded';
  }).length;
  const seconds = (answer.endedAt - answer.startedAt) / 1000;
  const perPass = over ? answer.report.tokens_per_forward : decided / step;
  const tokens = answer.usage?.completion_tokens;
  return [
    ['NFE', over ? answer.report.nfe : step, 'forward passes so far'],
    ['tokens per pass', number(perPass), over ? 'visible tokens per forward pass' : 'decided positions per forward pass'],
    ['revisions', over ? answer.report.revisions : answer.revisionsAt(shown), 'soft tokens that changed'],
    ['tokens/s', answer.endedAt && tokens ? number(tokens / seconds) : '–', 'visible tokens by time, waiting included'],
    ['first block', milliseconds(answer.firstBlockAt === null ? NaN : answer.firstBlockAt - answer.startedAt),
      'time from the request to the first text'],
    ['step', milliseconds(mean(answer.latencies)), 'mean time between steps, as they arrived'],
  ];
}

/** A line of times between steps, with a mark at the step shown. */
function sparkline(times, shown) {
  const [width, height] = [120, 24];
  const most = Math.max(...times);
  const x = (index) => (times.length > 1 ? (index * width) / (times.length - 1) : width / 2);
  const y = (time) => height - 2 - (time / (most || 1)) * (height - 4);
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'sparkline');
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `Time between steps: ${milliseconds(Math.min(...times))} to ${milliseconds(most)}`);
  const line = document.createElementNS(SVG, 'polyline');
  line.setAttribute('points', times.map((time, index) => `${x(index)},${y(time)}`).join(' '));
  svg.append(line);
  // The first step has no time before it.
  const at = shown - 2;
  if (at >= 0 && at < times.length) {
    const mark = document.createElementNS(SVG, 'line');
    const places = { x1: x(at), x2: x(at), y1: 0, y2: height };
    for (const [name, value] of Object.entries(places)) mark.setAttribute(name, value);
    svg.append(mark);
  }
  return svg;
}

/** Show the figures in a definition list. */
export function drawFigures(list, answer, shown) {
  const rows = figures(answer, shown).map(([name, value, explanation]) => {
    const row = element('div', 'figure');
    row.title = explanation;
    row.dataset.figure = name;
    row.append(element('dt', '', name), element('dd', '', String(value)));
    return row;
  });
  const { latencies } = answer;
  if (latencies.length) rows.at(-1).lastChild.append(sparkline(latencies, shown));
  list.replaceChildren(...rows);
}
