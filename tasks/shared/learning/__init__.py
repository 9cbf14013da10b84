"""Training code that SFT and RL share: packed batches, the DeepSpeed engine, checkpoints, reward functions."""
