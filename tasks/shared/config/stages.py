"""The sections that are everybody's, the stages with theirs, and `Recipe`: all of it, checked as a whole."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.shared.config.data import DataConfig, ModelConfig
from tasks.shared.config.endpoint import ServedModel
from tasks.shared.config.generation import GenerationConfig
from tasks.shared.config.section import Section
from tasks.shared.config.serving import ServeConfig
from tasks.shared.config.staleness import require_beside
from tasks.shared.config.synthesis import SynthesizeConfig
from tasks.shared.config.training import OptimizerConfig, RlConfig, SftConfig
from tasks.shared.sandbox.records import PRELOAD

DialectName = Literal["retool", "torl", "hermes", "text"]


class TracesConfig(Section):
    """How reasoning, code and interpreter output are written: shared by synthesis, SFT, RL and evaluation."""

    dialect: DialectName = "retool"
    # bare: the problem alone, for models trained here; plain: text without a chat template, for base models (ToRL)
    prompt: Literal["instructed", "bare", "plain"] = "instructed"
    max_calls: int = Field(16, ge=0)  # C; after it the model goes on in plain text
    announce_remaining_calls: bool = False  # 'remaining calls: n' in the feedback (ASTER)
    # a block that is not whole is answered by the form that it lacks, and counts as a call; false: it is text
    block_notices: bool = True
    error_feedback: Literal["full", "last_line"] = "full"  # ReTool feeds the message back, ToRL its last line

    @model_validator(mode="after")
    def _text_has_no_calls(self) -> Self:
        if self.dialect == "text" and self.max_calls:
            raise ValueError("traces.dialect = 'text' runs no code: set traces.max_calls = 0")
        if self.dialect == "hermes" and self.prompt == "plain":
            raise ValueError(
                "traces.dialect = 'hermes' needs the chat template: set traces.prompt to instructed or bare"
            )
        return self


class SandboxConfig(Section):
    """Limits of one program and the shape of the interpreter service."""

    stateful: bool = False  # false: each block a fresh child (ReTool)
    workers: int = Field(4, ge=1)
    wall_s: float = Field(10.0, gt=0)
    cpu_s: float = Field(10.0, gt=0)
    memory_mb: int = Field(1024, ge=32)
    output_chars: int = Field(4096, ge=64, le=250_000)  # more would not fit into an answer
    preload: tuple[str, ...] = PRELOAD  # what programs can import; the instruction names it
    # empty: the stage starts its own; else unix:/path or tcp:host:port (token from the environment)
    address: str = ""
    allow_unsafe: bool = False  # runs model-written code without isolation; shown in every report made so


class EvaluateConfig(Section):
    """k samples a problem with intervals. A protocol fills in the numbers below it (`data/protocols.toml`)."""

    protocol: str = ""  # retool, torl, or empty: as written here
    samples_per_problem: int = Field(32, ge=1)
    temperature: float = Field(1.0, ge=0)  # 0 is greedy
    top_p: float = Field(0.7, gt=0, le=1)
    max_calls: int | None = Field(None, ge=0)  # None: traces.max_calls
    max_response_tokens: int | None = Field(None, ge=1)  # None: generation.max_response_tokens
    checkpoints: tuple[Literal["base", "sft", "rl"], ...] = ("base", "sft", "rl")
    endpoint: ServedModel = ServedModel()  # asked in place of an engine of the stage's own

    @model_validator(mode="after")
    def _greedy_samples_once(self) -> Self:
        if self.temperature == 0 and self.samples_per_problem > 1:
            raise ValueError(
                "evaluate.temperature = 0 gives the same sample every time: set evaluate.samples_per_problem = 1"
            )
        return self


class ReportConfig(Section):
    """What a report is called, and the order of its evaluations: each is compared with every earlier one."""

    title: str = ""  # empty: the run's name
    evaluations: tuple[str, ...] = ("base", "sft", "rl")  # inputs evaluation_<name>; absent ones are left out
    notes: tuple[str, ...] = ()  # shown at its head, as why the run stopped is


def _require_zero(section: str, optimizer: OptimizerConfig, model: ModelConfig) -> None:
    """ValueError for bfloat16 without ZeRO: DeepSpeed would clip each parameter group by itself there."""
    if model.dtype == "bfloat16" and optimizer.zero_stage == 0:
        raise ValueError(
            f"{section}.zero_stage = 0 needs model.dtype = 'float32'; for bfloat16 use zero_stage 1, 2 or 3"
        )


def _require_sampler(generation: GenerationConfig, rl: RlConfig) -> None:
    """ValueError where an engine that cannot sleep is to, or where hosts that train have no pool beside them."""
    if rl.sleep_sampler and generation.engine != "vllm":
        raise ValueError(
            f"rl.sleep_sampler = true needs generation.engine = 'vllm', not '{generation.engine}'; set it to false"
        )
    require_beside(generation, rl)
    if generation.placement != "pool":
        return
    if rl.sleep_sampler:
        raise ValueError(
            "rl.sleep_sampler = true is of an engine inside the trainer; a pool has GPUs of its own: set it to false"
        )
    if rl.offload_while_sampling:
        raise ValueError(
            "rl.offload_while_sampling = true is for a sampler on the trainer's GPUs, not for a pool: set it to false"
        )
    if rl.optimizer.nodes > 1 and not (generation.pool.nodes or generation.pool.addresses):
        raise ValueError(
            f"rl.optimizer.nodes = {rl.optimizer.nodes} with generation.placement = 'pool' needs hosts that sample: "
            "set generation.pool.nodes, or addresses of running servers"
        )


def _require_row(generation: GenerationConfig, rl: RlConfig) -> None:
    """ValueError if one packed row is shorter than the longest prompt and response."""
    longest = generation.max_prompt_tokens + generation.max_response_tokens
    if longest > rl.tokens_per_micro_batch:
        raise ValueError(
            f"rl.tokens_per_micro_batch = {rl.tokens_per_micro_batch} does not hold a prompt and a response of "
            f"generation.max_prompt_tokens + max_response_tokens = {longest}; raise it to {longest} or more"
        )


def _require_own_engine(synthesize: SynthesizeConfig) -> None:
    """ValueError where a plain prompt would have to go through an endpoint's chat template."""
    if synthesize.uses_endpoint:
        raise ValueError(
            "traces.prompt = 'plain' has no chat template, and an endpoint applies one: set "
            "synthesize.teacher.backend = 'engine'"
        )


