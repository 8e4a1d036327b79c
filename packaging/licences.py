"""The licence texts of everything that is compiled into the programs: what comes with them as THIRD-PARTY.

    cargo metadata --locked --format-version 1 | licences.py --linked TREE NAME=FILE … >THIRD-PARTY

TREE is cargo's tree (`linked.py`). Each crate is named with its licence and the texts that its own package has; a text that several have
is there once. NAME=FILE is a text of what no crate is, such as the C library. The same crates give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import linked

#: How packages name them.
_NAMES = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
#: Such a file of code is none.
_NO_TEXT = {".rs", ".c", ".h", ".py", ".yml", ".yaml", ".json", ".html"}
_HEAD = """\
What is compiled into these programs besides their own source, and the licences of it. The standard library of Rust is in each, too:
MIT OR Apache-2.0, The Rust Project Contributors. A number names a text below.
"""
#: The licences of packages that name one and have no text of it, after the line with the copyright.
_MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
_BSD_3 = """\
Redistribution and use in source and binary forms, with or without modification, are permitted provided that the following conditions are
met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following disclaimer in the
documentation and/or other materials provided with the distribution.

3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote products derived from this
software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT
LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT
HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY
THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""
_TEXTS = {"MIT": _MIT, "BSD-3-Clause": _BSD_3}


def third_party(packages: Iterable[Mapping[str, Any]], further: Mapping[str, str]) -> str:
    """Raises `ValueError` for a crate whose licence text neither its package has nor this file."""
    texts: dict[str, int] = {}
    entries = []
    for package in packages:
        # Those without a source are of this workspace.
        if package["source"] is not None:
            entries.append((f"{package['name']} {package['version']}", str(package["license"]), _texts_of(package)))
    entries += [(name, "", [text]) for name, text in sorted(further.items())]
    lines = []
    for name, licence, found in entries:
        numbers = [texts.setdefault(text, len(texts) + 1) for text in dict.fromkeys(found)]
        lines.append(f"{name}: {licence or 'see'} {' '.join(f'[{number}]' for number in numbers)}\n")
    rule = "-" * 80
    return _HEAD + "\n" + "".join(lines) + "".join(f"\n{rule}\n[{number}]\n\n{text}" for text, number in texts.items())


def _texts_of(package: Mapping[str, Any]) -> list[str]:
    folder = Path(package["manifest_path"]).parent
    found = [path for path in folder.rglob("*") if _NAMES.match(path.name) and path.suffix not in _NO_TEXT and path.is_file()]
    # By their place in the package: the machine has the package anywhere.
    found.sort(key=lambda path: path.relative_to(folder).as_posix())
    if found:
        return [tidy(path.read_text(errors="replace")) for path in found]
    offered = re.split(r" OR |/", package["license"] or "")
    for licence, text in _TEXTS.items():
        if licence in offered:
            return [f"Copyright (c) {', '.join(package['authors']) or 'the authors of ' + package['name']}\n\n{text}"]
    raise ValueError(f"the package of {package['name']} {package['version']} has no licence text: {package['license']}")


def tidy(text: str) -> str:
    """Texts that differ in ends of lines alone are one."""
    return "\n".join(line.rstrip() for line in text.strip("\ufeff\r\n").splitlines()) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--linked", type=Path, required=True)
    parser.add_argument("further", nargs="*", metavar="NAME=FILE")
    given = parser.parse_args()
    pairs = [pair.split("=", 1) for pair in given.further]
    further = {name: tidy(Path(path).read_text()) for name, path in pairs}
    chosen = linked.packages(json.load(sys.stdin), linked.crates(given.linked.read_text().splitlines()))
    sys.stdout.write(third_party(chosen, further))


if __name__ == "__main__":
    main()
