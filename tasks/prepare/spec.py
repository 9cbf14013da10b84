"""Stage `prepare`: base model and problem sets, pinned, checked and kept apart from evaluation."""

from tasks.prepare.config import DataConfig
from tasks.shared.config import ModelConfig, StageConfig
from tasks.shared.contract.spec import StageSpec


class PrepareStage(StageConfig):
    """What `prepare` depends on."""

    model: ModelConfig
    data: DataConfig

    @property
    def is_fetched(self) -> bool:
        """Whether the model or a problem set comes from a hub."""
        sources = (*self.data.train, *self.data.evaluation)
        return bool({"hub", "registry"} & {self.model.source, *(part.source for part in sources)})


PREPARE = StageSpec(
    name="prepare",
    config=PrepareStage,
    inputs={},
    outputs={"checkpoint": "checkpoint", "problems": "problems", "evaluation_sets": "evaluation_sets"},
    runs_code=False,
    secrets=("HF_TOKEN",),
    network=lambda config: config.is_fetched,
    engine=lambda _: "",
    vllm_image="",
)
