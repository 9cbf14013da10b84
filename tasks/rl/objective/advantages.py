"""From rewards to advantages: one number a trajectory, constant over its sampled tokens.

Pure functions on numpy arrays. A group is the samples of one problem in one step. Rows that are not `valid` (the
sandbox failed under them) get no advantage and count in no mean.
"""

from typing import Literal

import numpy as np

Algorithm = Literal["grpo", "dr_grpo", "rloo", "reinforce"]

STD_FLOOR = 1e-6


def advantages(
    rewards: np.ndarray, groups: np.ndarray, valid: np.ndarray, algorithm: Algorithm
) -> np.ndarray:
    """Advantages (N,) float64 of rewards (N,) with group numbers (N,) int; 0 where not valid (N,) bool.

    With m, s the mean and standard deviation (over n, not n - 1) of the valid rewards of the row's group of n:
    grpo       (r - m) / (s + 1e-6)          DeepSeekMath, arXiv 2402.03300
    dr_grpo    r - m                         arXiv 2503.20783; its length normaliser is the reduction of the loss
    rloo       r - mean of the others        arXiv 2402.14740; equals (r - m) n / (n - 1); 0 for a group of one
    reinforce  r - mean over all valid rows  REINFORCE with the batch mean as baseline
    """
    assert rewards.shape == groups.shape == valid.shape and rewards.ndim == 1
    rewards = rewards.astype(np.float64)
    result = np.zeros_like(rewards)
    if algorithm == "reinforce":
        if valid.any():
            result[valid] = rewards[valid] - rewards[valid].mean()
        return result
    for group in np.unique(groups[valid]):
        rows = valid & (groups == group)
        centred = rewards[rows] - rewards[rows].mean()
        num_rows = len(centred)
        if algorithm == "grpo":
            result[rows] = centred / (rewards[rows].std() + STD_FLOOR)
        elif algorithm == "rloo":
            result[rows] = centred * num_rows / (num_rows - 1) if num_rows > 1 else 0.0
        else:
            result[rows] = centred
    return result
