"""A generated corpus whose right answers are known: what a model must be able to learn, in seconds and offline.

A reply fits by meaning, never by words: "my days are full of kittens and tabbies", asked about "animals", makes
"mostly purring and catnip i think" right. The words of persona lines, questions and replies are disjoint, templates
are drawn independently of what fills them, and every value is the right one equally often; so word overlap, length,
position and frequency all stay at chance, and persona and context are both needed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from personae.types import Dialogue, InputError, Persona, Speaker, Turn

CANDIDATES = 20
CHANCE = 1 / CANDIDATES

PERSONA_TEMPLATES = (
    "my days are full of {} and {}",
    "i cannot do without {} and {}",
    "it is all {} and {} with me",
    "i never stop talking about {} and {}",
    "{} and {} mean the world to me",
    "you will find me close to {} and {}",
)
QUESTION_TEMPLATES = (
    "what can you tell me about {}",
    "so how is it with {}",
    "and {} what about that",
    "i would like to hear about {} now",
    "do you have anything to say about {}",
)
REPLY_TEMPLATES = (
    "well there is a lot of {} and {}",
    "mostly {} and {} i think",
    "for me it is {} and then {}",
    "oh i could go on about {} and {}",
    "these days that means {} and {}",
    "you know {} and {} all over again",
)


@dataclass(frozen=True, slots=True)
class Value:
    """What someone may be in one domain: the words that say so in a persona line, and those that show it in a reply."""

    domain: str
    persona: tuple[str, ...]
    reply: tuple[str, ...]


_WORDS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "work": (
        "job career profession",
        (
            ("hospitals wards patients", "bandages syringes thermometers"),
            ("classrooms pupils blackboards", "homework grading recess"),
            ("tractors barns harvests", "ploughing hay manure"),
            ("lumber sawdust workshops", "hammers nails chisels"),
            ("courtrooms lawsuits judges", "contracts verdicts clients"),
        ),
    ),
    "pets": (
        "pets animals creatures",
        (
            ("kittens tabbies whiskers", "purring catnip litter"),
            ("puppies terriers beagles", "barking leashes kennels"),
            ("macaws cockatoos budgies", "squawking feathers perches"),
            ("goldfish guppies tetras", "aquariums bubbles gills"),
            ("ponies mares foals", "saddles stables galloping"),
        ),
    ),
    "food": (
        "food meals cuisine",
        (
            ("spaghetti lasagna risotto", "parmesan basil oregano"),
            ("sushi ramen tempura", "wasabi seaweed chopsticks"),
            ("tacos burritos nachos", "guacamole salsa jalapenos"),
            ("curries samosas biryani", "turmeric chutney naan"),
            ("cakes brownies muffins", "frosting sprinkles sugar"),
        ),
    ),
    "music": (
        "music tunes melodies",
        (
            ("symphonies violins orchestras", "sonatas conductors concertos"),
            ("jazz saxophones trumpets", "swing bebop improvisation"),
            ("guitars amplifiers drummers", "riffs distortion moshing"),
            ("banjos fiddles mandolins", "twang bluegrass yodeling"),
            ("rappers rhymes beats", "freestyle sampling turntables"),
        ),
    ),
    "sport": (
        "sport exercise fitness",
        (
            ("pools swimmers goggles", "backstroke snorkels diving"),
            ("goalkeepers strikers midfielders", "penalties offside dribbling"),
            ("tennis rackets wimbledon", "backhands volleys aces"),
            ("bicycles cyclists pedals", "handlebars helmets spokes"),
            ("cliffs ropes boulders", "carabiners harnesses chalk"),
        ),
    ),
    "home": (
        "home house neighborhood",
        (
            ("skyscrapers elevators apartments", "subways sirens traffic"),
            ("meadows cottages villages", "hedges orchards stillness"),
            ("houseboats canals rivers", "anchors moorings portholes"),
            ("forests cabins pines", "firewood owls moss"),
            ("beaches dunes seashells", "sand surf seagulls"),
        ),
    ),
    "travel": (
        "travel holidays trips",
        (
            ("paris provence burgundy", "eiffel louvre vineyards"),
            ("egypt cairo luxor", "pyramids pharaohs camels"),
            ("iceland reykjavik arctic", "glaciers geysers volcanoes"),
            ("brazil rio amazon", "samba carnival rainforests"),
            ("australia sydney outback", "kangaroos koalas eucalyptus"),
        ),
    ),
    "films": (
        "films movies cinema",
        (
            ("vampires zombies ghosts", "screaming nightmares blood"),
            ("outlaws sheriffs saloons", "shootouts stagecoaches revolvers"),
            ("spaceships aliens robots", "lasers galaxies asteroids"),
            ("weddings lovers kisses", "tears heartbreak bouquets"),
            ("detectives murders clues", "alibis fingerprints suspects"),
        ),
    ),
}

QUESTION_WORDS: dict[str, tuple[str, ...]] = {domain: tuple(asked.split()) for domain, (asked, _) in _WORDS.items()}
"""The words a question about a domain is asked with."""

VALUES: dict[str, tuple[Value, ...]] = {
    domain: tuple(Value(domain, tuple(persona.split()), tuple(reply.split())) for persona, reply in rows)
    for domain, (_, rows) in _WORDS.items()
}
"""The values of every domain."""


class Selection:
    """A corpus of response selection: `dialogues` in train and a quarter as many in each of dev and valid, all with
    different personas. A speaker has 3 to 5 persona lines of different domains; speaker 0 asks about all but two of
    speaker 1's, one after the other, and each reply is one of 20 candidates with 20 different values: the right one,
    all others of the domain that was asked (only the persona refutes them), all others of the replier's that have not
    been told yet (only the context refutes them), and random ones.

    Raises InputError for `dialogues` below 1 or above 50,000.
    """

    def __init__(self, *, dialogues: int = 4000, seed: int = 0) -> None:
        if not 1 <= dialogues <= 50_000:  # far below the number of personas, so that fresh ones are found quickly
            raise InputError(f"dialogues: {dialogues} is not between 1 and 50000; give how many to train on")
        rng = random.Random(seed)
        quarter = (dialogues + 3) // 4
        seen: set[frozenset[Value]] = set()
        self._splits = {
            name: tuple(_dialogue(f"toy-{name}-{number}", rng, seen) for number in range(size))
            for name, size in (("train", dialogues), ("dev", quarter), ("valid", quarter))
        }

    def split(self, name: str) -> Iterator[Dialogue]:
        """The dialogues of "train", "dev" or "valid"; any other name raises InputError."""
        if name not in self._splits:
            raise InputError(f"split: the toy corpus has no {name!r}; choose one of {', '.join(self._splits)}")
        return iter(self._splits[name])


def _dialogue(name: str, rng: random.Random, seen: set[frozenset[Value]]) -> Dialogue:
    """A dialogue whose replier has a persona that is not in `seen`, to which it is added."""
    own = _values(rng)
    while frozenset(own) in seen:
        own = _values(rng)
    seen.add(frozenset(own))
    speakers = (
        Speaker(f"{name}-partner", Persona(_facts(_values(rng), rng))),
        Speaker(f"{name}-self", Persona(_facts(own, rng))),
    )
    turns: list[Turn] = []
    untold = rng.sample(own, len(own))
    while len(untold) > 2:
        right = untold.pop()
        turns.append(Turn(0, rng.choice(QUESTION_TEMPLATES).format(rng.choice(QUESTION_WORDS[right.domain]))))
        rivals = [value for value in VALUES[right.domain] if value is not right]
        others = [v for values in VALUES.values() for v in values if v.domain != right.domain and v not in own]
        values = [right, *rivals, *untold]
        values += rng.sample(others, CANDIDATES - len(values))
        replies = [_fill(REPLY_TEMPLATES, value.reply, rng) for value in values]
        turns.append(Turn(1, replies[0], tuple(rng.sample(replies, CANDIDATES))))
    return Dialogue(name, speakers, tuple(turns))


def _values(rng: random.Random) -> list[Value]:
    """Three to five values of different domains."""
    return [rng.choice(VALUES[domain]) for domain in rng.sample(list(VALUES), rng.randint(3, 5))]


def _facts(values: list[Value], rng: random.Random) -> tuple[str, ...]:
    return tuple(_fill(PERSONA_TEMPLATES, value.persona, rng) for value in values)


def _fill(templates: tuple[str, ...], words: tuple[str, ...], rng: random.Random) -> str:
    """A template with two of the words."""
    return rng.choice(templates).format(*rng.sample(words, 2))
