// The page: what the controls do, and what is shown where.

import { describe } from './api.js';
import { Canvas, element } from './canvas.js';
import { PROBLEMS, anyProblem, promptOf, verdict } from './countdown.js';
import { drawFigures } from './figures.js';
import { inspect } from './inspector.js';
import { Player } from './player.js';
import { begin } from './run.js';
import { METHODS, STEPWISE, anySeed, fromFragment, otherMethod, read, show, toFragment } from './settings.js';

const byId = (id) => document.getElementById(id);
const form = byId('form');
const KEY = 'evotoken.key';

/** Whether question and answers stand side by side. */
const wide = matchMedia('(min-width: 56rem)');

const page = {
  mode: 'completion',
  /** Of a conversation: `{role, content}`. */
  messages: [],
  answers: [],
  views: [],
  /** The prompt that was answered. */
  asked: '',
  selected: null,
  /** Of the run that goes on. */
  controller: null,
  lastSeed: '',
  drawing: false,
};

const controls = ['slider', 'play', 'back', 'next', 'pace'].map((id) => [id, byId(id)]);
const player = new Player(Object.fromEntries(controls), redraw);

const shownOf = (answer) => Math.min(player.shown, answer.steps.length);

/** At most one drawing per frame, however many chunks come. */
function redraw() {
  if (page.drawing) return;
  page.drawing = true;
  requestAnimationFrame(() => {
    page.drawing = false;
    draw();
  });
}

function draw() {
  byId('step').textContent = `step ${player.shown} of ${player.total}`;
  for (const [index, answer] of page.answers.entries()) {
    const view = page.views[index];
    const shown = shownOf(answer);
    view.canvas.draw(answer, shown, page.selected);
    const over = answer.finishReason && shown === answer.steps.length;
    view.text.textContent = answer.textAt(shown) || (over ? '' : '…');
    const judged = over ? verdict(page.asked, answer.text) : null;
    view.verdict.textContent = judged?.words ?? '';
    view.verdict.dataset.solved = judged?.solved ?? '';
    drawFigures(view.figures, answer, shown);
  }
  inspect(byId('inspector'), page.answers, shownOf, page.selected);
}

function select(position) {
  if (page.selected === position) return;
  page.selected = position;
  redraw();
}

function viewOf(answer) {
  const { name } = answer;
  const section = element('section', 'answer');
  section.setAttribute('aria-label', name);
  section.dataset.method = answer.method;
  const tokens = element('div', 'canvas');
  const text = element('p', 'text');
  const judged = element('p', 'verdict');
  const figures = element('dl', 'figures');
  section.append(element('h2', '', name), tokens, text, judged, figures);
  byId('canvases').append(section);
  return { canvas: new Canvas(tokens, `Tokens, ${name}`, select), text, verdict: judged, figures };
}

const say = (words) => {
  byId('status').textContent = words;
};

function complain(words) {
  byId('problem').textContent = words;
  byId('problem').hidden = words === '';
}

/** What went wrong with a request, where the reader can do something about it. */
function explain(problem) {
  const place = problem.param && !problem.message.includes(problem.param) ? ` (${problem.param})` : '';
  complain(`${problem.message}${place}`);
  if (problem.status === 401) {
    byId('key-row').hidden = false;
    byId('key').focus();
  }
}

function summary() {
  const missing = page.answers.reduce((sum, answer) => sum + answer.missing, 0);
  const lost = missing ? ` ${missing} steps were left out, because this page lagged.` : '';
  const answer = page.answers[0];
  const end = answer.finishReason === 'stop' ? 'the end of the text' : 'the last position';
  return `Finished after ${answer.steps.length} steps, at ${end}.${lost}`;
}

async function run() {
  if (page.controller) return;
  const settings = read(form);
  settings.seed ||= anySeed();
  page.lastSeed = settings.seed;
  page.asked = settings.prompt;
  const messages = [...page.messages, { role: 'user', content: settings.prompt }];
  page.controller = new AbortController();
  page.selected = null;
  busy(true);
  complain('');
  say('Running …');
  player.reset();
  const { signal } = page.controller;
  const question = page.mode === 'chat' ? { messages } : { prompt: settings.prompt };
  const changed = () => player.extend(Math.max(...page.answers.map((answer) => answer.steps.length)));
  const started = begin(settings, question, { key: byId('key').value, signal, changed });
  page.answers = started.answers;
  byId('canvases').replaceChildren();
  page.views = page.answers.map(viewOf);
  // On a phone the answers are below the form.
  if (!wide.matches) byId('canvases').scrollIntoView();
  redraw();
  try {
    await started.done;
    if (page.mode === 'chat') converse([...messages, { role: 'assistant', content: page.answers[0].text }]);
    say(summary());
  } catch (problem) {
    if (signal.aborted) say(`Stopped after ${player.total} steps.`);
    else {
      say('No answer.');
      explain(problem);
    }
  }
  page.controller = null;
  busy(false);
  player.finish();
}

