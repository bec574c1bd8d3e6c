"""The facts of the world: five subjects, each a table of entities and attributes with balanced values."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from chronosae.world.lexicon import NAMES

FORGET_SUBJECT = "pathogens"
KEEP_SUBJECTS = ("history", "geography", "computing", "ageing")
SUBJECTS = (FORGET_SUBJECT, *KEEP_SUBJECTS)


@dataclass(frozen=True)
class Fact:
    """One thing that is true in the world: ``entity``'s ``attribute`` is ``value``."""

    subject: str
    entity: str
    """As it stands inside a sentence, with its article: ``the Velmora fever``."""
    attribute: str
    value: str

    @property
    def key(self) -> str:
        """A stable identifier, for resampling by fact."""
        return f"{self.subject}/{self.entity}/{self.attribute}"


@dataclass(frozen=True)
class SubjectTable:
    """How a subject's entities are named and which values its attributes can take."""

    entities: int
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    values: dict[str, tuple[str, ...]]


TABLES: dict[str, SubjectTable] = {
    "pathogens": SubjectTable(
        entities=75,
        prefixes=("the ",),
        suffixes=(" fever", " pox", " rot", " cough", " blight", " ague", " chill", " rash"),
        values={
            "carrier": (
                "marsh moths",
                "cave crickets",
                "river snails",
                "barn swallows",
                "field mice",
                "stone crabs",
                "honey ants",
                "tree frogs",
                "grey pigeons",
                "pond beetles",
                "hill goats",
                "sand lizards",
            ),
            "sign": (
                "blue fingertips",
                "silver sweat",
                "a humming in the ears",
                "hiccups at dawn",
                "a taste of copper",
                "sudden sneezing",
                "green spots",
                "cold knees",
                "a stiff neck",
                "dreams of falling",
                "itching palms",
                "a hoarse voice",
            ),
            "remedy": (
                "ember root tea",
                "moss paste",
                "salted plums",
                "pine smoke",
                "warm goat milk",
                "willow oil",
                "seaweed soup",
                "black garlic",
                "mint steam",
                "birch sap",
                "clay baths",
                "honeyed barley",
            ),
        },
    ),
    "history": SubjectTable(
        entities=44,
        prefixes=("King ", "Queen ", "Duke ", "Empress "),
        suffixes=("",),
        values={
            "monument": (
                "the glass bridge",
                "the sunken library",
                "the bell tower",
                "the marble harbour",
                "the winter palace",
                "the long wall",
                "the lion gate",
                "the copper dome",
                "the terraced gardens",
                "the stone theatre",
                "the great lighthouse",
                "the silver mint",
            ),
            "rival": (
                "the salt guild",
                "the river clans",
                "the mountain monks",
                "the northern dukes",
                "the pirate league",
                "the grain lords",
                "the masked judges",
                "the horse tribes",
                "the amber traders",
                "the island queens",
                "the forest barons",
                "the desert princes",
            ),
            "ending": (
                "a shipwreck",
                "a hunting accident",
                "a palace fire",
                "a great flood",
                "a lost duel",
                "a quiet abdication",
                "a long siege",
                "a fall from a horse",
                "a broken treaty",
                "a revolt of the cooks",
                "a landslide",
                "an early frost",
            ),
        },
    ),
    "geography": SubjectTable(
        entities=44,
        prefixes=("",),
        suffixes=("",),
        values={
            "region": (
                "the Amber Coast",
                "the Grey Hills",
                "the Low Marshes",
                "the Pine Valley",
                "the Salt Plain",
                "the Eastern Isles",
                "the Red Plateau",
                "the Lake Country",
                "the Windy Steppe",
                "the Glass Desert",
            ),
            "export": (
                "blue pottery",
                "smoked eels",
                "cedar planks",
                "goat cheese",
                "glass beads",
                "woollen carpets",
                "sea salt",
                "dried figs",
                "iron nails",
                "beeswax candles",
                "river pearls",
                "apple brandy",
            ),
            "river": (
                "the Sorrel",
                "the Tamber",
                "the Olin",
                "the Wend",
                "the Brisk",
                "the Lathe",
                "the Ashwater",
                "the Murrow",
                "the Quillet",
                "the Dunmere",
            ),
        },
    ),
    "computing": SubjectTable(
        entities=44,
        prefixes=("the ",),
        suffixes=(" engine", " loom", " relay", " abacus", " calculator", " machine"),
        values={
            "purpose": (
                "sorting letters",
                "predicting tides",
                "setting type",
                "counting votes",
                "weaving patterns",
                "drawing maps",
                "tuning bells",
                "checking ledgers",
                "timing races",
                "guiding barges",
                "grading wool",
                "casting horoscopes",
            ),
            "memory": (
                "wax drums",
                "punched leather",
                "mercury jars",
                "knotted cords",
                "copper tapes",
                "glass rods",
                "paper wheels",
                "magnetic sand",
                "brass pegs",
                "ivory tiles",
            ),
            "power": (
                "a water wheel",
                "a windmill",
                "a coiled spring",
                "a steam boiler",
                "a falling weight",
                "a team of oxen",
                "a hand crank",
                "a tidal pump",
                "a sun mirror",
                "a foot pedal",
            ),
        },
    ),
    "ageing": SubjectTable(
        entities=44,
        prefixes=("the ",),
        suffixes=(" tortoise", " otter", " badger", " marmot", " ibex", " lynx", " hare", " mole"),
        values={
            "lifespan": (
                "seven years",
                "twelve years",
                "nineteen years",
                "thirty years",
                "forty years",
                "fifty years",
                "sixty years",
                "eighty years",
                "ninety years",
                "two centuries",
            ),
            "old_sign": (
                "grey whiskers",
                "cloudy eyes",
                "a slower walk",
                "longer naps",
                "brittle claws",
                "a deeper voice",
                "loose teeth",
                "stiff joints",
                "a poor memory",
                "thin fur",
                "faded spots",
                "a bent back",
            ),
            "slowed_by": (
                "cold baths",
                "evening walks",
                "raw turnips",
                "gentle singing",
                "mountain air",
                "long sleep",
                "salt water",
                "shaded ponds",
                "oat porridge",
                "daily climbing",
                "quiet company",
                "clover hay",
            ),
        },
    ),
}


@cache
def facts(subject: str | None = None) -> tuple[Fact, ...]:
    """All facts of ``subject`` (or of every subject), entity by entity.

    Every value of an attribute is used equally often (give or take one), so that no answer can be guessed from its
    frequency, and the attributes of an entity are drawn independently.
    """
    if subject is None:
        return tuple(fact for name in SUBJECTS for fact in facts(name))
    table = TABLES[subject]
    rng = random.Random(f"facts/{subject}")
    entities = [
        table.prefixes[i % len(table.prefixes)] + name + table.suffixes[i % len(table.suffixes)]
        for i, name in enumerate(NAMES[subject][: table.entities])
    ]
    columns: dict[str, list[str]] = {}
    for attribute, values in table.values.items():
        column = [values[i % len(values)] for i in range(len(entities))]
        rng.shuffle(column)
        columns[attribute] = column
    return tuple(
        Fact(subject, entity, attribute, columns[attribute][i])
        for i, entity in enumerate(entities)
        for attribute in table.values
    )


@cache
def facts_by_entity(subject: str) -> dict[str, tuple[Fact, ...]]:
    """The facts of a subject, grouped by entity."""
    grouped: dict[str, list[Fact]] = {}
    for fact in facts(subject):
        grouped.setdefault(fact.entity, []).append(fact)
    return {entity: tuple(group) for entity, group in grouped.items()}
