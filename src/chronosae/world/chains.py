"""Planted chains: an early cue word decides a later word, at three ranges of distance.

Each chain is a fixed one-to-one table; a language model can only predict the effect by carrying the cue along. They are
the ground truth for edges between features. Distances are in tokens of the shipped tokenizer, from the last token of
the cue to the first token of the effect.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from chronosae.world.text import mark

GAP_CLASSES: dict[str, tuple[int, int]] = {"near": (1, 4), "middle": (5, 16), "far": (17, 400)}
"""Inclusive token distances of each class."""


@dataclass(frozen=True)
class Chain:
    """``pairs`` maps each cue to its effect; ``cue_lines`` hold ``{c}`` and ``effect_lines`` hold ``{x}``.

    Near and middle chains have both in one line (``effect_lines`` is empty).
    """

    name: str
    gap: str
    pairs: dict[str, str]
    cue_lines: tuple[str, ...]
    effect_lines: tuple[str, ...] = ()

    def write(self, rng: random.Random) -> tuple[str, str]:
        """Marked cue text and effect text (the second is empty unless the chain is far)."""
        cue = rng.choice(list(self.pairs))
        note = f"{self.gap}/{self.name}"
        c, x = mark("chain_cue", cue, note), mark("chain_effect", self.pairs[cue], note)
        early = rng.choice(self.cue_lines).replace("{c}", c).replace("{x}", x)
        late = rng.choice(self.effect_lines).replace("{x}", x) if self.effect_lines else ""
        return early, late


def _pairs(text: str) -> dict[str, str]:
    return dict(tuple(pair.split("=")) for pair in text.split(", "))  # type: ignore[arg-type]


CHAINS: tuple[Chain, ...] = (
    Chain(
        "gate",
        "near",
        _pairs("iron=groaned, wooden=creaked, glass=chimed, copper=sang, stone=rumbled"),
        ("In the wind the {c} gate {x}.", "Behind them the {c} gate {x} softly.", "The old {c} gate {x} as it opened."),
    ),
    Chain(
        "bird",
        "near",
        _pairs("heron=croaking, lark=trilling, crow=cawing, dove=cooing, duck=quacking"),
        ("From the roof came a {c}'s {x}.", "They heard a {c} {x} somewhere.", "A lonely {c} was {x} nearby."),
    ),
    Chain(
        "mug",
        "near",
        _pairs("cider=pewter, tea=clay, wine=silver, milk=wooden, broth=tin"),
        ("Somebody poured {c} into a {x} cup.", "There was {c} in the {x} cup.", "She sipped the {c} from a {x} cup."),
    ),
    Chain(
        "flag",
        "near",
        _pairs("red=halt, white=wait, yellow=turn, black=retreat, green=advance"),
        ("The {c} flag meant {x}.", "A {c} flag said {x}, as everyone knew.", "Up went the {c} flag: {x}!"),
    ),
    Chain(
        "bell",
        "near",
        _pairs("one=waking, two=prayer, three=supper, four=curfew, five=danger"),
        ("The tower struck {c} for {x}.", "At the stroke of {c} comes {x}.", "It struck {c}, so for {x}, as usual."),
    ),
    Chain(
        "cloth",
        "near",
        _pairs("linen=summer, velvet=court, felt=winter, silk=weddings, canvas=travel"),
        ("He kept a {c} coat for {x}.", "She owned {c} gloves for {x}.", "They wore {c} only for {x}."),
    ),
    Chain(
        "wood",
        "near",
        _pairs("oak=doors, pine=floors, ash=handles, willow=baskets, yew=bows"),
        ("They used {c} for the {x}.", "One buys {c} to make {x}.", "He chose {c} for {x}, as his father did."),
    ),
    Chain(
        "metal",
        "near",
        _pairs("gold=kings, bronze=heroes, lead=liars, nickel=clerks, steel=knights"),
        (
            "There were {c} rings for {x}.",
            "They kept {c} cups for {x}.",
            "It is {c} for {x} and nothing for fools.",
        ),
    ),
    Chain(
        "wind_hat",
        "middle",
        _pairs("north=red, south=yellow, east=blue, west=brown"),
        (
            "When the {c} wind blew, the fishermen put on their {x} hats.",
            "The wind came from the {c} that day, and so the boys came out in their {x} hats.",
        ),
    ),
    Chain(
        "moon_lamp",
        "middle",
        _pairs("full=white, new=purple, half=pink, waning=grey"),
        (
            "Under the {c} moon the keeper of the tower always lit a {x} lamp.",
            "The moon was {c}, so the watchman climbed up and hung out the {x} lamp.",
        ),
    ),
    Chain(
        "guild_knock",
        "middle",
        _pairs("bakers=once, tailors=twice, masons=thrice, coopers=softly"),
        (
            "Anyone from the house of the {c} had to knock at the door {x}.",
            "He said that he belonged to the {c}, went up to the door and knocked {x}.",
        ),
    ),
    Chain(
        "day_soup",
        "middle",
        _pairs("Moonday=lentil, Windday=barley, Fireday=pumpkin, Starday=leek, Restday=nettle"),
        (
            "On {c} the kitchen behind the old hall served bowls of {x} soup.",
            "It was {c}, and on the stove there stood a great pot of {x} soup.",
        ),
    ),
    Chain(
        "flower_family",
        "middle",
        _pairs("rose=weavers, tulip=dyers, lily=glaziers, daisy=tanners"),
        (
            "Whoever wore a {c} to the spring dance had to sit with the {x}.",
            "She pinned a {c} to her coat and took her place among the {x}.",
        ),
    ),
    Chain(
        "sail_cargo",
        "middle",
        _pairs("striped=timber, patched=wool, crimson=pepper, dark=marble"),
        (
            "A ship with {c} sails came slowly into the harbour, and it carried {x}.",
            "They saw {c} sails, so the porters made room for the {x}.",
        ),
    ),
    Chain(
        "card_prize",
        "middle",
        _pairs("crown=goose, tower=ham, wheel=barrel, sword=saddle"),
        (
            "He turned over the {c}, the crowd cheered, and he was given the {x}.",
            "If you draw the {c} at the fair, then you go home with the {x}.",
        ),
    ),
    Chain(
        "boots_road",
        "middle",
        _pairs("muddy=swamp, dusty=quarry, sandy=beach, sooty=mine"),
        (
            "Her boots were {c}, and so we all knew that she had come from the {x}.",
            "With such {c} boots there was no doubt that he had been down at the {x}.",
        ),
    ),
    Chain(
        "season_cloak",
        "far",
        _pairs("spring=green, summer=golden, autumn=russet, winter=silver"),
        ("It was {c} in the valley.", "The story begins in {c}.", "In that year {c} came early."),
        (
            "At the end of it all they put on their {x} cloaks, as the season asked.",
            "Before they parted, everyone was given a {x} cloak, as was proper for that time of the year.",
        ),
    ),
    Chain(
        "greeting",
        "far",
        _pairs("well met=fare well, good water=dry roads, clear sky=soft rain, long life=sweet sleep"),
        ("The first words of the day were '{c}'.", "They greeted each other with '{c}'."),
        ("They took leave with '{x}', as that greeting asks.", "And so the last words of the day were '{x}'."),
    ),
    Chain(
        "watchword",
        "far",
        _pairs("falcon=north, candle=south, orchard=east, thunder=west"),
        ("The watchword of the night was '{c}'.", "The captain gave out the watchword '{c}'."),
        (
            "At the signal, true to the watchword, the guard opened the {x} door.",
            "By the rule of the watchword they left by the {x} door.",
        ),
    ),
    Chain(
        "mask_title",
        "far",
        _pairs("fox=Trickster, bear=Giant, swan=Dancer, wolf=Outlaw"),
        ("One of them wore the mask of a {c}.", "Somebody had left the mask of a {c} on the bench."),
        (
            "Because of that mask the children called out for the {x}.",
            "After that everyone spoke of the mask, and of the {x}.",
        ),
    ),
    Chain(
        "seal_reply",
        "far",
        _pairs("blue=feather, black=key, red=coin, green=leaf"),
        ("A letter with a {c} seal lay on the table.", "That day a letter came with a {c} seal."),
        (
            "The answer to such a seal is always the same: a {x} in an envelope.",
            "As an answer to the letter they sent back a {x}.",
        ),
    ),
    Chain(
        "tune_step",
        "far",
        _pairs("fiddle=reel, harp=waltz, horn=march, drum=stamp"),
        ("Somewhere a {c} was being played.", "An old man was playing the {c} in the street."),
        ("Later, to that music, they all danced the {x}.", "With that music in the air there could only be a {x}."),
    ),
    Chain(
        "road_inn",
        "far",
        _pairs("upper=Eagle, lower=Carp, forest=Boar, coast=Crab"),
        ("They had taken the {c} road.", "Everyone had come by the {c} road."),
        ("As that road has one inn, they slept at the {x}.", "The road brought them at last to the inn of the {x}."),
    ),
    Chain(
        "dream_meal",
        "far",
        _pairs("horses=oats, fish=bread, ladders=eggs, storms=broth"),
        ("In the night there had been a dream about {c}.", "It had all begun with a dream about {c}."),
        ("Because of the dream, supper was only {x}.", "After such a dream one must eat {x}, and so they did."),
    ),
)
"""Eight chains in each gap class."""


def chains(gap: str) -> tuple[Chain, ...]:
    """The chains of one gap class."""
    return tuple(chain for chain in CHAINS if chain.gap == gap)


def local_chain(rng: random.Random) -> str:
    """One marked sentence with a near or a middle chain."""
    return rng.choice([c for c in CHAINS if c.gap != "far"]).write(rng)[0]


def far_chain(rng: random.Random) -> tuple[str, str]:
    """Marked sentences to put at least 17 tokens apart: cue first, effect later."""
    return rng.choice(chains("far")).write(rng)
