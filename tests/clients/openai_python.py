"""The official Python client against a running server with the bundled model.

    pip install -r tests/clients/openai_python.txt
    python tests/clients/openai_python.py http://127.0.0.1:8000
"""

import asyncio
import json
import re
import sys
import time
from typing import Literal

import openai
import pydantic

QUESTION = "Numbers: [30, 100, 93]\nTarget: 23"
MESSAGES = [{"role": "user", "content": QUESTION}]
DIFFUSION = {"diffusion": {"block_length": 4}}


def refused(error, call, **arguments):
    """The error that a call ends with."""
    try:
        call(**arguments)
    except error as found:
        return found
    raise AssertionError(f"accepted: {arguments}")


def text(client, **parameters):
    """A completion of the question, with more or other parameters."""
    return client.completions.create(**{"model": "countdown", "prompt": QUESTION, "max_tokens": 32} | parameters)


def ask(client, **parameters):
    """A chat about the question, with more or other parameters."""
    return client.chat.completions.create(
        **{"model": "countdown", "messages": MESSAGES, "max_completion_tokens": 32} | parameters
    )


def tokenized(client, **body):
    """Token ids of a text; no part of OpenAI's API, so the client's bare POST has to do."""
    path = str(client.base_url).removesuffix("v1/") + "tokenize"
    return client.post(path, body=body, cast_to=dict)["tokens"]


def models(client):
    found = client.models.list().data
    assert [model.id for model in found] == ["countdown"] and found[0].object == "model", found
    assert client.models.retrieve("countdown").max_model_len == 512
    error = refused(openai.NotFoundError, client.models.retrieve, model="other/model")
    assert error.code == "model_not_found", error


def whole_answers(client):
    chat = ask(client, n=2)
    answer = chat.choices[0].message.content
    assert answer and chat.choices[1].message.content == answer, chat
    assert chat.choices[0].message.role == "assistant" and chat.choices[0].finish_reason == "stop", chat
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens > 0, chat
    assert chat.choices[0].diffusion["nfe"] >= 1, chat
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    chat = ask(client, messages=parts, store=True, user="me")
    assert chat.choices[0].message.content == answer, chat
    completion = text(client)
    assert completion.choices[0].text == answer and completion.object == "text_completion", completion


def several_prompts(client):
    """Texts and token ids, alone and in lists; `n` answers for each, prompt by prompt."""
    other = "Numbers: [83, 18, 75]\nTarget: 10"
    single = [text(client).choices[0].text, text(client, prompt=other).choices[0].text]
    several = text(client, prompt=[QUESTION, other], n=2)
    assert [choice.text for choice in several.choices] == [single[0]] * 2 + [single[1]] * 2, several
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3], several
    ids = [tokenized(client, prompt=prompt) for prompt in (QUESTION, other)]
    assert text(client, prompt=ids[0]).choices[0].text == single[0]
    assert [choice.text for choice in text(client, prompt=ids).choices] == single


def chat_stream(client):
    answer = ask(client, extra_body=DIFFUSION).choices[0].message.content
    options = {"include_usage": True}
    chunks = list(ask(client, extra_body=DIFFUSION, stream=True, stream_options=options))
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert deltas[0].delta.role == "assistant" and deltas[-1].finish_reason == "stop", chunks
    assert len(deltas) > 3 and "".join(choice.delta.content or "" for choice in deltas) == answer, chunks
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0, chunks
    assert len({chunk.id for chunk in chunks}) == 1, chunks