class PrepareStage(Section):
    """What `prepare` depends on."""

    model: ModelConfig
    data: DataConfig


class SynthesizeStage(Section):
    """What `synthesize` depends on."""

    traces: TracesConfig
    sandbox: SandboxConfig
    synthesize: SynthesizeConfig
    generation: GenerationConfig | None = None  # of the engine that writes; None where none does
    model: ModelConfig | None = None


class SftStage(Section):
    """What `sft` depends on."""

    model: ModelConfig
    traces: TracesConfig
    sft: SftConfig
    libraries: tuple[str, ...] = ()  # of the sandbox, where the prompt names them

    @model_validator(mode="after")
    def _precision_fits_the_optimizer(self) -> Self:
        _require_zero("sft.optimizer", self.sft.optimizer, self.model)
        return self


class RlStage(Section):
    """What one RL round depends on."""

    model: ModelConfig
    traces: TracesConfig
    sandbox: SandboxConfig
    generation: GenerationConfig
    rl: RlConfig

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        _require_row(self.generation, self.rl)
        _require_sampler(self.generation, self.rl)
        _require_zero("rl.optimizer", self.rl.optimizer, self.model)
        return self


class EvaluateStage(Section):
    """What `evaluate` depends on."""

    model: ModelConfig
    traces: TracesConfig
    sandbox: SandboxConfig
    generation: GenerationConfig
    evaluate: EvaluateConfig

    def limited(self) -> "EvaluateStage":
        """The same with evaluate's own limits in the sections that evaluation shares with training."""
        limits = self.evaluate
        traces, generation = self.traces, self.generation
        if limits.max_calls is not None and traces.dialect != "text":
            traces = traces.model_copy(update={"max_calls": limits.max_calls})
        if limits.max_response_tokens is not None:
            changed = {"max_response_tokens": limits.max_response_tokens}
            generation = generation.model_copy(update=changed)
        return self.model_copy(update={"traces": traces, "generation": generation})


