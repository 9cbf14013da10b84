"""A folder as one tar and back. Equal folders give equal bytes; what others packed is opened with bounds."""

import shutil
import tarfile
from pathlib import Path, PurePosixPath

MOST_FILES = 10_000
MOST_BYTES = 16 << 30  # of everything in an archive


def pack(directory: Path, archive: Path) -> None:
    """Write every file below `directory` into an uncompressed tar, sorted, without owners and times."""
    partial = archive.with_name(f"{archive.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(entry, content)
    partial.replace(archive)


def unpack(archive: Path, directory: Path) -> Path:
    """`directory` with the files of a tar that is not trusted.

    ValueError, one line, before a byte is written: no plain tar (a packed one could grow without bound), a member that
    is no plain file, that would leave the folder or stands there twice, more files or bytes than a certificate has.
    """
    try:
        tar = tarfile.open(archive, "r:")  # noqa: SIM115 - closed below; the error of opening is told apart
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
    """Every member, each a plain file below the folder; ValueError at the first that is not."""
    members: list[tarfile.TarInfo] = []
    names: set[str] = set()
    total = 0
    try:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isreg() or member.issparse():
                raise ValueError(f"{archive}: '{member.name}' is no plain file; nothing was unpacked")
            if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
                raise ValueError(f"{archive}: '{member.name}' would leave its folder; nothing was unpacked")
            if str(path) in names or any(str(parent) in names for parent in path.parents):
                raise ValueError(f"{archive}: '{member.name}' is there twice; nothing was unpacked")
            names.add(str(path))
            members.append(member)
            total += member.size
            if len(members) > MOST_FILES or total > MOST_BYTES:
                raise ValueError(
                    f"{archive}: more than {MOST_FILES:,} files or {MOST_BYTES:,} bytes; nothing was unpacked"
                )
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: damaged ({error}); get it again") from None
    size = archive.stat().st_size
    if total > size:
        raise ValueError(f"{archive}: shorter than its members say; get it again")
    return members
