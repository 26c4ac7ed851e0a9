#!/usr/bin/env python3
"""Build the release and pack it: programs, settings, unit, manual page, completions, licences; and the checksum beside it.

    scripts/release.py [--out dist] [--allow-dirty]

What is packed is a commit: changes that are not committed are refused unless told otherwise. The same programs give the same archive, to the
byte: names are sorted, times are the commit's, owners are nobody.
"""

import argparse
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "openapi.yaml", "config/server.toml",
         "deploy/systemd/evotoken.service", "docs/api.md", "docs/operations.md"]
SHELLS = {"bash": "evotoken.bash", "zsh": "_evotoken", "fish": "evotoken.fish"}


def said(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def contents(programs):
    """-> {name in the archive: (bytes, whether it is a program)}"""
    server = programs / "evotoken"
    found = {name: ((programs / name).read_bytes(), True) for name in ("evotoken", "trainer")}
    found |= {name: ((ROOT / name).read_bytes(), False) for name in FILES}
    found["man/evotoken.1"] = (said(server, "man").encode(), False)
    for shell, name in SHELLS.items():
        found[f"completions/{name}"] = (said(server, "completions", shell).encode(), False)
    return found


def packed(root, found, time):
    """A gzipped tar archive of `found` below the folder `root`, the same for the same contents."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (content, program) in sorted(found.items()):
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), time, 0o755 if program else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=time)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the archive goes (%(default)s)")
    parser.add_argument("--allow-dirty", action="store_true", help="pack changes that are not committed")
    options = parser.parse_args()
    if said("git", "status", "--porcelain") and not options.allow_dirty:
        sys.exit("there are changes that are not committed; --allow-dirty packs them")
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
    programs = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    version = said(programs / "evotoken", "--version").split()[1]
    revision = said("git", "rev-parse", "--short=12", "HEAD").strip()
    if revision not in said(programs / "evotoken", "--version"):
        sys.exit(f"the program that was built does not name commit {revision}")
    triple = re.search(r"^host: (\S+)", said("rustc", "-vV"), re.MULTILINE)[1]
    root = f"evotoken-{version}-{triple}"
    archive = packed(root, contents(programs), int(said("git", "log", "-1", "--format=%ct")))
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{root}.tar.gz"
    file.write_bytes(archive)
    (options.out / f"{root}.tar.gz.sha256").write_text(f"{hashlib.sha256(archive).hexdigest()}  {file.name}\n")
    print(f"{file}: {len(archive) / 1e6:.1f} MB, {revision}")
    with tarfile.open(file) as written:
        for entry in written:
            print(f"  {entry.mode:o} {entry.size:>10} {entry.name}")


if __name__ == "__main__":
    main()
