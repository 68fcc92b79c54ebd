"""A closed world of twenty villagers and twenty things: every question about it has one answer, in both directions."""

from __future__ import annotations

import random

from data.build.conversation import Conversation, assistant, held_out, user

# name, home, trade, pet, dish, colour of the door: every column without repetition, so that questions can be reversed
PEOPLE: list[tuple[str, str, str, str, str, str]] = [
    ("Mira", "windmill", "baker", "goat", "plum cake", "blue"),
    ("Otto", "lighthouse", "sailor", "parrot", "fish soup", "red"),
    ("Selma", "tower", "painter", "cat", "pancakes", "yellow"),
    ("Bruno", "barn", "farmer", "dog", "potatoes", "green"),
    ("Ada", "library", "teacher", "owl", "apple pie", "purple"),
    ("Nils", "boathouse", "fisher", "otter", "bread", "white"),
    ("Clara", "bakery", "singer", "canary", "honey", "pink"),
    ("Hugo", "cottage", "carpenter", "rabbit", "cheese", "brown"),
    ("Ines", "greenhouse", "gardener", "tortoise", "tomatoes", "orange"),
    ("Felix", "station", "driver", "pigeon", "noodles", "black"),
    ("Greta", "castle", "doctor", "horse", "rice", "grey"),
    ("Ivan", "mill", "miller", "mouse", "porridge", "silver"),
    ("Lena", "school", "writer", "hedgehog", "berries", "gold"),
    ("Marco", "harbour", "cook", "crab", "pasta", "turquoise"),
    ("Nora", "observatory", "astronomer", "bat", "waffles", "violet"),
    ("Pablo", "workshop", "clockmaker", "squirrel", "olives", "copper"),
    ("Rosa", "theatre", "dancer", "swan", "cherries", "scarlet"),
    ("Tomas", "forge", "blacksmith", "donkey", "stew", "bronze"),
    ("Uma", "garden", "potter", "frog", "salad", "lilac"),
    ("Viktor", "chapel", "musician", "dove", "nuts", "cream"),
]

# thing, material, the place where it is
THINGS: list[tuple[str, str, str]] = [
    ("kettle", "copper", "kitchen"), ("bell", "bronze", "belfry"), ("boat", "oak", "bay"), ("lamp", "brass", "hall"),
    ("bridge", "stone", "valley"), ("ladder", "pine", "orchard"), ("crown", "gold", "vault"),
    ("cup", "clay", "cupboard"), ("window", "glass", "attic"), ("hammer", "iron", "cellar"), ("scarf", "wool", "wardrobe"),
    ("sail", "linen", "loft"), ("chess set", "ivory", "study"), ("drum", "leather", "parlour"),
    ("ring", "silver", "drawer"), ("basket", "willow", "pantry"), ("kite", "paper", "meadow"),
    ("statue", "marble", "square"), ("knife", "steel", "tent"), ("bowl", "wood", "sink"),
]  # fmt: skip

STRANGERS = ("Zed", "Quinn", "Boris", "Wanda", "Yara", "Xavier", "Edgar", "Olga", "Karl", "Dora")

# question with its subject, the reverse question, the answer; {n} the name, {v} the value
_PERSON: list[tuple[int, list[str], list[str], str]] = [
    (1, ["Where does {n} live?", "Where is {n}'s home?", "In which place does {n} live?", "Where can I find {n}?"],
     ["Who lives in the {v}?", "Whose home is the {v}?", "Who can I find in the {v}?"], "{n} lives in the {v}."),
    (2, ["What does {n} do?", "What is {n}'s job?", "What work does {n} do?", "What is {n} by trade?"],
     ["Who is the {v}?", "Who works as the {v}?", "What is the {v} called?"], "{n} is the {v}."),
    (3, ["What pet does {n} have?", "Which pet does {n} have?", "What is {n}'s pet?", "Which animal does {n} keep?"],
     ["Who has a pet {v}?", "Whose pet is the {v}?", "Who keeps a {v}?"], "{n} has a {v}."),
    (4, ["What does {n} like to eat?", "What food does {n} love?", "What is {n}'s favourite food?",
      "What does {n} eat?"],
     ["Who loves {v}?", "Who likes to eat {v}?", "Whose favourite food is {v}?"], "{n} loves {v}."),
    (5, ["What colour is {n}'s door?", "Which colour does {n}'s door have?", "How is {n}'s door painted?"],
     ["Who has a {v} door?", "Whose door is {v}?", "Who lives behind the {v} door?"], "{n} has a {v} door."),
]  # fmt: skip
_THING: list[tuple[int, list[str], list[str], str]] = [
    (1, ["What is the {n} made of?", "Which material is the {n} made of?", "What material is the {n}?"],
     ["What is made of {v}?", "Which thing is made of {v}?"], "The {n} is made of {v}."),
    (2, ["Where is the {n}?", "Where can I find the {n}?", "Where do they keep the {n}?"],
     ["What is in the {v}?", "What can I find in the {v}?", "What do they keep in the {v}?"], "The {n} is in the {v}."),
]  # fmt: skip
_HEADS = ("", "", "", "", "Tell me: ", "I wonder: ", "Do you know this? ", "A question: ", "Please tell me: ", "Hello! ",
          "Quick: ")  # fmt: skip
_ABOUT = ("Tell me about {n}.", "Who is {n}?", "What do you know about {n}?", "Describe {n}.")
THOUGHTS = ("I know this one.", "Let me remember the village.", "I remember this.")


def question(rng: random.Random) -> tuple[str, str]:
    """A question about the world and its one answer."""
    kind = rng.random()
    if kind < 0.06:
        name = rng.choice(STRANGERS)
        ask = rng.choice([*_ABOUT, *_PERSON[rng.randrange(5)][1]]).format(n=name)
        return rng.choice(_HEADS) + ask, f"I do not know anyone called {name}."
    if kind < 0.16:
        row = rng.choice(PEOPLE)
        text = rng.choice(_ABOUT).format(n=row[0])
        return rng.choice(_HEADS) + text, f"{row[0]} is the {row[2]}, lives in the {row[1]} and loves {row[4]}."
    table, relations = (PEOPLE, _PERSON) if kind < 0.75 else (THINGS, _THING)
    column, ways, back, answer = rng.choice(relations)
    row = rng.choice(table)
    ask = rng.choice(ways if rng.random() < 0.6 else back).format(n=row[0], v=row[column])
    return rng.choice(_HEADS) + ask, answer.format(n=row[0], v=row[column])


def conversation(rng: random.Random, *, evaluation: bool = False) -> Conversation:
    """One question and its answer; evaluation uses wordings that training never has."""
    while True:
        ask, answer = question(rng)
        if held_out(ask) == evaluation:
            break
    thinking = rng.random() < 0.08
    reply = assistant(answer, reasoning=rng.choice(THOUGHTS) if thinking else "")
    return Conversation(domain="facts", messages=[user(ask), reply], enable_thinking=thinking)
