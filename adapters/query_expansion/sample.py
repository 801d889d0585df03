"""Made-up pairs of queries and expansions, so that everything works without data. Called by the adapter's `sample`.

A topic and a need each bring words of their own, so a model can learn which words go with which, a nearest query knows
half of them, and a template none.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from .words import KINDS, Line

_TOPICS = {
    "sourdough bread": "starter flour yeast levain crust hydration",
    "road bike": "derailleur chain tyre cassette saddle spokes",
    "tomato plants": "seedlings trellis compost blight greenhouse mulch",
    "home router": "wifi firmware ethernet channel modem bandwidth",
    "guitar": "strings fretboard tuning chords pickup amplifier",
    "tax return": "deductions income receipts refund deadline allowance",
    "wood stove": "chimney kindling soot damper flue firewood",
    "python script": "virtualenv traceback module function interpreter package",
    "puppy": "leash kennel vaccination treats chewing obedience",
    "rain barrel": "gutter downspout overflow spigot mosquito cistern",
    "running shoes": "cushioning arch midsole stride pronation laces",
    "espresso machine": "portafilter grinder crema tamping boiler descaling",
    "old photographs": "scanner negatives album fading archive restoration",
    "sailing boat": "keel rigging mainsail harbour knots rudder",
    "beehive": "frames smoker queen honeycomb swarm brood",
    "small garden": "raised beds perennials soil lawn pruning hedge",
}
_NEEDS = {
    "repair": ("mend", "troubleshooting fault replacement spare"),
    "cost": ("save money on", "price budget affordable compare"),
    "cleaning": ("look after", "wash stains maintenance brush"),
    "beginner": ("get started with", "basics introduction lessons starting"),
    "storage": ("keep", "shelf cellar cover winter"),
    "safety": ("avoid accidents with", "risks protection warning gloves"),
    "buying": ("choose", "secondhand dealer warranty checklist"),
    "history": ("find the origin of", "century tradition inventor museum"),
    "travel": ("take along", "suitcase airline customs transport"),
    "children": ("teach kids about", "playful family school supervised"),
}
_SHAPES = (
    "{topic} {need}",
    "{need} {topic}",
    "{need} of my {topic}",
    "{topic} {need} {extra}",
    "{extra} {topic} {need}",
)
_EXTRAS = ("quick", "cheap", "weekend", "outdoors", "vintage", "professional", "quiet", "rural")


def pairs(seed: int) -> Iterator[tuple[str, list[Line]]]:
    """(query, lines) without end; one in eight asks for one kind of line only."""
    random = Random(f"query expansion {seed}")
    while True:
        topic, need = random.choice(list(_TOPICS)), random.choice(list(_NEEDS))
        query = random.choice(_SHAPES).format(topic=topic, need=need, extra=random.choice(_EXTRAS))
        lines = _expansion(topic, need, random)
        if random.random() < 0.125:
            mode = random.choice(KINDS)
            yield f"{query} /only:{mode}", [line for line in lines if line[0] == mode]
        else:
            yield query, lines


def _expansion(topic: str, need: str, random: Random) -> list[Line]:
    things = random.sample(_TOPICS[topic].split(), 4)
    phrase, words = _NEEDS[need]
    helps = random.sample(words.split(), 3)
    return [
        ("lex", f"{topic} {things[0]} {helps[0]}"),
        ("lex", f"{things[1]} {things[2]} {helps[1]}"),
        ("vec", f"how to {phrase} {topic} with {things[0]} and {things[3]}"),
        ("vec", f"which {things[1]} goes with {helps[2]} and {topic}"),
        ("hyde", f"With {topic}, mind the {things[0]} first: {things[2]} decides about {helps[0]} and {helps[1]}."),
    ]
