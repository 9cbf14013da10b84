"""Families about recurrences, sums and polynomial values."""

import math

from data.families.family import Family, Params


def _linear_recurrence(p: Params) -> int:
    value = p["a"]
    for _ in range(p["n"]):
        value = (value * p["p"] + p["q"]) % 1000
    return value


LINEAR_RECURRENCE = Family(
    name="linear_recurrence",
    ranges=(("a", 11, 99), ("p", 11, 99), ("q", 11, 99), ("n", 21, 99)),
    phrasings=(
        "Start with {a}. Multiply by {p} and add {q}, {n} times. Answer modulo 1000.",
        "Let x = {a}. Replace x by {p}x + {q} exactly {n} times. Find x modulo 1000.",
        "From {a}, apply x -> {p}x + {q} for {n} steps. Find x modulo 1000.",
        "A sequence starts at {a}; the next term is {p}x + {q}. After {n} steps, find x modulo 1000.",
        "Begin at {a} and go from x to {p}x + {q}, in all {n} times. Find x modulo 1000.",
    ),
    programs=(
        "x = {a}\nfor i in range({n}):\n    x = ({p} * x + {q}) % 1000\nprint(x)",
        "x = {a}\nfor i in range({n}):\n    x = {p} * x + {q}\nprint(x % 1000)",
    ),
    near_misses=(
        "x = {a}\nfor i in range({n}):\n    x = ({q} * x + {p}) % 1000\nprint(x)",
        "x = {a}\nfor i in range({n}):\n    x = {p} * {a} + {q}\nprint(x % 1000)",
    ),
    solve=_linear_recurrence,
    accept=lambda p: p["p"] % 2 == 1 and p["p"] % 5 != 0,
)


def _fibonacci_like(p: Params) -> int:
    terms = [p["a"], p["b"]]
    while len(terms) <= p["n"]:
        terms.append((terms[-1] + terms[-2]) % p["m"])
    return terms[p["n"]]


FIBONACCI_LIKE = Family(
    name="fibonacci_like",
    ranges=(("a", 11, 99), ("b", 11, 99), ("n", 21, 199), ("m", 201, 999)),
    phrasings=(
        "Let u0 = {a}, u1 = {b}, then add the last two. Find u{n} modulo {m}.",
        "A sequence starts {a}, {b} and adds the last two. Find u{n} modulo {m}.",
        "With u0 = {a} and u1 = {b}, terms add like Fibonacci. Find u{n} modulo {m}.",
        "A Fibonacci rule starts with {a} and {b}. What is u{n} modulo {m}?",
        "Add the last two terms, starting {a}, {b}. Compute u{n} modulo {m}.",
    ),
    programs=(
        "x, y = {a}, {b}\nfor i in range({n}):\n    x, y = y, x + y\nprint(x % {m})",
        "x, y = {a}, {b}\nfor i in range({n}):\n    x, y = y, (x + y) % {m}\nprint(x)",
    ),
    near_misses=(
        "x, y = {b}, {a}\nfor i in range({n}):\n    x, y = y, x + y\nprint(x % {m})",
        "x, y = {a}, {b}\nfor i in range({n}):\n    x, y = y, (x + y) % {m}\nprint(x + y)",
    ),
    solve=_fibonacci_like,
    accept=lambda p: math.gcd(p["a"], p["b"]) == 1,
)

POWER_SUM = Family(
    name="power_sum",
    ranges=(("k", 2, 5), ("a", 11, 99), ("b", 101, 499), ("m", 201, 999)),
    phrasings=(
        "For n from {a} to {b}, find the sum of n^{k} modulo {m}.",
        "Add n^{k} for all n from {a} to {b}. Answer modulo {m}.",
        "Sum n^{k} from n = {a} to {b} modulo {m}.",
        "S sums n^{k} for {a} <= n <= {b}. Find S modulo {m}.",
        "Take n^{k} for n from {a} to {b} and add up, modulo {m}.",
    ),
    programs=(
        "print(sum(n**{k} for n in range({a}, {b} + 1)) % {m})",
        "s = 0\nfor n in range({a}, {b} + 1):\n    s += n**{k}\nprint(s % {m})",
    ),
    near_misses=(
        "print(sum(n**{k} for n in range({a}, {b})) % {m})",
        "s = 0\nfor n in range({a}, {b} + 1):\n    s += n * {k}\nprint(s % {m})",
    ),
    solve=lambda p: sum(pow(n, p["k"], p["m"]) for n in range(p["a"], p["b"] + 1)) % p["m"],
)

GCD_SUM = Family(
    name="gcd_sum",
    ranges=(("n", 101, 499), ("m", 101, 999)),
    phrasings=(
        "Find the sum of gcd(k, {m}) for k from 1 to {n}. Answer modulo 1000.",
        "Add gcd(k, {m}) for all k from 1 to {n}. Answer modulo 1000.",
        "What is the sum of gcd(k, {m}) for k up to {n}, modulo 1000?",
        "S sums gcd(k, {m}) for 1 <= k <= {n}. Find S modulo 1000.",
        "For k up to {n}, add the values gcd(k, {m}). Find the sum modulo 1000.",
    ),
    programs=(
        "from math import gcd\nprint(sum(gcd(k, {m}) for k in range(1, {n} + 1)) % 1000)",
        "import math\nprint(sum(math.gcd(k, {m}) for k in range(1, {n} + 1)) % 1000)",
    ),
    near_misses=(
        "import math\nprint(sum(math.gcd(k, {n}) for k in range(1, {m} + 1)) % 1000)",
        "print(sum(k % {m} for k in range(1, {n} + 1)) % 1000)",
    ),
    solve=lambda p: (
        sum(max(d for d in range(1, k + 1) if k % d == p["m"] % d == 0) for k in range(1, p["n"] + 1)) % 1000
    ),
    accept=lambda p: any(p["m"] % d == 0 for d in range(4, 32)),
)

POLYNOMIAL_MOD = Family(
    name="polynomial_mod",
    ranges=(("a", 11, 99), ("b", 11, 99), ("x", 101, 999), ("m", 201, 999)),
    phrasings=(
        "Let f(x) = x^3 + {a}x + {b}. Find f({x}) modulo {m}.",
        "Find x^3 + {a}x + {b} at x = {x}, modulo {m}.",
        "What is x^3 + {a}x + {b} modulo {m} for x = {x}?",
        "For x = {x}, compute x^3 + {a}x + {b} modulo {m}.",
        "Given f(x) = x^3 + {a}x + {b}, what is f({x}) modulo {m}?",
    ),
    programs=(
        "x = {x}\nprint((x**3 + {a} * x + {b}) % {m})",
        "def f(x):\n    return x**3 + {a} * x + {b}\nprint(f({x}) % {m})",
    ),
    near_misses=(
        "x = {x}\nprint((x**2 + {a} * x + {b}) % {m})",
        "def f(x):\n    return x**3 + {b} * x + {a}\nprint(f({x}) % {m})",
    ),
    solve=lambda p: ((p["x"] * p["x"] + p["a"]) * p["x"] + p["b"]) % p["m"],
)