def usage_on_every_chunk(client):
    """vLLM's option: with it programs that measure know how many tokens a chunk brought."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    whole = text(client, extra_body=DIFFUSION).usage
    for chunks in (
        list(ask(client, stream=True, stream_options=options, extra_body=DIFFUSION)),
        list(text(client, stream=True, stream_options=options, extra_body=DIFFUSION)),
    ):
        counts = [chunk.usage.completion_tokens for chunk in chunks]
        assert counts == sorted(counts) and counts[-1] == whole.completion_tokens, chunks
        assert 0 < counts[-4] < counts[-1] and chunks[0].usage.prompt_tokens == whole.prompt_tokens, chunks


def chat_stream_helper(client):
    """The client's own reader of streams, which puts the chunks together again."""
    with client.chat.completions.stream(
        model="countdown", messages=MESSAGES, max_completion_tokens=32, extra_body=DIFFUSION
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content == ask(client).choices[0].message.content, final


def completion_stream(client):
    chunks = list(text(client, extra_body=DIFFUSION, n=2, stream=True))
    answers = ["", ""]
    for chunk in chunks:
        answers[chunk.choices[0].index] += chunk.choices[0].text
    assert answers == [text(client, extra_body=DIFFUSION).choices[0].text] * 2, chunks
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason]
    assert ends == ["stop", "stop"], chunks


def diffusion_settings(client):
    """`extra_body` carries what OpenAI's API has no field for."""
    steps = {"diffusion": {"method": "mask", "steps": 8, "block_length": 8, "cache": "none"}}
    report = text(client, max_tokens=16, extra_body=steps).choices[0].diffusion
    assert report["nfe"] <= 8 and report["revisions"] == 0, report
    error = refused(openai.BadRequestError, text, client=client, extra_body={"diffusion": {"step": 8}})
    assert error.code == "invalid_value" and "step" in error.message, error


def progress_chunks(client):
    """What every denoising step left behind, in chunks that the client's readers take for ordinary ones."""
    watched = {"diffusion": {"block_length": 4, "progress": True}}
    plain = text(client, extra_body=DIFFUSION).choices[0].text
    for chunks in (
        list(text(client, extra_body=watched, stream=True)),
        list(ask(client, extra_body=watched, stream=True)),
    ):
        choices = [chunk.choices[0] for chunk in chunks]
        told = [choice for choice in choices if "progress" in (choice.model_extra.get("diffusion") or {})]
        steps = [choice.diffusion["progress"] for choice in told]
        assert steps and [step["step"] for step in steps] == sorted({step["step"] for step in steps}), steps
        assert not any(choice.finish_reason for choice in told), told
        assert not any(getattr(choice, "text", "") for choice in told), told
        lists = ("states", "tokens", "texts", "confidences", "candidate_tokens")
        for step in steps:
            assert {len(step[name]) for name in lists} == {step["positions"][1] - step["positions"][0]}, step
        said = [choice.text if hasattr(choice, "text") else choice.delta.content or "" for choice in choices]
        assert "".join(said) == plain, chunks
        assert choices[-1].diffusion["nfe"] == steps[-1]["step"], chunks
    with client.chat.completions.stream(
        model="countdown", messages=MESSAGES, max_completion_tokens=32, extra_body=watched
    ) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == plain


def raw_responses(client):
    raw = client.chat.completions.with_raw_response.create(model="countdown", messages=MESSAGES)
    assert raw.status_code == 200 and raw.headers["content-type"] == "application/json", raw.headers
    assert raw.headers["x-request-id"] and raw.parse().choices[0].message.content, raw.headers
    with client.completions.with_streaming_response.create(
        model="countdown", prompt=QUESTION, stream=True
    ) as response:
        assert response.headers["content-type"] == "text/event-stream", response.headers
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]", lines


