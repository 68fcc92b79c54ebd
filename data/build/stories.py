"""Open text with real branching: short stories, descriptions, little poems and small talk.

A story is a walk through slots (a hero, a place, a wish, a trouble, a helper, an ending), each with several weighted
choices that later sentences refer to; the vocabulary is small, so that a small model can be fluent in it.
"""

from __future__ import annotations

import random

from data.build.conversation import Conversation, Message, assistant, polite, user

# hero -> names; the pronouns follow the name
HEROES: dict[str, tuple[str, ...]] = {
    "fox": ("Fenn", "Ruby"), "bear": ("Bruin", "Honey"), "mouse": ("Pip", "Dot"), "owl": ("Hoot", "Luna"),
    "rabbit": ("Thumper", "Clover"), "cat": ("Tom", "Misty"), "dog": ("Rex", "Daisy"), "dragon": ("Ember", "Smoke"),
    "robot": ("Bolt", "Tilly"), "girl": ("Anna", "Lily"), "boy": ("Max", "Ben"), "queen": ("Edda", "Maud"),
    "sailor": ("Finn", "Marta"), "frog": ("Hop", "Fern"), "turtle": ("Slow", "Shelly"),
}  # fmt: skip
_SHE = {"Ruby", "Honey", "Dot", "Luna", "Clover", "Misty", "Daisy", "Ember", "Tilly", "Anna", "Lily", "Edda", "Maud",
        "Marta", "Fern", "Shelly"}  # fmt: skip
PLACES = ("in a deep forest", "by the sea", "on a green hill", "in a quiet village", "near a cold river",
          "in an old tower", "on a small island", "at the edge of the woods", "under the bridge")  # fmt: skip
MOODS = ("little", "brave", "lonely", "curious", "sleepy", "happy", "clever", "shy")
OPENINGS = ("Once upon a time there was a {mood} {hero} called {name} who lived {place}.",
            "{name} was a {mood} {hero} who lived {place}.",
            "There once was a {mood} {hero} {place}. {Its} name was {name}.",
            "A {mood} {hero} called {name} lived {place}.",
            "Long ago, {place}, lived a {mood} {hero} called {name}.")  # fmt: skip
# wish, how it is lost or sought, how it ends well
WISHES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("{It} wanted to find a friend.",
     ("But everyone was busy.", "But the paths were empty.", "But {it} was too shy to ask."),
     ("From then on they met every day.", "And so {it} was never alone again.", "They are friends to this day.")),
    ("{It} dreamed of flying to the moon.",
     ("But the moon was far away.", "But {it} had no wings.", "But the clouds were in the way."),
     ("That night {it} danced among the stars.", "The moon smiled and waved back.", "At last {it} touched the moon.")),
    ("One day {it} lost a golden key.",
     ("{It} looked under every stone.", "{It} searched all day long.", "{It} sat down and cried."),
     ("The key was in {its} pocket all along.", "The key opened a door full of light.", "The key shone in the grass.")),
    ("One morning {it} heard a strange song.",
     ("{It} followed it into the dark.", "Nobody else could hear it.", "It came from an old well."),
     ("It was the wind, singing in the trees.", "It was a bell that wanted to go home.", "Soon everyone sang along.")),
    ("{It} loved to bake bread.",
     ("But one day the oven was cold.", "But the flour was gone.", "But nobody came to eat it."),
     ("The whole village came to eat.", "The bread was warm and sweet.", "It was the best bread in the land.")),
    ("{It} was afraid of the dark.",
     ("One night the lamp went out.", "One night a storm came.", "One night {it} was lost in the snow."),
     ("Since then {it} loves the night.", "The dark was full of stars.", "And {it} was not afraid any more.")),
    ("{It} wanted to see the sea.",
     ("The road was long and hot.", "A high mountain stood in the way.", "{It} had no map."),
     ("The waves were blue and loud.", "{It} sat on the sand until the sun went down.",
     "The sea was bigger than the sky.")),
    ("{It} planted a small seed.",
     ("For weeks nothing grew.", "Then the rain did not come.", "A bird wanted to eat it."),
     ("It became a tall tree with red apples.", "A silver flower grew from it.", "In spring it reached the clouds.")),
)  # fmt: skip
HELPERS = ("an old crow", "a kind giant", "a small star", "a wise woman", "a young deer", "a friendly ghost",
           "a lost goose",
           "a red beetle", "a travelling cook")  # fmt: skip
HELPS = ("Then {helper} came by and said: \"Come with me.\"", "Then {it} met {helper}.",
         "Luckily {helper} knew what to do.", "{helper_} saw it and helped.",
         "That evening {helper} knocked at the door.",
         "Just then {helper} fell out of the sky.")  # fmt: skip
