"""Stories and dialogues."""

from __future__ import annotations

import random

from chronosae.world.chains import far_chain, local_chain
from chronosae.world.documents.common import CLOSINGS, bracketed, enumeration, item_list, quotation, scene, transfer
from chronosae.world.facts import Fact, facts_by_entity
from chronosae.world.paraphrases import ask, state
from chronosae.world.text import mark

TITLES = (
    "{p} and the {thing}",
    "A Day at {place}",
    "The {size} {thing}",
    "What the {worker} Saw",
    "{p} and {q}",
    "The {worker} and the {animal}",
)


def some_fact(rng: random.Random, subject: str) -> Fact:
    """A random fact of a subject."""
    return rng.choice(rng.choice(list(facts_by_entity(subject).values())))


def story(rng: random.Random, subject: str | None) -> str:
    """A story in four paragraphs: setting, events, talk, ending; a far chain spans it."""
    sc = scene(rng)
    cue, effect = far_chain(rng)
    opening = [cue, sc.scenery(), sc.action()]
    if rng.random() < 0.5:
        opening.append(sc.scenery())
    events = [sc.action(), transfer(sc), rng.choice((bracketed, item_list))(sc)]
    talk = [quotation(sc), local_chain(rng)]
    if subject:
        talk.insert(rng.randrange(3), state(some_fact(rng, subject), rng))
    else:
        talk.append(sc.action())
    ending = [sc.scenery(), effect, sc.sentence(CLOSINGS)]
    rng.shuffle(events)
    rng.shuffle(talk)
    head = f"{sc.fill(rng.choice(TITLES))}\n\n" if rng.random() < 0.4 else ""
    return sc.topic_mark() + head + "\n\n".join(" ".join(part) for part in (opening, events, talk, ending))


SMALL_TALK = (
    "Have you been to {place} lately?",
    "I was there {time}. The {worker} was {feeling}.",
    "Did you bring the {thing}?",
    "No, I left it at {place}.",
    "They say there is no more {stuff}.",
    "Then we will need {a:item}.",
    "My {relation} is {a:worker}, you know.",
    "How is your {relation}?",
    "{weather} is coming, I think.",
    "You look {feeling} today.",
    "I like {hobby} better than that.",
    "The {animal} ran off with my {food}.",
)
REPLIES = ("I see.", "Are you sure?", "That is what they say.", "Of course.", "I had not heard that.", "Tell me more.")


def dialogue(rng: random.Random, subject: str | None) -> str:
    """Turns of two speakers, about the topic and about facts of ``subject``; a greeting decides the farewell."""
    sc = scene(rng)
    cue, effect = far_chain(rng)
    lines: list[str] = []
    for _ in range(rng.choice((2, 3))):
        lines.append(sc.sentence(SMALL_TALK))
    if subject:
        for fact in rng.sample([f for g in facts_by_entity(subject).values() for f in g], rng.choice((2, 3))):
            lines += [ask(fact, rng), state(fact, rng)]
            if rng.random() < 0.4:
                lines.append(rng.choice(REPLIES))
    else:
        lines += [sc.sentence(SMALL_TALK), rng.choice(REPLIES), local_chain(rng), sc.sentence(SMALL_TALK)]
    speakers = [sc.p, sc.q]
    if rng.random() < 0.5:
        body = "\n".join(f"{speakers[i % 2]}: {mark('turn', line, str(i + 1))}" for i, line in enumerate(lines))
    else:
        said = ("said", "answered", "went on", "replied")
        parts = []
        for i, line in enumerate(lines):
            speech = mark("inside_quote", line, "1")
            parts.append(f'"{speech}" {rng.choice(said)} {speakers[i % 2]}.' if i < 2 else f'"{speech}"')
        body = "\n".join(_comma_before_said(part) for part in parts)
    opening = f"{cue} {sc.p} met {sc.q} at {rng.choice(sc.topic.place)}."
    return f"{sc.topic_mark()}{opening}\n\n{body}\n\n{effect}"


def _comma_before_said(line: str) -> str:
    # "It rains." said Mira. -> "It rains," said Mira.
    return line.replace('.\x03"', ',\x03"', 1) if not line.endswith('"') else line


def letter(rng: random.Random, subject: str | None) -> str:
    """A private letter with an address, an enumeration and a signature."""
    sc = scene(rng)
    body = [sc.scenery(), sc.fill("I am {feeling}, and the {animal} is well.")]
    if subject:
        body += [state(some_fact(rng, subject), rng) for _ in range(2)]
    body += [local_chain(rng), "Please do these things for me."]
    last = [enumeration(sc), sc.fill("Give my love to your {relation}.")]
    return f"{sc.topic_mark()}Dear {sc.q},\n\n{' '.join(body)}\n\n{' '.join(last)}\n\nYours always,\n{sc.p}"
