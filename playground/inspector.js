// One token from near: what else might stand there, and what did.

import { element, percent, stateName, visible, words } from './canvas.js';

function bar({ text, probability }) {
  const row = element('li', 'candidate');
  const track = element('span', 'track');
  const fill = element('span', 'fill');
  fill.style.setProperty('--p', probability);
  track.append(fill);
  row.append(element('span', 'text', visible(text)), track, element('span', 'number', percent(probability)));
  return row;
}

function moment({ from, text, state, confidence }) {
  const row = element('li', 'moment');
  const token = element('span', 'token', state === 'mask' ? '·' : visible(text));
  token.dataset.state = state;
  if (state !== 'mask') token.style.setProperty('--p', confidence);
  row.append(element('span', 'number', `step ${from}`), token, ` ${stateName(state)}, ${words(state, text, confidence)}`);
  return row;
}

function details(answer, shown, position) {
  const part = element('div', 'details');
  const cell = answer.cellAt(position, shown);
  part.append(element('h3', '', answer.name));
  if (!cell) {
    part.append(element('p', '', 'A mask: no step has looked at it yet.'));
    return part;
  }
  const bars = element('ol', 'candidates');
  bars.setAttribute('aria-label', `Most probable tokens, step ${cell.step.progress.step}`);
  bars.append(...cell.candidates.map(bar));
  const history = element('ol', 'history');
  history.setAttribute('aria-label', 'What stood here');
  history.append(...answer.historyOf(position, shown).map(moment));
  part.append(bars, history);
  return part;
}

/** Show a position of all answers, or how to choose one. */
export function inspect(root, answers, shownOf, position) {
  if (position === null) {
    const words = answers.length ? 'Point at a token, tap it, or move to it with the arrow keys.' : '';
    root.replaceChildren(element('p', 'note', words));
    return;
  }
  const heading = element('h2', '', `Position ${position}`);
  const parts = element('div', 'side-by-side');
  parts.append(...answers.map((answer) => details(answer, shownOf(answer), position)));
  root.replaceChildren(heading, parts);
}