function busy(running) {
  byId('run').disabled = running;
  byId('stop').disabled = !running;
  // A disabled button would lose the keyboard's place.
  if (document.activeElement === document.body) byId(running ? 'stop' : 'run').focus({ preventScroll: true });
}

function converse(messages) {
  page.messages = messages;
  const turns = messages.map(({ role, content }) => {
    const turn = element('li', 'turn');
    turn.dataset.role = role;
    turn.append(element('span', 'role', role === 'user' ? 'you' : 'model'), element('span', 'content', content));
    return turn;
  });
  byId('turns').replaceChildren(...turns);
  byId('conversation').hidden = page.mode !== 'chat' || messages.length === 0;
  if (messages.length) form.elements.prompt.value = '';
}

function setMode(mode) {
  page.mode = mode;
  for (const tab of byId('tabs').children) tab.setAttribute('aria-pressed', tab.dataset.mode === mode);
  byId('prompt-label').textContent = mode === 'chat' ? 'Message' : 'Prompt';
  byId('conversation').hidden = mode !== 'chat' || page.messages.length === 0;
}

let addressing = null;

/** What follows from the form: labels, and the address. */
function settle() {
  const settings = read(form);
  form.elements.amount.disabled = settings.schedule === '';
  byId('amount-label').textContent = { threshold: 'Threshold', factor: 'Factor' }[settings.schedule] ?? 'Steps';
  byId('other-method').textContent = METHODS[otherMethod(settings.method)];
  clearTimeout(addressing);
  // Browsers refuse addresses that change with every letter, and nothing is settled before the model is known.
  if (ready()) addressing = setTimeout(() => history.replaceState(null, '', toFragment(read(form), page.mode)), 250);
}

const ready = () => 'ready' in document.body.dataset;

function showFragment() {
  const found = fromFragment(location.hash);
  if (!found) return false;
  show(form, found.settings);
  setMode(byId('tabs').hidden ? 'completion' : found.mode);
  settle();
  return true;
}

async function copyLink() {
  const settings = read(form);
  settings.seed ||= page.lastSeed;
  const link = new URL(toFragment(settings, page.mode), location.href).href;
  try {
    await navigator.clipboard.writeText(link);
    say('The link is in the clipboard.');
  } catch {
    history.replaceState(null, '', link);
    say('The link is in the address bar.');
  }
}

function offer(name, note, prompt) {
  const chip = element('button', 'chip', name);
  chip.type = 'button';
  chip.title = note;
  chip.addEventListener('click', () => {
    form.elements.prompt.value = prompt();
    settle();
  });
  byId('examples').append(chip);
}

/** Where the bundled model and others begin. */
function begins(model) {
  if (model.root !== 'countdown') {
    for (const prompt of ['Why is the sky blue?', 'Write a haiku about rain.']) offer(prompt, '', () => prompt);
    return { prompt: 'Why is the sky blue?', max_tokens: '64' };
  }
  for (const problem of PROBLEMS) {
    offer(`${problem.numbers.join(' ')} → ${problem.target}`, problem.note, () => promptOf(problem));
  }
  offer('another one', 'a new problem that has a solution', () => promptOf(anyProblem()));
  return { prompt: promptOf(PROBLEMS[0]), compare: true, ...STEPWISE };
}

async function connect() {
  try {
    const model = await describe(byId('key').value);
    complain('');
    byId('model').textContent = `${model.name}, up to ${model.room} tokens`;
    byId('tabs').hidden = !model.chats;
    byId('examples').replaceChildren();
    const first = begins(model);
    // Somebody may have begun to write while the model was loading.
    if (!ready() && !showFragment()) show(form, { ...first, prompt: form.elements.prompt.value || first.prompt });
    document.body.dataset.ready = '';
    settle();
  } catch (problem) {
    explain(problem);
    // The model is still loading.
    if (problem.status === 503) setTimeout(connect, 2000);
  }
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  run();
});
form.addEventListener('input', settle);
// A field that is folded away could not say what is wrong with it.
form.addEventListener('invalid', () => {
  byId('decoding').open = true;
}, true);
byId('stop').addEventListener('click', () => page.controller?.abort());
byId('link').addEventListener('click', copyLink);
byId('defaults').addEventListener('click', () => {
  show(form, { compare: form.elements.compare.checked });
  settle();
});
byId('forget').addEventListener('click', () => converse([]));
byId('key').addEventListener('change', () => {
  sessionStorage.setItem(KEY, byId('key').value);
  connect();
});
byId('tabs').addEventListener('click', ({ target }) => {
  if (!target.dataset.mode) return;
  setMode(target.dataset.mode);
  settle();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  else if (event.key === 'Escape') page.controller?.abort();
});
window.addEventListener('hashchange', showFragment);

byId('key').value = sessionStorage.getItem(KEY) ?? '';
if (matchMedia('(prefers-reduced-motion: reduce)').matches) byId('pace').value = '0';
// On a phone they would stand between the question and the answer.
byId('decoding').open = wide.matches;
connect();
