"""Topics: each has its own vocabulary, which stays for the paragraphs of a document."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A persistent vocabulary; ``lines`` are whole sentences that only this topic has."""

    name: str
    place: tuple[str, ...]
    thing: tuple[str, ...]
    stuff: tuple[str, ...]
    worker: tuple[str, ...]
    act: tuple[str, ...]
    lines: tuple[str, ...]

    def slots(self) -> dict[str, tuple[str, ...]]:
        """The slots that templates of this topic can use."""
        return {"place": self.place, "thing": self.thing, "stuff": self.stuff, "worker": self.worker, "act": self.act}


TOPICS: tuple[Topic, ...] = (
    Topic(
        "harvest",
        ("the barn", "the wheat field", "the threshing floor", "the orchard", "the mill road"),
        ("scythe", "cart", "sheaf", "sickle", "hay fork", "millstone"),
        ("ripe wheat", "apples", "yellow straw", "barley", "clover", "plums"),
        ("reaper", "miller", "farmer", "gleaner"),
        ("cut the last row", "loaded the cart", "tied the sheaves", "swept the barn", "counted the sacks"),
        (
            "The wheat stood as high as a child's shoulder.",
            "Dust from the threshing hung in the air.",
            "The reapers sang as they bent and rose again.",
            "Every sack was weighed before it went to the mill.",
            "The mice had already found the best corner of the barn.",
            "By dusk the stubble shone like brass.",
        ),
    ),
    Topic(
        "harbour",
        ("the pier", "the harbour", "the fish market", "the rope yard", "the breakwater"),
        ("boat", "anchor", "net", "oar", "barrel", "mast"),
        ("herring", "salt", "wet rope", "tar", "sailcloth", "mussels"),
        ("sailor", "fisherman", "pilot", "net maker"),
        ("mended the net", "tied up the boat", "rowed past the pier", "hauled in the anchor", "patched the sail"),
        (
            "Gulls argued over the heads of the herring.",
            "The tide came in faster than anyone expected.",
            "The smell of tar lay over the whole harbour.",
            "A bell on the breakwater rang with every wave.",
            "The boats knocked against the pier all night.",
            "Nets were hung up to dry like grey curtains.",
        ),
    ),
    Topic(
        "market",
        ("the market square", "the cheese stall", "the corn hall", "the weighing house", "the spice row"),
        ("stall", "scale", "purse", "crate", "bench", "awning"),
        ("spices", "onions", "ribbons", "silver coins", "cheese", "pepper"),
        ("merchant", "baker", "porter", "tax collector"),
        ("weighed the cheese", "opened the stall", "counted the coins", "argued about the price", "packed the crates"),
        (
            "The merchants shouted their prices over each other.",
            "A thief was seen near the spice row.",
            "Nobody could agree on the price of pepper.",
            "The scales were tested every seventh day.",
            "By noon the best onions were gone.",
            "Children begged for the broken sweets under the stalls.",
        ),
    ),
    Topic(
        "winter",
        ("the frozen lake", "the hearth", "the snowy pass", "the woodshed", "the ice house"),
        ("sledge", "stove", "fur coat", "axe", "icicle", "snow shoe"),
        ("firewood", "snow", "wool", "frost", "coal", "icicles"),
        ("woodcutter", "trapper", "skater", "night watchman"),
        ("split the firewood", "fed the stove", "cleared the path", "crossed the frozen lake", "shook off the snow"),
        (
            "Snow covered the roofs up to the chimneys.",
            "Their breath stood in the air like smoke.",
            "The stove ate more wood than the whole street could cut.",
            "Ice had closed the road over the pass.",
            "The windows were white with frost flowers.",
            "Far away a sledge bell rang and stopped.",
        ),
    ),
    Topic(
        "school",
        ("the classroom", "the library", "the school yard", "the reading room", "the study"),
        ("book", "slate", "desk", "globe", "pen", "dictionary"),
        ("chalk", "ink", "old books", "lessons", "paper", "grammar"),
        ("teacher", "pupil", "scholar", "librarian"),
        (
            "read the next page",
            "cleaned the slate",
            "learned the rule by heart",
            "copied the lesson",
            "closed the book",
        ),
        (
            "The chalk squeaked on the slate.",
            "Two pupils whispered behind the globe.",
            "The dictionary was so heavy that two children had to carry it.",
            "The lesson was about rivers and fractions.",
            "Nobody had done the homework.",
            "The library was open until the candles went out.",
        ),
    ),
    Topic(
        "workshop",
        ("the forge", "the workshop", "the pottery", "the tool room", "the clockmaker's bench"),
        ("anvil", "wheel", "clock", "chisel", "furnace", "spring"),
        ("clay", "iron", "brass screws", "glue", "sawdust", "leather"),
        ("smith", "potter", "carpenter", "clockmaker"),
        ("hammered the hinge", "shaped the clay", "oiled the gears", "lit the furnace", "measured the plank"),
        (
            "Sparks jumped from the anvil.",
            "The wheel turned and the clay rose under wet hands.",
            "Every gear had to fit within the width of a hair.",
            "The furnace roared like a river.",
            "Sawdust lay on everything, even on the bread.",
            "An apprentice dropped the brass screws again.",
        ),
    ),
    Topic(
        "festival",
        ("the dance floor", "the fairground", "the stage", "the torch-lit square", "the long table"),
        ("drum", "flute", "mask", "banner", "torch", "kite"),
        ("music", "garlands", "sweet wine", "fireworks", "honey cakes", "songs"),
        ("drummer", "dancer", "juggler", "singer"),
        ("danced until midnight", "tuned the fiddle", "hung up the garlands", "sang the old song", "put on a mask"),
        (
            "Torches were carried in a long line down the hill.",
            "The drums could be heard in the next valley.",
            "A juggler dropped a plate and everybody cheered.",
            "The dancers changed partners at every turn.",
            "Masks were handed out at the gate.",
            "The honey cakes were gone before the music began.",
        ),
    ),
    Topic(
        "journey",
        ("the mountain road", "the inn", "the river crossing", "the old milestone", "the pass"),
        ("wagon", "map", "tent", "saddle", "bridge", "compass"),
        ("dust", "dry bread", "blankets", "oats", "travel papers", "water"),
        ("traveller", "guide", "coachman", "messenger"),
        ("saddled the horse", "crossed the bridge", "unfolded the map", "asked for the way", "put up the tent"),
        (
            "The road climbed in loops through the pines.",
            "A milestone said that the inn was still nine miles off.",
            "The horses smelled water and began to trot.",
            "The bridge swayed but it held.",
            "They met nobody but a messenger with a broken saddle.",
            "The map was wrong about the second valley.",
        ),
    ),
    Topic(
        "kitchen",
        ("the kitchen", "the pantry", "the oven", "the cellar", "the dining hall"),
        ("pot", "spoon", "oven", "knife", "cupboard", "egg basket"),
        ("butter", "flour", "onions", "hot soup", "garlic", "dough"),
        ("cook", "kitchen maid", "butcher", "guest"),
        ("stirred the soup", "kneaded the dough", "peeled the onions", "tasted the sauce", "set the table"),
        (
            "Steam rose from the pots and hid the ceiling.",
            "The dough had doubled under its cloth.",
            "Someone had put sugar into the soup.",
            "The cook tasted everything twice.",
            "The oven door never quite closed.",
            "The smell of garlic drew in the whole street.",
        ),
    ),
    Topic(
        "forest",
        ("the clearing", "the oak wood", "the stream", "the hollow tree", "the fern path"),
        ("mushroom", "branch", "nest", "trap", "acorn", "fox den"),
        ("moss", "berries", "fallen leaves", "resin", "ferns", "bird song"),
        ("forester", "charcoal burner", "hunter", "herb woman"),
        ("gathered berries", "followed the tracks", "climbed the oak", "listened to the owls", "marked the tree"),
        (
            "The moss swallowed every step.",
            "An owl looked down from the hollow tree.",
            "Mushrooms stood in a ring around the stump.",
            "The tracks of a fox ended at the stream.",
            "Light fell through the leaves in thin bars.",
            "Somewhere a branch cracked and everything was still.",
        ),
    ),
)

BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
"""Topics by name."""
