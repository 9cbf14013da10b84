"""The parts of learning that SFT and RL share: packed batches, the DeepSpeed engine, losses and advantages."""
