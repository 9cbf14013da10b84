"""sft: supervised fine-tuning on verified traces, interpreter spans masked."""
