"""Names and general words of the invented world; everything here is a constant of the generator's version."""

from __future__ import annotations

import random

GENERATOR_VERSION = "2"
"""Part of every fingerprint; raise it whenever generated text changes."""

WOMEN = [
    "Mira",
    "Anwen",
    "Tessa",
    "Ilva",
    "Orla",
    "Brina",
    "Sennet",
    "Liss",
    "Corra",
    "Dalia",
    "Evaine",
    "Fenna",
    "Greta",
    "Hesper",
    "Isolt",
    "Jessamy",
    "Kerra",
    "Lunet",
    "Maren",
    "Nessa",
    "Odile",
    "Petra",
    "Quilla",
    "Rowena",
    "Sibyl",
    "Thea",
    "Ursa",
    "Velda",
    "Wynne",
    "Ysolde",
    "Zora",
    "Alisse",
]
MEN = [
    "Tolen",
    "Bram",
    "Corin",
    "Davin",
    "Edric",
    "Faron",
    "Garrick",
    "Hale",
    "Ivo",
    "Joren",
    "Kester",
    "Lothar",
    "Milo",
    "Nolan",
    "Osric",
    "Perrin",
    "Quentin",
    "Rufus",
    "Silas",
    "Torvald",
    "Ulric",
    "Vance",
    "Wendel",
    "Yorick",
    "Zebulon",
    "Alban",
    "Bastian",
    "Conrad",
    "Dunstan",
    "Emeric",
    "Florian",
    "Gideon",
]

_ONSETS = [
    "b",
    "br",
    "c",
    "cr",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sk",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ae", "ai", "ea", "ia", "oa", "ou"]
_CODAS = ["l", "m", "n", "r", "s", "th", "nd", "rn", "sk", "ll", "x", "rt"]
_ENDINGS = {
    "pathogens": ["mora", "vex", "thia", "dral", "quill", "sune", "bane", "zor", "lith", "gan"],
    "history": ["vold", "mund", "ric", "wyn", "sel", "dane", "gard", "lise", "bert", "noa"],
    "geography": ["mouth", "ford", "stead", "holm", "wick", "dale", "haven", "burgh", "low", "mere"],
    "computing": ["tron", "lex", "matic", "dyne", "grim", "kind", "vane", "stat", "dex", "rix"],
    "ageing": ["sel", "ber", "wen", "tam", "nock", "fin", "pell", "dow", "rue", "bit"],
}


def _syllable(rng: random.Random) -> str:
    # Diphthongs are rarer than single vowels, as in English.
    vowel = rng.choice(_VOWELS if rng.random() < 0.25 else _VOWELS[:5])
    return rng.choice(_ONSETS) + vowel + rng.choice([*_CODAS, "", ""])


def _all_names() -> dict[str, tuple[str, ...]]:
    """One hundred capitalised names a subject; no name is a part of another, over all subjects."""
    taken: list[str] = [n.lower() for n in (*WOMEN, *MEN)]
    result: dict[str, tuple[str, ...]] = {}
    for subject, endings in _ENDINGS.items():
        rng = random.Random(f"names/{subject}")
        names: list[str] = []
        while len(names) < 100:
            name = _syllable(rng) + rng.choice(endings)
            clash = any(name in other or other in name or name[:4] == other[:4] for other in taken)
            ugly = any(letter * 3 in name for letter in name) or name.startswith("death")
            if 6 <= len(name) <= 10 and not clash and not ugly:
                taken.append(name)
                names.append(name.capitalize())
        result[subject] = tuple(names)
    return result


NAMES: dict[str, tuple[str, ...]] = _all_names()
"""Invented proper names by subject."""

COMMON: dict[str, tuple[str, ...]] = {
    "feeling": ("glad", "uneasy", "proud", "tired", "curious", "hopeful", "restless", "calm", "sad", "relieved"),
    "weather": (
        "a light rain",
        "a cold wind",
        "a thick fog",
        "a warm breeze",
        "a pale sun",
        "a sudden hail",
        "a soft snow",
    ),
    "sky": ("grey", "bright", "heavy with clouds", "the colour of slate", "clear and pale", "red at the edges"),
    "time": ("in the morning", "at noon", "in the evening", "before dawn", "after supper", "late in the day"),
    "when": ("that week", "the next day", "some days later", "on the same evening", "not long after"),
    "move_past": ("walked", "hurried", "wandered", "ran", "strolled", "crept", "marched", "limped"),
    "way": ("slowly", "quietly", "without a word", "with a smile", "in a hurry", "with great care", "as always"),
    "size": ("small", "large", "narrow", "wide", "tall", "low", "old", "new", "crooked", "plain"),
    "animal": ("dog", "cat", "donkey", "goose", "pony", "goat", "hen", "owl", "fox", "ox"),
    "food": ("bread", "soup", "cheese", "stew", "porridge", "fish", "cake", "beans"),
    "item": (
        "apple",
        "lantern",
        "basket",
        "rope",
        "knife",
        "blanket",
        "kettle",
        "umbrella",
        "ladle",
        "mirror",
        "ink pot",
        "broom",
        "candle",
        "hammer",
        "iron pan",
        "satchel",
    ),
    "items": (
        "two apples",
        "a coil of rope",
        "three candles",
        "an old map",
        "a jar of honey",
        "some dry socks",
        "a tin cup",
        "a loaf of bread",
        "four eggs",
        "a box of nails",
        "a clean shirt",
        "an extra blanket",
        "a bag of salt",
    ),
    "coins": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty"),
    "saying": (
        "never trust a calm sea",
        "a shut door teaches nothing",
        "slow hands make strong rope",
        "the last lamp is the brightest",
        "count the geese before supper",
        "rain pays every debt",
        "a borrowed coat is always cold",
        "ask twice and cut once",
    ),
    "adverb": ("perhaps", "of course", "oddly enough", "as it happens", "in truth", "strangely"),
    "opinion": ("a wise choice", "a mistake", "a great surprise", "an honest answer", "an odd idea", "good news"),
    "office": ("the Office of the Recorder", "the Harbour Office", "the House of Weights", "the Lamp Office"),
    "relation": ("aunt", "uncle", "neighbour", "cousin", "sister", "brother", "old teacher"),
    "month": ("Frostwane", "Seedmonth", "Highsun", "Leafturn", "Longnight", "Rainmonth", "Haymonth", "Mistmonth"),
}
"""General slots; a topic's own words come from :mod:`chronosae.world.topics`."""
