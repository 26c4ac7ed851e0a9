// The playground as a reader meets it, against a running server with the bundled model.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { SERVER, ask, close, finished, metric, run, shown, steps, visit } from './browser.mjs';

after(close);

const PROMPT = 'Numbers: [39, 31, 66]\nTarget: 4';
const STEPWISE = { max_tokens: 8, diffusion: { steps: 8, block_length: 8 } };
const body = (method, more = {}) => ({
  prompt: PROMPT, seed: 1, ...STEPWISE, ...more, diffusion: { ...STEPWISE.diffusion, method, ...more.diffusion },
});
const looksAt = (page, position) =>
  page.waitForFunction((text) => document.querySelector('#inspector h2')?.textContent === text, `Position ${position}`);
const fragment = (more = {}) => `#${new URLSearchParams({
  prompt: PROMPT, method: 'evotoken', max_tokens: 8, schedule: 'steps', amount: 8, block_length: 8, seed: 1, ...more,
})}`;

test('the page loads, names the model and has something to ask', () => visit(async (page) => {
  assert.match(await page.textContent('#model'), /^countdown, up to 512 tokens$/);
  assert.match(await page.inputValue('#prompt'), /^Numbers: \[/);
  assert.ok(await page.isVisible('#tabs'), 'the model takes conversations');
  assert.ok(!(await page.isVisible('#key-row')), 'no key is asked for');
}));

test('both answers are what the API answers in one piece', () => visit(async (page) => {
  await run(page);
  for (const method of ['evotoken', 'mask']) {
    const whole = await ask('v1/completions', body(method));
    const found = await shown(page, method);
    assert.equal(found.text, whole.text);
    assert.equal(found.figures.NFE, String(whole.diffusion.nfe));
    assert.equal(found.figures.revisions, String(whole.diffusion.revisions));
    assert.deepEqual(new Set(found.states), new Set(['decoded']));
  }
  assert.equal((await shown(page, 'evotoken')).figures.revisions, '5');
  assert.match((await shown(page, 'evotoken')).verdict, /Not these numbers|It makes|No expression/);
}, { fragment: fragment({ compare: 1 }) }));

test('several blocks, and the settings of the model, make the same text too', () => visit(async (page) => {
  const prompt = 'Numbers: [30, 100, 93]\nTarget: 23';
  await run(page);
  const found = await shown(page, 'evotoken');
  const whole = await ask('v1/completions', { prompt, max_tokens: 24, diffusion: { method: 'evotoken' } });
  assert.equal(found.text, whole.text);
  assert.equal(found.figures['tokens per pass'], String(whole.diffusion.tokens_per_forward));
  assert.equal(found.verdict, 'Solved.');
  assert.equal(await page.locator('.block').count(), 6);
}, { fragment: `#${new URLSearchParams({ prompt: 'Numbers: [30, 100, 93]\nTarget: 23', max_tokens: 24 })}` }));

test('the slider shows every step as the API told it, in any order', () => visit(async (page) => {
  await run(page);
  const told = await steps(body('evotoken'));
  const slider = page.locator('#slider');
  assert.equal(await slider.getAttribute('max'), String(told.length));
  const drawn = async (step) => {
    await slider.evaluate((range, value) => {
      range.value = value;
      range.dispatchEvent(new Event('input', { bubbles: true }));
    }, step);
    await page.waitForFunction((text) => document.getElementById('step').textContent === text, `step ${step} of ${told.length}`);
    return shown(page, 'evotoken');
  };
  assert.deepEqual(new Set((await drawn(0)).states), new Set(['mask']));
  let revisions = 0;
  for (const order of [[3, 1, 8, 5], [1, 2, 3, 4, 5, 6, 7, 8]]) {
    for (const step of order) {
      const { states, texts, revised, figures } = await drawn(step);
      const progress = told[step - 1];
      assert.deepEqual(states, progress.states);
      assert.deepEqual(texts, progress.texts);
      assert.deepEqual(revised, progress.revised);
      assert.equal(figures.NFE, String(step));
      revisions += order.length === 8 ? revised.length : 0;
    }
  }
  assert.equal(revisions, 5);
  await page.click('#back');
  assert.equal(await slider.inputValue(), '7');
  await page.click('#next');
  assert.equal(await slider.inputValue(), '8');
}, { fragment: fragment() }));

test('steps are played one after the other, and can be paused', () => visit(async (page) => {
  await page.selectOption('#pace', '80');
  await page.click('#run');
  await finished(page);
  assert.equal(await page.textContent('#play'), 'Play');
  await page.selectOption('#pace', '600');
  await page.click('#play');
  await page.waitForFunction(() => document.getElementById('slider').value === '1');
  await page.click('#play');
  const paused = await page.inputValue('#slider');
  await page.waitForTimeout(900);
  assert.equal(await page.inputValue('#slider'), paused);
}, { fragment: fragment() }));

// One block of 480 positions and as many steps, all of them over the whole canvas: it takes far longer than a click.
const LONG = { max_tokens: 480, amount: 480, block_length: 480, cache: 'none' };

test('Stop cancels the answer and frees its slot', () => visit(async (page) => {
  const cancelled = 'evotoken_sequences_finished_total{outcome="cancelled"}';
  const before = await metric(cancelled);
  await run(page, { wait: false });
  await page.waitForFunction(() => Number(document.getElementById('slider').max) > 1);
  assert.equal(await metric('evotoken_sequences_running'), 2);
  await page.click('#stop');
  await page.waitForFunction(() => document.getElementById('status').textContent.startsWith('Stopped'));
  const deadline = Date.now() + 20_000;
  while ((await metric(cancelled)) < before + 2) assert.ok(Date.now() < deadline, 'never cancelled');
  assert.equal(await metric('evotoken_sequences_running'), 0);
  assert.ok(await page.isEnabled('#run') && await page.isDisabled('#stop'));
}, { fragment: fragment({ ...LONG, compare: 1 }) }));

test('everything works without a mouse', () => visit(async (page) => {
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
  const tabTo = async (goal) => {
    for (let stops = 0; stops < 60; stops += 1) {
      if ((await focused()) === goal) return;
      await page.keyboard.press('Tab');
    }
    assert.fail(`the Tab key never came to ${goal}`);
  };
  await tabTo('prompt');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('Numbers: [30, 100, 93]');
  await page.keyboard.press('Enter');
  await page.keyboard.type('Target: 23');
  await page.keyboard.press('Control+Enter');
  await finished(page);
  assert.equal((await shown(page, 'evotoken')).verdict, 'Solved.');
  await tabTo('token');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowRight');
  await looksAt(page, 2);
  assert.ok((await page.locator('.candidate').count()) >= 3);
  await page.keyboard.press('End');
  await looksAt(page, 7);
  await tabTo('slider');
  await page.keyboard.press('Home');
  await page.waitForFunction(() => document.getElementById('step').textContent === 'step 0 of 8');
  await page.keyboard.press('ArrowRight');
  await page.waitForFunction(() => document.getElementById('step').textContent === 'step 1 of 8');
  await page.focus('#next');
  for (let presses = 0; presses < 9; presses += 1) await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.getElementById('step').textContent === 'step 8 of 8');
  assert.equal(await focused(), 'next', 'the end takes the focus from nobody');
}, { fragment: fragment({ compare: 1 }) }));

