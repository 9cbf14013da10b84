"""Grading: is the answer in the last box the reference? One function behind synthesis, RL and evaluation."""

from tasks.shared.grading.box import last_box
from tasks.shared.grading.grade import Grade, GradeReason, grade
from tasks.shared.grading.pooling import pooled

__all__ = ["Grade", "GradeReason", "grade", "last_box", "pooled"]
