"""Reads a Terraform provider's schema out of its prebuilt CDK package, which comes from PyPI.

    schema.py WHEEL OUT FOLDER…     OUT gets, as JSON, what the Terraform files in the folders use of it

The package is code made from the provider's own schema: each resource is a class that lists its arguments with their types
(synthesizeHclAttributes, and a function for each block), and has a comment for each attribute that says who sets it.
"""

import io
import json
import pathlib
import re
import sys
import tarfile
import zipfile

ARGUMENT = re.compile(r"^ {8,12}(\w+): \{\n +value: (.*),\n +isBlock: (\w+),\n +type: \"(\w+)\",\n +storageClassType: \"(\w+)\",\n", re.M)
ATTRIBUTE = re.compile(r"^    // (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\n(.*?)(?=^    // \w+ - computed|^\}|\Z)", re.M | re.S)
PRIMITIVES = {"string": "string", "number": "number", "boolean": "bool"}
GETTERS = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
}


def argument_type(kind, storage):
    """As in `type: "set", storageClassType: "stringList"`."""
    if storage in PRIMITIVES:
        return PRIMITIVES[storage]
    for suffix, collection in (("List", "list"), ("Map", "map"), ("Set", "set")):
        if storage.endswith(suffix):
            outer = kind if kind in ("list", "set", "map") else collection
            return [outer, argument_type("", storage.removesuffix(suffix))]
    return "dynamic"


class Module:
    """One resource's file."""

    def __init__(self, source):
        self.source = source
        self.classes = {
            found[1]: (found[2], found[3]) for found in re.finditer(r"^class (\w+) extends cdktn\.(\w+) \{\n(.*?)^\}", source, re.M | re.S)
        }

    def function(self, name):
        return re.search(rf"^function {name}\(struct\) \{{\n(.*?)^\}}", self.source, re.M | re.S)[1]

    def block(self, arguments, attributes):
        """The block whose arguments and whose attributes' comments are in these pieces of source."""
        body = {"attributes": {}, "blocks": {}}
        who = {found[1]: found for found in ATTRIBUTE.finditer(attributes)}
        for name, value, is_block, kind, storage in ARGUMENT.findall(arguments):
            said = who.get(name)
            required = bool(said) and said[4] == "true"
            if is_block == "true":
                struct = re.search(r"(\w+)ToHclTerraform", value.replace("cdktn.", ""))[1]
                inner = struct[0].upper() + struct[1:] + "OutputReference"
                piece = self.classes[inner][1] if inner in self.classes else ""
                one = bool(said) and f"new {inner}(this," in said[5]
                body["blocks"][name] = {
                    "nesting": {"struct": "single"}.get(kind, kind),
                    "required": required,
                    "one": one and kind != "struct",
                    "block": self.block(self.function(struct + "ToHclTerraform"), piece),
                }
            else:
                computed = bool(said) and said[2] == "true"
                body["attributes"][name] = {"type": argument_type(kind, storage), "required": required, "optional": not required, "computed": computed}
        for name, said in who.items():
            getter = re.search(r"this\.get(\w+)Attribute\(", said[5])
            # What only the cloud sets. A list of objects among it is left out: nothing here reads one.
            if name not in body["attributes"] and name not in body["blocks"] and getter and getter[1] in GETTERS:
                kind = GETTERS[getter[1]]
                # The code can only index lists, and makes one of each set.
                if "tolist(" in said[5]:
                    kind = ["set", kind[1]]
                body["attributes"][name] = {"type": kind, "required": False, "optional": said[3] == "true", "computed": True}
        return body

    def top(self, base):
        """The resource itself: its type, and its block."""
        for superclass, source in self.classes.values():
            if superclass == base:
                arguments = source[source.index("synthesizeHclAttributes") :]
                return self.block(arguments, source)
        raise ValueError(f"no class extends {base}")


def used(folders):
    """The types that Terraform files name: resource types, and data sources with their prefix."""
    kinds = set()
    for folder in folders:
        for file in pathlib.Path(folder).glob("*.tf"):
            for kind, name in re.findall(r'^(resource|data) "(\w+)"', file.read_text(), re.M):
                kinds.add((kind, name))
    return kinds


def main():
    wheel, out, folders = sys.argv[1], sys.argv[2], sys.argv[3:]
    wanted = used(folders)
    schema = {"version": None, "provider": None, "resource": {}, "data": {}}
    with zipfile.ZipFile(wheel) as package:
        [name] = [name for name in package.namelist() if name.endswith(".jsii.tgz")]
        code = package.read(name)
    with tarfile.open(fileobj=io.BytesIO(code)) as files:
        for member in files:
            path = re.fullmatch(r"package/lib/([\w-]+)/index\.js", member.name)
            if not path:
                continue
            # Its map of itself is larger than the code.
            source = files.extractfile(member).read().decode().split("//# sourceMappingURL=")[0]
            kind = "data" if path[1].startswith("data-") else "resource"
            name = re.search(r'static tfResourceType = "(\w+)"', source)
            if path[1] == "provider":
                schema["version"] = re.search(r"registry\.terraform\.io/providers/[\w-]+/[\w-]+/([\d.]+)/docs", source)[1]
                schema["provider"] = Module(source).top("TerraformProvider")
                schema["provider"]["attributes"].pop("alias", None)
            elif name and (kind, name[1]) in wanted:
                base = "TerraformDataSource" if kind == "data" else "TerraformResource"
                schema[kind][name[1]] = Module(source).top(base)
    pathlib.Path(out).write_text(json.dumps(schema))
    print(f"{pathlib.Path(wheel).name}: version {schema['version']}, {len(schema['resource'])} resources, {len(schema['data'])} data sources")


main()
