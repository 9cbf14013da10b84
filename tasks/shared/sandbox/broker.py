"""The broker: queues programs, hands each to a ready child, decides its result, and retries lost ones.

Only the broker knows the requests, and it never forks. A status follows from what the child's parent observed (wait
status, processor time) and from the broker's own clock. Only the traceback comes from the child. Whatever happens
between taking a child and its end has an answer: a result, another run, or a failure of the sandbox.

After an outage, programs run again. But a program that could cause an outage at will could escape every error. So each
program under which a worker was lost is a suspect: it runs again, alone, on the worker that replaces the lost one. If
that is lost too, an empty program runs there. If the empty program ends well, the loss was the suspect's doing.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections import deque

from tasks.shared.sandbox import runner, verdict
from tasks.shared.sandbox.capacity import sessions_that_fit
from tasks.shared.sandbox.cgroups import OutOfMemoryKills
from tasks.shared.sandbox.executions import Execution, Session, processor_times
from tasks.shared.sandbox.links import Child, Exit
from tasks.shared.sandbox.metrics import Metrics
from tasks.shared.sandbox.records import ExecutionResult, Limits, SandboxSettings, Status, sandbox_failure
from tasks.shared.sandbox.workers import WorkerSet

_LONGEST_WAIT = 10.0
"""A program that waits for a processor may take at most this many times its wall limit."""
_END_S = 30.0
"""A worker that does not report the end of a killed process within this time is replaced."""
_KILLED = "its process was killed from outside"
_ENDED = "its process had ended before the program was handed to it"
_WORKER_LOST = "the worker of this session was lost"


class Broker:
    """Queues and runs the programs of one server."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.workers = WorkerSet(settings, self.metrics, self._pump)
        self._queue: deque[Execution] = deque()
        self._suspects: dict[int, deque[Execution]] = {}
        """By worker, which takes no other program until all of these have ended. The first runs, or runs next."""
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
        """Return the name of a new session. Raises RuntimeError when there are too many."""
        if len(self._sessions) >= self._max_sessions:
            is_own_limit = self._max_sessions == self.settings.max_sessions
            limit = "max_sessions" if is_own_limit else "this machine's limits"
            raise RuntimeError(
                f"{len(self._sessions)} sessions are open, {limit} (see docs/sandbox.md) allow no more: close some"
            )
        name = secrets.token_hex(16)
        self._sessions[name] = Session()
        return name

    def close_session(self, name: str) -> None:
        """End a session with its running and waiting blocks. Raises KeyError for an unknown one."""
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
        """Return for how many seconds a program has run (None while it waits), and for how many it may run."""
        for execution in self._running:
            if execution.future is future:
                limit_s = _LONGEST_WAIT * execution.limits.wall_s + 2 * _END_S
                return time.monotonic() - execution.started, limit_s
        return None, 0.0

    def health(self) -> dict[str, object]:
        """Return the current figures of the server."""
        return {
            "isolation": self.workers.isolation,
            "unsafe": self.workers.isolation == "unsafe",
            "queue_length": len(self._queue) + sum(one.child is None for one in self._all_suspects()),
            "running": len(self._running),
            "sessions": len(self._sessions),
            "max_sessions": self._max_sessions,
            "children": self.workers.num_children(),
            **self.metrics.snapshot(),
        }

    def fail_all(self, reason: str) -> None:
        """Answer everything in flight with a sandbox failure. Nothing more starts."""
        waiting = [execution for session in self._sessions.values() for execution in session.waiting]
        in_flight = {*self._running, *self._queue, *self._all_suspects(), *waiting}
        self._queue.clear()
        for session in self._sessions.values():
            session.waiting.clear()
        for execution in in_flight:
            if execution.child is not None:
                execution.child.on_end = None
            self._release(execution)
        for execution in {execution.probe_of or execution for execution in in_flight}:
            self._finish(execution, sandbox_failure(reason, attempts=execution.attempts))

    def _all_suspects(self) -> list[Execution]:
        return [execution for line in self._suspects.values() for execution in line]

    def _withdraw(self, execution: Execution, future: asyncio.Future[ExecutionResult]) -> None:
        """Remove or kill a program whose client went away."""
        if not future.cancelled():
            return
        if execution.child is not None:
            execution.child.kill()
        elif execution in self._queue:
            self._queue.remove(execution)
        elif execution.session is not None and execution in execution.session.waiting:
            execution.session.waiting.remove(execution)
        else:
            self._release(execution)
            self._pump()

    def _pump(self) -> None:
        """Start suspects on the workers reserved for them, and queued programs on ready children, oldest first."""
        limit = self.settings.workers * self.settings.slots
        for worker, line in self._suspects.items():
            if line[0].child is None and (child := self.workers.take(worker=worker)) is not None:
                self._start(line[0], child)
        while self._queue and len(self._running) < limit:
            session = self._queue[0].session
            child = session.child if session is not None else None
            child = child or self.workers.take(self._suspects.keys())
            if child is None:
                return
            execution = self._queue.popleft()
            if session is not None and session.child is None:
                session.child = child
                child.promote()
                child.on_end = lambda exit, owner=session: self._session_ended(owner, exit)
            self._start(execution, child)

    def _next_block(self, session: Session) -> None:
        """Queue the next block of a session, which runs one at a time; or answer it if the variables were lost."""
        if session.running is None and session.waiting:
            session.running = session.waiting.popleft()
            if session.lost is None:
                self._queue.append(session.running)
            else:
                result, session.lost = session.lost, None
                self._finish(session.running, result)

    def _start(self, execution: Execution, child: Child) -> None:
        execution.child, execution.started = child, time.monotonic()
        execution.attempts += 1
        execution.begun = execution.session is not None and execution.session.num_blocks > 0
        execution.timed_out, execution.failure = False, ""
        self._running.add(execution)
        if execution.session is None:
            child.on_end = lambda exit: self._program_ended(execution, exit)
        try:
            self._hand_over(execution, child)
        except BrokenPipeError:
            execution.failure = _ENDED  # its worker is about to say how; or it lives, with its channel shut
        except Exception as error:  # noqa: BLE001 - the child is taken: whatever fails here, its end must follow
            execution.failure = f"it could not be handed to its process: {error}"
            child.kill()

    def _hand_over(self, execution: Execution, child: Child) -> None:
        """Send the request to the child and start the clock. Raises OSError if that fails."""
        loop = asyncio.get_running_loop()
        first_s = min(execution.limits.wall_s, execution.limits.cpu_s / execution.parallel)
        execution.timer = loop.call_later(first_s, self._deadline, execution)
        if execution.begun:  # the process has run blocks before
            execution.before = processor_times(child.pidfd) or execution.before
        if execution.session is not None:
            child.signal(signal.SIGCONT)
            loop.add_reader(child.channel.fileno(), self._block_ended, execution)
        execution.send(child)

    def _deadline(self, execution: Execution) -> None:
        """Kill a program at its wall or processor limit. Time in which it waited for a processor does not count."""
        assert execution.child is not None
        loop = asyncio.get_running_loop()
        if not execution.child.has_ended():  # else it ended in time, and its worker has yet to report it
            elapsed = time.monotonic() - execution.started
            left = execution.time_left_s(elapsed)
            if left > 0.001 and elapsed < _LONGEST_WAIT * execution.limits.wall_s:
                execution.timer = loop.call_later(max(left, 0.01), self._deadline, execution)
                return
            if not execution.child.has_ended():
                execution.timed_out = True
                execution.child.kill()
        reason = f"a worker did not report the end of a process for {_END_S:.0f} s"
        execution.timer = loop.call_later(_END_S, self.workers.give_up, execution.child.worker, reason)

    def _program_ended(self, execution: Execution, exit: Exit | None) -> None:
        if exit is None:
            self._worker_lost(execution)
            return
        report = execution.last_report()
        if execution.failure or not (execution.begun or execution.timed_out):
            self._retry(execution, execution.failure or _not_begun(exit, report))
        elif self._is_killed_from_outside(execution, exit):
            self._retry(execution, _KILLED)
        else:
            self._finish(execution, verdict.judge(execution, exit, report, self.workers.isolation))

    def _is_killed_from_outside(self, execution: Execution, exit: Exit) -> bool:
        """Whether somebody else sent SIGKILL: a program cannot, and no limit or lack of memory explains it."""
        return exit.code == -signal.SIGKILL and not execution.timed_out and not self._memory.happened()

    def _block_ended(self, execution: Execution) -> None:
        """Read the report of a living session on its block, and stop the session until the next block."""
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
        if execution.timed_out or not report:
            return  # it is ending, or closed its channel and ends at its limit; `_session_ended` follows
        session_alive = len(report) >= runner.BLOCK_REPORT.size
        code, peak, text = runner.EXIT_ERROR, 0, ""
        if session_alive:
            child.signal(signal.SIGSTOP)
            session.num_blocks += 1
            code, peak = runner.BLOCK_REPORT.unpack_from(report)
            text = report[runner.BLOCK_REPORT.size :].decode("utf-8", "replace")
        else:  # the program wrote into its channel
            child.on_end, session.child, session.num_blocks = None, None, 0
            child.kill()
        # The shift turns the exit code into the wait status of a process that ended with it.
        exit = Exit(code << 8, 0.0, peak)
        self._finish(execution, verdict.judge(execution, exit, text, self.workers.isolation, session_alive))

    def _session_ended(self, session: Session, exit: Exit | None) -> None:
        """Answer the running block of a session whose child has ended, or the next block. Then start anew."""
        execution, child = session.running, session.child
        session.child, had_run, session.num_blocks = None, session.num_blocks > 0, 0
        assert child is not None
        if execution is None or execution.child is not child:
            session.lost = self._lost_between_blocks(exit)
            if execution is not None and execution in self._queue:
                self._queue.remove(execution)
                session.waiting.appendleft(execution)
                session.running = None
                self._next_block(session)
            return
        asyncio.get_running_loop().remove_reader(child.channel.fileno())
        report = execution.last_report()
        if exit is None or (had_run and execution.failure == _ENDED and not execution.timed_out):
            self._finish(execution, self._lost_between_blocks(exit))
        elif had_run and execution.failure not in ("", _ENDED):
            self._finish(execution, verdict.lost_session(execution.failure))
        elif not had_run and (execution.failure or not (execution.timed_out or execution.begun)):
            self._retry(execution, execution.failure or _not_begun(exit, report))
        elif self._is_killed_from_outside(execution, exit):
            self._finish(execution, verdict.lost_session(_KILLED))
        else:
            self._finish(execution, verdict.judge(execution, exit, report, self.workers.isolation, False))

    def _lost_between_blocks(self, exit: Exit | None) -> ExecutionResult:
        """Return the result of the next block when the child of its session ended before that block."""
        if exit is None:
            return verdict.lost_session(_WORKER_LOST)
        if exit.code != -signal.SIGKILL or self._memory.happened():
            return verdict.ended_between_blocks(exit.code, self.workers.isolation)
        return verdict.lost_session(_KILLED)

    def _worker_lost(self, execution: Execution) -> None:
        """Find out whether an outage or the program ended the worker: run the program again, alone."""
        assert execution.child is not None
        worker, was_alone = execution.child.worker.index, execution.alone is not None
        probed = execution.probe_of
        self._release(execution)
        if probed is not None:  # the worker of an empty program is lost too: an outage
            self._retry(probed, f"its worker was lost {probed.attempts} times")
        elif execution.future.done():
            return
        elif was_alone:
            future: asyncio.Future[ExecutionResult] = asyncio.get_running_loop().create_future()
            probe = Execution(b"", self.settings.limits, future, probe_of=execution)
            self._suspect(probe, worker, first=True)
        elif execution.attempts > self.settings.retries:
            self._finish(execution, sandbox_failure("its worker was lost", attempts=execution.attempts))
        else:
            self.metrics.retries += 1
            self._suspect(execution, worker)

    def _suspect(self, execution: Execution, worker: int, first: bool = False) -> None:
        """Let a program run alone on that worker."""
        execution.alone = worker
        line = self._suspects.setdefault(worker, deque())
        line.insert(0 if first else len(line), execution)

    def _retry(self, execution: Execution, reason: str) -> None:
        """Run a program again after a failure of the sandbox, or answer with the failure."""
        worker = execution.alone
        self._release(execution)
        if execution.future.done():
            self._pump()
        elif execution.probe_of is not None or execution.attempts > self.settings.retries:
            self._finish(execution, sandbox_failure(reason, attempts=execution.attempts))
        else:
            self.metrics.retries += 1
            if worker is None:
                self._queue.appendleft(execution)
            else:
                self._suspect(execution, worker)
            self._pump()

    def _release(self, execution: Execution) -> None:
        """Release the child, the timer and the output of an execution."""
        self._running.discard(execution)
        for worker, line in list(self._suspects.items()):
            if execution in line:
                line.remove(execution)
            if not line:
                del self._suspects[worker]
        execution.child = None
        if execution.timer is not None:
            execution.timer.cancel()
        execution.drop_output()

    def _finish(self, execution: Execution, result: ExecutionResult) -> None:
        self._release(execution)
        probed = execution.probe_of
        if probed is not None:
            if result.status is Status.SANDBOX_FAILURE:
                self._retry(probed, result.error_line)
                return
            execution, result = probed, verdict.ended_its_worker(probed.attempts, self.workers.isolation)
        self.metrics.record(result)
        if not execution.future.done():
            execution.future.set_result(result)
        session = execution.session
        if session is not None and session.running is execution:
            session.running = None
            if not session.closed:
                self._next_block(session)
        self._pump()


def _not_begun(exit: Exit, report: str) -> str:
    """Say why a child ended before its program began."""
    return f"its process ended before the program began ({report or verdict.signal_or_code(exit.code)})"
