"""Writes the tables of variables and outputs into terraform/aws/README.md; with --check, says whether they are there as they should be."""

import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "terraform/aws"


def blocks(file, kind):
    text = (FOLDER / file).read_text()
    return re.findall(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}$', text, re.M | re.S)


def field(body, name):
    found = re.search(rf"^  {name} += (.*)$", body, re.M)
    return found[1].strip() if found else ""


def tables():
    lines = ["| Variable | Type | Default | Meaning |", "|---|---|---|---|"]
    for name, body in blocks("variables.tf", "variable"):
        default = field(body, "default")
        default = "" if default in ('""', "[]", "{}") else f"`{default.strip(chr(34))}`"
        description = field(body, "description").strip('"').replace("|", "\\|")
        lines.append(f"| `{name}` | {field(body, 'type')} | {default} | {description} |")
    lines += ["", "| Output | |", "|---|---|"]
    for name, body in blocks("outputs.tf", "output"):
        lines.append(f"| `{name}` | {field(body, 'description').strip(chr(34))} |")
    return "\n".join(lines)


def main():
    readme = FOLDER / "README.md"
    text = readme.read_text()
    head, rest = text.split("<!-- tables -->\n")
    _, tail = rest.split("\n<!-- /tables -->")
    wanted = f"{head}<!-- tables -->\n{tables()}\n<!-- /tables -->{tail}"
    if "--check" not in sys.argv[1:]:
        readme.write_text(wanted)
    elif wanted != text:
        sys.exit("terraform/aws/README.md: its tables are not those of variables.tf and outputs.tf; run tests/aws/table.py")


main()
