"""Terraform for one deployment: a state file and variables of its own, in its folder."""

import json
import os
import pathlib
import shutil
import tempfile

from common import ROOT, Failed, Stop, run, say


class Terraform:
    def __init__(self, deployment, root):
        self.root = ROOT / root
        self.folder = deployment.folder
        self.variables = self.folder / "terraform.tfvars.json"
        self.secrets = {}

    def environment(self):
        """Providers and modules of this deployment lie in its folder, so that two regions can be deployed at once."""
        return {
            **os.environ,
            "TF_DATA_DIR": str(self.folder / ".terraform"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            **{f"TF_VAR_{name}": json.dumps(value) for name, value in self.secrets.items()},
        }

    def __call__(self, *words):
        command = ["terraform", f"-chdir={self.root}", *words]
        try:
            return run(*command, environment=self.environment())
        except Failed as failed:
            # Modules or providers are others than at the last time.
            if "terraform init" not in failed.told or words[0] == "init":
                raise
            self("init", "-no-color")
            return run(*command, environment=self.environment())

    def write(self, variables):
        self.variables.write_text(json.dumps(variables, indent=2, sort_keys=True) + "\n")
        self.variables.chmod(0o600)

    def init(self):
        """Fetches providers once: each time again would be half a minute of checking their digests."""
        if not (self.folder / ".terraform").exists():
            self("init", "-no-color")

    @property
    def state(self):
        return f"-state={self.folder / 'terraform.tfstate'}"

    def plan(self, *words):
        """What an apply would do, as Terraform's JSON has it."""
        file = self.folder / "plan"
        self("plan", "-no-color", "-lock-timeout=60s", self.state, f"-var-file={self.variables}", f"-out={file}", *words)
        shown = json.loads(self("show", "-json", str(file)).stdout)
        file.unlink()
        return [change for change in shown.get("resource_changes", []) if change["change"]["actions"] != ["no-op"]]

    def show(self):
        """Says what an apply would do, a line for each resource."""
        changes = self.plan()
        for change in changes:
            say(f"   {'/'.join(change['change']['actions'])} {change['address']}")
        say(f"{len(changes)} changes" if changes else "no changes")

    def apply(self, *words):
        try:
            done = self("apply", "-no-color", "-auto-approve", "-lock-timeout=60s", self.state, f"-var-file={self.variables}", *words)
        except Failed as failed:
            raise Failed(["terraform", "apply"], 1, failed.told) from None
        for line in done.stdout.splitlines():
            if line.startswith("Apply complete!"):
                say(f"   {line}")
        return done.stdout

    def destroy(self):
        self("destroy", "-no-color", "-auto-approve", "-lock-timeout=60s", self.state, f"-var-file={self.variables}")

    def resources(self):
        """What the state has, by type: [(address, type, attributes)]."""
        path = self.folder / "terraform.tfstate"
        if not path.exists():
            return []
        found = []
        for resource in json.loads(path.read_text() or "{}").get("resources", []):
            if resource["mode"] == "managed":
                place = f"{resource['module']}." if "module" in resource else ""
                address = f"{place}{resource['type']}.{resource['name']}"
                found += [(address, resource["type"], instance["attributes"]) for instance in resource["instances"]]
        return found

    def outputs(self):
        state = json.loads((self.folder / "terraform.tfstate").read_text())
        return {name: entry["value"] for name, entry in state["outputs"].items()}

    def adopt(self, address, identity):
        say(f"   an interrupted apply left {address}: taken over")
        self("import", "-no-color", self.state, f"-var-file={self.variables}", address, identity)


def show_plan(root, variables, mocks):
    """What would be made from nothing, planned against the providers' schemas and no cloud: for who has no credentials."""
    with tempfile.TemporaryDirectory() as folder:
        # Modules and what they read lie beside the roots, and are named by relative paths.
        copy = pathlib.Path(folder) / "terraform"
        for name in ("terraform", "aws", "dashboards"):
            unwanted = shutil.ignore_patterns(".terraform", "*.tfstate*", "terraform.tfvars", "tests")
            shutil.copytree(ROOT / name, copy.parent / name, ignore=unwanted)
        place = copy / pathlib.Path(root).name
        (place / "tests").mkdir()
        values = "\n".join(f"  {name} = {json.dumps(value)}" for name, value in variables.items())
        (place / "tests/plan.tftest.hcl").write_text(f'{mocks}\nvariables {{\n{values}\n}}\n\nrun "plan" {{\n  command = plan\n}}\n')
        run("terraform", f"-chdir={place}", "init", "-backend=false", "-input=false", "-no-color")
        shown = run("terraform", f"-chdir={place}", "test", "-verbose", "-no-color", check=False)
        if shown.returncode:
            raise Stop(shown.stdout + shown.stderr)
        say(shown.stdout.strip())
