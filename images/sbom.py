"""Prints the installed packages as a CycloneDX bill of materials. Runs while an image is built."""

import json
import subprocess
import sys
from importlib import metadata

DEBIAN = ("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n")


def main() -> int:
    """Python distributions and Debian packages, each with its package URL."""
    python = {(d.metadata["Name"].lower(), d.version) for d in metadata.distributions()}
    listed = subprocess.run(DEBIAN, capture_output=True, text=True, check=True).stdout
    debian = [tuple(line.split()) for line in listed.splitlines()]
    components = [component("pypi", *found) for found in sorted(python)]
    components += [component("deb/debian", *found) for found in sorted(debian)]
    document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}
    json.dump(document, sys.stdout, indent=1)
    return 0


def component(kind: str, name: str, version: str) -> dict[str, str]:
    """One entry of the bill."""
    purl = f"pkg:{kind}/{name}@{version}"
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    sys.exit(main())
