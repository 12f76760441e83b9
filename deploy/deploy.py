#!/usr/bin/env python3
"""Deploys the service and takes it away: one command for each. `make help` has the commands, docs/guides/deploying.md the page to follow.

    deploy.py deploy|rollback|rotate-key|destroy aws|azure|azure-gpu|functions
    deploy.py prove aws|azure
    deploy.py status|smoke

Settings come from the environment, where make puts what is given on its command line:
    DEPLOYMENT   name of the deployment (reranker)           REGION, LOCATION   where; the CLI's own by default
    MODEL, MODEL_REVISION, IMAGE   what serves               SET, UNSET         Terraform's variables, remembered
    TOOL=sam     SAM's template instead of Terraform         PLAN=1             only show what would be done
    MAX_DOLLARS  the most that a proof may cost
"""

import re
import sys

import aws
import azure
import proving
from common import DEMO, ROOT, Deployment, Stop, asked, assignments, at_work, main_guard, model_asked, say, step

TARGETS = {"aws": aws, "azure": azure, "azure-gpu": azure, "functions": azure}


def of(deployment, target, model, revision):
    if deployment.cloud == "aws":
        return aws.Aws(deployment, model, revision)
    return azure.Azure(deployment, model, revision, target)


def named(target):
    name = asked("DEPLOYMENT") or "reranker"
    if not re.fullmatch(r"[a-z][a-z0-9-]{1,22}[a-z0-9]", name):
        raise Stop(f"DEPLOYMENT={name}: 3 to 24 small letters, digits and hyphens, beginning with a letter")
    cloud = "aws" if target == "aws" else "azure"
    return Deployment(cloud, name, TARGETS[target].region())


def settings_of(deployment):
    """Terraform's variables as they are remembered, with what SET and UNSET change."""
    settings = {**deployment.get("settings", {}), **assignments("SET")}
    for name in (asked("UNSET") or "").split():
        settings.pop(name, None)
    own = {"name", "image_digest", "api_key_hashes", "api_keys", "image", "gpu_image", "functions_image", "subscription_id"} & settings.keys()
    if own:
        raise Stop(f"SET: {', '.join(sorted(own))} are kept by these commands themselves (DEPLOYMENT, IMAGE, rotate-key)")
    root = "terraform/aws" if deployment.cloud == "aws" else "terraform/azure"
    # Terraform itself passes over values of variables that it has not.
    unknown = settings.keys() - set(re.findall(r'(?m)^variable "(\w+)"', (ROOT / root / "variables.tf").read_text()))
    if unknown:
        raise Stop(f"SET: {root} has no variable {', '.join(sorted(unknown))}; its variables.tf has them all")
    return settings


def deploy(target):
    deployment = named(target)
    if asked("PLAN"):
        of(deployment, target, *model_asked(deployment.record)).plan(settings_of(deployment))
        return
    with at_work(deployment):
        model, revision = model_asked(deployment.record)
        cloud = of(deployment, target, model, revision)
        step(f"{target}: {deployment.name} in {deployment.region} with {model}")
        settings = settings_of(deployment)
        cloud.check(settings, cloud.builds())
        deployment.save(settings=settings, model=model, model_revision=revision)
        cloud.deploy()
        prove(deployment, cloud, target)


def prove(deployment, cloud, target):
    service = cloud.service()
    service.wait()
    service.prove(deployment.get("model"))
    say()
    # Of a proof, which is over in minutes, nobody needs the key, and its log may be public.
    if not deployment.get("key_shown") and not deployment.get("proof"):
        say(f"KEY={service.key}")
        say("         shown this once; the service has its hash, the account's secret store the key")
        deployment.save(key_shown=True)
    say(f"URL      {service.url}")
    example = cloud.tell(service)
    say(f"try      {example}")
    if deployment.get("model") == DEMO:
        say("demo     this is the small demo model, for trying the service out: every answer has the header x-reranker-demo")
    named_so = "" if deployment.name == "reranker" else f" DEPLOYMENT={deployment.name}"
    place = "REGION" if deployment.cloud == "aws" else "LOCATION"
    say(f"remove   make destroy-{target}{named_so} {place}={deployment.region}")


