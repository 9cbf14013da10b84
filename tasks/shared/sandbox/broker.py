"""The broker: queues programs, hands each to a ready child, judges how it ended, retries lost ones.

It alone knows the requests; it never forks. Statuses come from what the child's parent observed (wait
status, processor time) and from the broker's own clock; the child's word counts for its traceback only.
Whatever happens between taking a child and its end is answered: by a verdict, by another run, or as a failure.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections import deque

from tasks.shared.sandbox import runner
from tasks.shared.sandbox.capacity import sessions_that_fit
from tasks.shared.sandbox.executions import (
    Execution,
    Session,
    drop_output,
    ending_of,
    has_ended,
    last_report,
    own_time_s,
    processor_times,
    send_request,
)
from tasks.shared.sandbox.links import Child, Exit
from tasks.shared.sandbox.metrics import Metrics
from tasks.shared.sandbox.records import ExecutionResult, Limits, SandboxSettings, Status, sandbox_failure
from tasks.shared.sandbox.shortage import OutOfMemoryKills
from tasks.shared.sandbox.suspects import Suspects
from tasks.shared.sandbox.verdict import (
    ended_between_blocks,
    ended_its_worker,
    is_killed_from_outside,
    judge,
    lost_session,
    signal_or_code,
    unreadable,
)
from tasks.shared.sandbox.workers import WorkerSet

_LONGEST_WAIT = 10.0
"""A program that waits for a processor may take this many times its wall limit, no more."""
_END_S = 30.0
"""How long the end of a killed process may take to be told before its worker is given up."""
_KILLED = "its process was killed from outside"
_ENDED = "its process had ended before the program was handed to it"
_WORKER_LOST = "the worker of this session was lost"


class Broker:
    """Queue, dispatch and judgement of one server."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.workers = WorkerSet(settings, self.metrics, self._pump)
        self._queue: deque[Execution] = deque()
        self._suspects = Suspects()
        self._memory = OutOfMemoryKills()
        self._running: set[Execution] = set()
        self._sessions: dict[str, Session] = {}
        self._max_sessions = sessions_that_fit(settings)

    def submit(
        self, code: bytes, limits: Limits, session: str | None = None
    ) -> asyncio.Future[ExecutionResult]:
        """Queue a program. Cancelling the future withdraws it. Raises KeyError for an unknown session."""
        execution = Execution(code, limits, asyncio.get_running_loop().create_future())
        execution.future.add_done_callback(lambda future: self._withdraw(execution, future))
        if session is None:
            self._queue.append(execution)
        else:
            execution.session = self._sessions[session]
            execution.session.waiting.append(execution)
            self._next_block(execution.session)
        self._pump()
        return execution.future

    def open_session(self) -> str:
        """The name of a new session. Raises RuntimeError when there are too many."""
        if len(self._sessions) >= self._max_sessions:
            by = (
                "max_sessions"
                if self._max_sessions == self.settings.max_sessions
                else "this machine's limits"
            )
            raise RuntimeError(
                f"{len(self._sessions)} sessions are open, {by} (see docs/sandbox.md) allow no more: close some"
            )
        name = secrets.token_hex(16)
        self._sessions[name] = Session(name)
        return name

    def close_session(self, name: str) -> None:
        """End a session, and with it what it runs or would have run. Raises KeyError for an unknown one."""
        session = self._sessions.pop(name)
        session.closed = True
        unrun = [*session.waiting]
        session.waiting.clear()
        if session.running is not None and session.running in self._queue:
            self._queue.remove(session.running)
            unrun.append(session.running)
        for execution in unrun:
            if not execution.future.done():
                self._finish(execution, sandbox_failure("its session was closed before it ran"))
        if session.child is not None:
            session.child.kill()

    def progress(self, future: asyncio.Future[ExecutionResult]) -> tuple[float | None, float]:
        """For how many seconds the program of that future has run this time (None while it waits), and may at most."""
        for execution in self._running:
            if execution.future is future:
                most = _LONGEST_WAIT * execution.limits.wall_s + 2 * _END_S
                return time.monotonic() - execution.started, most
        return None, 0.0

    def health(self) -> dict[str, object]:
        """The figures of this moment."""
        return {
            "isolation": self.workers.isolation,
            "unsafe": self.workers.isolation == "unsafe",
            "queue_length": len(self._queue) + len(self._suspects),
            "running": len(self._running),
            "sessions": len(self._sessions),
            "max_sessions": self._max_sessions,
            "children": self.workers.num_children(),
            **self.metrics.snapshot(),
        }

    def fail_all(self, reason: str) -> None:
        """Answer everything in flight with a sandbox failure."""
        waiting = [item for session in self._sessions.values() for item in session.waiting]
        for execution in [*self._running, *self._queue, *self._suspects, *waiting]:
            self._release(execution)
            answered = execution.probe_of or execution
            self._finish(answered, sandbox_failure(reason, answered.attempts))

    def _withdraw(self, execution: Execution, future: asyncio.Future[ExecutionResult]) -> None:
        """The client went away: do not run it, or end it."""
        if not future.cancelled():
            return
        if execution.child is not None:
            execution.child.kill()
        elif execution in self._queue:
            self._queue.remove(execution)
        elif execution.alone is not None:
            self._suspects.leave(execution)
            self._pump()
        elif execution.session is not None and execution in execution.session.waiting:
            execution.session.waiting.remove(execution)

    def _pump(self) -> None:
        """Hand suspects to the workers kept for them, and queued programs to ready children, oldest first."""
        limit = self.settings.workers * self.settings.slots
        for worker in self._suspects.next_workers:
            child = self.workers.take_of(worker)
            if child is not None:
                self._start(self._suspects.start(worker), child)
        while self._queue and len(self._running) < limit:
            session = self._queue[0].session
            child = session.child if session is not None else None
            child = child or self.workers.take(self._suspects.workers)
            if child is None:
                return
            execution = self._queue.popleft()
            if session is not None and session.child is None:
                session.child = child
                child.promote()
                child.on_end = lambda how, owner=session: self._session_ended(owner, how)
            self._start(execution, child)

    def _next_block(self, session: Session) -> None:
        """A session runs one block at a time; its next one joins the queue."""
        if session.running is None and session.waiting:
            session.running = session.waiting.popleft()
            self._queue.append(session.running)
            self._tell_loss(session)

    def _tell_loss(self, session: Session) -> None:
        """The variables were lost while no block ran: the next block is told so, and is not run without them."""
        execution, result = session.running, session.lost
        if result is not None and execution is not None and execution in self._queue:
            self._queue.remove(execution)
            session.lost = None
            self._finish(execution, result)

    def _start(self, execution: Execution, child: Child) -> None:
        execution.child, execution.started = child, time.monotonic()
        execution.attempts += 1
        execution.begun = execution.session is not None and execution.session.num_blocks > 0
        self._running.add(execution)
        if execution.session is None:
            child.on_end = lambda how: self._program_ended(execution, how)
        try:
            self._hand_over(execution, child)
        except BrokenPipeError:  # the child has ended already, and its worker is about to say how
            execution.failure = _ENDED
            child.kill()
        except Exception as error:  # noqa: BLE001 - the child is taken: whatever fails here, its end must follow
            execution.failure = f"it could not be handed to its process: {error}"
            child.kill()

    def _hand_over(self, execution: Execution, child: Child) -> None:
        """Give the child what it needs and start the clock. Raises OSError where it cannot be done."""
        loop = asyncio.get_running_loop()
        limits, stateful = execution.limits, execution.session is not None
        execution.timer = loop.call_later(limits.wall_s, self._deadline, execution)
        execution.stdout_fd = os.memfd_create("stdout", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        execution.stderr_fd = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if execution.begun:  # in a process that has lived before
            execution.before = processor_times(child.pidfd) or execution.before
        if stateful:
            child.signal(signal.SIGCONT)
            loop.add_reader(child.channel.fileno(), self._block_ended, execution)
        send_request(child, execution)

    def _deadline(self, execution: Execution) -> None:
        """The wall limit is up: kill, unless the program spent part of it waiting for a processor."""
        assert execution.child is not None
        loop = asyncio.get_running_loop()
        if not has_ended(execution.child.pidfd):  # else in time: its worker has yet to say so
            limit, elapsed = execution.limits.wall_s, time.monotonic() - execution.started
            left = limit - own_time_s(execution.child.pidfd, elapsed, execution.before)
            if left > 0.001 and elapsed < _LONGEST_WAIT * limit:
                execution.timer = loop.call_later(max(left, 0.01), self._deadline, execution)
                return
            if not has_ended(execution.child.pidfd):
                execution.timed_out = True
                execution.child.kill()
        reason = f"a worker did not tell the end of a process for {_END_S:.0f} s"
        execution.timer = loop.call_later(_END_S, self.workers.give_up, execution.child.worker, reason)

    def _program_ended(self, execution: Execution, how: Exit | None) -> None:
        if how is None:
            self._worker_lost(execution)
            return
        report = last_report(execution)
        code = os.waitstatus_to_exitcode(how.status)
        if execution.failure or not (execution.begun or execution.timed_out):
            began = f"its process ended before the program began ({report or signal_or_code(code)})"
            self._retry(execution, execution.failure or began)
        elif self._is_killed_from_outside(execution, how):
            self._retry(execution, _KILLED)
        else:
            self._conclude(execution, how, report)

    def _is_killed_from_outside(self, execution: Execution, how: Exit) -> bool:
        code = os.waitstatus_to_exitcode(how.status)
        return (
            not execution.timed_out
            and is_killed_from_outside(code, 0.0 if execution.session else how.cpu_s, execution.limits)
            and not self._memory.happened()
        )

    def _block_ended(self, execution: Execution) -> None:
        """A living session reports on its block; it is stopped until the next one."""
        child, session = execution.child, execution.session
        assert child is not None and session is not None
        try:
            report = child.channel.recv(4 * runner.REPORT_CHARS + 1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            report = b""
        if report == runner.STARTED and not execution.begun:
            execution.begun = True
            return
        asyncio.get_running_loop().remove_reader(child.channel.fileno())
        if execution.timed_out or len(report) < runner.BLOCK_REPORT.size:
            child.kill()  # it is ending, or speaks nonsense: `_session_ended` follows
            return
        child.signal(signal.SIGSTOP)
        session.num_blocks += 1
        # The exit code in its report is shifted to look like the wait status of a process that ended so.
        code, peak = runner.BLOCK_REPORT.unpack_from(report)
        text = report[runner.BLOCK_REPORT.size :].decode("utf-8", "replace")
        self._conclude(execution, Exit(code << 8, 0.0, peak), text, session_alive=True)

    def _session_ended(self, session: Session, how: Exit | None) -> None:
        """The child of a session is gone: its block ends with it, or the next one is told; then it starts anew."""
        execution, child = session.running, session.child
        session.child, had_run, session.num_blocks = None, session.num_blocks > 0, 0
        assert child is not None
        if execution is None or execution.child is not child:
            session.lost = self._lost_between_blocks(how)
            self._tell_loss(session)
            return
        asyncio.get_running_loop().remove_reader(child.channel.fileno())
        report = last_report(execution)
        if how is None or (had_run and execution.failure == _ENDED):
            self._finish(execution, self._lost_between_blocks(how))
        elif not execution.failure and (execution.timed_out or execution.begun):
            if self._is_killed_from_outside(execution, how):
                self._finish(execution, lost_session(_KILLED))
            else:
                self._conclude(execution, how, report, session_alive=False)
        elif had_run:
            self._finish(execution, lost_session(execution.failure))
        else:
            self._retry(
                execution, execution.failure or f"its process ended before the program began ({report})"
            )

    def _lost_between_blocks(self, how: Exit | None) -> ExecutionResult:
        """What the next block is answered when the child of its session ended before it got that block."""
        if how is None:
            return lost_session(_WORKER_LOST)
        code = os.waitstatus_to_exitcode(how.status)
        if code != -signal.SIGKILL or self._memory.happened():
            return ended_between_blocks(code, self.workers.isolation)
        return lost_session(_KILLED)

    def _conclude(
        self, execution: Execution, how: Exit, report: str, session_alive: bool | None = None
    ) -> None:
        """Judge an ended program or block, and answer."""
        ending = ending_of(execution, how, report, session_alive)
        try:
            result = judge(ending, execution.limits, self.workers.isolation)
        except Exception as error:  # noqa: BLE001 - all that is judged comes from the program, and it must be answered
            result = unreadable(error, ending, self.workers.isolation)
        self._finish(execution, result)

    def _worker_lost(self, execution: Execution) -> None:
        """A worker was lost under a program: an outage, or the program's doing?"""
        assert execution.child is not None
        worker, was_alone, probed = (
            execution.child.worker.index,
            execution.alone is not None,
            execution.probe_of,
        )
        self._release(execution)
        if probed is not None:  # not even an empty program can be kept: an outage
            self._retry(probed, f"its worker was lost {probed.attempts} times")
        elif execution.future.done():
            return
        elif was_alone:
            future: asyncio.Future[ExecutionResult] = asyncio.get_running_loop().create_future()
            probe = Execution(b"", self.settings.limits, future, probe_of=execution)
            self._suspects.add(probe, worker, first=True)
        elif execution.attempts > self.settings.retries:
            self._finish(execution, sandbox_failure("its worker was lost", execution.attempts))
        else:
            self.metrics.retries += 1
            self._suspects.add(execution, worker)

    def _retry(self, execution: Execution, reason: str) -> None:
        """The sandbox failed under a program: run it again, or say so."""
        worker = execution.alone
        self._release(execution)
        if execution.future.done():
            self._pump()
        elif execution.probe_of is not None or execution.attempts > self.settings.retries:
            self._finish(execution, sandbox_failure(reason, execution.attempts))
        else:
            self.metrics.retries += 1
            execution.failure = ""
            if worker is None:
                self._queue.appendleft(execution)
            else:
                self._suspects.add(execution, worker)
            self._pump()

    def _release(self, execution: Execution) -> None:
        """Give back what an execution holds."""
        self._running.discard(execution)
        self._suspects.leave(execution)
        execution.child = None
        if execution.timer is not None:
            execution.timer.cancel()
        for descriptor in (execution.stdout_fd, execution.stderr_fd):
            if descriptor >= 0:
                drop_output(descriptor)
        execution.stdout_fd = execution.stderr_fd = -1

    def _finish(self, execution: Execution, result: ExecutionResult) -> None:
        self._release(execution)
        probed = execution.probe_of
        if probed is not None:
            if result.status is Status.SANDBOX_FAILURE:
                self._retry(probed, result.error_line)
                return
            execution, result = probed, ended_its_worker(probed.attempts, self.workers.isolation)
        self.metrics.record(result)
        if not execution.future.done():
            execution.future.set_result(result)
        session = execution.session
        if session is not None and session.running is execution:
            session.running = None
            if not session.closed:
                self._next_block(session)
        self._pump()
