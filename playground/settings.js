// The form, the address' fragment and a request's body: three shapes of the same settings.

const NAMES = ['prompt', 'method', 'max_tokens', 'schedule', 'amount', 'block_length', 'cache', 'k_soft', 'alpha',
  'temperature', 'seed'];
const OF_REQUEST = ['max_tokens', 'temperature', 'seed'];
const OF_DIFFUSION = ['block_length', 'k_soft', 'alpha'];

/** The methods' names for people. */
export const METHODS = {
  evotoken: 'EvoToken', mask: 'hard masks', soft_mask: 'soft masks only', soft_token: 'soft tokens only',
};

/** Where the form begins: every step decides about one position, so that there is something to see. */
export const STEPWISE = { max_tokens: '8', schedule: 'steps', amount: '8', block_length: '8' };

/** What the form says, all as texts; an empty one leaves it to the model. */
export function read(form) {
  const settings = Object.fromEntries(NAMES.map((name) => [name, form.elements[name].value]));
  return { ...settings, compare: form.elements.compare.checked };
}

/** Show settings in the form; those that are not named are emptied, but for the prompt. */
export function show(form, settings) {
  for (const name of NAMES) {
    const field = form.elements[name];
    const empty = { method: 'evotoken', prompt: field.value }[name] ?? '';
    field.value = settings[name] ?? empty;
    // A choice that is no option leaves the field without one.
    if (field.selectedIndex === -1) field.value = empty;
  }
  form.elements.compare.checked = Boolean(settings.compare);
}

/** Settings as an address' fragment. Neither a key nor a conversation is in it. */
export function toFragment(settings, mode) {
  const pairs = NAMES.filter((name) => settings[name] !== '').map((name) => [name, settings[name]]);
  if (settings.compare) pairs.push(['compare', '1']);
  if (mode !== 'completion') pairs.push(['mode', mode]);
  return `#${new URLSearchParams(pairs)}`;
}

/** The settings and the mode of a fragment, or null if it holds none. */
export function fromFragment(fragment) {
  const found = Object.fromEntries(new URLSearchParams(fragment.replace(/^#/, '')));
  if (!NAMES.some((name) => name in found)) return null;
  return { settings: found, mode: found.mode === 'chat' ? 'chat' : 'completion' };
}

/** The method beside which another is shown. */
export const otherMethod = (method) => (method === 'mask' ? 'evotoken' : 'mask');

const given = (settings, names) =>
  Object.fromEntries(names.filter((name) => settings[name] !== '').map((name) => [name, Number(settings[name])]));

/** The request's body, without prompt or messages. */
export function toRequest(settings, method) {
  const diffusion = { method, progress: true, ...given(settings, OF_DIFFUSION) };
  if (settings.cache) diffusion.cache = settings.cache;
  if (settings.schedule && settings.amount !== '') diffusion[settings.schedule] = Number(settings.amount);
  const request = { stream: true, stream_options: { include_usage: true }, ...given(settings, OF_REQUEST) };
  return { ...request, diffusion };
}

/** A seed for those who named none: two answers side by side need the same one. */
export const anySeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);
