"""What the pipeline orders for one stage, asked of the pipeline itself: its inputs have no second list elsewhere."""

import hashlib
from dataclasses import replace

from flows.pipeline import stages
from flows.start import Inputs
from tasks.launch import Run, StageOrder
from tasks.shared.artifacts import ArtifactRef
from tasks.shared.contract.stage import StageResult


class Pending(dict[str, ArtifactRef]):
    """Outputs of a stage that will run: makes a reference for any requested name."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def __missing__(self, name: str) -> ArtifactRef:
        digest = hashlib.sha256(f"{self._label}/{name}".encode()).hexdigest()
        self[name] = ArtifactRef("pending", digest, f"pending/{digest[:16]}-{digest[:8]}")
        return self[name]


def order_of(run: Run, label: str) -> tuple[StageOrder, Inputs]:
    """The order of a stage in the pipeline of a run's recipe, and the sources of its inputs.

    ValueError, with the labels that there are, if the pipeline has no such stage.
    """
    orders: dict[str, StageOrder] = {}
    outputs: dict[str, Pending] = {}

    def answer(order: StageOrder) -> StageResult:
        orders[order.label], outputs[order.label] = order, Pending(order.label)
        return StageResult.model_construct(outputs=outputs[order.label], metrics={}, seconds=0.0)

    stages(replace(run, dry_run=answer))
    if label not in orders:
        raise ValueError(f"stage '{label}': the pipeline of run '{run.name}' has {', '.join(orders)}")
    made = {ref: (maker, name) for maker, refs in outputs.items() for name, ref in refs.items()}
    return orders[label], {name: made[ref] for name, ref in orders[label].inputs.items() if ref in made}
