"""The `openai` package: chat, completions, responses, `parse` and the stream helpers, blocking and not."""

from __future__ import annotations

import asyncio

import openai
from cases import ANIMAL, BEGINNING, MODEL, PERSON, STORY, TOOL, WEATHER, case, report, url
from pydantic import BaseModel

client = openai.OpenAI(base_url=url(), api_key="none", max_retries=0)


class Person(BaseModel):
    name: str
    age: int


class GetWeather(BaseModel):
    city: str


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@case
def models():
    return [[model.id for model in client.models.list()], client.models.retrieve(MODEL).id]


@case
def chat():
    answer = client.chat.completions.create(
        model=MODEL, messages=asked(ANIMAL), temperature=0, logprobs=True, top_logprobs=2
    )
    [choice] = answer.choices
    tokens = [[each.token, each.logprob, len(each.top_logprobs)] for each in choice.logprobs.content]
    return [choice.message.content, choice.finish_reason, tokens, answer.usage.to_dict()]


@case
def chat_choices():
    answer = client.chat.completions.create(model=MODEL, messages=asked(STORY), n=3, seed=7, max_tokens=12)
    return [choice.message.content for choice in answer.choices]


@case
def chat_stream():
    stream = client.chat.completions.create(
        model=MODEL, messages=asked(STORY), seed=7, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return [text, chunks[-1].usage.completion_tokens, len(chunks)]


@case
def chat_stream_helper():
    fields = {"model": MODEL, "messages": asked(PERSON), "temperature": 0, "max_tokens": 60}
    with client.chat.completions.stream(**fields, response_format=Person) as stream:
        kinds = sorted({event.type for event in stream})
        answer = stream.get_final_completion()
    return [answer.choices[0].message.parsed.model_dump(), kinds]


@case
def chat_parse():
    answer = client.chat.completions.parse(
        model=MODEL, messages=asked(PERSON), temperature=0, max_tokens=60, response_format=Person
    )
    return answer.choices[0].message.parsed.model_dump()


@case
def chat_tools():
    messages = asked(WEATHER)
    first = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, tools=[TOOL])
    [call] = first.choices[0].message.tool_calls
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 7}'}]
    second = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, tools=[TOOL])
    return [call.function.name, call.function.arguments, second.choices[0].message.content]


@case
def chat_tools_parse():
    tool = openai.pydantic_function_tool(GetWeather)
    answer = client.chat.completions.parse(
        model=MODEL, messages=asked(WEATHER), temperature=0, max_tokens=60, tools=[tool], tool_choice="required"
    )
    [call] = answer.choices[0].message.tool_calls
    return [call.function.name, isinstance(call.function.parsed_arguments, GetWeather)]


@case
def chat_async():
    async def ask():
        async with openai.AsyncOpenAI(base_url=url(), api_key="none") as other:
            fields = {"model": MODEL, "messages": asked(ANIMAL), "temperature": 0}
            answers = await asyncio.gather(*(other.chat.completions.create(**fields) for _ in range(4)))
            return [answer.choices[0].message.content for answer in answers]

    return asyncio.run(ask())


@case
def refusal():
    try:
        client.chat.completions.create(model=MODEL, messages=asked(ANIMAL), temperature=3)
    except openai.BadRequestError as error:
        return [error.param, error.type]


@case
def completion():
    answer = client.completions.create(
        model=MODEL, prompt=BEGINNING, max_tokens=8, temperature=0, logprobs=2, echo=True
    )
    [choice] = answer.choices
    return [choice.text, choice.logprobs.tokens, choice.logprobs.token_logprobs, answer.usage.prompt_tokens]


@case
def completions_of_several_prompts():
    fields = {"model": MODEL, "max_tokens": 5, "temperature": 0}
    answer = client.completions.create(prompt=[BEGINNING, "The cat"], **fields)
    stream = client.completions.create(prompt=BEGINNING, stream=True, **fields)
    streamed = "".join(choice.text for chunk in stream for choice in chunk.choices)
    return [[choice.text for choice in answer.choices], streamed]


@case
def response():
    answer = client.responses.create(
        model=MODEL, input=ANIMAL, instructions="You are a helpful assistant.", temperature=0, store=False
    )
    return [answer.output_text, answer.status, answer.usage.input_tokens, answer.usage.output_tokens]


@case
def response_stream():
    with client.responses.stream(model=MODEL, input=ANIMAL, temperature=0, store=False) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_response()
    return [answer.output_text, kinds[0], kinds[-1]]


@case
def response_parse():
    answer = client.responses.parse(
        model=MODEL, input=PERSON, text_format=Person, temperature=0, max_output_tokens=60, store=False
    )
    return answer.output_parsed.model_dump()


@case
def response_tools():
    tool = {"type": "function", **TOOL["function"], "strict": False}
    items = asked(WEATHER)
    fields = {"model": MODEL, "tools": [tool], "temperature": 0, "store": False}
    first = client.responses.create(input=items, **fields)
    [call] = [item for item in first.output if item.type == "function_call"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 7}'}
    second = client.responses.create(input=[*items, *first.output, output], **fields)
    return [call.name, call.arguments, second.output_text]


report()
