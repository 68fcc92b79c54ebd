"""`instructor`: answers as pydantic models, by tools and by a JSON schema."""

from __future__ import annotations

import instructor
import openai
from cases import MODEL, PERSON, case, report, url
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def asked(mode: instructor.Mode) -> dict[str, object]:
    client = instructor.from_openai(openai.OpenAI(base_url=url(), api_key="none"), mode=mode)
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PERSON}],
        response_model=Person,
        temperature=0,
        max_tokens=60,
        max_retries=1,
    )
    return found.model_dump()


@case
def by_tools():
    return asked(instructor.Mode.TOOLS)


@case
def by_json_schema():
    return asked(instructor.Mode.JSON_SCHEMA)


report()
