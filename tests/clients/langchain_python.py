"""LangChain's chat model and text model against a running server with the bundled model.

    pip install -r tests/clients/langchain_python.txt
    python tests/clients/langchain_python.py http://127.0.0.1:8000
"""

import asyncio
import sys
from importlib.metadata import version
from typing import Literal

import openai
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

QUESTION = "Numbers: [30, 100, 93]\nTarget: 23"
ANSWER = "(93+30)-100"
DIFFUSION = {"diffusion": {"block_length": 4}}


def whole_chat(chat, _):
    found = chat.invoke([SystemMessage("You solve puzzles."), HumanMessage(QUESTION)])
    assert found.content == ANSWER and found.response_metadata["finish_reason"] == "stop", found
    assert found.usage_metadata["output_tokens"] > 0, found
    parts = chat.invoke([HumanMessage([{"type": "text", "text": QUESTION}])])
    assert parts.content == ANSWER, parts


def chat_stream(chat, _):
    chunks = list(chat.stream(QUESTION))
    assert len(chunks) > 3 and "".join(chunk.content for chunk in chunks) == ANSWER, chunks
    assert any(chunk.usage_metadata for chunk in chunks), chunks


def chain(chat, _):
    prompt = ChatPromptTemplate([("user", "Numbers: {numbers}\nTarget: {target}")])
    found = (prompt | chat | StrOutputParser()).invoke({"numbers": "[30, 100, 93]", "target": 23})
    assert found == ANSWER, found


def batch(chat, _):
    assert [found.content for found in chat.batch([QUESTION] * 4)] == [ANSWER] * 4


def stop_strings_and_bound_parameters(chat, _):
    assert chat.invoke(QUESTION, stop=["+"]).content == ANSWER.split("+")[0]
    hot = chat.bind(temperature=1.5, seed=5)
    assert hot.invoke(QUESTION).content == hot.invoke(QUESTION).content


def logprobs(chat, _):
    found = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    content = found.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == ANSWER, found


class Solution(BaseModel):
    """A solved problem."""

    target: int
    sign: Literal["plus", "minus"]


def structured_output(chat, _):
    found = chat.with_structured_output(Solution, method="json_schema").bind(max_tokens=64).invoke(QUESTION)
    assert isinstance(found, Solution), found
    found = chat.bind(max_tokens=64).with_structured_output(None, method="json_mode").invoke(QUESTION)
    assert isinstance(found, dict), found


def errors(chat, _):
    try:
        chat.bind(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]).invoke(QUESTION)
    except openai.BadRequestError as error:
        assert error.code == "unsupported_parameter", error
    else:
        raise AssertionError("tools were accepted")


def text_model(_, text):
    assert text.invoke(QUESTION) == ANSWER
    assert "".join(text.stream(QUESTION)) == ANSWER
    found = text.generate([QUESTION, QUESTION])
    assert [answers[0].text for answers in found.generations] == [ANSWER] * 2, found


async def asynchronous(chat):
    found = await asyncio.gather(*(chat.ainvoke(QUESTION) for _ in range(4)))
    assert [message.content for message in found] == [ANSWER] * 4, found
    assert "".join([chunk.content async for chunk in chat.astream(QUESTION)]) == ANSWER


FEATURES = [
    whole_chat, chat_stream, chain, batch, stop_strings_and_bound_parameters, logprobs, structured_output, errors,
    text_model,
]  # fmt: skip


def main():
    print(f"langchain-openai {version('langchain-openai')}, openai-python {openai.__version__}", flush=True)
    server = {"base_url": sys.argv[1].rstrip("/") + "/v1", "api_key": "none", "max_retries": 0, "model": "countdown"}
    chat = ChatOpenAI(**server, temperature=0, max_tokens=32, stream_usage=True, extra_body=DIFFUSION)
    text = OpenAI(**server, temperature=0, max_tokens=32)
    for feature in FEATURES:
        feature(chat, text)
        print(f"ok {feature.__name__.replace('_', ' ')}", flush=True)
    asyncio.run(asynchronous(chat))
    print("ok async", flush=True)


if __name__ == "__main__":
    main()
