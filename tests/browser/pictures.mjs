// Pictures of the page for the documentation, of a real run: `node pictures.mjs FOLDER`.

import { join } from 'node:path';
import { close, run, visit } from './browser.mjs';

const folder = process.argv[2];
const FRAGMENT = `#${new URLSearchParams({
  prompt: 'Numbers: [64, 57, 7]\nTarget: 49', method: 'evotoken', max_tokens: 8, schedule: 'steps', amount: 8, block_length: 8, seed: 1,
  compare: 1,
})}`;

/** The page after some steps, with a token looked at. */
const picture = (name, step, options) => visit(async (page) => {
  await run(page);
  await page.locator('#slider').fill(String(step));
  await page.locator('.answer .token[data-position="1"]').first().click();
  await page.mouse.move(0, 0);
  await page.locator('#canvases').evaluate((canvases) => window.innerWidth < 600 && canvases.scrollIntoView());
  await page.evaluate(() => document.activeElement.blur());
  await page.waitForTimeout(800);
  await page.screenshot({ path: join(folder, name), fullPage: options.fullPage ?? false });
}, { fragment: FRAGMENT, ...options });

await picture('playground-light.png', 5, { viewport: { width: 1240, height: 860 } });
await picture('playground-dark.png', 8, { viewport: { width: 1240, height: 860 }, colorScheme: 'dark' });
await picture('playground-phone.png', 4, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 1.5 });
await close();
console.log(`pictures are in ${folder}`);
