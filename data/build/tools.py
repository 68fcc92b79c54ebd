"""Function calling: definitions with varied names, the right call with arguments copied from the request, no call where
none fits, and an answer made from the tool's result.

A family is one capability (the weather, a timer, ...). Its function and parameter names and its descriptions vary from
conversation to conversation, so that a call has to be copied from the definition and cannot be memorised.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data.build.conversation import Conversation, Message, assistant, user, words

CITIES = ("Oslo Rome Lima Cairo Tokyo Paris Delhi Quito Dublin Berlin Madrid Vienna Lisbon Boston Sydney Geneva Prague "
          "Athens Bergen Naples Hanoi Accra Turin Malmö Zürich Kraków Bogotá").split()  # fmt: skip
NAMES = ("Anna Ben Carla David Emma Frank Gina Henry Iris Jack Kate Liam Maya Noah Olive Peter Ruth Sam Tina Victor "
         "Zoë José Søren Chloé").split()  # fmt: skip
ITEMS = words("milk bread eggs apples rice tea soap candles butter pears onions paper flour salt honey lemons")
ROOMS = words("kitchen bedroom hall garage office bathroom cellar garden")
WORDS = words("water house friend river star bread night garden book winter bridge cloud")
LANGUAGES = words("French Spanish German Italian Japanese Chinese Polish Danish")
CURRENCIES = words("dollars euros pounds yen francs crowns rupees pesos")
TITLES = ("The Quiet Sea", "Blue Moon", "Morning Rain", "Silver River", "The Old Mill", "Night Train", "Golden Hour",
          "Paper Boats", "Winter Song", "The Long Road", "Green Fields", "Little Star")  # fmt: skip
NOTES = ("dinner is ready", "I am late", "the train is here", "call me tomorrow", "see you at noon", "happy birthday",
         "the door is open", "bring the keys", "we won the game", "the cat is fine",
         "meet me at the station")  # fmt: skip

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One capability: how its function may be called and described, and what is said around it."""

    name: str
    functions: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: dict[str, tuple[str, tuple[str, ...], str]]  # key -> JSON type, names, a description
    asks: tuple[str, ...]
    draw: Callable[[random.Random], Arguments]
    result: Callable[[random.Random, Arguments], tuple[dict[str, Any], str]]  # the tool's result, the answer from it
    both: str = ""  # a way to ask for two calls at once; {0} and {1} are the first argument of each


def _weather(rng: random.Random, a: Arguments) -> tuple[dict[str, Any], str]:
    degrees, sky = rng.randint(-9, 35), rng.choice(("sunny", "cloudy", "rainy", "windy", "snowy"))
    return {"temperature": degrees, "sky": sky}, f"It is {degrees} degrees and {sky} in {a['city']}."


def _time(rng: random.Random, a: Arguments) -> tuple[dict[str, Any], str]:
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    return {"time": clock}, f"It is {clock} in {a['city']}."


def _convert(rng: random.Random, a: Arguments) -> tuple[dict[str, Any], str]:
    amount = rng.randint(2, 999)
    return {"result": amount}, f"{a['amount']} {a['source']} are {amount} {a['target']}."


def _route(rng: random.Random, a: Arguments) -> tuple[dict[str, Any], str]:
    hours = rng.randint(1, 30)
    return {"hours": hours, "by": "train"}, f"From {a['start']} to {a['end']} it takes {hours} hours by train."


def _song(rng: random.Random, a: Arguments) -> tuple[dict[str, Any], str]:
    return {"status": "playing"}, f"Now playing {a['title']}."


def _book(rng: random.Random, a: Arguments) -> tuple[dict[str, Any], str]:
    copies = rng.randint(0, 9)
    return {"copies": copies}, f"There are {copies} copies of {a['title']}."


def _translate(rng: random.Random, a: Arguments) -> tuple[dict[str, Any], str]:
    word = "".join(rng.choice("aeiou" if k % 2 else "bdlmnrst") for k in range(rng.randint(3, 5)))
    return {"translation": word}, f"In {a['language']} it is {word}."


