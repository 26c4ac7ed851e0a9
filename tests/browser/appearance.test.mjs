// How the playground looks and reads: phones, light and dark, motion, screen readers.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, test } from 'node:test';
import { close, run, shown, visit } from './browser.mjs';

after(close);

const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const FRAGMENT = `#${new URLSearchParams({
  prompt: 'Numbers: [39, 31, 66]\nTarget: 4', max_tokens: 8, schedule: 'steps', amount: 8, block_length: 8, seed: 1, compare: 1,
})}`;

const goTo = async (page, step) => {
  await page.locator('#slider').fill(String(step));
  await page.waitForFunction((text) => document.getElementById('step').textContent.startsWith(text), `step ${step} of`);
};

/** The first step after which a token has changed. */
async function revisedStep(page) {
  for (let step = 1; step <= 8; step += 1) {
    await goTo(page, step);
    if ((await shown(page, 'evotoken')).revised.length) return step;
  }
  return assert.fail('no token changed');
}

const violations = async (page) => {
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(AXE);
  const { passes, violations: found } = await page.evaluate(() => window.axe.run(document));
  assert.ok(passes.some(({ id }) => id === 'color-contrast'), 'contrasts were measured');
  return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join('; ')}`);
};

for (const colorScheme of ['light', 'dark']) {
  test(`axe finds nothing wrong, ${colorScheme}`, () => visit(async (page) => {
    assert.deepEqual(await violations(page), [], 'before a run');
    await run(page);
    await page.hover('.token[data-position="3"]');
    for (const step of [0, 1, 4, 8]) {
      await goTo(page, step);
      await page.waitForTimeout(300);
      assert.deepEqual(await violations(page), [], `step ${step}`);
    }
    await page.click('[data-mode=chat]');
    await run(page);
    assert.deepEqual(await violations(page), [], 'a conversation');
  }, { colorScheme, fragment: FRAGMENT, bypassCSP: true, reducedMotion: 'reduce' }));
}

test('dark windows get a dark page', () => visit(async (page) => {
  const lightness = await page.evaluate(() => {
    const [red, green, blue] = getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).map(Number);
    return (red + green + blue) / 3;
  });
  assert.ok(lightness < 40, `${lightness}`);
}, { colorScheme: 'dark' }));

for (const width of [320, 390]) {
  test(`nothing is wider than a phone of ${width} pixels, and a tap shows a token`, () => visit(async (page) => {
    await run(page);
    const size = () => page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
    const [content, window] = await size();
    assert.ok(content <= window, `${content} of ${window}`);
    const top = await page.locator('.token').first().evaluate((token) => token.getBoundingClientRect().top);
    assert.ok(top >= 0 && top < 800, `the answer is in sight: ${top}`);
    const [first, second] = await page.locator('.answer').evaluateAll((all) => all.map((one) => one.getBoundingClientRect().top));
    assert.ok(second > first, 'one above the other');
    await page.locator('.answer[data-method=mask] .token').nth(2).tap();
    await page.waitForFunction(() => document.querySelector('#inspector h2')?.textContent === 'Position 2');
    assert.deepEqual(await size(), [content, window]);
    const small = await page.locator('button:visible, input:visible, select:visible').evaluateAll((all) =>
      all.map((one) => [one.id || one.textContent, one.getBoundingClientRect()]).filter(([, { height }]) => height < 13).map(([name]) => name));
    assert.deepEqual(small, []);
  }, { viewport: { width, height: 800 }, hasTouch: true, isMobile: true, fragment: FRAGMENT }));
}

test('a token that changes flashes', () => visit(async (page) => {
  await run(page);
  await revisedStep(page);
  const name = await page.locator('.canvas .token.revised').first().evaluate((token) => getComputedStyle(token).animationName);
  assert.match(name, /^flash-/);
}, { fragment: FRAGMENT }));

test('nothing moves for those who want no motion, and what changed is still marked', () => visit(async (page) => {
  assert.equal(await page.inputValue('#pace'), '0');
  await run(page);
  await revisedStep(page);
  const style = await page.locator('.canvas .token.revised').first().evaluate((token) => {
    const { animationName, transitionDuration, outlineStyle } = getComputedStyle(token);
    return { animationName, transitionDuration, outlineStyle, mark: getComputedStyle(token, '::after').content };
  });
  assert.deepEqual(style, { animationName: 'none', transitionDuration: '0s', outlineStyle: 'solid', mark: '"↻"' });
}, { fragment: FRAGMENT, reducedMotion: 'reduce' }));

test('states are told in words and borders, not by colour alone', () => visit(async (page) => {
  await run(page);
  await goTo(page, 3);
  const tokens = await page.locator('.answer[data-method=evotoken] .token').evaluateAll((all) => all.map((token) => ({
    state: token.dataset.state, label: token.getAttribute('aria-label'), border: getComputedStyle(token).borderTopStyle,
  })));
  const states = new Map(tokens.map(({ state, label, border }) => [state, { label, border }]));
  assert.match(states.get('soft').label, /, soft: .*%/);
  assert.match(states.get('soft_mask').label, /, soft mask: .*%/);
  assert.notEqual(states.get('soft').border, states.get('soft_mask').border);
}, { fragment: FRAGMENT }));
