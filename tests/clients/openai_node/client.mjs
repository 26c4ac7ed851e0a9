// The official JavaScript client against a running server with the bundled model.
//
//     npm ci --prefix tests/clients/openai_node
//     tests/clients/openai_node/node_modules/.bin/node tests/clients/openai_node/client.mjs http://127.0.0.1:8000

import assert from "node:assert/strict";

import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { VERSION } from "openai/version";

const url = process.argv[2].replace(/\/$/, "");
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const question = "Numbers: [30, 100, 93]\nTarget: 23";
const ask = { model: "countdown", messages: [{ role: "user", content: question }], max_completion_tokens: 32 };
const complete = { model: "countdown", prompt: question, max_tokens: 32 };
const small = { diffusion: { block_length: 4 } };

/** All chunks of a stream. */
async function all(stream) {
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return chunks;
}

/** A number of /metrics. */
async function metric(name) {
    const page = await (await fetch(`${url}/metrics`)).text();
    return Number(page.split("\n").find((line) => line.startsWith(`${name} `)).slice(name.length + 1));
}

async function answer() {
    return (await client.completions.create(complete)).choices[0].text;
}

const features = {
    async "models"() {
        const page = await client.models.list();
        assert.deepEqual(page.data.map((model) => model.id), ["countdown"]);
        assert.equal((await client.models.retrieve("countdown")).max_model_len, 512);
    },
    async "whole answers"() {
        const chat = await client.chat.completions.create({ ...ask, n: 2, user: "me", store: false });
        assert.equal(chat.choices[0].message.content, await answer());
        assert.equal(chat.choices[1].message.content, await answer());
        assert.equal(chat.choices[0].finish_reason, "stop");
        assert.equal(chat.usage.total_tokens, chat.usage.prompt_tokens + chat.usage.completion_tokens);
        assert.ok(chat.choices[0].diffusion.nfe >= 1);
    },
    async "content parts"() {
        const messages = [{ role: "user", content: [{ type: "text", text: question }] }];
        const chat = await client.chat.completions.create({ ...ask, messages });
        assert.equal(chat.choices[0].message.content, await answer());
    },
    async "chat stream"() {
        const options = { stream: true, stream_options: { include_usage: true } };
        const chunks = await all(await client.chat.completions.create({ ...ask, ...small, ...options }));
        const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
        assert.equal(text, await answer());
        assert.equal(chunks[0].choices[0].delta.role, "assistant");
        assert.ok(chunks.length > 4 && chunks.at(-1).usage.completion_tokens > 0);
    },
    async "chat stream helper"() {
        const runner = client.chat.completions.stream({ ...ask, ...small });
        const pieces = [];
        runner.on("content", (delta) => pieces.push(delta));
        const final = await runner.finalChatCompletion();
        assert.equal(final.choices[0].message.content, await answer());
        assert.equal(pieces.join(""), await answer());
    },
    async "completion stream"() {
        const chunks = await all(await client.completions.create({ ...complete, ...small, stream: true }));
        assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), await answer());
        assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
    },
    async "progress chunks"() {
        const watched = { ...complete, diffusion: { block_length: 4, progress: true }, stream: true };
        const choices = (await all(await client.completions.create(watched))).map((chunk) => chunk.choices[0]);
        assert.equal(choices.map((choice) => choice.text).join(""), await answer());
        const steps = choices.flatMap((choice) => choice.diffusion?.progress ?? []);
        assert.ok(steps.length > 0 && steps.every((step) => step.texts.length === step.states.length));
        assert.equal(choices.at(-1).diffusion.nfe, steps.at(-1).step);
    },
    async "cancelled stream"() {
        const name = 'evotoken_sequences_finished_total{outcome="cancelled"}';
        const before = await metric(name);
        const slow = { ignore_eos: true, diffusion: { method: "mask", steps: 480, block_length: 4, cache: "none" } };
        const stream = await client.completions.create({ ...complete, ...slow, max_tokens: 480, stream: true });
        for await (const chunk of stream) {
            assert.equal(chunk.choices[0].finish_reason, null);
            break;
        }
        stream.controller.abort();
        const deadline = Date.now() + 60_000;
        while ((await metric(name)) === before) {
            assert.ok(Date.now() < deadline, "the sequence was not cancelled");
            await new Promise((resolve) => setTimeout(resolve, 20));
        }
    },
    async "raw responses"() {
        const { data, response } = await client.chat.completions.create(ask).withResponse();
        assert.equal(response.status, 200);
        assert.ok(response.headers.get("x-request-id"));
        assert.equal(data.choices[0].message.content, await answer());
        const bare = await client.completions.create(complete).asResponse();
        assert.equal((await bare.json()).object, "text_completion");
    },
    async "logprobs"() {
        const { logprobs, text } = (await client.completions.create({ ...complete, logprobs: 2 })).choices[0];
        assert.equal(logprobs.tokens.slice(0, -1).join(""), text);
        assert.ok(logprobs.token_logprobs.every((score) => score <= 0));
        const chat = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 });
        const bytes = chat.choices[0].logprobs.content.flatMap((token) => token.bytes);
        assert.equal(Buffer.from(bytes).toString(), chat.choices[0].message.content);
    },
    async "echo, suffix, stop, seed, best_of"() {
        const text = async (more) => (await client.completions.create({ ...complete, ...more })).choices;
        assert.equal((await text({ echo: true }))[0].text, question + (await answer()));
        assert.equal((await text({ stop: ["+"] }))[0].text, (await answer()).split("+")[0]);
        const hot = { temperature: 1.5, n: 3, seed: 7, ignore_eos: true };
        const texts = (choices) => choices.map((choice) => choice.text);
        assert.deepEqual(texts(await text(hot)), texts(await text(hot)));
        assert.equal((await text({ n: 2, best_of: 4, temperature: 1, seed: 3 })).length, 2);
        assert.equal((await text({ suffix: "(93+30)-100", max_tokens: 2 })).length, 1);
    },
    async "guided answers"() {
        const choices = ["(1+2)-3", "(93+30)-100"];
        const chosen = await client.completions.create({ ...complete, guided_choice: choices });
        assert.equal(chosen.choices[0].text, choices[1]);
        const regex = await client.completions.create({ ...complete, guided_regex: "[0-9]{1,4}[+*][0-9]{1,4}" });
        assert.match(regex.choices[0].text, /^[0-9]{1,4}[+*][0-9]{1,4}$/);
        const properties = { target: { type: "integer" } };
        const schema = { type: "object", properties, required: ["target"], additionalProperties: false };
        const format = { type: "json_schema", json_schema: { name: "solution", strict: true, schema } };
        const parsed = await client.chat.completions.parse({ ...ask, max_completion_tokens: 64, response_format: format });
        assert.ok(Number.isInteger(JSON.parse(parsed.choices[0].message.content).target));
    },
    async "errors"() {
        const chat = (more) => () => client.chat.completions.create({ ...ask, ...more });
        const tools = [{ type: "function", function: { name: "f", parameters: {} } }];
        const is = (kind, fields) => (error) => {
            assert.ok(error instanceof kind, error);
            for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value);
            return true;
        };
        const bad = { type: "invalid_request_error" };
        await assert.rejects(chat({ tools }), is(BadRequestError, { ...bad, code: "unsupported_parameter", param: "tools" }));
        await assert.rejects(chat({ n: 0 }), is(BadRequestError, { ...bad, code: "invalid_value", param: "n" }));
        await assert.rejects(chat({ stream: true, n: 0 }), is(BadRequestError, { code: "invalid_value" }));
        await assert.rejects(chat({ model: "other" }), is(NotFoundError, { code: "model_not_found" }));
        const embeddings = () => client.embeddings.create({ model: "countdown", input: "a" });
        await assert.rejects(embeddings, is(NotFoundError, bad));
    },
    async "eight at once"() {
        const chats = await Promise.all(Array.from({ length: 8 }, () => client.chat.completions.create(ask)));
        for (const chat of chats) assert.equal(chat.choices[0].message.content, await answer());
    },
};

console.log(`openai-node ${VERSION}, Node ${process.version}`);
for (const [name, feature] of Object.entries(features)) {
    await feature();
    console.log(`ok ${name}`);
}
