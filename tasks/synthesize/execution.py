"""Runs the code blocks of one trace in the sandbox, in order, as a rollout does."""

from collections.abc import Iterable, Sequence

from tasks.shared.sandbox import ExecutionResult, Limits, Status
from tasks.shared.tools.protocol import Tool


def run_blocks(
    codes: Sequence[str], runner: Tool, stateful: bool, limits: Sequence[Limits | None] = ()
) -> list[ExecutionResult]:
    """Run blocks and wait for them: each in a fresh interpreter, or one after the other in one session.

    `limits`: of each block, empty for the recipe's. A failure of the sandbox itself is the last result.
    """
    pairs = list(zip(codes, limits or [None] * len(codes), strict=True))
    if not stateful:
        futures = [runner.submit(code, limits=limit) for code, limit in pairs]
        return _until_failure(future.result() for future in futures)
    session = runner.open_session()
    try:
        return _until_failure(
            runner.submit(code, session=session, limits=limit).result() for code, limit in pairs
        )
    finally:
        runner.close_session(session)


def _until_failure(results: Iterable[ExecutionResult]) -> list[ExecutionResult]:
    found = []
    for result in results:
        found.append(result)
        if result.status is Status.SANDBOX_FAILURE:
            break
    return found
