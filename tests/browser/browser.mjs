// A browser for the tests: Debian's Chromium, headless, that may talk to one server only.

import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

export const SERVER = process.env.EVOTOKEN_URL;
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

// Containers run as root, where Chromium's own sandbox does not start.
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
export const close = () => browser.close();

/**
 * Open the page in a window of its own, let `act` use it, and check that it was quiet: no error in the console, no
 * request to anybody else.
 * @param options of the window, as Playwright names them; `fragment`: the address'; `server`: another server;
 *   `expected`: what the console may say; `ready`: false if the page cannot get there by itself
 */
export async function visit(act, options = {}) {
  const { fragment = '', server = SERVER, expected = /^$/, ready = true, ...window } = options;
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...window });
  // Far longer than anything takes: a busy machine must not fail a test.
  context.setDefaultTimeout(60_000);
  const [errors, strangers] = [[], []];
  await context.route('**/*', (route) => {
    const url = route.request().url();
    if (url.startsWith(`${server}/`)) return route.fallback();
    strangers.push(url);
    return route.abort();
  });
  const page = await context.newPage();
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !expected.test(message.text())) errors.push(message.text());
  });
  try {
    await page.goto(`${server}/${fragment}`);
    if (ready) await page.waitForSelector('body[data-ready]');
    await act(page);
    assert.deepEqual(errors, []);
    assert.deepEqual(strangers, []);
  } finally {
    await context.close();
  }
}

/** Run what the form says, and wait for the answers and for the last step to be shown. */
export async function run(page, { wait = true } = {}) {
  await page.selectOption('#pace', '0');
  await page.click('#run');
  if (wait) await finished(page);
}

/** Wait until the run is over and its last step is shown. */
export async function finished(page) {
  await page.waitForFunction(() => {
    const slider = document.getElementById('slider');
    const said = document.getElementById('status').textContent;
    return said.startsWith('Finished') && slider.value === slider.max;
  });
  // Drawing waits for the next frame.
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
}

/** What the API answers in one piece. */
export async function ask(path, body, key = '') {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}` };
  const reply = await fetch(`${SERVER}/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  assert.equal(reply.status, 200);
  return (await reply.json()).choices[0];
}

/** The steps of an answer as the API streams them. */
export async function steps(body) {
  const request = { ...body, stream: true, diffusion: { ...body.diffusion, progress: true } };
  const headers = { 'content-type': 'application/json' };
  const reply = await fetch(`${SERVER}/v1/completions`, { method: 'POST', headers, body: JSON.stringify(request) });
  const lines = (await reply.text()).split('\n').filter((line) => line.startsWith('data: {'));
  const chunks = lines.map((line) => JSON.parse(line.slice('data: '.length)).choices[0]?.diffusion?.progress);
  return chunks.filter(Boolean);
}

/** One figure of the server's metrics. */
export async function metric(name) {
  const text = await (await fetch(`${SERVER}/metrics`)).text();
  const line = text.split('\n').find((found) => found.startsWith(`${name} `));
  return line ? Number(line.split(' ').at(-1)) : 0;
}

/** What is shown of an answer: text, verdict, figures, and the states and texts of its tokens. */
export const shown = (page, method) =>
  page.locator(`.answer[data-method=${method}]`).evaluate((answer) => ({
    text: answer.querySelector('.text').textContent,
    verdict: answer.querySelector('.verdict').textContent,
    figures: Object.fromEntries(
      [...answer.querySelectorAll('.figure')].map((row) => [row.dataset.figure, row.querySelector('dd').firstChild.textContent]),
    ),
    states: [...answer.querySelectorAll('.token')].map((token) => token.dataset.state),
    texts: [...answer.querySelectorAll('.token')].map((token) => token.textContent),
    revised: [...answer.querySelectorAll('.token')].flatMap((token, position) => token.matches('.revised') ? [position] : []),
  }));
