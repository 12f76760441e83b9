"""Takes the schemas of Terraform providers out of packages on PyPI, for where Terraform's registry can't be reached.

    schemas.py CONFIGURATIONS FOLDER

CDK Terrain publishes each provider's schema as generated TypeScript classes, packed into a Python wheel. What they say of an argument
is exact: name, type, required or not, block or attribute. It becomes a schema as Terraform's plugin protocol has it, for the resource
types that the CONFIGURATIONS name: FOLDER/PROVIDER.json, which provider.py serves. Prints PROVIDER=FILE for each.
"""

import base64
import io
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib

# Provider: its package, and the version of it whose schemas are of the provider's version that the configurations ask for.
PACKAGES = {
    "hashicorp/aws": ("cdktn-provider-aws", "25.8.1"),
    "hashicorp/archive": ("cdktn-provider-archive", "14.0.1"),
    "hashicorp/azurerm": ("cdktn-provider-azurerm", "18.9.0"),
    "hashicorp/random": ("cdktn-provider-random", "15.0.1"),
    "azure/azapi": ("cdktn-provider-azapi", "1.0.0"),
}

# The exit code where a package can't be fetched, which says nothing about the configuration.
UNREACHABLE = 3

MEMBER = re.compile(r"^  // (\w+) - computed: (true|false), optional: (true|false), required: (true|false)$", re.M)
CLASS = re.compile(r"^export class (\w+) extends cdk\w*\.(\w+) \{$(.*?)^\}$", re.M | re.S)
# An argument as it is written into a configuration.
ARGUMENT = re.compile(
    r'^\s+(\w+): \{\n\s+value: (.*?),\n\s+isBlock: (?:true|false),\n\s+type: "(\w+)",\n\s+storageClassType: "([^"]+)",', re.M
)
SIMPLE = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
# What a getter of a value that nobody sets gives.
GETTERS = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "AnyMap": "dynamic",
}


def stored(storage):
    """The type that `stringListMap` and the like name: the outermost collection comes last."""
    for ending, collection in (("List", "list"), ("Map", "map"), ("Set", "set")):
        if storage.endswith(ending):
            return [collection, stored(storage.removesuffix(ending))]
    return SIMPLE[storage]


def argument_type(kind, storage):
    # Where the provider leaves the type open, the classes have a map of anything.
    if storage == "anyMap":
        return "dynamic"
    found = stored(storage)
    if kind in ("list", "set", "map") and isinstance(found, list):
        return [kind, *found[1:]]
    return found


def object_type(attributes):
    """Nested attributes as one value's type, as for what is only computed."""
    return ["object", {name: attribute.get("type") or nested_type(attribute) for name, attribute in attributes.items()}]


def nested_type(attribute):
    inner = object_type(attribute["nested"]["attributes"])
    nesting = attribute["nested"]["nesting"]
    return inner if nesting == "single" else [nesting, inner]


class Source:
    """The TypeScript of one resource, data source or provider."""

    def __init__(self, text):
        self.text = text
        self.classes = {match[1]: (match[2], match[3]) for match in CLASS.finditer(text)}
        # Blocks and nested attributes are the same classes; only the words above an argument tell them apart.
        self.blocks = set(re.findall(r"^\s+\* (\w+) block$", text, re.M))

    def top(self):
        kinds = ("TerraformResource", "TerraformDataSource", "TerraformProvider")
        return next(name for name, (base, _) in self.classes.items() if base in kinds)

    def body_of(self, function):
        match = re.search(rf"^export function {re.escape(function)}\(.*?^\}}$", self.text, re.M | re.S)
        return match[0] if match else ""

    def arguments(self, name):
        """What of a class can be set: its exact type, by name."""
        if name.endswith("OutputReference"):
            body = self.body_of(name[0].lower() + name[1:].removesuffix("OutputReference") + "ToHclTerraform")
        else:
            body = self.classes[name][1].partition("synthesizeHclAttributes")[2]
        return {match[1]: (match[3], match[4], match[2]) for match in ARGUMENT.finditer(body)}

    def element(self, name):
        """The class of one element, and how a class nests its elements: None where it is one itself."""
        base = self.classes.get(name, ("",))[0]
        if base == "ComplexMap":
            return name.removesuffix("Map") + "OutputReference", "map"
        if base == "ComplexList":
            return name.removesuffix("List") + "OutputReference", "list"
        return name, None

    def block(self, name):
        body = self.classes[name][1]
        arguments = self.arguments(name)
        attributes, blocks = {}, {}
        members = list(MEMBER.finditer(body))
        for member, following in zip(members, members[1:] + [None]):
            key, computed, optional, required = member[1], *(word == "true" for word in member.groups()[1:])
            code = body[member.end() : following.start() if following else len(body)]
            flags = {"computed": computed, "optional": optional, "required": required}
            nested = re.search(rf'new (\w+)\(this, "{key}"(?:, (true|false))?\)', code)
            inner, nesting = self.element(nested[1]) if nested else (None, None)
            if inner not in self.classes:
                attributes[key] = {**flags, "type": self.simple_type(arguments.get(key), code, nested)}
                continue
            single = nesting is None
            if key in arguments and arguments[key][0] != "struct":
                nesting = arguments[key][0]
            elif single:
                nesting = "single"
            elif nested[2] == "true":
                nesting = "set"
            content = self.block(inner)
            if key in self.blocks and (optional or required):
                limits = {"min": int(required), "max": int(single)} if nesting in ("list", "set") else {"min": 0, "max": 0}
                blocks[key] = {"nesting": nesting, **limits, "block": content}
                continue
            # What is a block inside a computed value is a nested attribute there.
            for name_inside, entry in content["blocks"].items():
                content["attributes"][name_inside] = {
                    "computed": True,
                    "nested": {"nesting": entry["nesting"], "attributes": entry["block"]["attributes"]},
                }
            attribute = {**flags, "nested": {"nesting": nesting, "attributes": content["attributes"]}}
            if computed and not optional:
                attribute = {**flags, "type": nested_type(attribute)}
            attributes[key] = attribute
        return {"attributes": attributes, "blocks": blocks}

    @staticmethod
    def simple_type(argument, code, nested):
        if argument:
            return argument_type(*argument[:2])
        getter = re.search(r"this\.get(\w+)Attribute\(", code)
        # Lists and maps of simple values have classes of the library: StringMapList, for one.
        found = GETTERS.get(getter[1] if getter else nested[1] if nested else "", "dynamic")
        return ["set", found[1]] if "tolist(" in code and isinstance(found, list) else found

    def provider(self, function=None):
        """A provider's own settings are only written, never read: there are no members to go by."""
        body = self.body_of(function) if function else self.classes[self.top()][1].partition("synthesizeHclAttributes")[2]
        attributes, blocks = {}, {}
        for key, value, kind, storage in ARGUMENT.findall(body):
            if storage[0].islower():
                attributes[key] = {"optional": True, "type": argument_type(kind, storage)}
                continue
            inner = re.search(r"(\w+ToHclTerraform)", re.sub(r"cdk\w*\.\w+", "", value))[1]
            nesting = "single" if kind == "struct" else kind
            blocks[key] = {"nesting": nesting, "min": 0, "max": 0, "block": self.provider(inner)}
        # Terraform's own, which a provider must not have.
        attributes.pop("alias", None)
        return {"attributes": attributes, "blocks": blocks}


