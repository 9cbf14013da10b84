"""Requests as earlier versions wrote them."""

import json

from tasks.shared.contract.stage import Rendezvous, StageRequest


def test_a_request_that_calls_its_rendezvous_a_meeting_reads() -> None:
    rendezvous = Rendezvous(nodes=2, node=1, address="10.0.0.1", port=29500, shared="/shared/sft")
    request = StageRequest(
        stage="sft",
        run="main",
        config={},
        inputs={},
        seed=0,
        store="/store",
        scratch="/scratch",
        rendezvous=rendezvous,
    )
    written = json.loads(request.model_dump_json())
    assert StageRequest.model_validate(written) == request
    written["meeting"] = written.pop("rendezvous")
    assert StageRequest.model_validate(written) == request