test('a token under the pointer shows its candidates and what stood there', () => visit(async (page) => {
  await run(page);
  const told = await steps(body('evotoken'));
  const [position] = told.flatMap((step) => step.revised);
  await page.hover(`.token[data-position="${position}"]`);
  await looksAt(page, position);
  const found = await page.locator('.candidate .text').allTextContents();
  assert.deepEqual(found, told.at(-1).candidate_texts[position]);
  const stood = new Set(await page.locator('.moment .token').allTextContents());
  assert.ok(stood.size > 1, 'a token that changed has a history');
}, { fragment: fragment() }));

test('a link keeps the settings and the seed, and no key', () => visit(async (page) => {
  await page.selectOption('[name=method]', 'soft_mask');
  await page.fill('[name=alpha]', '0.5');
  await page.fill('#prompt', 'a & b # ü\n+1');
  await page.waitForURL(/alpha=0\.5/);
  const address = page.url();
  await page.goto('about:blank');
  await page.goto(address);
  await page.waitForSelector('body[data-ready]');
  assert.equal(await page.inputValue('#prompt'), 'a & b # ü\n+1');
  assert.equal(await page.inputValue('[name=method]'), 'soft_mask');
  assert.equal(await page.inputValue('[name=alpha]'), '0.5');
  assert.equal(await page.inputValue('[name=seed]'), '1');
  assert.equal(await page.isChecked('#compare'), true);
  assert.ok(!address.includes('key'));
}, { fragment: fragment({ compare: 1 }) }));

