r"""Splits units off numbers and names them: "70 cm", "12\text{ km/h}", "90^\circ", "\$15", "5 apples".

A unit that only one side gives is ignored; two different units make two answers differ. A word that changes the value
("5 million", "5 or more", "5 mod 7") is no unit.
"""

import re

# the names of each unit, its canonical one first; SI prefixes are listed where they are in use
NAMES = (
    "mm millimeter millimetre|cm centimeter centimetre|dm decimeter decimetre|m meter metre|km kilometer kilometre"
    "|in inch inches|ft foot feet|yd yard|mi mile|nm nanometer nanometre|mg milligram|g gram gm|kg kilogram kilo"
    "|lb pound lbs|oz ounce|ton tonne|ms millisecond|s second sec|min minute|h hour hr|day|week|month|year yr"
    "|ml milliliter millilitre mL|l liter litre L|cl centiliter|cc|gal gallon|acre|ha hectare|deg degree|rad radian"
    "|mph|kmh kph kmph|celsius|fahrenheit|kelvin|usd dollar buck|cent|eur euro|gbp|yuan|yen|rupee rs Rs|peso"
    "|j joule|kj kilojoule|cal calorie|kcal|newton|kn kilonewton|watt|kw kilowatt kW|mw MW|kwh kWh|hz Hz hertz|khz kHz"
    "|volt|ampere amp|ohm|pa pascal Pa|kpa kPa|mol mole|bit|byte|kb KB|mb MB|gb GB|unit"
    "|people person|percent pct percentage"
)
SINGLE = {letter: letter for letter in "msghl"} | {
    "L": "l",
    "N": "newton",
    "J": "j",
    "W": "watt",
    "V": "volt",
}
SQUARED, CUBED = {"square", "sq", "sq.", "squared"}, {"cubic", "cu", "cu.", "cubed"}
# words of numbers, also as in `tens` and `sixths`
NUMBER_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion
    quadrillion googol lakh crore mil dozen score half halve third quarter fifth eighth ninth twelfth twentieth
"""
NUMBERS = set(NUMBER_WORDS.split())
# words that compare, compute or doubt: the number alone has another value
MEANING_WORDS = """
    percent percentage pct or and not mod modulo factorial less more least most fewer greater smaller than over
    times plus minus divided by multiplied remainder if for when where base to between about approximately approx
    only except without with root power cube squared cubed th st nd rd below above under short before after past
    beyond within next negative positive square inverse reciprocal complement conjugate repeating recurring maybe
    perhaps possibly probably wrong incorrect false arcsin arccos arctan sinh cosh tanh sign det rank double twice
    triple through until from is are was were equals equal sin cos tan cot sec csc log ln exp sqrt pi alpha beta
    gamma delta theta lambda mu sigma phi omega tau rho infinity inf infty choose max gcd lcm abs floor ceil
    ceiling frac oo nan else then thus which but so because divides does no none even odd prime unless etc true yes
    unknown error binary octal hex hexadecimal
