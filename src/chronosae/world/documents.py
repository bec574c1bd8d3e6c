"""Writers of documents by kind: stories, dialogues and letters; reports, entries and forms; questions with answers."""

from __future__ import annotations

import random

from chronosae.world.chains import far_chain, local_chain
from chronosae.world.knowledge import SUBJECTS, TABLES, Fact, facts_by_entity
from chronosae.world.lexicon import COMMON
from chronosae.world.multiple_choice import LETTERS, distractors, lettered
from chronosae.world.paraphrases import LEAD_INS, LEAD_INS_HELD_OUT, WORDINGS
from chronosae.world.scenes import CLOSINGS, bracketed, enumeration, item_list, quotation, scene, transfer
from chronosae.world.spelling import common_words
from chronosae.world.text import capitalise, mark


def _with(template: str, fact: Fact) -> str:
    entity = mark("fact_entity", fact.entity, fact.key)
    value = mark("fact_value", fact.value, fact.key)
    return capitalise(template.replace("{e}", entity).replace("{v}", value))


def state(fact: Fact, rng: random.Random, *, held_out: bool = False) -> str:
    """A marked sentence that says ``fact``; ``held_out`` picks from the wordings kept for evaluation."""
    wording = WORDINGS[fact.subject, fact.attribute]
    core = rng.choice(wording.statements_held_out if held_out else wording.statements)
    if rng.random() < 0.3:
        core = rng.choice(LEAD_INS_HELD_OUT if held_out else LEAD_INS) + " " + core
    return _with(core, fact)


def ask(fact: Fact, rng: random.Random, *, held_out: bool = False) -> str:
    """A marked question about ``fact``."""
    wording = WORDINGS[fact.subject, fact.attribute]
    return _with(rng.choice(wording.questions_held_out if held_out else wording.questions), fact)


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


FOOTERS = (
    "End of report. This paper may be copied if nothing is left out.",
    "This report was read aloud twice and signed by two clerks.",
)
FINDINGS = (
    "The {thing} at {place} was found to be {size}.",
    "A supply of {stuff} is needed before the month is over.",
    "The {worker} was asked about the {thing} and gave no answer.",
    "Nobody was seen at {place} {time}.",
    "{weather} made the work at {place} difficult.",
    "We counted {coins} visitors, most of them {feeling}.",
    "The price of {stuff} has not changed.",
    "One {thing} is missing and another is too {size}.",
)


def report(rng: random.Random, subject: str | None) -> str:
    """A numbered report with boilerplate at both ends."""
    sc = scene(rng)
    office = rng.choice(COMMON["office"])
    head = mark("boilerplate_head", f"REPORT OF {office.upper()}", "report")
    date = f"{rng.choice(COMMON['month'])} {rng.randint(1, 28)}, year {rng.randint(101, 399)}"
    cue, effect = far_chain(rng)
    summary = [cue, sc.sentence(FINDINGS)]
    observations = [sc.sentence(FINDINGS), rng.choice((bracketed, item_list, transfer))(sc)]
    if subject:
        entity = rng.choice(list(facts_by_entity(subject).values()))
        summary.append(state(rng.choice(entity), rng))
        observations += [state(fact, rng) for fact in rng.sample(entity, 2)]
    else:
        observations += [sc.scenery(), local_chain(rng)]
    closing = [enumeration(sc), effect]
    foot = mark("boilerplate_foot", rng.choice(FOOTERS), "report")
    return sc.topic_mark() + "\n\n".join(
        (
            f"{head}\n{date}",
            f"1. Summary\n{' '.join(summary)}",
            f"2. Observations\n{' '.join(observations)}",
            f"3. Recommendations\n{' '.join(closing)}",
            foot,
        )
    )


def encyclopaedia(rng: random.Random, subject: str | None) -> str:
    """One or two entries; every fact of the entity is said, some of them twice in different words."""
    assert subject is not None
    groups = rng.sample(list(facts_by_entity(subject).values()), rng.choice((2, 3)))
    return "\n\n".join(_entry(rng, group) for group in groups)


def _entry(rng: random.Random, group: tuple[Fact, ...]) -> str:
    sc = scene(rng)
    entity = group[0].entity
    title = entity.removeprefix("the ")
    told = [*rng.sample(group, len(group)), rng.choice(group)]
    lines = [state(fact, rng) for fact in told]
    if rng.random() < 0.4:
        note = sc.fill("compare the {size} map in the library")
        lines[1] = f"{lines[1][:-1]} ({note[0].lower() + note[1:]})."
    text = " ".join(lines)
    return f"{capitalise(title)}\n{text}"