class ReportStage(Section):
    """What `report` depends on besides its inputs: what was run, for the headline."""

    traces: TracesConfig
    sandbox: SandboxConfig
    evaluate: EvaluateConfig
    report: ReportConfig = ReportConfig()


STAGE_CONFIGS: dict[str, type[Section]] = {
    "prepare": PrepareStage,
    "synthesize": SynthesizeStage,
    "sft": SftStage,
    "rl": RlStage,
    "evaluate": EvaluateStage,
    "report": ReportStage,
}


class Recipe(Section):
    """A whole run: every section, and the seed from which every stage's seed is derived."""

    name: str
    description: str = ""
    seed: int = 0
    model: ModelConfig
    data: DataConfig
    traces: TracesConfig = TracesConfig()
    sandbox: SandboxConfig = SandboxConfig()
    generation: GenerationConfig = GenerationConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    serve: ServeConfig = ServeConfig()
    cold_start: bool = True  # false: RL straight from the base model (ToRL)

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        if self.traces.prompt == "plain" and self.synthesize.mode == "bootstrap":
            _require_own_engine(self.synthesize)
        scripted = self.cold_start and self.synthesize.mode == "script"
        if self.traces.dialect == "text" and self.synthesize.code_share and scripted:
            raise ValueError(
                "traces.dialect = 'text' needs synthesize.code_share = 0: its traces have no code"
            )
        if self.traces.dialect == "text" and self.synthesize.selection.require_code and self.cold_start:
            raise ValueError(
                "traces.dialect = 'text' needs synthesize.selection.require_code = false: its traces have no code"
            )
        if self.evaluate.checkpoints and "sft" in self.evaluate.checkpoints and not self.cold_start:
            raise ValueError(
                "evaluate.checkpoints names 'sft' but cold_start = false: take it out of the list"
            )
        longest_trace = self.synthesize.teacher.max_response_tokens
        if self.synthesize.uses_engine and longest_trace > self.generation.max_response_tokens:
            raise ValueError(
                f"synthesize.teacher.max_response_tokens = {longest_trace} is more than the engine's "
                f"generation.max_response_tokens = {self.generation.max_response_tokens}; lower it"
            )
        for key, group in (("problems", "train"), ("evaluate_sets", "evaluation")):
            names = [source.name for source in getattr(self.data, group)]
            unknown = sorted(set(getattr(self.rl, key)) - set(names))
            if unknown:
                raise ValueError(
                    f"rl.{key}: '{unknown[0]}' is no set of data.{group}, which has {', '.join(names)}"
                )
        _require_row(self.generation, self.rl)
        _require_sampler(self.generation, self.rl)
        _require_zero("rl.optimizer", self.rl.optimizer, self.model)
        if self.cold_start:
            _require_zero("sft.optimizer", self.sft.optimizer, self.model)
        return self

    @property
    def libraries(self) -> tuple[str, ...]:
        """What `sft` depends on of the sandbox: the libraries that the prompt names."""
        return () if self.traces.prompt == "bare" else self.sandbox.preload

    def for_stage(self, stage: str) -> Section:
        """The sections `stage` depends on; KeyError for an unknown stage."""
        config_class = STAGE_CONFIGS[stage]
        sections = {name: getattr(self, name) for name in config_class.model_fields}
        if stage == "synthesize" and not self.synthesize.uses_engine:
            sections["generation"] = sections["model"] = None
        return config_class(**sections)
