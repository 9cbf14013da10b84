"""Upload files to a hub with huggingface_hub, in one commit. The token is never shown.

Errors of the hub, of the network and of names are a ValueError of one line.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

REPORT_EVERY_S = 30.0  # between two lines during a long upload
RepoType = Literal["model", "dataset"]


def check_name(repo: str) -> None:
    """Raise ValueError for a name that no hub accepts."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"repository '{repo}': {str(error).splitlines()[0]}") from None
    if repo.count("/") != 1:
        raise ValueError(f"repository '{repo}': write OWNER/NAME")


def upload(
    files: Mapping[str, Path], repo: str, repo_type: RepoType, endpoint: str, token: str, private: bool
) -> str:
    """Create the repository if needed, and commit `files` (path in the repository -> file). Returns the commit's URL.

    Raises ValueError, never with the token in it, if there is no connection, or the hub refuses the token or a file.
    """
    import httpx2
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(endpoint=endpoint, token=token)
    size = sum(path.stat().st_size for path in files.values())
    try:
        with _reporting(f"uploading {len(files)} files, {size / 1e6:.1f} MB, to {endpoint}/{repo}"):
            api.create_repo(repo, repo_type=repo_type, private=private or None, exist_ok=True)
            operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
            commit = api.create_commit(
                repo, operations, commit_message="Published by tirflow", repo_type=repo_type
            )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        message = f"hub {endpoint} refused: {_first_line(error)}; {_remedy(status, repo)}"
        raise ValueError(message.replace(token, "[token]")) from None
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        cause = _first_line(error.__cause__ or error)
        message = f"hub {endpoint}: {cause}; check the network and HF_ENDPOINT, then run it again"
        raise ValueError(message.replace(token, "[token]")) from None
    return str(commit.commit_url)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _remedy(status: int, repo: str) -> str:
    if status == 401:
        return "HF_TOKEN is not one of its tokens, or has expired"
    if status == 403:
        return f"HF_TOKEN may not write to {repo}: give the token write access, or another owner's name"
    return "correct that, then run it again: files that are there already are not sent twice"


@contextmanager
def _reporting(message: str) -> Iterator[None]:
    """Write the message now and every half minute until the block ends."""
    done = threading.Event()

    def report() -> None:
        while True:
            sys.stderr.write(f"{message}\n")
            if done.wait(REPORT_EVERY_S):
                return

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