def sources(wheel, wanted):
    """The TypeScript of the provider and of the wanted types; the compiled files carry it in their source maps."""
    with zipfile.ZipFile(wheel) as archive:
        inner = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(inner))) as package:
            for entry in package:
                if not re.fullmatch(r"package/lib/[^/]+/index\.js", entry.name):
                    continue
                compiled, _, encoded = package.extractfile(entry).read().decode().rpartition("base64,")
                kind = re.search(r'tfResourceType = "(\w+)"', compiled)
                folder = entry.name.split("/")[2]
                key = (folder.startswith("data-"), kind[1] if kind else None)
                if folder == "provider" or key in wanted:
                    yield folder, key, Source(json.loads(base64.b64decode(encoded))["sourcesContent"][0])


def schemas(wheel, wanted):
    result = {"version": None, "provider": None, "resources": {}, "data": {}}
    missing = set(wanted)
    for folder, (data, kind), source in sources(wheel, wanted):
        if folder == "provider":
            result["provider"] = source.provider()
            result["version"] = re.search(r"/providers/[\w-]+/[\w-]+/([\d.]+)/docs", source.text)[1]
        else:
            result["data" if data else "resources"][kind] = source.block(source.top())
            missing.discard((data, kind))
    if missing:
        sys.exit(f"{wheel.name} has no schema for {sorted(kind for _, kind in missing)}")
    return result


def main(configurations, folder):
    text = "\n".join(path.read_text() for path in sorted(configurations.rglob("*.tf")))
    used = {(word == "data", kind) for word, kind in re.findall(r'^\s*(resource|data)\s+"(\w+)"', text, re.M)}
    asked = dict.fromkeys(re.findall(r'source\s*=\s*"(\w+/\w+)"', text))
    wheels = folder / "wheels"
    for provider in asked:
        name = provider.partition("/")[2]
        package, version = PACKAGES.get(provider) or sys.exit(f"no package is known to have the schemas of {provider}")
        wanted = {each for each in used if each[1].startswith(f"{name}_")}
        path = folder / f"{name}.json"
        stamp = json.dumps([package, version, sorted(wanted), zlib.crc32(pathlib.Path(__file__).read_bytes())])
        if not path.exists() or path.with_suffix(".of").read_text() != stamp:
            pattern = f"{package.replace('-', '_')}-{version}-*.whl"
            if not list(wheels.glob(pattern)):
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
                if subprocess.run([*command, "--dest", str(wheels), f"{package}=={version}"], check=False).returncode:
                    print(f"{package} {version} can't be had", file=sys.stderr)
                    sys.exit(UNREACHABLE)
            schema = schemas(next(wheels.glob(pattern)), wanted)
            print(f"{provider} {schema['version']}: {len(schema['resources'])} resources, {len(schema['data'])} data sources", file=sys.stderr)
            path.write_text(json.dumps(schema))
            path.with_suffix(".of").write_text(stamp)
        print(f"{provider}={path}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
