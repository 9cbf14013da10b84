"""Word problems and plain arithmetic in English, for language models that can read but hardly compute.

From two-digit sums, which a small model answers in its head, to products of several digits, which it cannot. Each
family also has templates of reasoning in text alone: `reasonings` over the parameters and the intermediate `steps`.
"""

from data.families.family import Family, Params

MAX_ANSWER = 999_999


def _family(
    name: str,
    ranges: tuple[tuple[str, int, int], ...],
    phrasings: tuple[str, ...],
    expressions: tuple[str, str],
    near_misses: tuple[str, str],
    steps: tuple[tuple[str, str], ...],
    reasonings: tuple[str, ...],
) -> Family:
    """A family whose values are all arithmetic over its parameters.

    `expressions`: two ways to write the answer in Python; `near_misses`: those of a careless reader. `steps`: name and
    expression of each intermediate value, in order, the last of which is the answer.
    """
    compiled = [(step, compile(expression, name, "eval")) for step, expression in steps]

    def work(params: Params) -> dict[str, int]:
        values = dict(params)
        for step, code in compiled:
            # an expression of this file, never a model's
            values[step] = eval(code, {"__builtins__": {}}, values)
        return values

    first, second = expressions
    return Family(
        name=name,
        ranges=ranges,
        phrasings=phrasings,
        programs=(f"print({first})", f"total = {second}\nprint(total)"),
        near_misses=tuple(f"print({near_miss})" for near_miss in near_misses),
        solve=lambda params: work(params)[steps[-1][0]],
        accept=lambda params: all(value >= 0 for value in work(params).values()),
        max_answer=MAX_ANSWER,
        work=work,
        reasonings=reasonings,
    )


SMALL_SUM = _family(
    "small_sum",
    (("a", 2, 49), ("b", 2, 49)),
    (
        "What is {a} + {b}?",
        "Add {a} and {b}.",
        "Tom has {a} stamps and gets {b} more. How many has he?",
        "A shelf holds {a} books, another {b}. How many together?",
        "Find the sum of {a} and {b}.",
    ),
    ("{a} + {b}", "sum([{a}, {b}])"),
    ("{a} + {b} + 1", "{b} - {a}"),
    (("r", "a + b"),),
    ("{a} + {b} = {r}.", "Adding {b} to {a} gives {r}."),
)

SMALL_DIFFERENCE = _family(
    "small_difference",
    (("a", 21, 69), ("b", 2, 39)),
    (
        "What is {a} - {b}?",
        "Subtract {b} from {a}.",
        "Ann has {a} beads and loses {b}. How many are left?",
        "A jar holds {a} sweets, {b} are eaten. How many remain?",
        "Find the difference of {a} and {b}.",
    ),
    ("{a} - {b}", "{a} + (-{b})"),
    ("{a} + {b}", "{a} - {b} + 1"),
    (("r", "a - b"),),
    ("{a} - {b} = {r}.", "Taking {b} from {a} leaves {r}."),
)

ROWS = _family(
    "rows",
    (("a", 2, 24), ("b", 2, 19)),
    (
        "There are {a} rows of {b} chairs. How many chairs?",
        "What is {a} * {b}?",
        "{a} bags hold {b} nuts each. How many nuts?",
        "Multiply {a} by {b}.",
        "A page has {a} lines of {b} letters. How many letters?",
    ),
    ("{a} * {b}", "{b} * {a}"),
    ("{a} + {b}", "{a} * ({b} - 1)"),
    (("r", "a * b"),),
    ("{a} * {b} = {r}.", "{a} times {b} is {r}."),
)

