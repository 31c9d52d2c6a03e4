"""Files to start from for a deployment of several machines; docs/deploy.md tells their use."""

from pathlib import Path

from wearable_pipeline.errors import UsageError

SOURCE = Path(__file__).parent


def write_files(folder: Path) -> list[Path]:
    """Copy the files into `folder`; those written. What is already there is the owner's and stays."""
    written = []
    try:
        for source in sorted(SOURCE.rglob("*")):
            if not source.is_file() or "__pycache__" in source.parts or source.suffix == ".py":
                continue
            target = folder / source.relative_to(SOURCE)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_bytes(source.read_bytes())
                written.append(target)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
    return written
