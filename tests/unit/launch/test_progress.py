"""Progress of a stage while Prefect's server does not answer."""

import contextvars
import socket
import threading
from pathlib import Path

from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.launch.progress import PROGRESS_EVERY_S, ProgressReport


def test_a_hung_prefect_server_delays_no_event(tmp_path: Path) -> None:
    """The listener accepts connections and never answers, as behind a broken network."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(300)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: address}), disable_run_logger():
            report = ProgressReport("run-sft", tmp_path / "log")
            ended = threading.Event()

            def follow() -> None:
                for step in range(1000):
                    report({"event": "progress", "step": step, "total": 1000})
                report._updated -= PROGRESS_EVERY_S  # time passes
                report({"event": "progress", "step": 1000, "total": 1000})
                ended.set()

            settings = contextvars.copy_context()
            threading.Thread(target=settings.run, args=(follow,), daemon=True).start()
            connection, _ = silent.accept()  # the flow would be delayed
            assert ended.wait(50), "events wait for the server"
            connection.close()
