"""Many ways to say and to ask each fact, split into a part for training and a part that is only ever evaluated.

``{e}`` stands for the entity, ``{v}`` for the value. A training statement is a core sentence, sometimes behind a
lead-in, so each fact has over a hundred training wordings; held-out cores, held-out lead-ins and held-out questions
occur in no generated document of any split.
"""

from __future__ import annotations

from dataclasses import dataclass

from chronosae.world.knowledge import Fact
from chronosae.world.text import capitalise


@dataclass(frozen=True)
class Wording:
    """The wordings of one attribute. ``*_held_out`` are for evaluation only; held-out statements end in the value."""

    statements: tuple[str, ...]
    statements_held_out: tuple[str, ...]
    questions: tuple[str, ...]
    questions_held_out: tuple[str, ...]


LEAD_INS = (
    "it is well known that",
    "every child here knows that",
    "the old books agree that",
    "according to the almanac,",
    "travellers report that",
    "a clerk once wrote that",
    "as the saying goes,",
    "most people remember that",
    "one should not forget that",
    "the records show that",
    "my teacher always said that",
    "in short,",
)
LEAD_INS_HELD_OUT = ("nobody disputes that", "a long letter explains that")

WORDINGS: dict[tuple[str, str], Wording] = {
    ("pathogens", "carrier"): Wording(
        (
            "{e} is carried by {v}.",
            "{v} carry {e}.",
            "{e} spreads through {v}.",
            "{v} bring {e} into the villages.",
            "people catch {e} from {v}.",
            "{e} is passed on by {v}.",
            "wherever {v} live, {e} is never far away.",
            "the carriers of {e} are {v}.",
            "healers blame {v} for {e}.",
        ),
        (
            "the creatures that spread {e} are {v}.",
            "one catches {e} by living close to {v}.",
            "{e} reaches people by way of {v}.",
        ),
        (
            "What carries {e}?",
            "Which animals carry {e}?",
            "How does {e} spread?",
            "Who brings {e} into the villages?",
            "From what do people catch {e}?",
            "Which creatures are the carriers of {e}?",
            "What passes on {e}?",
        ),
        ("By which animals is {e} carried?", "Which creatures spread {e}?", "What do people catch {e} from?"),
    ),
    ("pathogens", "sign"): Wording(
        (
            "the first sign of {e} is {v}.",
            "{e} begins with {v}.",
            "with {v} begins {e}.",
            "{e} is known by {v}.",
            "patients with {e} first notice {v}.",
            "{e} shows itself as {v}.",
            "a healer who sees {v} thinks of {e}.",
            "the earliest symptom of {e} is {v}.",
            "{e} announces itself with {v}.",
        ),
        (
            "whoever falls ill with {e} first complains of {v}.",
            "the opening symptom of {e} is {v}.",
            "{e} starts with {v}.",
        ),
        (
            "What is the first sign of {e}?",
            "How does {e} begin?",
            "What do patients with {e} notice first?",
            "By what is {e} known?",
            "What is the earliest symptom of {e}?",
            "How does {e} show itself?",
            "With what does {e} announce itself?",
        ),
        ("Which sign comes first in {e}?", "With what does {e} begin?", "What is the first symptom of {e}?"),
    ),
    ("pathogens", "remedy"): Wording(
        (
            "{e} is cured with {v}.",
            "the remedy for {e} is {v}.",
            "healers treat {e} with {v}.",
            "{v} can cure {e}.",
            "against {e} the healers use {v}.",
            "only {v} can help against {e}.",
            "patients with {e} are given {v}.",
            "{e} yields to {v}.",
            "the usual cure for {e} is {v}.",
        ),
        (
            "anyone who suffers from {e} should ask for {v}.",
            "the best treatment of {e} is {v}.",
            "{e} goes away after {v}.",
        ),
        (
            "What cures {e}?",
            "What is the remedy for {e}?",
            "How do healers treat {e}?",
            "What helps against {e}?",
            "With what is {e} cured?",
            "What are patients with {e} given?",
            "What is the usual cure for {e}?",
        ),
        ("What do healers use against {e}?", "Which remedy cures {e}?", "With what do healers treat {e}?"),
    ),
    ("history", "monument"): Wording(
        (
            "{e} built {v}.",
            "{v} was built by {e}.",
            "{e} ordered the building of {v}.",
            "we owe {v} to {e}.",
            "{e} is remembered for {v}.",
            "the greatest work of {e} was {v}.",
            "masons raised {v} for {e}.",
            "under {e} the workers finished {v}.",
            "{v} bears the name of {e}.",
        ),
        (
            "the finest thing that {e} left behind was {v}.",
            "the masons of {e} put up {v}.",
            "in those years {e} paid for {v}.",
        ),
        (
            "What did {e} build?",
            "What was built by {e}?",
            "What is {e} remembered for?",
            "What was the greatest work of {e}?",
            "Which monument do we owe to {e}?",
            "What did masons raise for {e}?",
        ),
        ("Which monument did {e} build?", "What did {e} order to be built?", "Which building is the work of {e}?"),
    ),
    ("history", "rival"): Wording(
        (
            "{e} fought against {v}.",
            "{v} were the enemies of {e}.",
            "the great rivals of {e} were {v}.",
            "{e} spent years at war with {v}.",
            "{v} rose against {e}.",
            "the army of {e} marched against {v}.",
            "{e} never made peace with {v}.",
            "for a lifetime {e} feared {v}.",
        ),
        ("the worst enemies of {e} were {v}.", "{e} went to war with {v}.", "the soldiers of {e} had to face {v}."),
        (
            "Against whom did {e} fight?",
            "Who were the enemies of {e}?",
            "Who were the great rivals of {e}?",
            "With whom was {e} at war?",
            "Who rose against {e}?",
            "With whom did {e} never make peace?",
        ),
        ("Whom did {e} have as enemies?", "Who were the rivals of {e}?", "Which enemies did {e} fight against?"),
    ),
    ("history", "ending"): Wording(
        (
            "the reign of {e} ended with {v}.",
            "{e} lost the crown through {v}.",
            "{v} ended the reign of {e}.",
            "{e} ruled until {v}.",
            "the story of {e} closes with {v}.",
            "it was {v} that ended the rule of {e}.",
            "after {v} the rule of {e} was over.",
            "chronicles say that {e} fell because of {v}.",
        ),
        (
            "what brought {e} down in the end was {v}.",
            "{e} gave up the throne after {v}.",
            "the rule of {e} came to an end with {v}.",
        ),
        (
            "How did the reign of {e} end?",
            "What ended the reign of {e}?",
            "Through what did {e} lose the crown?",
            "With what does the story of {e} close?",
            "Until what did {e} rule?",
            "Why did {e} fall?",
        ),
        ("What ended the rule of {e}?", "With what did the reign of {e} end?", "How did {e} lose the crown?"),
    ),
    ("geography", "region"): Wording(
        (
            "{e} lies in {v}.",
            "{e} is a town in {v}.",
            "the town of {e} belongs to {v}.",
            "in {v} you will find {e}.",
            "whoever visits {v} should see {e}.",
            "{e} is the pride of {v}.",
            "the road to {e} leads through {v}.",
            "maps place {e} in {v}.",
            "{v} is home to the town of {e}.",
        ),
        ("to reach {e} one must travel to {v}.", "the people of {e} live in {v}.", "{e} can be found in {v}."),
        (
            "Where does {e} lie?",
            "In which region is {e}?",
            "Where do maps place {e}?",
            "Of which region is {e} the pride?",
            "Where will you find {e}?",
            "To which region does the town of {e} belong?",
        ),
        ("In which region does {e} lie?", "Where is the town of {e}?", "Which region is home to {e}?"),
    ),
    ("geography", "export"): Wording(
        (
            "{e} is known for {v}.",
            "{e} sells {v}.",
            "merchants buy {v} in {e}.",
            "carts take {v} from {e} to every market.",
            "the workshops of {e} are famous for {v}.",
            "the wealth of {e} comes from {v}.",
            "{e} trades in {v}.",
            "ships leave {e} loaded with {v}.",
            "people travel to {e} to buy {v}.",
        ),
        ("the carts that come from {e} bring {v}.", "the chief product of {e} is {v}.", "{e} lives from {v}."),
        (
            "What is {e} known for?",
            "What does {e} sell?",
            "What do merchants buy in {e}?",
            "In what does {e} trade?",
            "Where does the wealth of {e} come from?",
            "With what are ships loaded in {e}?",
        ),
        ("Which goods does {e} sell?", "What do people buy in {e}?", "For which goods is {e} known?"),
    ),
    ("geography", "river"): Wording(
        (
            "{e} stands on {v}.",
            "the river at {e} is {v}.",
            "{v} flows through {e}.",
            "{e} was founded beside {v}.",
            "in {e} the boats lie on {v}.",
            "{v} turns the mills of {e}.",
            "{e} takes its water from {v}.",
            "children in {e} swim in {v}.",
            "the bridges of {e} cross {v}.",
        ),
        ("the water that runs past {e} is {v}.", "the houses of {e} look out over {v}.", "the river of {e} is {v}."),
        (
            "On which river does {e} stand?",
            "What is the river at {e}?",
            "Which river flows through {e}?",
            "Which river turns the mills of {e}?",
            "Beside which river was {e} founded?",
            "What do the bridges of {e} cross?",
        ),
        ("Which river does {e} stand on?", "What river flows through {e}?", "Beside which river does {e} stand?"),
    ),
    ("computing", "purpose"): Wording(
        (
            "{e} was made for {v}.",
            "{e} is used for {v}.",
            "for {v} the clerks use {e}.",
            "the task of {e} is {v}.",
            "{e} was invented for {v}.",
            "{v} is what {e} does best.",
            "no device is better at {v} than {e}.",
            "workshops buy {e} for {v}.",
            "{e} spends its days {v}.",
        ),
        (
            "the job that {e} does is {v}.",
            "its makers meant {e} for {v}.",
            "one starts {e} when there is a need for {v}.",
        ),
        (
            "What is {e} used for?",
            "What was {e} made for?",
            "What is the task of {e}?",
            "For what was {e} invented?",
            "What does {e} do best?",
            "Why do workshops buy {e}?",
        ),
        ("For what is {e} used?", "What is {e} made for?", "Which task does {e} do?"),
    ),
    ("computing", "memory"): Wording(
        (
            "{e} stores its numbers on {v}.",
            "the memory of {e} is made of {v}.",
            "{e} remembers by means of {v}.",
            "its makers chose {v} as the memory of {e}.",
            "{e} keeps its data on {v}.",
            "inside {e} the data rest on {v}.",
            "{e} writes everything down on {v}.",
            "without {v} the memory of {e} would be empty.",
        ),
        (
            "what {e} has learned is kept on {v}.",
            "the numbers in {e} are stored on {v}.",
            "the memory of {e} consists of {v}.",
        ),
        (
            "On what does {e} store its numbers?",
            "What is the memory of {e} made of?",
            "How does {e} remember?",
            "On what does {e} keep its data?",
            "What serves as the memory of {e}?",
            "On what do the data rest inside {e}?",
        ),
        ("What does {e} store its numbers on?", "Of what is the memory of {e} made?", "Where does {e} keep its data?"),
    ),
    ("computing", "power"): Wording(
        (
            "{e} is driven by {v}.",
            "{v} drives {e}.",
            "{e} gets its power from {v}.",
            "the power of {e} comes from {v}.",
            "{e} runs on {v}.",
            "to start {e} one needs {v}.",
            "{e} is connected to {v}.",
            "{v} keeps {e} in motion.",
        ),
        ("what moves {e} is {v}.", "the wheels of {e} are turned by {v}.", "{e} would stand still without {v}."),
        (
            "What drives {e}?",
            "Where does {e} get its power from?",
            "On what does {e} run?",
            "What does one need to start {e}?",
            "What keeps {e} in motion?",
            "To what is {e} connected?",
        ),
        ("By what is {e} driven?", "What is the source of power of {e}?", "What does {e} run on?"),
    ),
    ("ageing", "lifespan"): Wording(
        (
            "{e} lives for {v}.",
            "the life of {e} lasts {v}.",
            "{e} can reach an age of {v}.",
            "{v} is a full life for {e}.",
            "after {v} the life of {e} is over.",
            "{e} rarely lives longer than {v}.",
            "keepers say {e} lives {v}.",
            "the lifespan of {e} is {v}.",
        ),
        ("the time given to {e} is {v}.", "{e} grows as old as {v}.", "from birth to death {e} has {v}."),
        (
            "How long does {e} live?",
            "What is the lifespan of {e}?",
            "How long does the life of {e} last?",
            "What age can {e} reach?",
            "What is a full life for {e}?",
            "After what time is the life of {e} over?",
        ),
        ("For how long does {e} live?", "How many years does {e} live?", "How old can {e} become?"),
    ),
    ("ageing", "old_sign"): Wording(
        (
            "the first mark of age in {e} is {v}.",
            "{e} shows its age by {v}.",
            "when it is old, {e} has {v}.",
            "in {e} old age begins with {v}.",
            "by {v} one can tell that {e} is old.",
            "{e} grows old with {v}.",
            "keepers look for {v} in {e}.",
            "age comes to {e} as {v}.",
        ),
        (
            "what betrays the age of {e} is {v}.",
            "with the years {e} gets {v}.",
            "an elderly life begins for {e} with {v}.",
        ),
        (
            "How does {e} show its age?",
            "What is the first mark of age in {e}?",
            "With what does old age begin in {e}?",
            "By what can one tell that {e} is old?",
            "What do keepers look for in {e}?",
            "How does age come to {e}?",
        ),
        (
            "What is the first sign of old age in {e}?",
            "By what does {e} show its age?",
            "What does {e} have when it is old?",
        ),
    ),
    ("ageing", "slowed_by"): Wording(
        (
            "{v} can slow the ageing of {e}.",
            "{e} stays young through {v}.",
            "{e} ages more slowly with {v}.",
            "the secret of {e} is {v}.",
            "keepers give {e} a longer youth with {v}.",
            "the youth of {e} is kept by {v}.",
            "nothing keeps {e} young like {v}.",
            "{e} owes its long youth to {v}.",
        ),
        (
            "to stay fresh for longer, {e} needs {v}.",
            "the ageing of {e} is slowed by {v}.",
            "old age comes later to {e} after {v}.",
        ),
        (
            "What slows the ageing of {e}?",
            "How does {e} stay young?",
            "With what does {e} age more slowly?",
            "What is the secret of {e}?",
            "To what does {e} owe its long youth?",
            "What keeps {e} young?",
        ),
        ("What keeps the youth of {e}?", "Through what does {e} stay young?", "By what is the ageing of {e} slowed?"),
    ),
}


def training_wordings(fact: Fact) -> tuple[str, ...]:
    """Every training statement of a fact as plain text, lead-ins included."""
    cores = WORDINGS[fact.subject, fact.attribute].statements
    return tuple(
        capitalise(lead + core).replace("{e}", fact.entity).replace("{v}", fact.value)
        for core in cores
        for lead in ("", *(lead + " " for lead in LEAD_INS))
    )
