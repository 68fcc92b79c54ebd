"""JSON on request, and text with accents, CJK and emoji: answers that are a function of the request."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from data.build.conversation import Conversation, assistant, listing, user, words
from data.build.tools import CITIES, ITEMS, NAMES, TITLES

FIRST = [*NAMES, "Mira", "Łukasz", "Renée", "Inês", "Jürgen", "Åsa", "美咲", "小明", "민준", "Anaïs"]
PLACES = [*CITIES, "São Paulo", "München", "東京", "北京", "서울", "Kyoto", "New York"]
JOBS = words("baker teacher doctor painter pilot farmer nurse cook singer writer")
COLOURS = words("blue red green yellow purple orange black white")
PETS = words("dog cat horse rabbit parrot goat turtle mouse")

# field -> (draw a value, how the request says it); the order in the request is the order in the record
Field = tuple[Callable[[random.Random], Any], tuple[str, ...]]
PERSON: dict[str, Field] = {
    "name": (lambda rng: rng.choice(FIRST), ("{v}",)),
    "age": (lambda rng: rng.randint(18, 90), ("{v} years old", "aged {v}", "age {v}", "{v}")),
    "city": (lambda rng: rng.choice(PLACES), ("from {v}", "living in {v}", "in {v}")),
    "job": (lambda rng: rng.choice(JOBS), ("a {v}", "working as a {v}")),
    "colour": (lambda rng: rng.choice(COLOURS), ("who likes {v}", "favourite colour {v}")),
    "student": (lambda rng: rng.random() < 0.5, ("a student|not a student",)),
}
PRODUCT: dict[str, Field] = {
    "item": (lambda rng: rng.choice(ITEMS), ("{v}",)),
    "price": (lambda rng: rng.randint(1, 99), ("at {v} dollars", "for {v} dollars", "price {v}")),
    "count": (lambda rng: rng.randint(1, 500), ("{v} pieces", "count {v}", "{v} left")),
    "colour": (lambda rng: rng.choice(COLOURS), ("in {v}", "coloured {v}")),
    "sold": (lambda rng: rng.random() < 0.5, ("sold|not sold",)),
}
BOOK: dict[str, Field] = {
    "title": (lambda rng: rng.choice(TITLES), ("{v}",)),
    "author": (lambda rng: rng.choice(FIRST), ("by {v}", "written by {v}")),
    "year": (lambda rng: rng.randint(1900, 2029), ("from {v}", "published in {v}")),
    "pages": (lambda rng: rng.randint(50, 900), ("{v} pages", "with {v} pages")),
}
PET: dict[str, Field] = {
    "name": (lambda rng: rng.choice(FIRST), ("{v}",)),
    "animal": (lambda rng: rng.choice(PETS), ("a {v}",)),
    "age": (lambda rng: rng.randint(1, 20), ("{v} years old", "aged {v}", "age {v}")),
    "owner": (lambda rng: rng.choice(FIRST), ("owned by {v}", "who belongs to {v}")),
}
SHAPES = (PERSON, PERSON, PRODUCT, BOOK, PET)
_ASKS = ("Give me a JSON record with {fields} for {values}.", "Write a JSON record with {fields} for {values}.",
         "Make a JSON object with {fields}: {values}.", "As JSON with {fields}: {values}.",
         "I need a JSON record with {fields} for {values}.", "JSON with {fields} for {values}, please.")  # fmt: skip
_LISTS = ("Give me a JSON list of {values}.", "Write {values} as a JSON list.", "Make a JSON array of {values}.")


def record(rng: random.Random) -> tuple[str, str]:
    """A request and the exact JSON text that answers it."""
    if rng.random() < 0.12:
        pool: list[Any] = list(rng.choice([FIRST, PLACES, ITEMS, COLOURS, PETS]))
        chosen = rng.sample(pool, rng.randint(2, 4))
        if rng.random() < 0.25:
            chosen = [rng.randint(1, 99) for _ in chosen]
        return rng.choice(_LISTS).format(values=listing([str(item) for item in chosen])), _dump(chosen)
    shape = rng.choice(SHAPES)
    first, *others = shape
    fields = [first, *rng.sample(others, rng.randint(1, min(3, len(others))))]
    values = {field: shape[field][0](rng) for field in fields}
    said = []
    for field in fields:
        way = rng.choice(shape[field][1])
        if isinstance(values[field], bool):
            said.append(way.split("|")[0 if values[field] else 1])
        else:
            said.append(way.format(v=values[field]))
    return rng.choice(_ASKS).format(fields=listing(fields), values=", ".join(said)), _dump(values)


def _dump(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


# word -> French, Spanish, German, Polish, Japanese, Chinese, emoji
TONGUES = ("French", "Spanish", "German", "Polish", "Japanese", "Chinese")
DICTIONARY: dict[str, tuple[str, str, str, str, str, str, str]] = {
    "cat": ("le chat", "el gato", "die Katze", "kot", "猫", "猫", "🐱"),
    "dog": ("le chien", "el perro", "der Hund", "pies", "犬", "狗", "🐶"),
    "fish": ("le poisson", "el pez", "der Fisch", "ryba", "魚", "鱼", "🐟"),
    "sun": ("le soleil", "el sol", "die Sonne", "słońce", "太陽", "太阳", "☀️"),
    "moon": ("la lune", "la luna", "der Mond", "księżyc", "月", "月亮", "🌙"),
    "tree": ("l'arbre", "el árbol", "der Baum", "drzewo", "木", "树", "🌳"),
    "flower": ("la fleur", "la flor", "die Blüte", "kwiat", "花", "花", "🌸"),
    "apple": ("la pomme", "la manzana", "der Apfel", "jabłko", "りんご", "苹果", "🍎"),
    "heart": ("le cœur", "el corazón", "das Herz", "serce", "心", "心", "❤️"),
    "key": ("la clé", "la llave", "der Schlüssel", "klucz", "鍵", "钥匙", "🔑"),
    "thank you": ("merci", "gracias", "danke schön", "dziękuję", "ありがとう", "谢谢", "🙏"),
    "good morning": ("bonjour", "buenos días", "guten Morgen", "dzień dobry", "おはよう", "早上好", "🌅"),
}
_SAY = ("How do you say {w} in {t}?", "What is {w} in {t}?", "Say {w} in {t}.", "{w} in {t}, please.")
_EMOJI = ("Show me an emoji for {w}.", "Which emoji means {w}?", "An emoji for {w}, please.", "Emoji for {w}?")


def word(rng: random.Random) -> tuple[str, str]:
    """A request for a foreign word or an emoji, and its answer; the words are disjoint from the translation tool's."""
    entry = rng.choice(list(DICTIONARY))
    if rng.random() < 0.35:
        ask, answer = rng.choice(_EMOJI).format(w=entry), DICTIONARY[entry][6]
    else:
        column = rng.randrange(len(TONGUES))
        ask, answer = rng.choice(_SAY).format(w=entry, t=TONGUES[column]), DICTIONARY[entry][column]
    return ask[0].upper() + ask[1:], answer


def conversation(rng: random.Random, *, foreign: bool | None = None) -> Conversation:
    """A JSON record (domain ``records``) or a foreign word (domain ``words``)."""
    foreign = rng.random() < 0.25 if foreign is None else foreign
    ask, answer = word(rng) if foreign else record(rng)
    thinking = rng.random() < 0.06
    reasoning = ("I remember this word." if foreign else "I will write the JSON.") if thinking else ""
    reply = assistant(answer, reasoning=reasoning)
    return Conversation("words" if foreign else "records", [user(ask), reply], enable_thinking=thinking)