def on_existing(target):
    deployment = named(target)
    if not deployment.path.exists():
        known = ", ".join(f"{each.name} ({each.cloud}, {each.region})" for each in Deployment.all()) or "none"
        raise Stop(f"there is no deployment {deployment.name} in {deployment.region}; known here: {known}")
    return deployment


def rollback(target):
    deployment = on_existing(target)
    with at_work(deployment):
        cloud = of(deployment, target, deployment.get("model"), deployment.get("model_revision"))
        cloud.roll_back()
        service = cloud.service()
        service.wait()
        service.prove(deployment.get("model"))
        say(f"   serves version {deployment.get('serves')}; the next change goes to the newest again")


def rotate_key(target):
    deployment = on_existing(target)
    with at_work(deployment):
        cloud = of(deployment, target, deployment.get("model"), deployment.get("model_revision"))
        if asked("RETIRE"):
            step("only the newest key holds from now on")
            deployment.save(keys=deployment.get("keys")[:1])
        else:
            step("a new key beside the ones that hold")
            cloud.new_key()
        cloud.deploy(ship=False)
        prove(deployment, cloud, target)
        if not asked("RETIRE"):
            say(f"then     once every caller has the new key: make rotate-key-{target} RETIRE=1")


def status():
    found = False
    for deployment in Deployment.all():
        found = True
        record = deployment.record
        say(f"{deployment.cloud} {deployment.name} in {deployment.region}: {record.get('model')}"
            f"{', version ' + record['serves'] if record.get('serves') else ''}, {len(record.get('keys', []))} key(s)"
            f"{', a deployment did not end: run it again' if record.get('applying') else ''}")
        for app, url in (record.get("urls") or {deployment.cloud: record.get("url")}).items():
            if url:
                answer, _, body = aws.Service(url, None).ask("/health")
                state = body.get("status") if isinstance(body, dict) else body
                say(f"   {app} {url}: {answer} {state}")
        say(f"   settings: {record.get('settings', {})}")
    if not found:
        say("nothing was deployed from here")


def smoke():
    for deployment in Deployment.all():
        targets = ["aws"] if deployment.cloud == "aws" else list(deployment.get("urls", {}))
        for target in targets:
            step(f"{target}: {deployment.name} in {deployment.region}")
            service = of(deployment, target, deployment.get("model"), deployment.get("model_revision")).service()
            service.wait()
            service.prove(deployment.get("model"))


def destroy(target):
    deployment = named(target)
    with at_work(deployment):
        cloud = of(deployment, target, deployment.get("model", DEMO), deployment.get("model_revision", ""))
        step(f"removing {deployment.name} in {deployment.region}")
        left = cloud.destroy()
        say("left on purpose:" if left else "nothing is left")
        for line in left:
            say(f"   {line}")


def prove_all(target):
    if target not in proving.PLACES:
        raise Stop(f"{target} is not proven: {' or '.join(proving.PLACES)}")
    commands = {"deploy": deploy, "rollback": rollback, "rotate-key": rotate_key, "destroy": destroy, "settings": settings_of}
    proving.Proof(target, commands, named).run()


COMMANDS = {"deploy": deploy, "rollback": rollback, "rotate-key": rotate_key, "destroy": destroy, "prove": prove_all}


def main():
    words = sys.argv[1:]
    if words in (["status"], ["smoke"]):
        {"status": status, "smoke": smoke}[words[0]]()
    elif len(words) == 2 and words[0] in COMMANDS and words[1] in TARGETS:
        COMMANDS[words[0]](words[1])
    else:
        raise Stop(__doc__.strip())


if __name__ == "__main__":
    main_guard(main)
