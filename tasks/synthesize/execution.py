"""Run the code blocks of one trace in the sandbox, in order, as a rollout would."""

from collections.abc import Sequence

from tasks.shared.sandbox import ExecutionResult, Limits, Status
from tasks.shared.tools.protocol import Tool


def run_blocks(
    codes: Sequence[str], runner: Tool, stateful: bool, limits: Sequence[Limits | None] = ()
) -> list[ExecutionResult]:
    """Run blocks and wait for them: each in a fresh interpreter, or one after the other in one session.

    `limits`: of each block, empty for the recipe's. Stops at the first failure of the sandbox itself, which is then
    the last result.
    """
    limits = limits or [None] * len(codes)
    if not stateful:
        futures = [runner.submit(code, limits=limit) for code, limit in zip(codes, limits, strict=True)]
        results = [future.result() for future in futures]
        failed = next((i for i, r in enumerate(results) if r.status is Status.SANDBOX_FAILURE), None)
        return results if failed is None else results[: failed + 1]
    results = []
    session = runner.open_session()
    try:
        for code, limit in zip(codes, limits, strict=True):
            results.append(runner.submit(code, session=session, limits=limit).result())
            if results[-1].status is Status.SANDBOX_FAILURE:
                break
    finally:
        runner.close_session(session)
    return results
