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
    refusals(client, model)
    print(f"openai {openai.__version__}: passed")


if __name__ == "__main__":
    main()
