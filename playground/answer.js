// One answer as it came: its steps, its text, and when. Plain data; it knows no page.

/** What a step left at one position. */
function cell(step, position) {
  const { progress } = step;
  const at = position - progress.positions[0];
  return {
    step,
    state: progress.states[at],
    token: progress.tokens[at],
    text: progress.texts[at],
    confidence: progress.confidences[at],
    candidates: progress.candidate_texts[at].map((text, rank) => ({
      text,
      probability: progress.candidate_probabilities[at][rank],
    })),
  };
}

export class Answer {
  /** @param name of the method, for people  @param room positions asked for, 0 if the server chooses */
  constructor(name, method, room, startedAt) {
    this.name = name;
    this.method = method;
    this.room = room;
    this.startedAt = startedAt;
    this.steps = [];
    /** `{text, steps}`: what came, and behind how many steps. */
    this.parts = [];
    this.firstBlockAt = null;
    this.endedAt = null;
    this.report = null;
    this.finishReason = null;
    this.usage = null;
    this.known = { shown: 0, latest: [] };
  }

  /** Take one event of the stream, completion or chat. */
  take(event, at) {
    if (event.usage) this.usage = event.usage;
    const choice = event.choices[0];
    if (!choice) return;
    const progress = choice.diffusion?.progress;
    if (progress) {
      this.room = Math.max(this.room, progress.positions[1], progress.block_range[1]);
      this.steps.push({ progress, at });
      return;
    }
    const text = choice.text ?? choice.delta?.content ?? '';
    if (text && this.firstBlockAt === null) this.firstBlockAt = at;
    if (text) this.parts.push({ text, steps: this.steps.length });
    if (choice.finish_reason) {
      this.finishReason = choice.finish_reason;
      this.report = choice.diffusion;
      this.endedAt = at;
    }
  }

  /** The text that was out after `shown` steps. */
  textAt(shown) {
    return this.parts.filter(({ steps }) => steps <= shown).map(({ text }) => text).join('');
  }

  get text() {
    return this.textAt(this.steps.length);
  }

  /** Steps that the server left out because this page lagged. */
  get missing() {
    const last = this.steps.at(-1);
    return last ? last.progress.step - this.steps.length : 0;
  }

  /** First positions of all blocks, as far as they are known, and the answer's end. */
  get bounds() {
    const length = this.steps.length ? this.steps[0].progress.block_range[1] : 0;
    const bounds = [0];
    while (length && bounds.at(-1) + length < this.room) bounds.push(bounds.at(-1) + length);
    return [...bounds, this.room];
  }

  /** Per position the last of the first `shown` steps that described it; undefined: still a mask. */
  stepsAt(shown) {
    // Going on is the usual way and costs one step; going back begins anew.
    if (shown < this.known.shown) this.known = { shown: 0, latest: [] };
    const { latest } = this.known;
    for (let index = this.known.shown; index < shown; index += 1) {
      const step = this.steps[index];
      const [from, to] = step.progress.positions;
      for (let position = from; position < to; position += 1) latest[position] = step;
    }
    this.known.shown = shown;
    return latest;
  }

  /** What position holds after `shown` steps, or null: a mask. */
  cellAt(position, shown) {
    const step = this.stepsAt(shown)[position];
    return step ? cell(step, position) : null;
  }

  /** What a position held, each token once in a row: `[{from, text, state, confidence}]`. */
  historyOf(position, shown) {
    const history = [];
    for (const step of this.steps.slice(0, shown)) {
      const [from, to] = step.progress.positions;
      if (position < from || position >= to) continue;
      const found = cell(step, position);
      const before = history.at(-1);
      if (before?.token === found.token && before.state === found.state) before.confidence = found.confidence;
      else history.push({ ...found, from: step.progress.step });
    }
    return history;
  }

  /** Tokens that had changed after `shown` steps. */
  revisionsAt(shown) {
    return this.steps.slice(0, shown).reduce((sum, step) => sum + step.progress.revised.length, 0);
  }

  /** Times between steps, in milliseconds. */
  get latencies() {
    return this.steps.slice(1).map((step, index) => step.at - this.steps[index].at);
  }
}
