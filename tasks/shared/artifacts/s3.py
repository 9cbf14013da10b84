"""Send files to S3 through boto3, with the settings of s3fs's file system.

s3fs reads ten parts, hashes and sends them, and reads no further until all ten have arrived. boto3 reads and hashes
the next parts while others are under way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.shared.contract.environment import s3_attempts

if TYPE_CHECKING:
    from s3fs import S3FileSystem


@contextmanager
def s3_sender(fs: "S3FileSystem") -> Iterator[Callable[[Path, str], None]]:
    """Yield what puts a local file under a path of `fs`. Any thread may call it. All files share ten connections.

    A file appears whole or not at all. One that cannot be sent leaves no parts on the server.
    """
    from boto3.s3.transfer import S3Transfer
    from botocore.config import Config
    from botocore.session import Session

    keys = {"aws_access_key_id": fs.key, "aws_secret_access_key": fs.secret, "aws_session_token": fs.token}
    settings = {"endpoint_url": fs.endpoint_url, "use_ssl": fs.use_ssl} | keys | fs.client_kwargs
    # Over plain HTTP botocore would take a second sha256 of every byte. The manifest, which is sent signed, has the
    # first, and the server still compares each part's CRC-32.
    ours = {"retries": {"total_max_attempts": s3_attempts()}, "s3": {"payload_signing_enabled": False}}
    config = Config(**ours | fs.config_kwargs)
    fs.connect()
    loader = fs.session.get_component("data_loader")  # a new one would read S3's API again, in 0.1 s
    session = Session(profile=fs.kwargs.get("profile"))
    session.register_component("data_loader", loader)
    client = session.create_client("s3", config=config, **settings)

    with S3Transfer(client) as transfer:

        def send(file: Path, path: str) -> None:
            bucket, key, _ = fs.split_path(path)
            transfer.upload_file(str(file), bucket, key, extra_args=fs.s3_additional_kwargs or None)

        yield send
    fs.invalidate_cache()
