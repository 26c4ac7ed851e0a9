// One run: an answer, or two at the same time with the same seed.

import { Answer } from './answer.js';
import { stream } from './api.js';
import { METHODS, otherMethod, toRequest } from './settings.js';

/**
 * Begin a run.
 * @param settings of the form, with a seed
 * @param question `{prompt}` or `{messages}`
 * @param changed told that something came
 * @returns the answers, which grow, and a promise of their end
 */
export function begin(settings, question, { key, signal, changed }) {
  const methods = [settings.method];
  if (settings.compare) methods.push(otherMethod(settings.method));
  const path = question.messages ? 'v1/chat/completions' : 'v1/completions';
  // If one of them fails, nobody needs the other.
  const own = new AbortController();
  const either = AbortSignal.any([signal, own.signal]);
  const startedAt = performance.now();
  const answers = methods.map((method) => new Answer(METHODS[method], method, Number(settings.max_tokens), startedAt));
  const all = answers.map((answer) => {
    const take = (chunk, at) => {
      answer.take(chunk, at);
      changed();
    };
    return stream(path, { ...question, ...toRequest(settings, answer.method) }, { key, signal: either, take });
  });
  const done = Promise.all(all).finally(() => own.abort());
  return { answers, done };
}
