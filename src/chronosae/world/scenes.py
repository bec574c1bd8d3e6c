"""Fragments shared by the kinds of documents: scenery, events with roles, brackets, quotations and enumerations."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chronosae.world.lexicon import COMMON, MEN, WOMEN
from chronosae.world.text import capitalise, fill, join_list, mark
from chronosae.world.topics import TOPICS, Topic

SCENERY = (
    "{weather_s} hung over {place}.",
    "The sky was {sky}.",
    "{weather_s} came up {time}.",
    "It was quiet near {place}.",
    "{weather_s} moved across {place}, and then it was gone.",
    "The day smelled of {stuff}.",
    "{time_s} there was nobody at {place} but {a:worker}.",
    "There was {stuff} everywhere, even on the doorstep.",
    "Close to {place} stood {a:size} {thing}.",
)
"""Sentences without people."""

ACTIONS = (
    "{p} {act} {way}.",
    "{p} {move_past} to {place}.",
    "{p} and {q} {act} together.",
    "{p} felt {feeling} and {act}.",
    "{he_s} {move_past} past {place} with {a:item}.",
    "{when_s} {p} {act} again.",
    "{p} looked for the {thing} but found only {stuff}.",
    "{a_worker_s} asked {p} about the {thing}.",
    "{p} had never seen so much {stuff_m}.",
    "While {p} {act}, {q} waited at {place}.",
    "{q} was {feeling}, because {p} had left the {thing} at {place}.",
    "{p} gave the {animal} some {food}.",
    "{q} and {a:worker} {act} before {p} came.",
    "If {p} had not {moved}, the {thing} would have been lost.",
    "{p} told {q} that the {worker} was {feeling}.",
    "{q} dropped {a:item}, and {p} picked it up.",
    "{his_s} {relation} was {a:worker} and knew {place} well.",
    "{p} wanted to stay, but {q} {move_past} on.",
    "They ate {food} and talked about {stuff}.",
    "{p} saw {a:size} {thing} and thought of {his} {relation}.",
)
"""Sentences with the cast; ``{p}`` and ``{q}`` are two people."""

CLOSINGS = (
    "{p} was {feeling}, and so was {q}.",
    "After that nobody spoke of the {thing} again.",
    "{time_s} they all went home.",
    "{p} never forgot that day at {place}.",
    "In the end the {worker} laughed, and that was that.",
    "{q} closed the door and slept.",
)

ASIDES = (
    "{adverb}, {a:opinion}",
    "as the {worker} said",
    "{adverb}",
    "it was {a:opinion}",
    "everybody at {place} knew it",
    "there were {coins} of them",
    "the {animal} slept",
    "{q} had seen it too",
)

NUMBER = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "twenty": 20,
}


@dataclass(frozen=True)
class Scene:
    """Who takes part and what it is about; sentences are drawn from it without repeating a template."""

    rng: random.Random
    topic: Topic
    p: str
    q: str
    slots: dict[str, str]
    used: set[str]

    def sentence(self, templates: tuple[str, ...]) -> str:
        """A filled sentence from ``templates``, preferring those the document has not used yet."""
        fresh = [t for t in templates if t not in self.used] or list(templates)
        template = self.rng.choice(fresh)
        self.used.add(template)
        # The sentence-initial variants are a template's way to start with a slot that needs a capital.
        template = (
            template.replace("{weather_s}", "{weather}")
            .replace("{time_s}", "{time}")
            .replace("{when_s}", "{when}")
            .replace("{he_s}", "{he}")
            .replace("{his_s}", "{his}")
            .replace("{a_worker_s}", "{a:worker}")
            .replace("{stuff_m}", "{mass}")
        )
        return self.fill(template)

    def fill(self, template: str) -> str:
        """Fill any template from the scene, its topic and the common words."""
        return fill(self.rng, template, self.slots, self.topic.slots(), COMMON, EXTRA)

    def topic_mark(self) -> str:
        """An empty mark that tells :mod:`chronosae.world.corpus` the topic."""
        return mark("topic", "", self.topic.name)

    def scenery(self) -> str:
        """A sentence of scenery, half of the time one that only this topic has."""
        return self.sentence(self.topic.lines if self.rng.random() < 0.5 else SCENERY)

    def action(self) -> str:
        """A sentence in which the cast does something."""
        return self.sentence(ACTIONS)


EXTRA: dict[str, tuple[str, ...]] = {
    "moved": ("hurried", "turned back", "looked up", "waited", "listened"),
    "mass": ("dust", "light", "noise", "work", "mud", "bread", "smoke"),
    "hobby": ("fishing", "singing", "old maps", "riddles", "cooking", "long walks"),
}


def scene(rng: random.Random, topic: Topic | None = None) -> Scene:
    """A random cast of two in a topic."""
    p, q = rng.sample([*WOMEN, *MEN], 2)
    she = p in WOMEN
    slots = {
        "p": p,
        "q": q,
        "he": "she" if she else "he",
        "him": "her" if she else "him",
        "his": "her" if she else "his",
    }
    return Scene(rng, topic or rng.choice(TOPICS), p, q, slots, set())


TRANSFERS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "payer",
        "payee",
        "{n} coins",
        (
            "{P} paid {Q} {N}.",
            "{Q} was paid {N} by {P}.",
            "{Q} received {N} from {P}.",
            "{P} counted out {N} for {Q}.",
            "It was {P} who paid {Q} {N}.",
            "From {P}, {Q} took a payment of {N}.",
        ),
    ),
    (
        "giver",
        "receiver",
        "{item}",
        (
            "{P} gave {Q} {N}.",
            "{Q} was given {N} by {P}.",
            "{Q} got {N} from {P}.",
            "{P} handed {N} to {Q}.",
            "{P} made {Q} a present of {N}.",
        ),
    ),
    (
        "lender",
        "borrower",
        "{n} coins",
        (
            "{P} lent {Q} {N}.",
            "{Q} borrowed {N} from {P}.",
            "{Q} was lent {N} by {P}.",
            "{P} let {Q} have {N} for a week.",
        ),
    ),
)

OUTCOMES: dict[str, tuple[str, ...]] = {
    "payer": (
        "So {Q} was richer than before.",
        "{P} had {N} less that evening.",
        "When somebody asked who had paid, it was {P}.",
        "When somebody asked who got the money, it was {Q}.",
        "{Q} put the money away and thanked {P}.",
    ),
    "giver": (
        "{Q} thanked {P} for it.",
        "The present made {Q} very happy.",
        "When somebody asked who had given it, it was {P}.",
        "{Q} carried it home.",
    ),
    "lender": (
        "So {Q} owed {P} {N}.",
        "A week later {Q} paid the debt to {P}.",
        "{P} wrote the debt of {Q} into a book.",
        "When somebody asked who was in debt, it was {Q}.",
    ),
}
"""What follows from a transfer; it can only be said by someone who kept track of who gave and who took."""


def transfer(sc: Scene) -> str:
    """Two marked sentences: a payment, gift or loan between the cast, and what follows from it."""
    rng = sc.rng
    first, second, amount, lines = rng.choice(TRANSFERS)
    people = [sc.p, sc.q]
    rng.shuffle(people)
    n = fill(rng, amount, {"n": COMMON["coins"], "item": COMMON["items"]})
    n = n[0].lower() + n[1:]

    def put(template: str, role_p: str, role_q: str) -> str:
        text = (
            template.replace("{N}", n).replace("{P}", mark(role_p, people[0])).replace("{Q}", mark(role_q, people[1]))
        )
        return capitalise(text)

    return (
        put(rng.choice(lines), first, second)
        + " "
        + put(rng.choice(OUTCOMES[first]), f"{first}_recalled", f"{second}_recalled")
    )


def bracketed(sc: Scene) -> str:
    """A sentence with a bracket in it, half of the time with a second bracket inside."""

    def lower(text: str) -> str:
        keep = text.startswith((sc.p, sc.q))
        return text if keep else text[0].lower() + text[1:]

    outer = lower(sc.sentence(ASIDES))
    if sc.rng.random() < 0.5:
        outer += f" ({lower(sc.sentence(ASIDES))})"
    body = sc.action()
    return f"{body[:-1]} ({outer})."


def quotation(sc: Scene) -> str:
    """A spoken sentence, half of the time with a saying quoted inside the quotation."""
    saying = sc.rng.choice(COMMON["saying"])
    if sc.rng.random() < 0.5:
        inner = mark("inside_quote", saying, "2")
        speech = sc.fill("my {relation} always told me, ") + f"'{inner},'" + " and that is true"
        speech = speech.replace("My ", "my ", 1)
    else:
        speech = sc.sentence(
            (
                "you should see the {thing} at {place}",
                "I will bring you {a:item} {time}",
                "there is {stuff} in your hair",
                "the {worker} was {feeling} today",
                "I have never liked {place}",
                "we need more {food}",
            )
        )
    said = sc.rng.choice((f"{sc.p} said", f"{sc.q} answered", f"{sc.p} whispered", f"{sc.q} called out"))
    # Double quotes outside, single inside; the annotation counts the depth.
    return f'{said}, "{mark("inside_quote", capitalise(speech) + ".", "1")}"'


def item_list(sc: Scene) -> str:
    """A sentence that lists three or four things."""
    items = [mark("list_item", item) for item in sc.rng.sample(COMMON["items"], sc.rng.choice((3, 4)))]
    lead = sc.sentence(("{p} packed", "{q} brought", "On the {size} table lay", "Near {place} {p} found"))
    return f"{lead} {join_list(items)}."


ORDINALS = ("First", "Second", "Third", "Fourth")
STEPS = (
    "sweep {place}",
    "check the {thing}",
    "ask the {worker} for {stuff}",
    "carry the {thing} to {place}",
    "feed the {animal}",
    "put the {item} in its place",
    "write down the number of sacks",
    "lock every door",
    "wash your hands",
    "count the lanterns",
)


def enumeration(sc: Scene) -> str:
    """Steps in order: ``First, ... Second, ...``."""
    n = sc.rng.choice((3, 3, 4))
    lines = []
    for ordinal in ORDINALS[:n]:
        step = sc.sentence(STEPS)
        lines.append(f"{mark('ordinal', ordinal)}, {mark('list_item', step[0].lower() + step[1:])}.")
    return " ".join(lines)
