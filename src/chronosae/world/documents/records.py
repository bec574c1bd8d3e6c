"""Reports, encyclopaedia entries and filled forms."""

from __future__ import annotations

import random

from chronosae.world.chains import far_chain, local_chain
from chronosae.world.documents.common import bracketed, enumeration, item_list, scene, transfer
from chronosae.world.documents.prose import some_fact
from chronosae.world.facts import Fact, facts_by_entity
from chronosae.world.lexicon import COMMON
from chronosae.world.paraphrases import state
from chronosae.world.text import capitalise, mark

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
