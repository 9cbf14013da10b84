"""Families about remainders, divisors and digits."""

import math

from data.families.family import Family, Params


def _power_mod(p: Params) -> int:
    result = 1
    for _ in range(p["b"]):
        result = result * p["a"] % p["m"]
    return result


POWER_MOD = Family(
    name="power_mod",
    ranges=(("a", 12, 99), ("b", 101, 999), ("m", 201, 999)),
    phrasings=(
        "Find the remainder when {a}^{b} is divided by {m}.",
        "What is {a}^{b} modulo {m}?",
        "What remainder does {a}^{b} leave when divided by {m}?",
        "The number {a}^{b} is divided by {m}. Find the remainder.",
        "Compute the residue of {a}^{b} modulo {m}.",
    ),
    programs=(
        "print(pow({a}, {b}, {m}))",
        "print({a}**{b} % {m})",
        "x = 1\nfor i in range({b}):\n    x = x * {a} % {m}\nprint(x)",
    ),
    near_misses=("print({a} * {b} % {m})", "print(pow({b}, {a}, {m}))"),
    solve=_power_mod,
    accept=lambda p: math.gcd(p["a"], p["m"]) == 1,
)

PRODUCT_MOD = Family(
    name="product_mod",
    ranges=(("a", 101, 999), ("b", 101, 999), ("m", 201, 999)),
    phrasings=(
        "Find the remainder when {a} * {b} is divided by {m}.",
        "What is the product of {a} and {b} modulo {m}?",
        "The product of {a} and {b} is divided by {m}. Find the remainder.",
        "Compute {a} times {b} modulo {m}.",
        "Multiply {a} by {b} and find the residue modulo {m}.",
    ),
    programs=("print({a} * {b} % {m})", "x = {a} * {b}\nprint(x % {m})"),
    near_misses=("print(({a} + {b}) % {m})", "x = {a} * {b}\nprint(x // {m} % 1000)"),
    solve=lambda p: (p["a"] % p["m"]) * (p["b"] % p["m"]) % p["m"],
)

INVERSE_MOD = Family(
    name="inverse_mod",
    ranges=(("a", 12, 199), ("m", 201, 999)),
    phrasings=(
        "Find the inverse of {a} modulo {m}.",
        "What is the smallest positive inverse of {a} modulo {m}?",
        "Find the least positive x with {a}x = 1 modulo {m}.",
        "For which least positive x does {a}x leave remainder 1 modulo {m}?",
        "Compute the multiplicative inverse of {a} modulo {m}.",
    ),
    programs=("print(pow({a}, -1, {m}))", "print(next(x for x in range({m}) if {a} * x % {m} == 1))"),
    near_misses=("print({m} % {a})", "print(pow({m}, -1, {a}))"),
    solve=lambda p: next(x for x in range(1, p["m"]) if (p["a"] * x - 1) % p["m"] == 0),
    accept=lambda p: math.gcd(p["a"], p["m"]) == 1 and p["m"] % p["a"] != 0,
)


def _digit_sum(value: int) -> int:
    total = 0
    while value:
        value, digit = divmod(value, 10)
        total += digit
    return total


DIGIT_SUM = Family(
    name="digit_sum",
    ranges=(("a", 12, 99), ("b", 21, 109)),
    phrasings=(
        "Find the sum of the digits of {a}^{b}.",
        "What is the digit sum of {a}^{b}?",
        "Write out {a}^{b}. What do its digits add up to?",
        "Add up all digits of the number {a}^{b}.",
        "Compute the sum of all digits of {a}^{b}.",
    ),
    programs=(
        "print(sum(int(d) for d in str({a}**{b})))",
        "s = str({a}**{b})\nprint(sum(int(d) for d in s))",
    ),
    near_misses=("print(len(str({a}**{b})))", "print(sum(int(d) for d in str({a} * {b})))"),
    solve=lambda p: _digit_sum(p["a"] ** p["b"]),
    accept=lambda p: p["a"] % 10 != 0,
)


