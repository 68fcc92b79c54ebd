"""`langchain-openai`: chat, streams, structured output, tools, logprobs, raw prompts, and the responses path."""

from __future__ import annotations

from cases import ANIMAL, BEGINNING, MODEL, PERSON, WEATHER, case, report, url
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

SETTINGS = {"model": MODEL, "base_url": url(), "api_key": "none", "temperature": 0, "max_retries": 0}
model = ChatOpenAI(**SETTINGS, max_tokens=60)


class Person(BaseModel):
    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return '{"temperature": 7}'


@case
def invoke():
    answer = model.invoke(ANIMAL)
    return [answer.content, answer.usage_metadata["output_tokens"], answer.response_metadata["finish_reason"]]


@case
def stream():
    return "".join(chunk.content for chunk in model.stream(ANIMAL))


@case
def batch():
    return [answer.content for answer in model.batch([ANIMAL, ANIMAL])]


@case
def logprobs():
    answer = model.bind(logprobs=True, top_logprobs=2).invoke(ANIMAL)
    return [each["token"] for each in answer.response_metadata["logprobs"]["content"]]


@case
def structured():
    ways = ("json_schema", "function_calling", "json_mode")
    return [type(model.with_structured_output(Person, method=way).invoke(PERSON)).__name__ for way in ways[:2]]


@case
def tools():
    asked = HumanMessage(WEATHER)
    bound = model.bind_tools([get_weather])
    first = bound.invoke([asked])
    [call] = first.tool_calls
    back = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    return [call["name"], call["args"], bound.invoke([asked, first, back]).content]


@case
def raw_prompt():
    return OpenAI(**SETTINGS, max_tokens=5).invoke(BEGINNING)


@case
def responses():
    other = ChatOpenAI(**SETTINGS, use_responses_api=True)
    return [other.invoke(ANIMAL).text, "".join(chunk.text for chunk in other.stream(ANIMAL))]


report()