MIDDLES = ("They walked through the night.", "They laughed and shared a pie.", "Together they tried again.",
           "They built a little boat.", "They waited for the morning.", "They climbed the highest hill.", "",
           "")  # fmt: skip
_STORY_ASKS = ("tell me a story", "tell me a short story", "write a story", "write a short story", "make up a story",
               "invent a story", "tell a story")  # fmt: skip

# subject -> (things one sees, what they do), what one hears or smells, a closing thought
SCENES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "forest": (("Tall trees stand close together", "Moss covers the stones", "Light falls through the leaves"),
               ("A bird calls far away", "It smells of rain and wood", "Small feet run in the leaves"),
               ("Nobody is in a hurry here", "One could stay all day", "It feels very old")),
    "sea": (("The waves roll in, one by one", "The water is grey and wide",
    "A white sail moves along the edge of the sky"),
            ("Gulls cry above the rocks", "The air tastes of salt", "The wind hums in the ropes"),
            ("It never stops", "It makes you feel small", "It looks different every hour")),
    "market": (("Red apples lie beside yellow cheese", "Boxes of fish stand on the ice", "Flags hang over the street"),
               ("Someone sells hot chestnuts", "A man sings for a coin", "Children run between the tables"),
               ("Everyone is talking at once", "By noon it will be empty", "You can find anything here")),
    "winter morning": (("Snow lies on the roofs", "The windows are white with frost", "The sky is pale and clear"),
                       ("Every step makes a sound", "Smoke rises from the chimneys", "A dog barks at the snow"),
                       ("The world is quiet", "The tea is hot", "The day can wait")),
    "city at night": (("Lights shine in a thousand windows", "The streets are wet and bright",
    "A late tram turns the corner"),
                      ("Music comes from an open door", "Someone laughs in the dark", "A cat sits on a wall"),
                      ("Nobody sleeps yet", "The night is still young", "Everything seems possible")),
    "garden": (("Roses climb up the wall", "Beans grow beside the path", "A blue chair stands under the tree"),
               ("Bees hum in the flowers", "It smells of mint", "Water drips from a can"),
               ("There is always something to do", "Time is slow here", "The best place is in the shade")),
    "kitchen": (("A pot stands on the fire", "Bread lies on the table", "Spoons hang on the wall"),
                ("It smells of onions and soup", "The kettle begins to sing", "Somebody is humming"),
                ("Dinner will be ready soon", "It is the warmest room in the house", "Everyone meets here")),
}  # fmt: skip
_SCENE_ASKS = ("describe a {s}", "tell me what a {s} is like", "write a few lines about a {s}")
_POEM_ONE = (
    "The moon is a boat",
    "Rain on the window",
    "A leaf on the water",
    "Snow on the mountain",
    "The wind in the grass",
)
_POEM_TWO = (
    "that sails without sound",
    "that sings me to sleep",
    "that nobody sees",
    "and nobody home",
    "going its way",
)
_POEM_THREE = (
    "The night is so wide.",
    "I wait for the spring.",
    "Who knows where it goes?",
    "How quiet it is!",
    "And then it is day.",
)
_POEM_ASKS = ("write a poem", "write a short poem", "write me a little poem", "give me a poem")

