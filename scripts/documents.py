"""Real OpenAPI documents, from the npm registry that this machine uses: `documents.py NAME` prints a file's path.

They are fetched once, into a folder that git ignores. Exit code 3: one cannot be had here, and why.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".bench" / "documents"
DOCUMENTS = {
    "github": ("@octokit/openapi@23.0.2", "generated/api.github.com.json"),
    "workos": ("@workos/openapi-spec@0.1.0", "open-api-spec.yaml"),
    "figma": ("@figma/rest-api-spec@0.43.0", "openapi/openapi.yaml"),
    "train-travel": ("@readme/oas-examples@8.2.2", "3.1/yaml/train-travel.yaml"),
    "star-trek": ("@readme/oas-examples@8.2.2", "3.0/json/star-trek.json"),
    "petstore": ("@readme/oas-examples@8.2.2", "3.1/json/petstore.json"),
    "galaxy": ("@scalar/galaxy@0.2.20", "dist/3.1.json"),
}


def path_of(name: str) -> Path:
    """The file of a document, fetched if it is not there yet. Raises OSError or CalledProcessError."""
    package, inside = DOCUMENTS[name]
    target = FOLDER / f"{name}{Path(inside).suffix}"
    if not target.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            words = ["npm", "pack", "--silent", package]
            subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=120)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as packed:
                member = packed.extractfile(f"package/{inside}")
                assert member is not None
                fresh = Path(folder) / "document"
                fresh.write_bytes(member.read())
            fresh.replace(target)
    return target


if __name__ == "__main__":
    try:
        print(path_of(sys.argv[1]))
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(print(f"{sys.argv[1]} cannot be had: {type(error).__name__}: npm is needed", file=sys.stderr) or 3)
