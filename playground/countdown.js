// The bundled model's task: reach the target with the given numbers, each used once.

/** Chosen for what is seen in them with the settings the page begins with; most answers change no token. */
export const PROBLEMS = [
  { numbers: [64, 57, 7], target: 49, note: 'EvoToken changes its mind and is right; hard masks are not' },
  { numbers: [39, 31, 66], target: 4, note: 'EvoToken changes its mind five times and is wrong; hard masks are right' },
  { numbers: [39, 77, 42], target: 4, note: 'EvoToken changes its mind and is right; hard masks are not' },
  { numbers: [30, 100, 93], target: 23, note: 'nobody changes anything' },
];

const PROMPT = /^Numbers: \[(\d+(?:, \d+)*)\]\nTarget: (\d+)\s*$/;

export const promptOf = ({ numbers, target }) => `Numbers: [${numbers.join(', ')}]\nTarget: ${target}`;

/** A problem of three numbers that has a solution, of the kind that the model was trained on. */
export function anyProblem() {
  const pick = (from) => from[Math.floor(Math.random() * from.length)];
  const fits = (value) => Number.isInteger(value) && value > 0;
  const join = (a, b) => pick([a + b, a - b, a * b, a / b].filter(fits));
  for (;;) {
    const numbers = Array.from({ length: 3 }, () => 1 + Math.floor(Math.random() * 99));
    const target = join(join(numbers[0], numbers[1]), numbers[2]);
    if (target <= 100) return { numbers: numbers.sort(() => Math.random() - 0.5), target };
  }
}

/** The exact value `[over, under]` of an expression of numbers, + - * / and parentheses; null if it is none. */
function valueOf(text) {
  const tokens = text.match(/\d+|[-+*/()]/g) ?? [];
  if (tokens.join('') !== text.replaceAll(' ', '')) return null;
  let at = 0;
  const atom = () => {
    const token = tokens[at++];
    if (token !== '(') return /^\d+$/.test(token ?? '') ? [Number(token), 1] : null;
    const inside = sum();
    return tokens[at++] === ')' ? inside : null;
  };
  const chain = (part, signs, apply) => () => {
    let value = part();
    while (value && signs.includes(tokens[at])) {
      const sign = tokens[at++];
      const right = part();
      value = right && apply(sign, value, right);
    }
    return value;
  };
  const product = chain(atom, ['*', '/'], (sign, [a, b], [c, d]) => (sign === '*' ? [a * c, b * d] : c && [a * d, b * c]));
  const sum = chain(product, ['+', '-'], (sign, [a, b], [c, d]) => [sign === '+' ? a * d + c * b : a * d - c * b, b * d]);
  const value = sum();
  return value && at === tokens.length ? value : null;
}

/** Whether a text solves a prompt's problem, in words; null if the prompt holds none. */
export function verdict(prompt, text) {
  const found = PROMPT.exec(prompt);
  if (!found) return null;
  const wanted = found[1].split(', ').map(Number);
  const value = valueOf(text.trim());
  if (!value) return { solved: false, words: 'No expression.' };
  const [over, under] = value;
  const used = text.match(/\d+/g).map(Number);
  const sorted = (numbers) => [...numbers].sort((a, b) => a - b).join();
  if (sorted(used) !== sorted(wanted)) return { solved: false, words: 'Not these numbers, each once.' };
  const result = over % under === 0 ? String(over / under) : `${over}/${under}`;
  const solved = over === Number(found[2]) * under;
  return { solved, words: solved ? 'Solved.' : `It makes ${result}, not ${found[2]}.` };
}
