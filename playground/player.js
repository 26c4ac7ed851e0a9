// The timeline: which step is shown, and how fast it goes on.

export class Player {
  /** @param parts the controls: slider, play, back, next, pace  @param draw told when another step is shown */
  constructor(parts, draw) {
    Object.assign(this, parts, { draw, total: 0, shown: 0, playing: false, over: true, timer: null });
    this.slider.addEventListener('input', () => this.#goTo(Number(this.slider.value)));
    this.play.addEventListener('click', () => (this.playing ? this.pause() : this.start()));
    this.back.addEventListener('click', () => this.#goTo(this.shown - 1));
    this.next.addEventListener('click', () => this.#goTo(this.shown + 1));
    this.pace.addEventListener('change', () => this.#wait());
  }

  /** Begin anew, with no step yet; those that come are played. */
  reset() {
    Object.assign(this, { total: 0, shown: 0, playing: true, over: false });
    this.#wait();
    this.#update();
  }

  /** There are so many steps now. */
  extend(total) {
    this.total = total;
    if (this.playing && this.#pace() === 0) this.shown = total;
    else if (this.playing && this.timer === null) this.#wait();
    this.#update();
  }

  start() {
    this.playing = true;
    if (this.shown >= this.total) this.shown = 0;
    this.#wait();
    this.#update();
  }

  pause() {
    this.playing = false;
    this.#wait();
    this.#update();
  }

  #pace() {
    return Number(this.pace.value);
  }

  #goTo(step) {
    this.playing = false;
    this.shown = Math.min(Math.max(step, 0), this.total);
    this.#wait();
    this.#update();
  }

  #wait() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.playing) return;
    if (this.#pace() === 0) this.#advance(this.total);
    else if (this.shown < this.total) {
      this.timer = setTimeout(() => {
        this.timer = null;
        this.#advance(this.shown + 1);
        this.#wait();
      }, this.#pace());
    }
  }

  #advance(step) {
    this.shown = step;
    this.#update();
  }

  /** Nothing more will come: at the end there is nothing left to play. */
  finish() {
    this.over = true;
    this.#update();
  }

  #update() {
    if (this.over && this.shown >= this.total) this.playing = false;
    this.slider.max = this.total;
    this.slider.value = this.shown;
    this.slider.disabled = this.total === 0;
    this.slider.setAttribute('aria-valuetext', `step ${this.shown} of ${this.total}`);
    // Not at the ends: a button that is turned off under a finger on the keyboard loses it its place.
    for (const button of [this.play, this.back, this.next]) button.disabled = this.total === 0;
    this.play.textContent = this.playing && this.total > 0 ? 'Pause' : 'Play';
    this.draw(this.shown);
  }
}
