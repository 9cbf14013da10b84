"""The families of both worlds, integers (tiny) and words: those to train on, and two held out whole of each."""

from data.families import counting, number_theory, sequences, words
from data.families.family import Family, Params

TRAIN_FAMILIES: tuple[Family, ...] = (
    number_theory.POWER_MOD,
    number_theory.PRODUCT_MOD,
    number_theory.INVERSE_MOD,
    number_theory.DIGIT_SUM,
    number_theory.DIVISOR_SUM,
    number_theory.LCM_MOD,
    number_theory.FACTORIAL_MOD,
    number_theory.BASE_CONVERSION,
    counting.MULTIPLES_EITHER,
    counting.COPRIME_COUNT,
    counting.LATTICE_COUNT,
    counting.DIOPHANTINE_COUNT,
    counting.BINOMIAL_MOD,
    counting.DIGIT_SUM_COUNT,
    counting.PRIME_COUNT,
    sequences.LINEAR_RECURRENCE,
    sequences.FIBONACCI_LIKE,
    sequences.POWER_SUM,
    sequences.GCD_SUM,
    sequences.POLYNOMIAL_MOD,
)
# near relatives of trained families, so that a score on them means something, but never trained on
HELD_OUT_FAMILIES: tuple[Family, ...] = (counting.MULTIPLES_NEITHER, number_theory.POWER_PLUS)
ALL_FAMILIES: tuple[Family, ...] = TRAIN_FAMILIES + HELD_OUT_FAMILIES
# English for models that can read: see words.py
WORD_FAMILIES: tuple[Family, ...] = words.TRAIN
HELD_OUT_WORD_FAMILIES: tuple[Family, ...] = words.HELD_OUT

__all__ = [
    "ALL_FAMILIES",
    "HELD_OUT_FAMILIES",
    "HELD_OUT_WORD_FAMILIES",
    "TRAIN_FAMILIES",
    "WORD_FAMILIES",
    "Family",
    "Params",
]
