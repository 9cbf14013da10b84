"""What SFT and RL share in learning: packed batches, the DeepSpeed engine, losses and advantages."""
