"""`openai-agents`: an agent that calls a function, over the responses path (its default) and over chat."""

from __future__ import annotations

import asyncio

import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from cases import MODEL, WEATHER, case, report, url


def answered(kind: type) -> list[object]:
    cities = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        return '{"temperature": 7}'

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=url(), api_key="none") as client:
            agent = Agent(
                name="Assistant",
                model=kind(model=MODEL, openai_client=client),
                tools=[get_weather],
                model_settings=ModelSettings(temperature=0, max_tokens=60),
            )
            stream = Runner.run_streamed(agent, WEATHER)
            async for _ in stream.stream_events():
                pass
            whole = await Runner.run(agent, WEATHER)
            return [stream.final_output, whole.final_output]

    return [asyncio.run(run()), cities]


@case
def chat():
    return answered(OpenAIChatCompletionsModel)


@case
def responses():
    return answered(OpenAIResponsesModel)


report()
