"""Files to a hub through huggingface_hub, in one commit. A token is handed over and never shown.

Raises one line of ValueError for whatever a hub, a network or a name does not allow.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

EVERY_S = 30.0  # between two lines on a long upload
RepoType = Literal["model", "dataset"]


def check_name(repo: str) -> None:
    """ValueError, one line, for what no hub takes as a name."""
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
    """Make the repository if there is none, and commit `files` (path in the repository -> file); the commit's address.

    ValueError, one line that never holds the token: no connection, a token that is refused or may not write, a full
    quota, a file that the hub refuses.
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
        with _telling(f"uploading {len(files)} files, {size / 1e6:.1f} MB, to {endpoint}/{repo}"):
            api.create_repo(repo, repo_type=repo_type, private=private or None, exist_ok=True)
            operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
            commit = api.create_commit(
                repo, operations, commit_message="Published by tirflow", repo_type=repo_type
            )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise ValueError(
            _without(token, f"hub {endpoint} refused: {_said(error)}; {_remedy(status, repo)}")
        ) from None
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise ValueError(
            _without(
                token, f"hub {endpoint}: {_said(cause)}; check the network and HF_ENDPOINT, then run it again"
            )
        ) from None
    return str(commit.commit_url)


def _said(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _remedy(status: int, repo: str) -> str:
    if status == 401:
        return "HF_TOKEN is not one of its tokens, or has run out"
    if status == 403:
        return f"HF_TOKEN may not write to {repo}: give the token write access, or another owner's name"
    return "mend that, then run it again: what is there already is not sent twice"


def _without(token: str, text: str) -> str:
    return text.replace(token, "[token]") if token else text


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Say what is being done at once, and again every half minute."""
    done = threading.Event()

    def tell() -> None:
        while True:
            sys.stderr.write(f"{what}\n")
            if done.wait(EVERY_S):
                return

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