def cancelled_stream(client):
    """A stream that is closed early takes nothing of the server's time any more."""
    page = str(client.base_url).removesuffix("v1/") + "metrics"

    def cancelled():
        lines = client.get(page, cast_to=str).splitlines()
        name = 'evotoken_sequences_finished_total{outcome="cancelled"} '
        return next(int(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = cancelled()
    slow = {"diffusion": {"method": "mask", "steps": 480, "block_length": 4, "cache": "none"}, "ignore_eos": True}
    stream = text(client, max_tokens=480, stream=True, extra_body=slow)
    assert next(iter(stream)).choices[0].finish_reason is None
    stream.close()
    deadline = time.monotonic() + 60
    while cancelled() == before:
        assert time.monotonic() < deadline, "the sequence was not cancelled"
        time.sleep(0.02)


async def asynchronous(url):
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        ask = {"model": "countdown", "messages": MESSAGES, "max_completion_tokens": 32}
        chats = await asyncio.gather(*(client.chat.completions.create(**ask) for _ in range(8)))
        answer = chats[0].choices[0].message.content
        assert answer and all(chat.choices[0].message.content == answer for chat in chats), chats
        stream = await client.chat.completions.create(**ask, stream=True)
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert streamed == answer, streamed


def completion_logprobs(client):
    whole = text(client, logprobs=2).choices[0]
    tokens = whole.logprobs.tokens
    assert "".join(tokens[:-1]) == whole.text and tokens[-1] == "<eos>", whole
    places = zip(tokens, whole.logprobs.token_logprobs, whole.logprobs.top_logprobs, strict=True)
    assert all(top[token] == score <= 0 and len(top) in (2, 3) for token, score, top in places), whole
    chunks = list(text(client, logprobs=2, stream=True, extra_body=DIFFUSION))
    streamed = [token for chunk in chunks for token in chunk.choices[0].logprobs.tokens]
    assert streamed == tokens, chunks


def chat_logprobs(client):
    chat = ask(client, logprobs=True, top_logprobs=3).choices[0]
    content = chat.logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == chat.message.content, chat
    assert all(token.top_logprobs[0].logprob >= token.logprob for token in content), chat


def echo_and_scoring(client):
    """`echo`, and the way of evaluation harnesses: which of two continuations is more probable?"""
    echoed = text(client, echo=True).choices[0].text
    assert echoed == QUESTION + text(client).choices[0].text, echoed

    def score(prompt):
        found = text(client, prompt=prompt, max_tokens=1, echo=True, logprobs=1, temperature=0)
        logprobs = found.choices[0].logprobs
        assert logprobs.token_logprobs[0] is None and found.choices[0].text.startswith(prompt), found
        start = next(n for n, offset in enumerate(logprobs.text_offset) if offset >= len(QUESTION))
        return sum(logprobs.token_logprobs[start:-1])

    right, wrong = score(QUESTION + "(93+30)-100"), score(QUESTION + "(93*30)-100")
    assert wrong < right <= 0, (right, wrong)


def stop_strings(client):
    plain = text(client).choices[0].text
    stopped = text(client, stop=["+", ")"]).choices[0]
    assert stopped.text == plain.split("+")[0] and stopped.finish_reason == "stop", stopped
    chunks = list(ask(client, stop=")-", stream=True, extra_body={"diffusion": {"block_length": 2}}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == plain.split(")-")[0], chunks


def seeds(client):
    hot = {"temperature": 1.5, "max_tokens": 24, "n": 4, "extra_body": {"ignore_eos": True}}
    first, again, other = (
        [choice.text for choice in text(client, seed=seed, **hot).choices] for seed in (11, 11, 12)
    )
    assert first == again != other and len(set(first)) > 1, (first, again, other)


def lengths(client):
    full = text(client, max_tokens=12, extra_body={"ignore_eos": True})
    assert full.usage.completion_tokens == 12 and full.choices[0].finish_reason == "length", full
    assert ask(client, max_completion_tokens=2).choices[0].finish_reason == "length"
    text(client, extra_body={"min_tokens": 3})


def sampling(client):
    plain = text(client).choices[0].text
    assert text(client, temperature=1.5, top_p=0.0, seed=1).choices[0].text == plain
    assert text(client, temperature=1.5, seed=1, extra_body={"top_k": 1}).choices[0].text == plain
    plus = tokenized(client, prompt="+", add_special_tokens=False)
    assert "+" in plain and "+" not in text(client, logit_bias={str(plus[0]): -100}).choices[0].text
    text(client, presence_penalty=1.0, frequency_penalty=1.0, extra_body={"repetition_penalty": 1.2})


def best_of(client):
    best = text(client, n=2, best_of=5, temperature=1.0, seed=3, logprobs=0)
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in best.choices]
    assert len(means) == 2 and means[0] >= means[1], best


def suffix(client):
    gap = text(client, prompt="Numbers: [30, 100, 93]\nTarget: ", suffix="(93+30)-100", max_tokens=2)
    assert gap.usage.completion_tokens <= 2, gap


def guided_choice_and_regex(client):
    choices = ["(1+2)-3", "(93+30)-100"]
    assert text(client, extra_body={"guided_choice": choices}).choices[0].text == choices[1]
    assert text(client, extra_body={"structured_outputs": {"choice": choices[:1]}}).choices[0].text == choices[0]
    pattern = r"[0-9]{1,4}[+*][0-9]{1,4}"
    hot = {"temperature": 1.2, "n": 4, "extra_body": {"guided_regex": pattern, **DIFFUSION}}
    answers = [choice.text for choice in text(client, seed=2, **hot).choices]
    assert all(re.fullmatch(pattern, answer) for answer in answers), answers
    streamed = ["", "", "", ""]
    for chunk in text(client, seed=2, stream=True, **hot):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == answers, (streamed, answers)
    error = refused(openai.BadRequestError, text, client=client, extra_body={"guided_regex": "("})
    assert error.param == "guided_regex", error


class Solution(pydantic.BaseModel):
    """What a client may want as JSON."""

    target: int
    sign: Literal["plus", "minus"]


def json_answers(client):
    """`response_format`, also the way of the client's own `parse`, which sends a strict schema of a pydantic model."""
    plain = ask(client, response_format={"type": "text"}).choices[0].message.content
    assert plain == ask(client).choices[0].message.content
    answer = ask(client, max_completion_tokens=64, response_format={"type": "json_object"}).choices[0]
    assert isinstance(json.loads(answer.message.content), dict), answer
    parsed = client.chat.completions.parse(
        model="countdown", messages=MESSAGES, max_completion_tokens=64, response_format=Solution
    ).choices[0]
    assert isinstance(parsed.message.parsed, Solution) and parsed.finish_reason == "stop", parsed
    schema = Solution.model_json_schema()
    guided = text(client, max_tokens=64, extra_body={"guided_json": schema}).choices[0].text
    Solution.model_validate_json(guided)


def refusals(client):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    error = refused(openai.BadRequestError, ask, client=client, tools=tools)
    assert (error.param, error.code) == ("tools", "unsupported_parameter"), error
    error = refused(openai.BadRequestError, ask, client=client, n=0)
    assert (error.param, error.code, error.type) == ("n", "invalid_value", "invalid_request_error"), error
    error = refused(openai.BadRequestError, text, client=client, max_tokens=100_000)
    assert error.code == "context_length_exceeded", error
    error = refused(openai.NotFoundError, ask, client=client, model="other")
    assert error.code == "model_not_found", error
    error = refused(openai.NotFoundError, client.embeddings.create, model="countdown", input="a")
    assert error.body["message"] and error.request_id, error
    refused(openai.NotFoundError, client.responses.create, model="countdown", input="a")
    # With `stream`, what is refused is still a status, not an event.
    error = refused(openai.BadRequestError, ask, client=client, stream=True, temperature=9)
    assert error.param == "temperature", error


FEATURES = [
    models, whole_answers, several_prompts, chat_stream, usage_on_every_chunk, chat_stream_helper, completion_stream,
    diffusion_settings, progress_chunks, raw_responses, cancelled_stream, completion_logprobs, chat_logprobs,
    echo_and_scoring, stop_strings, seeds, lengths, sampling, best_of, suffix,
    guided_choice_and_regex, json_answers, refusals,
]  # fmt: skip


def main():
    url = sys.argv[1].rstrip("/") + "/v1"
    print(f"openai-python {openai.__version__}", flush=True)
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for feature in FEATURES:
            feature(client)
            print(f"ok {feature.__name__.replace('_', ' ')}", flush=True)
    asyncio.run(asynchronous(url))
    print("ok async client, eight at once", flush=True)


if __name__ == "__main__":
    main()
