"""The settings of both sides of a comparison with TRL: those of the tiny recipe, where TRL has the same ones."""

PROMPTS_PER_STEP = 16
SAMPLES_PER_PROMPT = 8
MAX_RESPONSE_TOKENS = 224  # interpreter output included
MAX_CALLS = 3
RL_LEARNING_RATE = 1e-6  # the papers'; the policy hardly changes, so that both sides keep sampling alike
CLIP_LOW, CLIP_HIGH = 0.2, 0.28
SANDBOX_WORKERS = 2
PRELOAD = ("math",)
WALL_S, MEMORY_MB, OUTPUT_CHARS = 2.0, 512, 256

TOKENS_PER_STEP = 2048  # of SFT: one packed row
SFT_LEARNING_RATE = 2e-3
WARM_UP_STEPS = 40
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
MAX_GRAD_NORM = 1.0
SFT_STEPS = 300  # of the schedule
LORA_RANK, LORA_ALPHA = 16, 32

# Both of TRL's configurations: float32 on the CPU, a log line each step, nothing saved or sent.
TRL_ARGUMENTS = {
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": "none",
    "logging_steps": 1,
    "disable_tqdm": True,
}
