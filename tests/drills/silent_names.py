"""`synthesize` with a name server that is silent at first, in its own network and mount namespaces.

    unshare --net --mount python -m tests.drills.silent_names <folder> <seconds>

The teacher's address is a name, and the only name server is this process. Its silence begins with the first question
and lasts the given seconds. Prints one JSON object: answered and unanswered questions, problems, accepted traces.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.integration.synthesis_world import finish, make_request, start
from tests.integration.teacher_server import serve

NAME, PROBLEMS = "teacher.drill", 4
IPV4 = b"\0\1"


class NameServer(threading.Thread):
    """Answers every question for an IPv4 address with 127.0.0.1 after its silence."""

    def __init__(self, silent_s: float) -> None:
        super().__init__(daemon=True)
        self._silent_s = silent_s
        self.unanswered = self.answered = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))

    def run(self) -> None:
        """Serve until the process ends."""
        first = None
        while True:
            question, asker = self._socket.recvfrom(1500)
            first = first or time.monotonic()
            if time.monotonic() - first < self._silent_s:
                self.unanswered += 1
            else:
                self._socket.sendto(answer(question), asker)
                self.answered += 1


def answer(question: bytes) -> bytes:
    """The packet that answers a question (RFC 1035): an address of type A, or none for other types."""
    end = question.index(b"\0", 12) + 5  # of name, type and class
    is_known = question[end - 4 : end - 2] == IPV4
    header = question[:2] + b"\x81\x80" + b"\0\1" + (b"\0\1" if is_known else b"\0\0") + bytes(4)
    record = b"\xc0\x0c" + IPV4 + b"\0\1" + bytes(4) + b"\0\4" + socket.inet_aton("127.0.0.1")
    return header + question[12:end] + (record if is_known else b"")


def main() -> None:
    """Run the drill."""
    folder, silent_s = Path(sys.argv[1]), float(sys.argv[2])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)
    names = NameServer(silent_s)
    names.start()
    with serve() as server:
        port = server.base_url.rsplit(":", 1)[1]
        teacher = {"max_attempts": 12, "max_wait_s": 1.0}
        request = make_request(folder, ["honest"] * PROBLEMS, f"http://{NAME}:{port}", teacher=teacher)
        code, event, written = finish(start(request))
    assert code == 0, written[-2000:]
    counts = {"unanswered": names.unanswered, "answered": names.answered, "problems": PROBLEMS}
    print(json.dumps(counts | {"accepted": event["metrics"]["accepted"]}))


if __name__ == "__main__":
    main()
