// The tokens of one answer, block by block.

const PERCENT = new Intl.NumberFormat('en', { style: 'percent', maximumFractionDigits: 0 });
const STATES = { mask: 'mask', soft_mask: 'soft mask', soft: 'soft', decoded: 'decoded' };

export const stateName = (state) => STATES[state];
export const percent = (probability) => PERCENT.format(probability);

/** A token and its probability; of a mask what would have been written. */
export const words = (state, text, confidence) =>
  `${state === 'mask' ? 'would be ' : ''}${visible(text)}, ${percent(confidence)}`;

/** An element with a class and a text. */
export function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A token's text so that white space shows. */
export function visible(text) {
  if (text === '') return '∅';
  return text.replaceAll('\n', '↵').replaceAll('\t', '⇥').replace(/^ +$/, (spaces) => '␣'.repeat(spaces.length));
}

export class Canvas {
  /** @param select told of the position that the reader looks at */
  constructor(root, label, select) {
    this.root = root;
    this.select = select;
    this.tokens = [];
    this.blocks = [];
    root.setAttribute('role', 'group');
    root.setAttribute('aria-label', label);
    root.addEventListener('pointerover', (event) => this.#lookAt(event));
    root.addEventListener('focusin', (event) => this.#lookAt(event));
    root.addEventListener('click', (event) => this.#lookAt(event));
    root.addEventListener('keydown', (event) => this.#move(event));
  }

  /** Show an answer as it was after `shown` of its steps; `selected` is a position or null. */
  draw(answer, shown, selected) {
    this.#build(answer.bounds);
    const current = shown > 0 ? answer.steps[shown - 1] : null;
    const latest = answer.stepsAt(shown);
    const marked = selected ?? 0;
    for (const [position, token] of this.tokens.entries()) {
      const changed = Boolean(current?.progress.revised.includes(position));
      const key = `${latest[position]?.progress.step} ${changed && current.progress.step} ${position === selected}`;
      if (token.dataset.key !== key) {
        token.dataset.key = key;
        dress(token, position, answer.cellAt(position, shown), changed && current.progress.step);
      }
      token.tabIndex = position === marked ? 0 : -1;
      token.toggleAttribute('data-selected', position === selected);
    }
    for (const [number, block] of this.blocks.entries()) {
      block.toggleAttribute('data-current', number === current?.progress.block && shown < answer.steps.length);
    }
  }

  /** Blocks and tokens, made only where they changed. */
  #build(bounds) {
    const key = bounds.join();
    if (this.root.dataset.bounds === key) return;
    this.root.dataset.bounds = key;
    const size = bounds.at(-1);
    while (this.tokens.length > size) this.tokens.pop();
    while (this.tokens.length < size) {
      const token = element('button', 'token');
      token.type = 'button';
      token.dataset.position = this.tokens.length;
      this.tokens.push(token);
    }
    this.blocks = bounds.slice(1).map((end, number) => {
      const block = element('div', 'block');
      block.append(...this.tokens.slice(bounds[number], end));
      return block;
    });
    this.root.replaceChildren(...this.blocks);
  }

  #lookAt(event) {
    const token = event.target.closest('.token');
    if (token) this.select(Number(token.dataset.position));
  }

  /** Arrow keys go from token to token, so that the whole canvas is one stop of the Tab key. */
  #move(event) {
    const position = Number(event.target.dataset.position);
    const last = this.tokens.length - 1;
    const goals = { ArrowLeft: position - 1, ArrowRight: position + 1, Home: 0, End: last };
    const goal = goals[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    this.tokens[Math.min(Math.max(goal, 0), last)]?.focus();
  }
}

/** Make a token look and read like its cell; `changed` is the step that changed it, or false. */
function dress(token, position, cell, changed) {
  const state = cell?.state ?? 'mask';
  token.dataset.state = state;
  token.classList.toggle('revised', changed !== false);
  // Two names for one animation: it begins anew also where the step before flashed, too.
  token.dataset.flash = changed === false ? '' : changed % 2;
  token.style.setProperty('--p', state === 'mask' ? 0 : cell.confidence);
  token.textContent = state === 'mask' ? '·' : visible(cell.text);
  const what = cell ? words(state, cell.text, cell.confidence) : 'nothing yet';
  token.setAttribute('aria-label',
    `Position ${position}, ${stateName(state)}: ${what}${changed === false ? '' : ', changed in this step'}`);
}