PACKED_BOXES = _family(
    "packed_boxes",
    (("a", 12, 99), ("b", 12, 99), ("c", 101, 999)),
    (
        "A baker packs {a} boxes of {b} rolls and sells {c} rolls. How many rolls are left?",
        "{a} crates hold {b} apples each; {c} apples are bad. How many are good?",
        "A school buys {a} packs of {b} pens and uses {c}. How many pens remain?",
        "Compute {a} * {b} - {c}.",
        "A farmer fills {a} trays with {b} eggs, then drops {c}. How many are whole?",
    ),
    ("{a} * {b} - {c}", "-{c} + {b} * {a}"),
    ("{a} * {b} + {c}", "{a} + {b} - {c}"),
    (("p", "a * b"), ("r", "p - c")),
    ("{a} * {b} = {p}. {p} - {c} = {r}.", "In all {a} * {b} = {p}. Without {c} that is {r}."),
)

TICKETS = _family(
    "tickets",
    (("a", 101, 499), ("b", 12, 49), ("c", 51, 299), ("d", 3, 19)),
    (
        "A fair sells {a} tickets at {b} dollars and {c} at {d} dollars. What is the total?",
        "Compute {a} * {b} + {c} * {d}.",
        "Buy {a} chairs at {b} dollars and {c} cups at {d} dollars. What is the cost?",
        "{a} shirts cost {b} dollars each, {c} hats {d} dollars each. What do all cost?",
        "A shop sold {a} lamps for {b} each and {c} pens for {d} each. How much came in?",
    ),
    ("{a} * {b} + {c} * {d}", "{c} * {d} + {a} * {b}"),
    ("({a} + {c}) * {b}", "{a} * {b} - {c} * {d}"),
    (("p", "a * b"), ("q", "c * d"), ("r", "p + q")),
    ("{a} * {b} = {p}. {c} * {d} = {q}. {p} + {q} = {r}.", "First {p}, then {q}, together {r}."),
)

SAVINGS = _family(
    "savings",
    (("a", 21, 199), ("b", 12, 52), ("c", 101, 999)),
    (
        "Mia has {c} dollars and saves {a} dollars a week for {b} weeks. How much has she?",
        "Compute {a} * {b} + {c}.",
        "A tank with {c} litres gets {a} litres an hour for {b} hours. How much is in it?",
        "Paul owns {c} coins and finds {a} a day for {b} days. How many has he?",
        "A town of {c} grows by {a} a year for {b} years. How large is it?",
    ),
    ("{c} + {a} * {b}", "{a} * {b} + {c}"),
    ("{a} + {b} + {c}", "{c} + {a} * ({b} + 1)"),
    (("p", "a * b"), ("r", "p + c")),
    ("{a} * {b} = {p}. {p} + {c} = {r}.", "{b} times {a} is {p}. With {c} that is {r}."),
)

COLLECTION = _family(
    "collection",
    (("a", 1001, 9999), ("b", 1001, 9999), ("c", 101, 999)),
    (
        "A library has {a} novels, {b} atlases and {c} maps. How many in all?",
        "What is {a} + {b} + {c}?",
        "Three towns have {a}, {b} and {c} people. How many together?",
        "Add {a}, {b} and {c}.",
        "A plant made {a} bolts, {b} nuts and {c} gears. How many parts?",
    ),
    ("{a} + {b} + {c}", "sum([{a}, {b}, {c}])"),
    ("{a} + {b}", "{a} + {b} - {c}"),
    (("p", "a + b"), ("r", "p + c")),
    ("{a} + {b} = {p}. {p} + {c} = {r}.", "The first two make {p}. With {c} that is {r}."),
)

CROWD = _family(
    "crowd",
    (("a", 5001, 9999), ("b", 501, 2499), ("c", 501, 2499)),
    (
        "Of {a} people {b} leave at noon and {c} later. How many stay?",
        "What is {a} - {b} - {c}?",
        "A store had {a} bottles, sold {b} and lost {c}. How many are left?",
        "Subtract {b} and {c} from {a}.",
        "A trip of {a} miles: {b} on Monday, {c} on Tuesday. How many remain?",
    ),
    ("{a} - {b} - {c}", "{a} - ({b} + {c})"),
    ("{a} - {b} + {c}", "{a} - {c}"),
    (("p", "a - b"), ("r", "p - c")),
    ("{a} - {b} = {p}. {p} - {c} = {r}.", "After the first {p} are left, after the second {r}."),
)