# greeting-like requests, each with several replies; whoever talks to the model meets these first
TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hello": (("Hello!", "Hello.", "Hi!", "Hi", "Hey!", "Hi there!", "Good morning!", "Good evening!", "Hello there."),
              ("Hello! How can I help you?", "Hello! What shall we do?", "Hi! Ask me something.",
              "Hello! Nice to meet you.")),
    "name": (("Who are you?", "What is your name?", "What are you?", "Are you a person?", "Tell me about yourself."),
             ("I am a very small language model, made for teaching.", "I am the demo model of llmlab.",
              "I am a tiny model with a small world.")),
    "can": (("What can you do?", "How can you help me?", "What do you know?", "Help!", "What should I ask you?"),
            ("I can flip coins, roll dice, tell stories and do sums.",
            "I can tell you a story, call a tool or write JSON.",
             "Ask me for a story, a sum, a coin flip or a JSON record.")),
    "how": (("How are you?", "How do you do?", "Are you well?", "How is it going?"),
            ("I am fine, thank you. And you?", "Very well! How are you?", "Quite well for a small model.")),
    "fine": (("I am fine too.", "I am well.", "I am happy today.", "I feel great."),
             ("I am glad to hear it.", "That is good news!", "Wonderful! What shall we do?")),
    "sad": (("I am sad.", "I am tired.", "I had a bad day.", "I feel lonely."),
            ("I am sorry to hear that. Shall I tell you a story?", "That is hard. A cup of tea may help.",
             "I am sorry. Tomorrow is another day.")),
    "thanks": (("Thank you!", "Thanks.", "Thanks a lot!", "Thank you very much.", "Great, thanks!"),
               ("You are welcome!", "With pleasure.", "Any time!", "Glad to help.")),
    "bye": (("Goodbye!", "Bye!", "See you later.", "Good night!", "I have to go."),
            ("Goodbye! Come back soon.", "See you!", "Bye! It was nice to talk.", "Take care!")),
    "joke": (("Tell me a joke.", "Make me laugh.", "Do you know a joke?"),
             ("Why did the fox cross the road? It smelled a goose.", "What do clouds wear? Thunderwear.",
              "Why is the sea so friendly? It always waves.")),
    "unknown": (("Who won the game last night?", "What is quantum physics?", "Write a computer program.",
                 "Who is the president?", "What is the meaning of life?", "Explain history to me.", "Fix my car."),
                ("I do not know that. My world is very small.", "That is too big for me, I am a small model.")),
}  # fmt: skip
_CHAINS = (("hello", "how", "fine", "can", "bye"), ("hello", "name", "can", "thanks"), ("hello", "sad", "joke",
           "thanks"),
           ("name", "can", "joke", "bye"), ("hello", "how", "sad", "thanks", "bye"))  # fmt: skip
THOUGHTS = ("I will make something up.", "Let me think of something nice.", "I will answer kindly.")


def story(rng: random.Random, hero: str | None = None) -> str:
    """A story of four to six sentences; the hero is drawn unless given."""
    hero = hero or rng.choice(list(HEROES))
    name = rng.choice(HEROES[hero])
    it, its = ("she", "her") if name in _SHE else ("he", "his")
    helper = rng.choice(HELPERS)
    wish, troubles, endings = rng.choice(WISHES)
    # The first choices are the more likely ones: choices that were all equally likely would leave temperature little to change.
    parts = [_falling(rng, OPENINGS), wish, _falling(rng, troubles), _falling(rng, HELPS), _falling(rng, MIDDLES),
             _falling(rng, endings)]  # fmt: skip
    words = {
        "hero": hero, "name": name, "mood": _falling(rng, MOODS), "place": _falling(rng, PLACES), "helper": helper,
        "helper_": helper[0].upper() + helper[1:], "it": it, "It": it.capitalize(), "its": its, "Its": its.capitalize(),
    }  # fmt: skip
    return " ".join(part for part in parts if part).format(**words)


def _falling(rng: random.Random, options: tuple[str, ...]) -> str:
    return rng.choices(options, [0.75**rank for rank in range(len(options))])[0]


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def single(rng: random.Random) -> tuple[str, str]:
    """One request for open text and one answer."""
    kind = rng.random()
    if kind < 0.62:
        hero = rng.choice(list(HEROES)) if rng.random() < 0.6 else None
        ask = rng.choice(_STORY_ASKS) + (f" about {article(hero)}" if hero else "")
        return polite(rng, ask), story(rng, hero)
    if kind < 0.85:
        subject = rng.choice(list(SCENES))
        seen, heard, thought = SCENES[subject]
        order = rng.sample(seen, 2) + [_falling(rng, heard), _falling(rng, thought)]
        return polite(rng, rng.choice(_SCENE_ASKS).format(s=subject)), ". ".join(order) + "."
    lines = f"{_falling(rng, _POEM_ONE)}\n{_falling(rng, _POEM_TWO)}.\n{_falling(rng, _POEM_THREE)}"
    return polite(rng, rng.choice(_POEM_ASKS)), lines


def talk(rng: random.Random) -> Conversation:
    """Small talk of one to four turns."""
    chain = rng.choice(_CHAINS) if rng.random() < 0.5 else (rng.choice(list(TALK)),)
    start = rng.randrange(len(chain))
    messages: list[Message] = []
    for topic in chain[start : start + rng.randint(1, 4)]:
        asks, replies = TALK[topic]
        messages += [user(rng.choice(asks)), assistant(_falling(rng, replies))]
    return Conversation("talk", messages, deterministic=False)


def conversation(rng: random.Random) -> Conversation:
    """A story, a description or a poem."""
    ask, text = single(rng)
    thinking = rng.random() < 0.06
    reply = assistant(text, reasoning=rng.choice(THOUGHTS) if thinking else "")
    return Conversation("stories", [user(ask), reply], enable_thinking=thinking, deterministic=False)