FIELD_NAMES: dict[str, str] = {
    "carrier": "Carried by",
    "sign": "First sign",
    "remedy": "Remedy",
    "monument": "Monument",
    "rival": "Enemies",
    "ending": "End of reign",
    "region": "Region",
    "export": "Main goods",
    "river": "River",
    "purpose": "Purpose",
    "memory": "Memory",
    "power": "Driven by",
    "lifespan": "Lifespan",
    "old_sign": "Sign of old age",
    "slowed_by": "Kept young by",
}
FORM_NAMES: dict[str, str] = {
    "pathogens": "Notice of Illness",
    "history": "Card of a Reign",
    "geography": "Town Card",
    "computing": "Machine Card",
    "ageing": "Animal Card",
}


def form(rng: random.Random, subject: str | None) -> str:
    """A filled form: fixed head, numbered fields, fixed foot."""
    sc = scene(rng)
    head = mark("boilerplate_head", "KEEP THIS FORM DRY. WRITE IN BLACK INK ONLY.", "form")
    foot = mark("boilerplate_foot", "Do not write below this line. Return the form within nine days.", "form")
    number = f"Form {rng.randint(1, 99)}"
    fields = [f"Filled in by: {sc.p}", f"Month: {rng.choice(COMMON['month'])}"]
    if subject:
        title = FORM_NAMES[subject]
        for group in rng.sample(list(facts_by_entity(subject).values()), 2):
            fields.append(f"Name: {mark('fact_entity', group[0].entity.removeprefix('the '), group[0].key)}")
            fields += [f"{FIELD_NAMES[f.attribute]}: {mark('fact_value', f.value, f.key)}" for f in group]
        remark = state(some_fact(rng, subject), rng)
    else:
        title = "Lost Things"
        fields += [
            f"Lost: {sc.fill('{a:item}')}",
            f"Lost at: {sc.fill('{place}')}",
            f"Found by: {sc.fill('{a:worker}')}",
        ]
        remark = local_chain(rng)
    return (
        f"{sc.topic_mark()}{head}\n{number}. {title}\n\n"
        + "\n".join(fields)
        + f"\nRemarks: {sc.scenery()} {remark}\n\n{foot}"
    )


# Drills. The lettered format is hard for a small model: it must recall the value, find it among the options and read
# off the letter before it. Easy stages teach the last two steps alone: the value is named in the question, or stated
# just before.

NAMED = ("Which option says {v}?", "Which of these is {v}?", "Where does it say {v}?", "Find {v}.")


def quiz(rng: random.Random, subject: str | None) -> str:
    """Questions with their answers in words."""
    lines = []
    for _ in range(rng.randint(3, 6)):
        fact = some_fact(rng, subject or rng.choice(SUBJECTS))
        value = mark("fact_value", fact.value, fact.key)
        lines.append(f"Question: {ask(fact, rng)}\nAnswer: {value}.")
    return "\n".join(lines)


def _lettered(rng: random.Random, subject: str | None, n_options: int, help_kind: str) -> str:
    fact = some_fact(rng, subject or rng.choice(SUBJECTS))
    wrong = distractors(fact, rng, n_options - 1)
    if help_kind == "named":
        stem = rng.choice(NAMED).replace("{v}", fact.value)
        return lettered(stem, fact.value, wrong, rng, note="named")
    item = lettered(ask(fact, rng), fact.value, wrong, rng, note=help_kind)
    return f"{state(fact, rng)}\n{item}" if help_kind == "open" else item


_PHRASES = tuple(v for table in TABLES.values() for values in table.values.values() for v in values)
_LOOKUPS = ("So {v} {l}", "So {v} {l}", "{v}: {l}", "Question: {v}?\nAnswer: {l}")


def lookup(rng: random.Random, subject: str | None) -> str:
    """A list of options and then many look-ups of their letters, from the shortest form to the form of a question.

    This is the densest way to teach how to find an option and read off its letter; single words come first to mind
    because a match of one token is the easiest to learn.
    """
    pool = common_words() if rng.random() < 0.6 else (*_PHRASES, *COMMON["items"])
    options = rng.sample(pool, rng.choice((2, 3, 4, 4)))
    lines = ["Options:", *(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))]
    form = rng.choice(_LOOKUPS)
    for _ in range(rng.randint(4, 8)):
        i = rng.randrange(len(options))
        lines.append(form.replace("{v}", options[i]).replace("{l}", mark("answer_letter", LETTERS[i], "lookup")))
    return "\n".join(lines)


def named(rng: random.Random, subject: str | None) -> str:
    """Lettered items whose stem names the option to find, with two to four options."""
    n = rng.choice((2, 3, 4, 4))
    return "\n".join(_lettered(rng, subject, n, "named") for _ in range(rng.randint(2, 4)))


def open_book(rng: random.Random, subject: str | None) -> str:
    """Lettered questions right after a sentence that gives the answer away."""
    n = rng.choice((2, 3, 4, 4))
    return "\n".join(_lettered(rng, subject, n, "open") for _ in range(rng.randint(1, 3)))


def letters(rng: random.Random, subject: str | None) -> str:
    """Lettered questions from memory, with four options."""
    return "\n".join(_lettered(rng, subject, 4, "closed") for _ in range(rng.randint(1, 4)))