def _done(sentence: str) -> Callable[[random.Random, Arguments], tuple[dict[str, Any], str]]:
    return lambda rng, a: ({"status": "ok"}, sentence.format(**a))


def _two(rng: random.Random, items: list[str] | tuple[str, ...]) -> list[str]:
    return rng.sample(list(items), 2)


def _pair(keys: tuple[str, str], items: list[str]) -> Callable[[random.Random], Arguments]:
    return lambda rng: dict(zip(keys, _two(rng, items), strict=True))


def _money(rng: random.Random) -> Arguments:
    source, target = _two(rng, CURRENCIES)
    return {"amount": rng.randint(2, 999), "source": source, "target": target}


FAMILIES: tuple[Family, ...] = (
    Family("weather", ("get_weather", "check_weather", "weather_now", "find_weather", "weather_report"),
           ("The weather in a city", "Get the weather now", "Weather report for a place"),
           {"city": ("string", ("city", "place", "location", "town"), "The city")},
           ("What is the weather in {city}?", "How is the weather in {city}?", "Is it cold in {city} today?",
            "Tell me the weather in {city}.", "Will I need a coat in {city}?", "Weather in {city}, please."),
           lambda rng: {"city": rng.choice(CITIES)}, _weather, "What is the weather in {0} and in {1}?"),
    Family("time", ("get_time", "clock", "local_time", "find_time", "check_time"),
           ("The local time in a city", "Get the time of day somewhere", "What time it is in a place"),
           {"city": ("string", ("city", "place", "location", "town"), "The city")},
           ("What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?",
            "The time in {city}, please."),
           lambda rng: {"city": rng.choice(CITIES)}, _time, "What time is it in {0} and in {1}?"),
    Family("timer", ("set_timer", "start_timer", "timer", "new_timer"),
           ("Start a timer", "Set a timer in minutes", "Count down some minutes"),
           {"minutes": ("integer", ("minutes", "duration", "length"), "How many minutes")},
           ("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.",
            "Wake me in {minutes} minutes.", "Please count down {minutes} minutes."),
           lambda rng: {"minutes": rng.randint(2, 99)}, _done("The timer is set for {minutes} minutes.")),
    Family("convert", ("convert_money", "exchange", "convert_currency", "change_money"),
           ("Convert money", "Exchange an amount of money", "Convert from one currency to another"),
           {"amount": ("integer", ("amount", "value", "sum"), "How much"),
            "source": ("string", ("source", "from", "have"), "Convert from"),
            "target": ("string", ("target", "to", "want"), "Convert to")},
           ("Convert {amount} {source} to {target}.", "How much is {amount} {source} in {target}?",
            "Change {amount} {source} into {target}.", "What are {amount} {source} in {target}?"),
           _money, _convert),
    Family("message", ("send_message", "send_text", "write_message", "message"),
           ("Send a message", "Send a text to someone", "Write to a person"),
           {"person": ("string", ("person", "to", "name", "recipient"), "Who gets it"),
            "text": ("string", ("text", "message", "body"), "What to say")},
           ("Tell {person} that {text}.", "Send {person} a message: {text}.", "Write to {person}: {text}.",
            "Text {person} that {text}."),
           lambda rng: {"person": rng.choice(NAMES), "text": rng.choice(NOTES)}, _done("I told {person} that {text}.")),
    Family("lights", ("set_light", "switch_light", "control_light", "light"),
           ("Switch a light", "Turn a light on or off", "Control the lights at home"),
           {"room": ("string", ("room", "place", "where"), "The room"),
            "state": ("string", ("state", "power", "mode"), "on or off")},
           ("Turn {state} the light in the {room}.", "Switch {state} the {room} light.",
            "Please turn the {room} light {state}.", "Light {state} in the {room}."),
           lambda rng: {"room": rng.choice(ROOMS), "state": rng.choice(("on", "off"))},
           _done("The light in the {room} is {state}.")),
    Family("shopping", ("add_item", "shopping_list", "add_to_list", "buy"),
           ("Add to the shopping list", "Put an item on the list", "Write down what to buy"),
           {"item": ("string", ("item", "product", "thing"), "What to buy"),
            "count": ("integer", ("count", "quantity", "number"), "How many")},
           ("Put {count} {item} on the shopping list.", "Add {count} {item} to my list.", "We need {count} {item}.",
            "Please write down {count} {item}."),
           lambda rng: {"item": rng.choice(ITEMS), "count": rng.randint(2, 40)},
           _done("I put {count} {item} on the list.")),
    Family("table", ("book_table", "reserve_table", "reserve", "new_booking"),
           ("Book a table", "Reserve a table at a restaurant", "Make a booking"),
           {"people": ("integer", ("people", "guests", "seats"), "How many people"),
            "hour": ("integer", ("hour", "time", "at"), "The hour")},
           ("Book a table for {people} at {hour}.", "Reserve a table at {hour} for {people} people.",
            "I want a table for {people} at {hour}.", "A table at {hour} for {people}, please."),
           lambda rng: {"people": rng.randint(2, 12), "hour": rng.randint(17, 22)},
           _done("A table for {people} is booked at {hour}.")),
    Family("route", ("find_route", "get_route", "plan_trip", "directions"),
           ("Find a route", "Plan a trip between two cities", "The way from a city to another"),
           {"start": ("string", ("start", "origin", "from"), "Where it begins"),
            "end": ("string", ("end", "destination", "to"), "Where it ends")},
           ("How do I get from {start} to {end}?", "Find a route from {start} to {end}.",
            "Plan a trip from {start} to {end}.", "I travel from {start} to {end}. Which way?"),
           _pair(("start", "end"), CITIES), _route),
    Family("music", ("play_song", "play_music", "play", "start_song"),
           ("Play a song", "Play music", "Start a song by its title"),
           {"title": ("string", ("title", "song", "name"), "The song")},
           ("Play {title}.", "Play the song {title}.", "I want to hear {title}.", "Put on {title}, please."),
           lambda rng: {"title": rng.choice(TITLES)}, _song),
    Family("library", ("find_book", "search_book", "library_search", "count_copies"),
           ("Find a book", "Search the library", "Look for a book by its title"),
           {"title": ("string", ("title", "book", "query"), "The book")},
           ("Do you have the book {title}?", "Find the book {title}.", "Search the library for {title}.",
            "Is there a copy of {title}?"),
           lambda rng: {"title": rng.choice(TITLES)}, _book),
    Family("translate", ("translate", "translate_word", "get_translation", "dictionary"),
           ("Translate a word", "Look up a word in a language", "Translate into a language"),
           {"word": ("string", ("word", "text", "term"), "The word"),
            "language": ("string", ("language", "target", "to"), "The language")},
           ("Translate {word} into {language}.", "What is {word} in {language}?",
            "How do you say {word} in {language}?",
            "Give me the {language} word for {word}."),
           lambda rng: {"word": rng.choice(WORDS), "language": rng.choice(LANGUAGES)}, _translate),
)  # fmt: skip

