"""LiteLLM, as a plain OpenAI client and as a client of vLLM, against a running server with the bundled model.

    pip install -r tests/clients/litellm_python.txt
    python tests/clients/litellm_python.py http://127.0.0.1:8000
"""

import asyncio
import os
import sys
from importlib.metadata import version
from typing import Literal

# Prices of other people's models are of no use here, and nothing but the server should be asked.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True

QUESTION = "Numbers: [30, 100, 93]\nTarget: 23"
ANSWER = "(93+30)-100"
MESSAGES = [{"role": "user", "content": QUESTION}]


def ask(url, **parameters):
    """A chat about the question."""
    server = {"model": "openai/countdown", "api_base": url, "api_key": "none", "num_retries": 0}
    return litellm.completion(**{**server, "messages": MESSAGES, "max_tokens": 32, **parameters})


def text(url, **parameters):
    """A completion of the question."""
    server = {"model": "text-completion-openai/countdown", "api_base": url, "api_key": "none", "num_retries": 0}
    return litellm.text_completion(**{**server, "prompt": QUESTION, "max_tokens": 32, **parameters})


def said(chunks):
    """What the chunks of a chat say; a chunk with the usage has no choices."""
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def refused(error, call, *arguments, **parameters):
    """The error that a call ends with."""
    try:
        call(*arguments, **parameters)
    except error as found:
        return found
    raise AssertionError(f"accepted: {parameters}")


def whole_chat(url):
    found = ask(url)
    assert found.choices[0].message.content == ANSWER and found.choices[0].finish_reason == "stop", found
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens, found
    assert [choice.message.content for choice in ask(url, n=2).choices] == [ANSWER] * 2


def chat_stream(url):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(url, **options, extra_body={"diffusion": {"block_length": 4}}))
    assert said(chunks) == ANSWER, chunks
    whole = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert whole.choices[0].message.content == ANSWER and whole.usage.completion_tokens > 0, whole


def vllm_provider(url):
    found = ask(url, model="hosted_vllm/countdown", extra_body={"min_tokens": 2, "repetition_penalty": 1.0})
    assert found.choices[0].message.content == ANSWER, found
    chunks = list(ask(url, model="hosted_vllm/countdown", stream=True))
    assert said(chunks) == ANSWER, chunks


def text_completion(url):
    found = text(url, logprobs=2)
    assert found.choices[0].text == ANSWER, found
    assert all(score <= 0 for score in found.choices[0].logprobs.token_logprobs), found
    assert "".join(chunk.choices[0].text or "" for chunk in text(url, stream=True)) == ANSWER
    several = text(url, prompt=[QUESTION, QUESTION])
    assert [choice.text for choice in several.choices] == [ANSWER] * 2, several


def sampling_and_stop_strings(url):
    assert ask(url, stop=["+"]).choices[0].message.content == ANSWER.split("+")[0]
    hot = {"temperature": 1.5, "seed": 5, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5}
    assert ask(url, **hot).choices[0].message.content == ask(url, **hot).choices[0].message.content
    scored = ask(url, logprobs=True, top_logprobs=2).choices[0]
    assert "".join(token.token for token in scored.logprobs.content) == ANSWER, scored


class Solution(BaseModel):
    """What a client may want as JSON."""

    target: int
    sign: Literal["plus", "minus"]


def structured_output(url):
    for model in ("openai/countdown", "hosted_vllm/countdown"):
        found = ask(url, model=model, max_tokens=64, response_format=Solution)
        Solution.model_validate_json(found.choices[0].message.content)
    found = ask(url, extra_body={"guided_choice": ["yes", "no"]})
    assert found.choices[0].message.content in ("yes", "no"), found


def batch(url):
    server = {"model": "openai/countdown", "api_base": url, "api_key": "none", "max_tokens": 32}
    found = litellm.batch_completion(**server, messages=[MESSAGES] * 4)
    assert [reply.choices[0].message.content for reply in found] == [ANSWER] * 4, found


def errors(url):
    error = refused(litellm.BadRequestError, ask, url, n=0)
    assert "invalid_value" in str(error) or "n: " in str(error), error
    refused(litellm.NotFoundError, ask, url, model="openai/other")
    refused(litellm.BadRequestError, ask, url, max_tokens=100_000)
    refused(litellm.BadRequestError, ask, url, stream=True, temperature=9)


async def asynchronous(url):
    server = {"model": "openai/countdown", "api_base": url, "api_key": "none", "max_tokens": 32}
    found = await asyncio.gather(*(litellm.acompletion(**server, messages=MESSAGES) for _ in range(4)))
    assert [reply.choices[0].message.content for reply in found] == [ANSWER] * 4, found
    stream = await litellm.acompletion(**server, messages=MESSAGES, stream=True)
    assert said([chunk async for chunk in stream]) == ANSWER


def main():
    url = sys.argv[1].rstrip("/") + "/v1"
    print(f"litellm {version('litellm')}, openai-python {version('openai')}", flush=True)
    for feature in (
        whole_chat, chat_stream, vllm_provider, text_completion, sampling_and_stop_strings, structured_output, batch,
        errors,
    ):  # fmt: skip
        feature(url)
        print(f"ok {feature.__name__.replace('_', ' ')}", flush=True)
    asyncio.run(asynchronous(url))
    print("ok async", flush=True)


if __name__ == "__main__":
    main()
