"""Families that count: inclusion and exclusion, lattice points, Diophantine solutions, small combinatorics."""

import math

from data.families.family import Family, Params


def _either(p: Params) -> int:
    return p["n"] // p["a"] + p["n"] // p["b"] - p["n"] // math.lcm(p["a"], p["b"])


def _no_divisibility(p: Params) -> bool:
    return p["a"] % p["b"] != 0 and p["b"] % p["a"] != 0


MULTIPLES_EITHER = Family(
    name="multiples_either",
    ranges=(("n", 201, 999), ("a", 3, 29), ("b", 3, 29)),
    phrasings=(
        "How many integers from 1 to {n} are divisible by {a} or {b}?",
        "How many positive integers up to {n} are multiples of {a} or {b}?",
        "Count the integers from 1 to {n} divisible by {a} or {b}.",
        "Among 1 to {n}, count multiples of {a} or of {b}.",
        "Count the multiples of {a} or {b} from 1 to {n}.",
    ),
    programs=(
        "print(sum(1 for k in range(1, {n} + 1) if k % {a} == 0 or k % {b} == 0))",
        "c = 0\nfor k in range(1, {n} + 1):\n    if k % {a} == 0 or k % {b} == 0:\n        c += 1\nprint(c)",
    ),
    near_misses=("print({n} // {a} + {n} // {b} + 1)", "print({n} // ({a} * {b}))"),
    solve=_either,
    accept=_no_divisibility,
)

MULTIPLES_NEITHER = Family(
    name="multiples_neither",
    ranges=(("n", 201, 999), ("a", 3, 29), ("b", 3, 29)),
    phrasings=(
        "How many integers from 1 to {n} are divisible by neither {a} nor {b}?",
        "How many positive integers up to {n} are multiples of neither {a} nor {b}?",
        "Count the integers from 1 to {n} divisible by neither {a} nor {b}.",
        "Among 1 to {n}, count multiples of neither {a} nor {b}.",
        "Count the multiples of neither {a} nor {b} from 1 to {n}.",
    ),
    programs=(
        "print(sum(1 for k in range(1, {n} + 1) if k % {a} and k % {b}))",
        "c = 0\nfor k in range(1, {n} + 1):\n    if k % {a} != 0 and k % {b} != 0:\n        c += 1\nprint(c)",
    ),
    near_misses=("print({n} - {n} // {a} - {n} // {b} - 1)", "print({n} // ({a} * {b}))"),
    solve=lambda p: p["n"] - _either(p),
    accept=_no_divisibility,
)

COPRIME_COUNT = Family(
    name="coprime_count",
    ranges=(("n", 201, 999), ("m", 30, 999)),
    phrasings=(
        "How many integers from 1 to {n} are coprime to {m}?",
        "Count the integers from 1 to {n} coprime to {m}.",
        "How many positive integers up to {n} share no factor with {m}?",
        "Among 1 to {n}, how many are relatively prime to {m}?",
        "Count the numbers up to {n} that have no common factor with {m}.",
    ),
    programs=(
        "from math import gcd\nprint(sum(1 for k in range(1, {n} + 1) if gcd(k, {m}) == 1))",
        "import math\nprint(sum(math.gcd(k, {m}) == 1 for k in range(1, {n} + 1)))",
    ),
    near_misses=(
        "print(sum(1 for k in range(1, {n} + 1) if k % {m}))",
        "import math\nprint(sum(math.gcd(k, {n}) == 1 for k in range(1, {m} + 1)) + 1)",
    ),
    solve=lambda p: sum(1 for k in range(1, p["n"] + 1) if not _shares_factor(k, p["m"])),
    accept=lambda p: _num_prime_factors(p["m"]) >= 2,
)


def _shares_factor(k: int, m: int) -> bool:
    while m:
        k, m = m, k % m
    return k > 1


def _num_prime_factors(m: int) -> int:
    return sum(1 for d in range(2, m + 1) if m % d == 0 and all(d % e for e in range(2, d)))