"""
MEANING = set(MEANING_WORDS.split())
FILLERS = {"of", "in", "the", "a"}
FUNCTION_OF = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt)[abnxyz]")
KNOWN = {name: names.split()[0] for names in NAMES.split("|") for name in names.split()}
TEXT_UNIT = re.compile(
    r"(?P<value>.+?)\s*\\text\s*\{(?P<unit>[^{}0-9^]*)(?:(?P<inner>\^\s*[23])\s*\}|\}\s*(?P<power>(?:\^\s*\{?\s*[23]\s*\}?)?))"
)
DEGREES = re.compile(
    r"(?P<value>.+?)\s*(?:\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree)\s*(?P<scale>[CF]?|\\text\s*\{\s*[CF]\s*\})"
)
PLAIN_UNIT = re.compile(
    r"(?P<value>.*(?:[\d)\]}!]|\\pi|(?<![A-Za-z])i(?=\s)))(?P<space>\s*)(?P<unit>[A-Za-z][A-Za-z./ -]*?)"
    r"(?P<power>(?:\s*\^\s*\{?[23]\}?|(?<=[A-Za-z])[23])?)"
)
MONEY = re.compile(
    r"(?P<before>-?)\s*(?:(?:US\s?)?\\?\$|(?:USD|EUR|GBP|CAD|AUD|INR|Rs)\b\.?|\\(?:pounds|euro|yen)|[€£¥₹₽₩])\s*(?P<value>.+)|(?P<after>.+?)\s*(?:\\?\$|[€£¥₹₽₩])"
)
PERCENT = re.compile(r"(?P<value>.+?)\s*(?:\\?%|\\text\s*\{\s*\\?%\s*\})")


def split_unit(text: str) -> tuple[str, str | None]:
    """`text` without its unit, and the unit's name, or None: a unit at the end or a currency on either side."""
    if found := PERCENT.fullmatch(text):
        return found["value"], "percent"
    if found := MONEY.fullmatch(text):
        return (found["before"] + found["value"] if found["value"] else found["after"]), "money"
    if found := DEGREES.fullmatch(text):
        scale = re.sub(r"[^CF]", "", found["scale"])
        return found["value"], {"": "deg", "C": "celsius", "F": "fahrenheit"}[scale]
    if (found := TEXT_UNIT.fullmatch(text)) and (
        unit := unit_name(found["unit"], found["inner"] or found["power"])
    ):
        return found["value"], unit
    if found := PLAIN_UNIT.fullmatch(text):
        unit = unit_name(found["unit"], found["power"], spaced=bool(found["space"]), plain=True)
        if unit:
            return found["value"], unit
    return text, None


def unit_name(words: str, power: str = "", spaced: bool = True, plain: bool = False) -> str | None:
    """The canonical name of a unit, "cm^2" for "square centimeters"; None if the words are no unit.

    `plain`: not marked as text, so a short word may be a product of variables. `spaced`: a space precedes it.
    """
    power = re.sub(r"\D", "", power)
    parts = [part for part in re.split(r"\s+|-", words.strip().rstrip(".")) if part]
    if not parts or len(parts) > 5:
        return None
    if parts[0].lower() in SQUARED | CUBED and len(parts) > 1:
        power, parts = "2" if parts[0].lower() in SQUARED else "3", parts[1:]
    elif parts[-1].lower() in {"squared", "cubed"} and len(parts) > 1:
        power, parts = "2" if parts[-1].lower() == "squared" else "3", parts[:-1]
    phrase = re.sub(r" per | / ", "/", " ".join(parts))
    names = [_one_unit(part, plain and not spaced, plain) for part in phrase.split("/")]
    if all(names):
        name = "/".join(filter(None, names))
        name = {"km/h": "kmh", "mi/h": "mph"}.get(name, name)
    else:
        if not spaced or FILLERS.issuperset(parts) or not all(_is_thing(part, plain) for part in parts):
            return None
        name = phrase.lower().removesuffix("s")
    return f"{name}^{power}" if power else name


def _one_unit(word: str, glued: bool, plain: bool) -> str | None:
    word = word.strip()
    if len(word) == 1:
        return None if glued else SINGLE.get(word) if plain else SINGLE.get(word, KNOWN.get(word))
    lower = word.lower()
    return (
        KNOWN.get(word)
        or KNOWN.get(lower)
        or (KNOWN.get(lower[:-1]) if lower[-1] == "s" and len(lower) > 2 else None)
    )


def _is_thing(word: str, plain: bool) -> bool:
    """Whether a word may be part of the name of what is counted: no number, no variable, nothing that computes."""
    lower = word.lower()
    number = {lower, lower.removesuffix("s"), lower.removesuffix("s").removesuffix("th")} & NUMBERS
    if not word.isalpha() or word.isupper() or number or lower in MEANING:
        return False
    is_ascending = "".join(sorted(set(word))) == word  # variables are multiplied in the order of the alphabet
    is_product = is_ascending and (len(word) <= 3 or ord(word[-1]) - ord(word[0]) < len(word))
    is_formula = len(word) < 3 or is_product or FUNCTION_OF.fullmatch(lower)
    return word in FILLERS or (len(word) > 1 and not (plain and is_formula))