test('the link to an answer holds the seed that the page chose', () => visit(async (page) => {
  await page.fill('[name=seed]', '');
  await run(page);
  await page.click('#link');
  await page.waitForFunction(() => document.getElementById('status').textContent.startsWith('The link'));
  const link = await page.evaluate(() => navigator.clipboard.readText());
  const { prompt, seed } = Object.fromEntries(new URLSearchParams(new URL(link).hash.slice(1)));
  assert.equal(prompt, PROMPT);
  assert.match(seed, /^\d+$/);
}, { fragment: fragment({ temperature: 1 }), permissions: ['clipboard-read', 'clipboard-write'] }));

test('a conversation goes on, and its answers are the API’s', () => visit(async (page) => {
  await page.click('[data-mode=chat]');
  const messages = [];
  for (const content of [PROMPT, 'Numbers: [30, 100, 93]\nTarget: 23']) {
    await page.fill('#prompt', content);
    await run(page);
    messages.push({ role: 'user', content });
    const request = { ...body('evotoken'), messages };
    delete request.prompt;
    const { message } = await ask('v1/chat/completions', request);
    messages.push({ role: 'assistant', content: message.content });
    assert.equal((await shown(page, 'evotoken')).text, message.content);
  }
  assert.deepEqual(await page.locator('.turn .content').allTextContents(), messages.map(({ content }) => content));
  await page.click('#forget');
  assert.equal(await page.locator('.turn').count(), 0);
}, { fragment: fragment() }));

test('a model without a chat template has no conversation', () => visit(async (page) => {
  await page.route('**/tokenizer_info', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), chat_template: null } });
  });
  await page.reload();
  await page.waitForSelector('body[data-ready]');
  assert.ok(!(await page.isVisible('#tabs')));
}));

test('a refused request says why, and the next one works', () => visit(async (page) => {
  await page.click('#run');
  await page.waitForSelector('#problem:not([hidden])');
  assert.match(await page.textContent('#problem'), /max_tokens|512/);
  await page.fill('[name=max_tokens]', '8');
  await run(page);
  assert.ok(!(await page.isVisible('#problem')));
}, { fragment: fragment({ max_tokens: 5000 }), expected: /status of 400/ }));

test('texts are shown as texts, whatever is in them', () => visit(async (page) => {
  await page.click('[data-mode=chat]');
  await page.fill('#prompt', '<img src=x onerror=alert(1)><b>bold</b>');
  await run(page);
  assert.equal(await page.locator('#turns img, #turns b, .canvas img').count(), 0);
  assert.match(await page.locator('.turn .content').first().textContent(), /<img src=x/);
}, { fragment: fragment() }));

test('a server that asks for a key gets it, and the address does not', async () => {
  const server = process.env.EVOTOKEN_KEY_URL;
  await visit(async (page) => {
    await page.waitForSelector('#key-row:not([hidden])');
    await page.fill('#key', 'sesame');
    await page.keyboard.press('Tab');
    await page.waitForSelector('body[data-ready]');
    await run(page);
    assert.equal((await shown(page, 'evotoken')).verdict, 'Solved.');
    assert.ok(!page.url().includes('sesame'));
    await page.reload();
    await page.waitForSelector('body[data-ready]');
  }, { server, ready: false, expected: /status of 401/ });
});

test('the server answered nothing with an error of its own', async () => {
  const text = await (await fetch(`${SERVER}/metrics`)).text();
  assert.deepEqual(text.split('\n').filter((line) => /requests_total\{.*status="5\d\d"/.test(line)), []);
});
