#!/usr/bin/env python3
"""Writes the table of clients into a page from what drive.py found: table.py [--check] RESULT PAGE.

The table stands between `<!-- clients -->` and `<!-- /clients -->`. With --check nothing is written, and the exit status is 1 where
the page says something else than RESULT.
"""

import json
import pathlib
import sys

BEGIN, END = "<!-- clients -->", "<!-- /clients -->"


def cells(client):
    error = "yes, without our message" if client["silent"] else "yes"
    key = "sends none" if client["keyless"] else "yes"
    return [
        f"`{client['package']}` {client['version']} ({client['registry']})",
        client["called"],
        f"`HOST{client['base']}`",
        f"`{client['route']}`",
        "yes" if client["success"] else "no",
        error if client["error"] else "no",
        key if client["auth"] else "no",
    ]


def table(clients):
    rows = [["Client", "Called", "Base URL", "Route", "Ranks", "Raises our errors", "Key"], ["---"] * 7, *map(cells, clients)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments):
    check = "--check" in arguments
    result, page = map(pathlib.Path, (argument for argument in arguments if argument != "--check"))
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        print(f"{page} has no {BEGIN} … {END}", file=sys.stderr)
        return 2
    expected = f"{before}{BEGIN}\n{table(json.loads(result.read_text()))}\n{END}{after}"
    if not check:
        page.write_text(expected)
    elif text != expected:
        print(f"{page} does not say what was found: run suites/clients/table.py {result} {page}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
