"""Whether a stack from before there were modules stays: plans a root against a state that has every address of that time.

    moved.py ROOT ADDRESSES      a copy of the root that is initialised; needs provider.py behind TF_REATTACH_PROVIDERS

The plan may change everything in place, as the state's values are made up. It must destroy nothing, and leave no old address.
"""

import json
import pathlib
import re
import subprocess
import sys

PROVIDERS = {"aws": "hashicorp/aws", "azurerm": "hashicorp/azurerm", "azapi": "azure/azapi", "random": "hashicorp/random"}
# What makes the roots deploy all that was there.
EVERYTHING = {
    "aws": {
        "image_digest": "sha256:" + "0" * 64,
        "api_key_hashes": ["sha256:" + "f" * 64],
        "bulk": True,
        "create_model_bucket": True,
        "http_api_authorization": "JWT",
        "jwt_issuer": "https://issuer.example.com",
        "jwt_audience": ["reranker"],
        "function_url_accounts": ["210987654321"],
        "start": "provisioned-concurrency",
        "provisioned_concurrency": 1,
    },
    "azure": {
        "subscription_id": "00000000-0000-0000-0000-000000000000",
        "image": "reranker@sha256:" + "a" * 64,
        "gpu_image": "reranker-gpu@sha256:" + "b" * 64,
        "functions_image": {"repository": "reranker-functions", "tag": "1.0.0"},
        "api_keys_secret": {
            "uri": "https://keys.vault.azure.net/secrets/reranker",
            "resource_id": "/subscriptions/s/resourceGroups/r/providers/Microsoft.KeyVault/vaults/keys/secrets/reranker",
        },
        "alert_email": "ops@example.org",
    },
}


def state(addresses):
    resources = {}
    for address in addresses:
        kind, name, key = re.fullmatch(r"(\w+)\.(\w+)(?:\[(.*)\])?", address).groups()
        resource = resources.setdefault(
            (kind, name),
            {
                "mode": "managed",
                "type": kind,
                "name": name,
                "provider": f'provider["registry.terraform.io/{PROVIDERS[kind.partition("_")[0]]}"]',
                "instances": [],
            },
        )
        instance = {"schema_version": 0, "attributes": {}}
        resource["instances"].append(instance | ({} if key is None else {"index_key": json.loads(key)}))
    return {"version": 4, "terraform_version": "1.11.0", "serial": 1, "lineage": "before", "outputs": {}, "resources": list(resources.values())}


def terraform(root, *arguments, fails=False):
    """What it says, or where it must fail, of what."""
    done = subprocess.run(["terraform", f"-chdir={root}", *arguments], capture_output=True, text=True)
    if (done.returncode != 0) != fails:
        sys.exit(done.stdout[-4000:] + done.stderr[-4000:])
    return done.stderr if fails else done.stdout


def main(root, addresses):
    old = addresses.read_text().split("\n")[:-1]
    (root / "terraform.tfstate").write_text(json.dumps(state(old)))
    (root / "everything.auto.tfvars.json").write_text(json.dumps(EVERYTHING[addresses.stem]))
    terraform(root, "plan", "-input=false", "-no-color", "-out=moved.plan")
    changes = json.loads(terraform(root, "show", "-json", "moved.plan"))["resource_changes"]
    lost = [change["address"] for change in changes if "delete" in change["change"]["actions"]]
    kept = {change.get("previous_address", change["address"]) for change in changes if "create" not in change["change"]["actions"]}
    unmoved = sorted(set(old) - kept)
    if lost or unmoved:
        sys.exit(f"would be destroyed: {lost}; found nowhere: {unmoved}")
    moved = sum("previous_address" in change for change in changes)
    print(f"{len(old)} resources from before there were modules: {moved} move, none is destroyed")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