REFUSAL = "I do not have a function for that."
THOUGHTS = ("There is a function for this.", "I will call a function.")
NO_THOUGHTS = ("No function fits this.",)


@dataclass(frozen=True)
class Lessons:
    """How calls are taught: the first so many spellings of a name, and how often there is nothing to call."""

    spellings: int
    refusals: float  # the share of requests that would need a function which is not there
    chats: float  # the share that needs none


BROAD, CLOSE = Lessons(spellings=5, refusals=0.12, chats=0.12), Lessons(spellings=2, refusals=0.16, chats=0.10)


@dataclass(frozen=True)
class Function:
    """A family as one conversation defines it."""

    family: Family
    name: str
    names: dict[str, str]  # key -> the parameter's name here
    definition: dict[str, Any]

    def call(self, arguments: Arguments) -> dict[str, Any]:
        """The tool call with the arguments under this definition's parameter names, in its order."""
        named = {self.names[key]: arguments[key] for key in self.names}
        return {"type": "function", "function": {"name": self.name, "arguments": named}}


def define(rng: random.Random, family: Family, *, spellings: int) -> Function:
    """Draw a function of a family: its name, its description, its parameters' names and whether they are described."""
    name, described = rng.choice(family.functions[:spellings]), rng.random() < 0.3
    names = {key: rng.choice(spec[1][:spellings]) for key, spec in family.parameters.items()}
    properties = {}
    for key, (kind, _, description) in family.parameters.items():
        properties[names[key]] = {"type": kind} | ({"description": description} if described else {})
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    body = {"name": name, "description": rng.choice(family.descriptions), "parameters": schema}
    return Function(family, name, names, {"type": "function", "function": body})