def _divisor_sum(n: int) -> int:
    return sum(d + (n // d if d * d != n else 0) for d in range(1, math.isqrt(n) + 1) if n % d == 0)


DIVISOR_SUM = Family(
    name="divisor_sum",
    ranges=(("n", 101, 999), ("m", 101, 999)),
    phrasings=(
        "Find the sum of the divisors of {n} modulo {m}.",
        "Add all positive divisors of {n}. What is the sum modulo {m}?",
        "The divisors of {n} are added up. Find the sum modulo {m}.",
        "What is the divisor sum of {n} modulo {m}?",
        "Compute modulo {m} the sum of all divisors of {n}.",
    ),
    programs=(
        "n = {n}\nprint(sum(d for d in range(1, n + 1) if n % d == 0) % {m})",
        "s = sum(d for d in range(1, {n} + 1) if {n} % d == 0)\nprint(s % {m})",
    ),
    near_misses=(
        "n = {n}\nprint(sum(d for d in range(1, n) if n % d == 0) % {m})",
        "s = sum(1 for d in range(1, {n} + 1) if {n} % d == 0)\nprint(s % {m})",
    ),
    solve=lambda p: _divisor_sum(p["n"]) % p["m"],
    # a prime or near-prime could be answered without any program
    accept=lambda p: _divisor_sum(p["n"]) > p["n"] * 5 // 4,
)

LCM_MOD = Family(
    name="lcm_mod",
    ranges=(("a", 101, 999), ("b", 101, 999), ("m", 201, 999)),
    phrasings=(
        "Find the least common multiple of {a} and {b} modulo {m}.",
        "What is lcm({a}, {b}) modulo {m}?",
        "The least common multiple of {a} and {b} is divided by {m}. Find the remainder.",
        "Let L be the lcm of {a} and {b}. Find L modulo {m}.",
        "Compute the lcm of {a} and {b} modulo {m}.",
    ),
    programs=(
        "import math\nprint(math.lcm({a}, {b}) % {m})",
        "from math import gcd\nprint({a} * {b} // gcd({a}, {b}) % {m})",
    ),
    near_misses=("import math\nprint(math.gcd({a}, {b}) % {m})", "print(({a} + {b}) * {b} % {m})"),
    solve=lambda p: p["a"] * p["b"] // math.gcd(p["a"], p["b"]) % p["m"],
    accept=lambda p: math.gcd(p["a"], p["b"]) > 1 and p["a"] != p["b"],
)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


FACTORIAL_MOD = Family(
    name="factorial_mod",
    ranges=(("n", 21, 400), ("m", 401, 999)),
    phrasings=(
        "Find the remainder when {n}! is divided by {m}.",
        "What is {n}! modulo {m}?",
        "What remainder does {n}! leave when divided by {m}?",
        "The factorial of {n} is divided by {m}. Find the remainder.",
        "Compute the factorial of {n} modulo {m}.",
    ),
    programs=(
        "import math\nprint(math.factorial({n}) % {m})",
        "x = 1\nfor i in range(1, {n} + 1):\n    x = x * i % {m}\nprint(x)",
    ),
    near_misses=(
        "x = 1\nfor i in range(1, {n}):\n    x = x * i % {m}\nprint(x)",
        "import math\nprint(math.factorial({m}) % {n})",
    ),
    solve=lambda p: math.prod(range(1, p["n"] + 1)) % p["m"],
    accept=lambda p: _is_prime(p["m"]),
)


def _from_base(p: Params) -> int:
    hundreds, rest = divmod(p["n"], 100)
    tens, ones = divmod(rest, 10)
    return (hundreds * p["b"] + tens) * p["b"] + ones + p["c"]


BASE_CONVERSION = Family(
    name="base_conversion",
    ranges=(("n", 101, 888), ("b", 6, 9), ("c", 101, 499)),
    phrasings=(
        "Read {n} in base {b} and add {c}. Give the result in base 10.",
        "Convert {n} from base {b} and add {c}.",
        "The number {n} in base {b} is increased by {c}. Find its value.",
        "Add {c} to the number written {n} in base {b}.",
        "What is the base {b} number {n} plus {c}?",
    ),
    programs=("print(int('{n}', {b}) + {c})", "x = int('{n}', {b})\nprint(x + {c})"),
    near_misses=("print({n} + {b} + {c})", "print(int('{c}', 10) + {n})"),
    solve=_from_base,
    accept=lambda p: all(int(digit) < p["b"] for digit in str(p["n"])),
)

POWER_PLUS = Family(
    name="power_plus",
    ranges=(("a", 12, 99), ("b", 101, 999), ("c", 101, 999), ("m", 201, 999)),
    phrasings=(
        "Find the remainder when {a}^{b} + {c} is divided by {m}.",
        "What is {a}^{b} + {c} modulo {m}?",
        "What remainder does {a}^{b} + {c} leave when divided by {m}?",
        "The number {a}^{b} + {c} is divided by {m}. Find the remainder.",
        "Compute the residue of {a}^{b} + {c} modulo {m}.",
    ),
    programs=("print((pow({a}, {b}, {m}) + {c}) % {m})", "print(({a}**{b} + {c}) % {m})"),
    near_misses=("print(pow({a}, {b}, {m}) + {c})", "print(pow({a}, {b} + {c}, {m}))"),
    solve=lambda p: (_power_mod(p) + p["c"]) % p["m"],
    accept=lambda p: math.gcd(p["a"], p["m"]) == 1,
)
