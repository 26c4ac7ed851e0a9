// The server's public API, as any client sees it. Addresses are relative: the page also works behind a proxy's path.

/** A reply that is no answer, or none at all. */
export class ApiProblem extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

const headers = (key) => (key ? { authorization: `Bearer ${key}` } : {});

async function send(path, key, init = {}) {
  let response;
  try {
    response = await fetch(path, { ...init, headers: { ...init.headers, ...headers(key) } });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiProblem('The server cannot be reached.');
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const { message = `The server answered ${response.status}.`, code, param } = body?.error ?? {};
  throw new ApiProblem(message, { status: response.status, code, param });
}

/** What is served: its name, how long a prompt and its answer may be, and whether it takes conversations. */
export async function describe(key) {
  const models = await send('v1/models', key).then((reply) => reply.json());
  const tokenizer = await send('tokenizer_info', key).then((reply) => reply.json());
  const [model] = models.data;
  return { name: model.id, root: model.root, room: model.max_model_len, chats: Boolean(tokenizer.chat_template) };
}

/** The data of server-sent events, as they come. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n\n');
    rest = parts.pop();
    // Lines that begin with a colon only keep the connection open.
    for (const part of parts) if (part.startsWith('data: ')) yield part.slice('data: '.length);
  }
}

/** Ask for a stream, and tell `take(chunk, milliseconds)` of every chunk. */
export async function stream(path, request, { key, signal, take }) {
  const init = { method: 'POST', body: JSON.stringify(request), signal };
  const response = await send(path, key, { ...init, headers: { 'content-type': 'application/json' } });
  for await (const data of events(response.body)) {
    if (data === '[DONE]') return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiProblem(chunk.error.message, chunk.error);
    take(chunk, performance.now());
  }
  throw new ApiProblem('The answer broke off.');
}
