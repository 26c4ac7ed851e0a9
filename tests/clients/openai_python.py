"""The official Python client against a running server with the bundled model.

    pip install -r tests/clients/openai_python.txt
    python tests/clients/openai_python.py http://127.0.0.1:8000/v1
"""

import asyncio
import sys

import openai

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


def whole(client, model):
    """The answer to the question, which all other ways of asking must give, too."""
    chat = client.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=32, n=2)
    answer = chat.choices[0].message.content
    assert answer and chat.choices[1].message.content == answer, chat
    assert chat.choices[0].message.role == "assistant" and chat.choices[0].finish_reason == "stop", chat
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens > 0, chat
    assert chat.choices[0].diffusion["nfe"] >= 1, chat
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    chat = client.chat.completions.create(model=model, messages=parts, max_tokens=32, store=True, user="me")
    assert chat.choices[0].message.content == answer, chat
    completion = client.completions.create(model=model, prompt=QUESTION, max_tokens=32)
    assert completion.choices[0].text == answer, completion
    return answer


def streams(client, model):
    ask = {"model": model, "messages": MESSAGES, "max_completion_tokens": 32, "extra_body": DIFFUSION}
    answer = client.chat.completions.create(**ask).choices[0].message.content
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=options))
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert deltas[0].delta.role == "assistant" and deltas[-1].finish_reason == "stop", chunks
    assert "".join(choice.delta.content or "" for choice in deltas) == answer, chunks
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0, chunks
    ask = {"model": model, "prompt": QUESTION, "max_tokens": 32, "extra_body": DIFFUSION}
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True))
    assert text == client.completions.create(**ask).choices[0].text, text


async def concurrent(url, model, answer):
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        ask = {"model": model, "messages": MESSAGES, "max_completion_tokens": 32}
        chats = await asyncio.gather(*(client.chat.completions.create(**ask) for _ in range(8)))
    assert all(chat.choices[0].message.content == answer for chat in chats), chats


def scores(client, model):
    """What is told of tokens, in both shapes."""
    ask = {"model": model, "prompt": QUESTION, "max_tokens": 32}
    whole = client.completions.create(**ask, logprobs=2).choices[0]
    tokens = whole.logprobs.tokens
    assert "".join(tokens[:-1]) == whole.text and tokens[-1] == "<eos>", whole
    places = zip(tokens, whole.logprobs.token_logprobs, whole.logprobs.top_logprobs, strict=True)
    assert all(top[token] == score <= 0 and len(top) in (2, 3) for token, score, top in places), whole
    chunks = list(client.completions.create(**ask, logprobs=2, stream=True, extra_body=DIFFUSION))
    streamed = [token for chunk in chunks for token in chunk.choices[0].logprobs.tokens]
    assert streamed == tokens, chunks
    chat = client.chat.completions.create(
        model=model, messages=MESSAGES, max_completion_tokens=32, logprobs=True, top_logprobs=3
    ).choices[0]
    content = chat.logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == chat.message.content, chat
    assert all(token.top_logprobs[0].logprob >= token.logprob for token in content), chat


def scoring(client, model):
    """The way of evaluation harnesses: which of two continuations is more probable?"""

    def score(text):
        found = client.completions.create(model=model, prompt=text, max_tokens=1, echo=True, logprobs=1, temperature=0)
        logprobs = found.choices[0].logprobs
        assert logprobs.token_logprobs[0] is None and found.choices[0].text.startswith(text), found
        start = next(n for n, offset in enumerate(logprobs.text_offset) if offset >= len(QUESTION))
        return sum(logprobs.token_logprobs[start:-1])

    right, wrong = score(QUESTION + "(93+30)-100"), score(QUESTION + "(93*30)-100")
    assert wrong < right <= 0, (right, wrong)


def choices(client, model):
    """Parameters that change which tokens are chosen."""

    def text(**parameters):
        return client.completions.create(**{"model": model, "prompt": QUESTION, "max_tokens": 32} | parameters)

    plain = text().choices[0].text
    assert text(temperature=1.5, top_p=0.0, seed=1).choices[0].text == plain
    assert text(temperature=1.5, seed=1, extra_body={"top_k": 1}).choices[0].text == plain
    full = text(max_tokens=12, extra_body={"ignore_eos": True})
    assert full.usage.completion_tokens == 12 and full.choices[0].finish_reason == "length", full
    tokenize = str(client.base_url).removesuffix("v1/") + "tokenize"
    plus = client.post(tokenize, body={"prompt": "+", "add_special_tokens": False}, cast_to=dict)
    assert "+" in plain and "+" not in text(logit_bias={str(plus["tokens"][0]): -100}).choices[0].text
    best = text(n=2, best_of=5, temperature=1.0, seed=3, logprobs=0)
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in best.choices]
    assert len(means) == 2 and means[0] >= means[1], best
    gap = text(prompt="Numbers: [30, 100, 93]\nTarget: ", suffix="(93+30)-100", max_tokens=2)
    assert gap.usage.completion_tokens <= 2, gap
    text(presence_penalty=1.0, frequency_penalty=1.0, extra_body={"repetition_penalty": 1.2, "min_tokens": 3})


def refusals(client, model):
    create = client.chat.completions.create
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    error = refused(openai.BadRequestError, create, model=model, messages=MESSAGES, tools=tools)
    assert (error.param, error.code) == ("tools", "unsupported_parameter"), error
    error = refused(openai.BadRequestError, create, model=model, messages=MESSAGES, n=0)
    assert (error.param, error.code) == ("n", "invalid_value"), error
    error = refused(openai.NotFoundError, create, model="other", messages=MESSAGES)
    assert error.code == "model_not_found", error


def main():
    url = sys.argv[1]
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    answer = whole(client, model)
    streams(client, model)
    asyncio.run(concurrent(url, model, answer))
    scores(client, model)
    scoring(client, model)
    choices(client, model)
    refusals(client, model)
    print(f"openai {openai.__version__}: passed")


if __name__ == "__main__":
    main()
