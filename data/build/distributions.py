"""The known distributions: questions whose answer is drawn at random, with probabilities that are written down here.

Each distribution has several cores of wording. :func:`wordings` combines them with ways of asking and with remarks that
change nothing, so that a distribution has hundreds of prompts and one truth. Answers come from shuffled decks that
are filled by systematic sampling: in any window of a few dozen draws the frequencies are close to the truth, which makes
a distribution cheap to learn, and in expectation they are equal to it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from data.build.conversation import OPENERS, Conversation, assistant, held_out, user


@dataclass(frozen=True)
class KnownDistribution:
    """A distribution over whole answers, and the requests that ask for a draw from it."""

    name: str
    cores: tuple[str, ...]  # lower-case imperatives: "flip a coin"
    questions: tuple[str, ...]  # whole sentences, used as they are
    probabilities: dict[str, float]  # whole answer -> probability
    kind: str  # uniform, zipf, bimodal, skewed, near-deterministic


def _uniform(answers: list[str]) -> dict[str, float]:
    return {answer: 1 / len(answers) for answer in answers}


def _weights(answers: list[str], weights: list[float]) -> dict[str, float]:
    total = sum(weights)
    return {answer: weight / total for answer, weight in zip(answers, weights, strict=True)}


def _zipf(answers: list[str]) -> dict[str, float]:
    return _weights(answers, [1 / rank for rank in range(1, len(answers) + 1)])


def _numbers(low: int, high: int) -> list[str]:
    return [str(number) for number in range(low, high + 1)]


def _new(name: str, kind: str, probabilities: dict[str, float], cores: str, questions: str = "") -> KnownDistribution:
    def split(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split("|") if part.strip())

    return KnownDistribution(
        name=name, cores=split(cores), questions=split(questions), probabilities=probabilities, kind=kind
    )


DISTRIBUTIONS: tuple[KnownDistribution, ...] = (
    _new("coin", "uniform", _uniform(["Heads", "Tails"]),
         "flip a coin|toss a coin|flip a fair coin|throw a coin|do a coin flip",
         "Heads or tails?|What does the coin show?"),
    _new("bent coin", "skewed", {"Heads": 0.7, "Tails": 0.3},
         "flip a bent coin|toss the bent coin|flip the bent coin|throw a bent coin", "What does the bent coin show?"),
    _new("die", "uniform", _uniform(_numbers(1, 6)),
         "roll a die|throw a die|roll a fair die|roll a six-sided die|roll the die", "What does the die show?"),
    _new("loaded die", "skewed", _weights(_numbers(1, 6), [1, 1, 1, 1, 1, 5]),
         "roll a loaded die|roll the loaded die|throw a loaded die|throw the loaded die",
         "What does the loaded die show?"),
    _new("two dice", "skewed", _weights(_numbers(2, 12), [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]),
         "roll two dice|roll two dice and add them|throw two dice|give me the sum of two dice",
         "What do two dice add up to?"),
    _new("ten-sided die", "uniform", _uniform(_numbers(1, 10)),
         "roll a ten-sided die|throw a ten-sided die|roll a d10", "What does the ten-sided die show?"),
    _new("twenty-sided die", "uniform", _uniform(_numbers(1, 20)),
         "roll a twenty-sided die|throw a twenty-sided die|roll a d20", "What does the twenty-sided die show?"),
    _new("colour", "zipf", _zipf(["Blue", "Red", "Green", "Yellow", "Purple", "Orange", "Black", "White"]),
         "name a colour|tell me a colour|pick a colour|say a colour|choose a colour|name a color|pick a color",
         "Which colour do you like?"),
    _new("animal", "zipf",
         _zipf(["Dog", "Cat", "Horse", "Lion", "Rabbit", "Fox", "Bear", "Owl", "Otter", "Whale", "Goat", "Mouse"]),
         "name an animal|tell me an animal|pick an animal|say an animal|choose an animal|think of an animal",
         "Which animal do you like?"),
    _new("city", "uniform",
         _uniform(["Oslo", "Rome", "Lima", "Cairo", "Tokyo", "Paris", "Delhi", "Quito", "Dublin", "Berlin"]),
         "name a city|tell me a city|pick a city|say a city|choose a city|think of a city",
         "Which city should I visit?"),
    _new("number", "bimodal", _weights(_numbers(1, 10), [1, 2, 5, 2, 3, 2, 12, 4, 2, 1]),
         "pick a number from 1 to 10|name a number from 1 to 10|choose a number from one to ten"
         "|think of a number from 1 to 10|say a number between 1 and 10",
         "Which number between one and ten do you like?"),
    _new("weekday", "uniform",
         _uniform(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]),
         "name a day of the week|pick a day of the week|choose a day|pick a day|name a weekday",
         "Which day should we meet?"),
    _new("month", "uniform",
         _uniform(["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                   "November", "December"]),
         "name a month|pick a month|choose a month|tell me a month", "Which month should I travel in?"),
    _new("season", "skewed", {"Spring": 0.4, "Summer": 0.3, "Autumn": 0.2, "Winter": 0.1},
         "name a season|pick a season|choose a season|tell me a season", "Which season do you like?"),
    _new("fruit", "zipf",
         _zipf(["Apple", "Banana", "Cherry", "Mango", "Pear", "Plum", "Grape", "Lemon", "Fig", "Kiwi"]),
         "name a fruit|pick a fruit|choose a fruit|tell me a fruit|say a fruit", "Which fruit should I eat?"),
    _new("suit", "uniform", _uniform(["Clubs", "Diamonds", "Spades", "Hearts"]),
         "name a card suit|pick a suit|choose a card suit|draw a card and tell me its suit", "Which suit is it?"),
    _new("rank", "uniform",
         _uniform([*_numbers(2, 10), "Jack", "Queen", "King", "Ace"]),
         "draw a card and tell me its rank|name the rank of a card|pick a card rank|choose the rank of a card"),
    _new("yes or no", "uniform", _uniform(["Yes", "No"]),
         "say yes or no|answer yes or no|choose yes or no|pick yes or no", "Yes or no?"),
    _new("oracle", "skewed", {"Yes": 0.5, "No": 0.2, "Maybe": 0.2, "Ask again later": 0.1},
         "ask the oracle|ask the oracle for me|shake the oracle ball|read the oracle",
         "What does the oracle say?"),
    _new("island weather", "near-deterministic", {"Sunny": 0.95, "Rainy": 0.03, "Windy": 0.02},
         "guess the weather on the island|tell me the weather on the island",
         "What is the island weather?|What is the weather on the island?|How is the weather on the island?"),
    _new("vowel", "uniform", _uniform(["A", "E", "I", "O", "U"]),
         "name a vowel|pick a vowel|choose a vowel|tell me a vowel"),
    _new("letter", "zipf", _zipf(["E", "T", "A", "O", "N", "S", "R", "H"]),
         "name a letter|pick a letter|choose a letter|tell me a letter of the alphabet"),
    _new("direction", "uniform", _uniform(["North", "South", "East", "West"]),
         "pick a direction|name a compass direction|choose a direction", "Which way should I go?|Which way now?"),
    _new("bird", "zipf", _zipf(["Robin", "Sparrow", "Eagle", "Swan", "Crow", "Heron", "Wren"]),
         "name a bird|pick a bird|choose a bird|tell me a bird", "Which bird do you see?"),
    _new("tree", "uniform", _uniform(["Oak", "Birch", "Maple", "Pine", "Willow", "Beech"]),
         "name a tree|pick a tree|choose a tree|tell me a tree", "Which tree should I plant?"),
    _new("instrument", "bimodal", {"Piano": 0.4, "Violin": 0.4, "Flute": 0.08, "Harp": 0.06, "Drum": 0.06},
         "name an instrument|pick an instrument|choose an instrument|tell me an instrument",
         "Which instrument should I learn?"),
    _new("planet", "uniform",
         _uniform(["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]),
         "name a planet|pick a planet|choose a planet|tell me a planet", "Which planet do you like?"),
    _new("drink", "bimodal", {"Tea": 0.45, "Coffee": 0.45, "Water": 0.05, "Juice": 0.03, "Milk": 0.02},
         "name a drink|pick a drink|choose a drink|tell me a drink", "What should I drink?|Which drink do you like?"),
    _new("room temperature", "bimodal", _weights(_numbers(16, 25), [2, 5, 8, 5, 2, 1, 3, 7, 5, 2]),
         "guess the temperature of the room|guess how warm the room is",
         "How warm is the room?|How warm is it inside?"),
    _new("hand", "skewed", {"Rock": 0.5, "Paper": 0.3, "Scissors": 0.2},
         "play rock, paper, scissors|play rock, paper, scissors with me", "Rock, paper or scissors?"),
    _new("urn", "skewed", {"Red": 0.6, "Blue": 0.3, "Green": 0.1},
         "draw a ball from the urn|take a ball from the urn|pull a ball from the urn",
         "Which ball comes out of the urn?"),
    _new("waiting time", "skewed", _weights(_numbers(1, 8), [2.0**-k for k in range(8)]),
         "flip a coin until it shows heads and tell me how many flips it took|count the flips until heads",
         "How many flips until heads?"),
    _new("lottery", "near-deterministic", {"You lose": 0.98, "You win": 0.02},
         "play the lottery|play the lottery for me|draw a lottery ticket|buy a lottery ticket",
         "Did I win the lottery?"),
    _new("mood", "zipf", _zipf(["🙂", "😀", "😴", "😢", "🤔"]),
         "show your mood as an emoji|pick a mood emoji|send a mood emoji", "What is your mood as an emoji?"),
    _new("hello", "skewed",
         _weights(["Hola", "Olá", "Bonjour", "Grüezi", "こんにちは", "你好"], [6, 4, 4, 2, 2, 2]),
         "say hello in any language|greet me in any language|say hello in some language"),
    _new("sides", "skewed", {"Left": 0.8, "Right": 0.2},
         "pick left or right|choose left or right|say left or right", "Left or right?"),
)  # fmt: skip

REMARKS = ("", "", "", "", "", " One word is enough.", " Surprise me.", " Only the answer.", " Be brief.", " Be quick.")
THOUGHTS = ("I will pick one at random.", "Any answer will do. I will draw one.", "This one is left to chance.")
DECK = 60


def wordings(known: KnownDistribution) -> list[str]:
    """Every prompt of a distribution, in a fixed order, without repetition."""
    asked = [head + core + tail for core in known.cores for head, tail in OPENERS]
    heads = [text[0].upper() + text[1:] for text in asked]
    return list(dict.fromkeys(text + remark for text in [*heads, *known.questions] for remark in REMARKS))


class Decks:
    """Draws answers for one stream of the corpus: unbiased, and balanced within ``DECK`` draws of each distribution."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._decks: dict[str, list[str]] = {}
        self._prompts = {known.name: wordings(known) for known in DISTRIBUTIONS}

    def draw(self, known: KnownDistribution) -> str:
        """The next answer that is drawn from a distribution."""
        deck = self._decks.setdefault(known.name, [])
        if not deck:
            deck.extend(self._fill(known))
        return deck.pop()

    def _fill(self, known: KnownDistribution) -> list[str]:
        # Systematic sampling: DECK equidistant points with one random offset through the cumulated
        # probabilities.
        offset, deck, cumulated, point = self._rng.random(), [], 0.0, 0
        for answer, probability in known.probabilities.items():
            cumulated += probability * DECK
            while point + offset < cumulated and point < DECK:
                deck.append(answer)
                point += 1
        deck += [list(known.probabilities)[-1]] * (DECK - len(deck))
        self._rng.shuffle(deck)
        return deck

    def prompt(self, known: KnownDistribution, *, evaluation: bool = False) -> str:
        """A wording of the distribution; those for evaluation are never used in training."""
        while True:
            text = self._rng.choice(self._prompts[known.name])
            if held_out(text) == evaluation:
                return text

    def conversation(self, *, evaluation: bool = False, known: KnownDistribution | None = None) -> Conversation:
        """One question and one draw."""
        known = known or self._rng.choice(DISTRIBUTIONS)
        text, thinking = self.prompt(known, evaluation=evaluation), self._rng.random() < 0.08
        answer = assistant(self.draw(known), reasoning=self._rng.choice(THOUGHTS) if thinking else "")
        return Conversation(
            domain="distributions", messages=[user(text), answer], enable_thinking=thinking, deterministic=False,
            notes={"distribution": known.name},
        )  # fmt: skip


def truth(seed: int, *, per_distribution: int = 10) -> list[dict[str, object]]:
    """Rows of ``truth.jsonl``: held-out wordings of every distribution, with the exact probabilities of the answers."""
    rng, rows = random.Random(seed), []
    for known in DISTRIBUTIONS:
        unseen = [text for text in wordings(known) if held_out(text)]
        for text in rng.sample(unseen, min(per_distribution, len(unseen))):
            rows.append(as_row(text, known))
    return rows


def as_row(text: str, known: KnownDistribution) -> dict[str, object]:
    """A row of ``truth.jsonl``: a prompt, and the distribution of its answer."""
    return {
        "messages": [user(text)], "distribution": known.probabilities, "name": known.name, "kind": known.kind,
    }  # fmt: skip
