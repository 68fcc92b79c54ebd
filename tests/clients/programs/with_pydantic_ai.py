"""`pydantic-ai`: an agent with a tool and one with an output type, over the chat and the responses paths."""

from __future__ import annotations

from cases import ANIMAL, MODEL, PERSON, WEATHER, case, report, url
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

PROVIDER = OpenAIProvider(base_url=url(), api_key="none")
SETTINGS = {"temperature": 0, "max_tokens": 60}
chat = OpenAIChatModel(MODEL, provider=PROVIDER)


class Person(BaseModel):
    name: str
    age: int


@case
def text():
    return Agent(chat, model_settings=SETTINGS).run_sync(ANIMAL).output


@case
def by_tool():
    return Agent(chat, output_type=Person, model_settings=SETTINGS).run_sync(PERSON).output.model_dump()


@case
def by_schema():
    agent = Agent(chat, output_type=NativeOutput(Person), model_settings=SETTINGS)
    return agent.run_sync(PERSON).output.model_dump()


@case
def tool():
    agent, cities = Agent(chat, model_settings=SETTINGS), []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        return '{"temperature": 7}'

    answer = agent.run_sync(WEATHER)
    return [cities, answer.output, answer.usage.requests]


@case
def responses():
    return Agent(OpenAIResponsesModel(MODEL, provider=PROVIDER), model_settings=SETTINGS).run_sync(ANIMAL).output


report()