def _lattice_count(p: Params) -> int:
    return sum((p["c"] - p["a"] * x) // p["b"] + 1 for x in range(p["c"] // p["a"] + 1))


LATTICE_COUNT = Family(
    name="lattice_count",
    ranges=(("a", 11, 59), ("b", 11, 59), ("c", 201, 799)),
    phrasings=(
        "Count lattice points x, y >= 0 with {a}x + {b}y <= {c}.",
        "How many integers x, y >= 0 have {a}x + {b}y <= {c}?",
        "For {a}x + {b}y <= {c}, count the integer points x, y >= 0.",
        "With {a}x + {b}y <= {c}, how many integers x, y >= 0 exist?",
        "Find the number of points of {a}x + {b}y <= {c} with x, y >= 0.",
    ),
    programs=(
        "print(sum(({c} - {a} * x) // {b} + 1 for x in range({c} // {a} + 1)))",
        "s = 0\nfor x in range(0, {c} + 1, {a}):\n    s += ({c} - x) // {b} + 1\nprint(s)",
    ),
    near_misses=(
        "print(sum(({c} - {a} * x) // {b} for x in range({c} // {a} + 1)))",
        "s = 0\nfor x in range(0, {c}, {a}):\n    s += ({c} - x) // {b}\nprint(s)",
    ),
    solve=_lattice_count,
    accept=lambda p: p["a"] != p["b"],
)


def _diophantine_count(p: Params) -> int:
    return sum(1 for x in range(p["c"] // p["a"] + 1) if (p["c"] - p["a"] * x) % p["b"] == 0)


DIOPHANTINE_COUNT = Family(
    name="diophantine_count",
    ranges=(("a", 2, 12), ("b", 2, 12), ("c", 301, 999)),
    phrasings=(
        "{a}x + {b}y = {c}: count integer solutions x, y >= 0.",
        "How often is {a}x + {b}y = {c} with integers x, y >= 0?",
        "Let {a}x + {b}y = {c}. Count the integer pairs x, y >= 0.",
        "With {a}x + {b}y = {c}, how many integers x, y >= 0 exist?",
        "Count the solutions of {a}x + {b}y = {c} with x, y >= 0.",
    ),
    programs=(
        "print(sum(1 for x in range({c} // {a} + 1) if ({c} - {a} * x) % {b} == 0))",
        "r = range({c} + 1)\nprint(sum(1 for x in r if {a} * x <= {c} and ({c} - {a} * x) % {b} == 0))",
    ),
    near_misses=(
        "print(sum(1 for x in range({c} + 1) if ({c} - {a} * x) % {b} == 0))",
        "print({c} // {a} + {c} // {b})",
    ),
    solve=_diophantine_count,
    accept=lambda p: (
        p["c"] % math.gcd(p["a"], p["b"]) == 0
        and p["c"] >= 12 * math.lcm(p["a"], p["b"])
        and p["a"] != p["b"]
    ),
)


def _binomial(n: int, k: int) -> int:
    result = 1
    for i in range(1, k + 1):
        result = result * (n - k + i) // i
    return result


BINOMIAL_MOD = Family(
    name="binomial_mod",
    ranges=(("n", 31, 199), ("k", 11, 30), ("m", 201, 999)),
    phrasings=(
        "In how many ways can {k} of {n} students be chosen? Answer modulo {m}.",
        "Find the number of ways to choose {k} from {n} items, modulo {m}.",
        "What is C({n}, {k}) modulo {m}?",
        "Compute the binomial coefficient C({n}, {k}) modulo {m}.",
        "A team of {k} is picked from {n} players. Count the teams modulo {m}.",
    ),
    programs=(
        "import math\nprint(math.comb({n}, {k}) % {m})",
        "from math import comb\nprint(comb({n}, {k}) % {m})",
    ),
    near_misses=("import math\nprint(math.perm({n}, {k}) % {m})", "print({n} * {k} % {m})"),
    solve=lambda p: _binomial(p["n"], p["k"]) % p["m"],
    accept=lambda p: _num_prime_factors(p["m"]) == 1 and p["m"] > p["n"],
)

DIGIT_SUM_COUNT = Family(
    name="digit_sum_count",
    ranges=(("a", 101, 399), ("b", 501, 999), ("m", 3, 11)),
    phrasings=(
        "How many integers from {a} to {b} have digit sum divisible by {m}?",
        "Count the integers from {a} to {b} whose digit sum is divisible by {m}.",
        "For how many n from {a} to {b} does {m} divide the digit sum?",
        "Between {a} and {b}, count digit sums divisible by {m}.",
        "Find how many numbers from {a} to {b} have digit sum a multiple of {m}.",
    ),
    programs=(
        "print(sum(1 for k in range({a}, {b} + 1) if sum(int(d) for d in str(k)) % {m} == 0))",
        "c = 0\nfor k in range({a}, {b} + 1):\n    c += sum(int(d) for d in str(k)) % {m} == 0\nprint(c)",
    ),
    near_misses=(
        "print(sum(1 for k in range({a}, {b} + 1) if k % {m} == 1))",
        "print(sum(1 for k in range({a}, {b} + 1) if len(str(k)) % {m} == 0))",
    ),
    solve=lambda p: sum(
        1 for k in range(p["a"], p["b"] + 1) if (k // 100 + k // 10 % 10 + k % 10) % p["m"] == 0
    ),
    accept=lambda p: p["m"] not in (3, 9),
)

PRIME_COUNT = Family(
    name="prime_count",
    ranges=(("a", 101, 499), ("b", 601, 1999)),
    phrasings=(
        "How many primes lie between {a} and {b}?",
        "Count the prime numbers from {a} to {b}.",
        "Find the number of primes from {a} to {b}.",
        "How many of the integers from {a} to {b} are prime?",
        "Between {a} and {b}, how many numbers are prime?",
    ),
    programs=(
        "print(sum(all(n % d for d in range(2, n)) for n in range({a}, {b} + 1)))",
        "r = range({a}, {b} + 1)\nprint(sum(1 for n in r if all(n % d for d in range(2, n))))",
    ),
    near_misses=(
        "print(sum(n % 2 for n in range({a}, {b} + 1)))",
        "r = range({a}, {b} + 1)\nprint(sum(1 for n in r if n % 2 and n % 3))",
    ),
    solve=lambda p: _num_primes(p["b"]) - _num_primes(p["a"] - 1),
)


def _num_primes(limit: int) -> int:
    sieve = bytearray([0, 0]) + bytearray([1]) * (limit - 1)
    for d in range(2, math.isqrt(limit) + 1):
        if sieve[d]:
            sieve[d * d :: d] = bytes(len(sieve[d * d :: d]))
    return sum(sieve)