def call_message(calls: list[dict[str, Any]], *, reasoning: str = "") -> Message:
    """An assistant turn that is tool calls and nothing else."""
    return assistant("", reasoning=reasoning) | {"tool_calls": calls}


def conversation(
    rng: random.Random, *, chat: Callable[[], Conversation], lessons: Lessons, calls_only: bool = False, turns: int = 2
) -> Conversation:
    """One to three functions and up to ``turns`` requests; ``chat`` gives a conversation about anything else.

    With ``calls_only`` there is one request and the answer to it is the last message: what the evaluation asks.
    """
    chosen = rng.sample(FAMILIES, rng.choices((1, 2, 3), (0.5, 0.4, 0.1))[0] + 1)
    functions, absent = [define(rng, f, spellings=lessons.spellings) for f in chosen[:-1]], chosen[-1]
    thinking = not calls_only and rng.random() < 0.06
    messages: list[Message] = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
    for _ in range(1 if calls_only else rng.randint(1, turns)):
        messages += _request(rng, functions, absent, chat, lessons, thinking=thinking, calls_only=calls_only)
    if not calls_only and messages[-1]["role"] == "tool":
        raise AssertionError("a conversation ends with the assistant")
    for message in messages[: _last_user(messages)]:
        message.pop("reasoning_content", None)
    return Conversation("tools", messages, tools=[f.definition for f in functions], enable_thinking=thinking)


def _last_user(messages: list[Message]) -> int:
    return max(index for index, message in enumerate(messages) if message["role"] == "user")


def _request(
    rng: random.Random, functions: list[Function], absent: Family, chat: Callable[[], Conversation], lessons: Lessons,
    *, thinking: bool, calls_only: bool,
) -> list[Message]:  # fmt: skip
    thought = rng.choice(THOUGHTS) if thinking else ""
    kind = rng.random()
    if kind < lessons.refusals:
        refusal = assistant(REFUSAL, reasoning=NO_THOUGHTS[0] if thinking else "")
        return [user(rng.choice(absent.asks).format(**absent.draw(rng))), refusal]
    if kind < lessons.refusals + lessons.chats:
        other = chat()
        if not thinking:
            return other.messages
        return [other.messages[0], other.messages[1] | {"reasoning_content": NO_THOUGHTS[0]}]
    function = rng.choice(functions)
    doubles = [f for f in functions if f.family.both]
    if doubles and kind < lessons.refusals + lessons.chats + 0.1:
        function = rng.choice(doubles)
        first, second = _two(rng, CITIES)
        drawn = [{"city": first}, {"city": second}]
        ask = function.family.both.format(first, second)
    else:
        drawn = [function.family.draw(rng)]
        ask = rng.choice(function.family.asks).format(**drawn[0])
    turn = [user(ask), call_message([function.call(arguments) for arguments in drawn], reasoning=thought)]
    if calls_only:
        return turn
    answers = []
    for arguments in drawn:
        result, answer = function.family.result(rng, arguments)
        turn.append({"role": "tool", "content": json.dumps(result, ensure_ascii=False)})
        answers.append(answer)
    return [*turn, assistant(" ".join(answers), reasoning="I have the result." if thinking else "")]


def without_tools(rng: random.Random) -> Conversation:
    """A request that would need a function where none is defined."""
    family = rng.choice([f for f in FAMILIES if f.name != "translate"])
    return Conversation("tools", [user(rng.choice(family.asks).format(**family.draw(rng))), assistant(REFUSAL)])


SYSTEMS = ("You are a helpful assistant.", "You are a friendly guide.", "Answer briefly.", "You are a teaching model.",
           "Be kind and exact.", "You help people at home.")  # fmt: skip
