"""Writes the tables of variables and outputs into the READMEs that have a place for them; with --check, says whether they are there as they should be.

Holds what a root passes on to a module to the module's own words, too: one variable has one type, default and description.
"""

import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "terraform"
BEGIN, END = "<!-- tables -->\n", "\n<!-- /tables -->"
# Root: the modules that it passes variables on to, and what their names then begin with.
PASSED_ON = {"aws": {"modules/lambda": "", "modules/lambda-bulk": "bulk_"}}
# A root has its own words where it does something about an empty value.
OWN_WORDS = {"kms_key_arn", "image_digest", "name", "force_destroy"}


def blocks(file, kind):
    return re.findall(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}$', file.read_text(), re.M | re.S)


def field(body, name):
    found = re.search(rf"^  {name} += (.*)$", body, re.M)
    text = found[1].strip() if found else ""
    if text.endswith(("({", "{")) and text != "{}":
        # An object's fields, on one line.
        inner = re.search(rf"^  {name} += [^\n]*\n(.*?)^  \}}", body, re.M | re.S)[1]
        return "object: " + ", ".join(re.findall(r"^    (\w+) +=", inner, re.M))
    return text


def tables(folder):
    lines = ["| Variable | Type | Default | Meaning |", "|---|---|---|---|"]
    for name, body in blocks(folder / "variables.tf", "variable"):
        default = field(body, "default")
        if "default" not in body:
            default = "required"
        else:
            default = "" if default in ('""', "[]", "{}", "null") else f"`{default.strip(chr(34))}`"
        description = field(body, "description").strip('"').replace("|", "\\|").replace('\\"', '"')
        lines.append(f"| `{name}` | {field(body, 'type')} | {default} | {description} |")
    lines += ["", "| Output | |", "|---|---|"]
    for name, body in blocks(folder / "outputs.tf", "output"):
        lines.append(f"| `{name}` | {field(body, 'description').strip(chr(34))} |")
    return "\n".join(lines)


def passed_on():
    for root, modules in PASSED_ON.items():
        own = dict(blocks(FOLDER / root / "variables.tf", "variable"))
        for module, prefix in modules.items():
            for name, body in blocks(FOLDER / module / "variables.tf", "variable"):
                if prefix + name in own and name not in OWN_WORDS:
                    for part in ("type", "default", "description"):
                        if field(own[prefix + name], part) != field(body, part):
                            yield f"terraform/{root}: {prefix + name} has another {part} than {module}'s {name}"


def main():
    faults = list(passed_on())
    for readme in sorted(FOLDER.rglob("README.md")):
        text = readme.read_text()
        if BEGIN not in text:
            continue
        head, rest = text.split(BEGIN)
        _, tail = rest.split(END)
        wanted = f"{head}{BEGIN}{tables(readme.parent)}{END}{tail}"
        if "--check" not in sys.argv[1:]:
            readme.write_text(wanted)
        elif wanted != text:
            faults.append(f"{readme.relative_to(FOLDER.parent)}: its tables are not those of variables.tf and outputs.tf; run suites/terraform/tables.py")
    sys.exit("\n".join(faults) or None)


main()
