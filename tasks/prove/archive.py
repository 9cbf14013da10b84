"""Pack a folder as one tar, and unpack a tar that is not trusted. Equal folders give equal bytes."""

import shutil
import tarfile
from pathlib import Path, PurePosixPath

MOST_FILES = 10_000
MOST_BYTES = 16 << 30  # of all files in an archive


def pack(directory: Path, archive: Path) -> None:
    """Write every file below `directory` into an uncompressed tar, sorted by name, without owners and times."""
    partial = archive.with_name(f"{archive.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(entry, content)
    partial.replace(archive)


def unpack(archive: Path, directory: Path) -> Path:
    """Unpack a tar that is not trusted into `directory`, and return that.

    Raises ValueError before a byte is written: for a compressed tar, which could grow without bound, for a member that
    is not a plain file, would leave the folder or occurs twice, and for more files or bytes than a certificate has.
    """
    try:
        tar = tarfile.open(archive, "r:")  # noqa: SIM115 - closed below; an error of opening has its own message
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{archive}: not an uncompressed tar ({error}); give what certify wrote") from None
    with tar:
        members = _members(tar, archive)
        for member in members:
            target = directory / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None, member.name
            with target.open("xb") as stream:
                shutil.copyfileobj(content, stream)
    return directory


def _members(tar: tarfile.TarFile, archive: Path) -> list[tarfile.TarInfo]:
    """List the members. Raises ValueError at the first that is not a plain file below the folder."""
    members: list[tarfile.TarInfo] = []
    names: set[str] = set()
    total = 0
    try:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isreg() or member.issparse():
                raise ValueError(f"{archive}: '{member.name}' is not a plain file; nothing was unpacked")
            if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
                raise ValueError(f"{archive}: '{member.name}' would leave its folder; nothing was unpacked")
            if str(path) in names or any(str(parent) in names for parent in path.parents):
                raise ValueError(f"{archive}: '{member.name}' occurs twice; nothing was unpacked")
            names.add(str(path))
            members.append(member)
            total += member.size
            if len(members) > MOST_FILES or total > MOST_BYTES:
                raise ValueError(
                    f"{archive}: more than {MOST_FILES:,} files or {MOST_BYTES:,} bytes; nothing was unpacked"
                )
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: damaged ({error}); get it again") from None
    if total > archive.stat().st_size:
        raise ValueError(f"{archive}: shorter than its members say; get it again")
    return members