GARDEN = _family(
    "garden",
    (("a", 41, 99), ("b", 41, 99), ("c", 11, 39), ("d", 11, 39)),
    (
        "A garden of {a} by {b} metres has a pond of {c} by {d}. What area is left?",
        "Compute {a} * {b} - {c} * {d}.",
        "From a sheet of {a} by {b} cut {c} by {d}. What area remains?",
        "A floor of {a} by {b} feet, a rug of {c} by {d} feet. What area is bare?",
        "{a} boxes of {b} pins, less {c} boxes of {d} pins: how many pins?",
    ),
    ("{a} * {b} - {c} * {d}", "-{c} * {d} + {a} * {b}"),
    ("({a} - {c}) * ({b} - {d})", "{a} * {b} + {c} * {d}"),
    (("p", "a * b"), ("q", "c * d"), ("r", "p - q")),
    ("{a} * {b} = {p}. {c} * {d} = {q}. {p} - {q} = {r}.", "The whole is {p}, the part {q}, the rest {r}."),
)

LEFT_OVER = _family(
    "left_over",
    (("a", 1001, 9999), ("b", 23, 97)),
    (
        "{a} marbles are shared equally by {b} children. How many are left over?",
        "What is the remainder of {a} divided by {b}?",
        "Pack {a} cans into boxes of {b}. How many cans are left over?",
        "Find {a} modulo {b}.",
        "{a} soldiers stand in rows of {b}. How many stand in none?",
    ),
    ("{a} % {b}", "divmod({a}, {b})[1]"),
    ("{a} // {b}", "{a} - {b}"),
    (("q", "a // b"), ("p", "q * b"), ("r", "a - p")),
    ("{b} * {q} = {p}. {a} - {p} = {r}.", "{b} goes {q} times into {a}, which is {p}, and leaves {r}."),
)

WAGES = _family(
    "wages",
    (("a", 101, 240), ("b", 15, 79), ("c", 101, 999), ("d", 101, 999)),
    (
        "Leo works {a} hours at {b} dollars, gets {c} extra and pays {d} in tax. What is left?",
        "Compute {a} * {b} + {c} - {d}.",
        "A shop has {c} mugs, gets {a} boxes of {b} and sells {d}. How many are there?",
        "A ship with {c} crates loads {a} rows of {b}, then unloads {d}. How many are aboard?",
        "Start with {c}, add {a} times {b}, take away {d}. What is it?",
    ),
    ("{a} * {b} + {c} - {d}", "{c} + {a} * {b} - {d}"),
    ("{a} * {b} - {c} - {d}", "({a} + {c}) * {b} - {d}"),
    (("p", "a * b"), ("q", "p + c"), ("r", "q - d")),
    ("{a} * {b} = {p}. {p} + {c} = {q}. {q} - {d} = {r}.", "{p}, with {c} it is {q}, less {d} it is {r}."),
)

TRUCKS = _family(
    "trucks",
    (("a", 11, 79), ("b", 11, 59), ("c", 11, 49)),
    (
        "{a} trucks carry {b} cartons of {c} cups each. How many cups?",
        "What is {a} * {b} * {c}?",
        "{a} halls have {b} rows of {c} seats. How many seats?",
        "Multiply {a}, {b} and {c}.",
        "A box measures {a} by {b} by {c} inches. What is its volume?",
    ),
    ("{a} * {b} * {c}", "{c} * {b} * {a}"),
    ("{a} * {b} + {c}", "{a} * ({b} + {c})"),
    (("p", "a * b"), ("r", "p * c")),
    ("{a} * {b} = {p}. {p} * {c} = {r}.", "{a} times {b} is {p}, and {c} times that is {r}."),
)

TRAIN = (
    SMALL_SUM,
    SMALL_DIFFERENCE,
    ROWS,
    PACKED_BOXES,
    TICKETS,
    SAVINGS,
    COLLECTION,
    CROWD,
    GARDEN,
    LEFT_OVER,
)
HELD_OUT = (WAGES, TRUCKS)
